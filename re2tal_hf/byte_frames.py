"""Frames that reach a network as bytes and become numbers inside of it, so that bytes are what is kept of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .reversible import INPUT, Stage


def taking_bytes(stages: Sequence[Stage], prepared: Callable[[Tensor], Tensor]) -> list[Stage]:
    """Returns the stages, of which those that take the model's input get it as uint8.

    Args:
        stages: Of the model.
        prepared: From frames in uint8 to the input that the stages are made for.
    """
    return [
        replace(stage, entry=_PreparingEntry(stage.entry, prepared))
        if INPUT in stage.positions_of_sources(index)
        else stage
        for index, stage in enumerate(stages)
    ]


class _PreparingEntry(nn.Module):
    """The entry of a stage, given bytes in place of one of its inputs."""

    def __init__(self, entry: nn.Module, prepared: Callable[[Tensor], Tensor]):
        super().__init__()
        self.entry = entry
        self.prepared = prepared

    def forward(self, *inputs: Any) -> Tensor:
        output: Tensor = self.entry(*(self.prepared(x) if _is_bytes(x) else x for x in inputs))
        return output


def _is_bytes(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype == torch.uint8
