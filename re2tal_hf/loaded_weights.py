"""How well weights fit a model: what was used of them is counted, and what does not fit is refused."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Shapes = tuple[tuple[int, ...], tuple[int, ...]]
"""Of one tensor, in the source of the weights and in the model."""


@dataclass(frozen=True)
class WeightFit:
    """Which tensors of a model a source of weights fills.

    Attributes:
        source: where the weights come from, as the user named it.
        total: number of tensors that the model needs.
        missing: names of those that the source lacks.
        unused: names of tensors of the source that should have a place in the model and have none.
        reshaped: those of another shape, by name.
        retyped: names of tensors that are of whole numbers in the source or in the model and not in both.
        infinite: names of tensors that hold NaN or infinite numbers.
    """

    source: str
    total: int
    missing: Sequence[str] = ()
    unused: Sequence[str] = ()
    reshaped: Mapping[str, Shapes] = field(default_factory=dict)
    retyped: Sequence[str] = ()
    infinite: Sequence[str] = ()

    def __str__(self) -> str:
        used = self.total - len(self.missing) - len(self.reshaped)
        return f"used {used} of {self.total} tensors of {self.source}"

    def check(self, model: str, remedy: str, allowed: Collection[str] = ()) -> None:
        """Refuses weights that do not fit.

        Args:
            model: What they were meant for.
            remedy: A sentence that says what to do.
            allowed: Tensors of the model that may be missing or of another shape.

        Raises:
            ValueError: if another tensor is missing or of another shape, or one is unused.
        """
        wrong = []
        if missing := [name for name in self.missing if name not in allowed]:
            wrong.append(f"it lacks {some(missing)}")
        if self.unused:
            wrong.append(f"it has no place for {some(self.unused)}")
        reshaped = {name: shapes for name, shapes in self.reshaped.items() if name not in allowed}
        if reshaped:
            shapes = [f"{name}: {there} there, {here} here" for name, (there, here) in reshaped.items()]
            wrong.append(f"it has other shapes for {some(shapes)}")
        if wrong:
            raise ValueError(f"{self.source} does not fit {model}: {self}; {'; '.join(wrong)}. {remedy}")

    def check_numbers(self) -> None:
        """Refuses numbers that no weights have, whatever may be missing.

        Raises:
            ValueError: if there are whole ones where there should be none or the other way round, NaN or infinite ones.
        """
        if self.infinite:
            raise ValueError(
                f"{self.source} is damaged, or of a training that diverged: {some(self.infinite)} hold NaN or infinite "
                "numbers. Download the weights again, or take an earlier checkpoint."
            )
        if self.retyped:
            raise ValueError(
                f"{self.source} is damaged: {some(self.retyped)} have whole numbers in place of others, or the other "
                "way round. Download the weights again, or save them again."
            )


def some(names: Iterable[str]) -> str:
    """Returns how many there are and the first three."""
    names = sorted(names)
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def is_computed(tensor: Tensor) -> bool:
    """Whether a tensor of a model is an index or a counter: constructing the model gives it its value."""
    return not (tensor.is_floating_point() or tensor.is_complex())


def is_infinite(tensor: Tensor) -> bool:
    """Whether a tensor of weights, if it is in memory and of a usual type, holds NaN or infinite numbers."""
    usual = tensor.dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    return usual and not tensor.is_meta and not bool(tensor.isfinite().all())


@contextlib.contextmanager
def without_loading_report() -> Iterator[None]:
    """Keeps back transformers' table of tensors that were not loaded, where this file says it in a sentence."""

    def keep(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    log = logging.getLogger("transformers.modeling_utils")
    log.addFilter(keep)
    try:
        yield
    finally:
        log.removeFilter(keep)
