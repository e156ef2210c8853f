"""Dr2Net (arXiv 2401.04105): from the pretrained network to a reversible one while it is being trained.

The two coefficients of the recurrence in `reversible.py`, alpha and beta, move from near (1, 0), the pretrained
network, to near (0, 1), which rounding does not hurt. The inverse divides by beta in every branch, so that its error
falls as beta rises: until it is small enough the backward pass recomputes from stored inputs, and inverts from then on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .reversible import Backprop, Coupling, Stage

logger = logging.getLogger(__name__)

# Largest relative error of the reconstruction that the gradients may rest on without a warning, or at all where there
# is a choice. fp32 reconstructs to about 1e-6 at depth 24, a network all in bf16 to 5e-3.
LARGEST_ERROR = 1e-3
# While a stage is not inverted, its error is measured in every so many training passes.
PROBE_INTERVAL = 25
# Once inverted, a stage goes back to stored inputs only at an error so many times larger.
HYSTERESIS = 2.0


@dataclass
class BackpropSwitch:
    """Chooses, stage by stage, between the inverse and stored inputs, by the error that was measured.

    Args:
        largest_error: Relative error of the reconstruction from which on inputs are stored.

    Attributes:
        inverted: Whether the backward pass of a stage inverts it; absent: stored inputs.
    """

    largest_error: float = LARGEST_ERROR
    inverted: dict[int, bool] = field(default_factory=dict)
    _measured: dict[int, tuple[float, float]] = field(default_factory=dict)
    _passes: int = 0

    def choose(
        self, stages: Sequence[Stage], couplings: Sequence[Coupling], errors: Mapping[int, Tensor]
    ) -> tuple[list[Backprop], list[int]]:
        """Returns the mode of each stage in the coming training pass, and the stages to probe in it.

        Args:
            stages: Those of the coming pass.
            couplings: One for each stage.
            errors: Latest measured error of each stage.
        """
        modes: list[Backprop] = []
        for index, (stage, coupling) in enumerate(zip(stages, couplings, strict=True)):
            if stage.branches:
                self._decide(index, coupling, self._bound(index, stage, coupling, errors.get(index)))
            # Without branches nothing is inverted: the output is kept and the rest recomputed.
            inverted = coupling.beta > 0 and (not stage.branches or self.inverted.get(index, False))
            modes.append("reversible" if inverted else "checkpoint")
        waiting = [i for i, mode in enumerate(modes) if mode == "checkpoint" and couplings[i].beta > 0]
        probes = waiting if self._passes % PROBE_INTERVAL == 0 else []
        self._passes += 1
        return modes, probes

    def _bound(self, index: int, stage: Stage, coupling: Coupling, error: Tensor | None) -> float:
        """Bound of the coming pass's error: the one measured, grown by as much as every division by beta has."""
        if error is None or coupling.beta == 0:
            return math.inf
        measured, beta = self._measured.get(index, (math.nan, coupling.beta))
        if float(error) != measured:
            measured, beta = self._measured[index] = (float(error), coupling.beta)
        return measured * max(1.0, beta / coupling.beta) ** len(stage.branches)

    def _decide(self, index: int, coupling: Coupling, bound: float) -> None:
        before = self.inverted.get(index, False)
        now = bound <= self.largest_error * (HYSTERESIS if before else 1.0)
        if now == before:
            return
        self.inverted[index] = now
        logger.log(
            logging.INFO if now else logging.WARNING,
            "stage %d: the backward pass %s from here on "
            "(alpha = %.3f, beta = %.3f, relative error at most %.1e, limit %.1e)",
            index,
            "inverts it" if now else "recomputes it from stored inputs",
            *coupling,
            bound,
            self.largest_error,
        )
