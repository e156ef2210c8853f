"""The coefficients of a rewiring, and which settings of a rewired network go together."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeAlias, cast

from .backprop_plan import MODES
from .reversible import Backprop, Coupling
from .stream_grid import GRIDS
from .value_checks import shown

COUPLINGS = {"re2tal": Coupling(0.0, 1.0), "none": Coupling(1.0, 0.0)}
"""Rewirings of fixed coefficients: Re2TAL (arXiv 2211.14053), and the pretrained network as it is."""

DUAL_RESIDUAL = "dr2net"
"""The rewiring whose coefficients move during training (Dr2Net, arXiv 2401.04105)."""

REWIRINGS = (*COUPLINGS, DUAL_RESIDUAL)

COUPLING = "coupling"
"""Name of the buffer of Dr2Net's coefficients, in the backbone."""

BACKPROPS = (*reversed(MODES), "auto", "clips")

AnyCoupling: TypeAlias = Sequence[float] | Sequence[Sequence[float]]
"""Two coefficients `(alpha, beta)`, or such a pair for each stage."""


def default_backprop(rewiring: str) -> Backprop:
    """Returns how activations are had where nothing is said: a network that is not rewired cannot be inverted."""
    return "checkpoint" if isinstance(rewiring, str) and rewiring == "none" else "reversible"


def check_backprop(backprop: Any) -> None:
    """Raises a `ValueError` if there is no such way to have activations."""
    if not isinstance(backprop, str) or backprop not in BACKPROPS:
        raise ValueError(f"backprop is {shown(backprop)}; choose one of {list(BACKPROPS)}.")


def check_rewiring(
    rewiring: str, backprop: str, coupling: AnyCoupling | None = None, stream_bits: int | None = None
) -> None:
    """Raises a `ValueError` if a value is unknown or out of range, or the values do not go together."""
    if not isinstance(rewiring, str) or rewiring not in REWIRINGS:
        raise ValueError(f"rewiring is {shown(rewiring)}; choose one of {sorted(REWIRINGS)}.")
    check_backprop(backprop)
    if coupling is not None:
        if rewiring != DUAL_RESIDUAL:
            raise ValueError(f"The coefficients of rewiring={rewiring!r} are fixed; give none, or use 'dr2net'.")
        as_couplings(coupling)
    elif rewiring != DUAL_RESIDUAL and backprop == "reversible" and COUPLINGS[rewiring].beta == 0:
        raise ValueError(f"rewiring={rewiring!r} cannot be inverted: use backprop='checkpoint' or 'plain' with it.")
    if stream_bits is None:
        return
    if not isinstance(stream_bits, int) or stream_bits not in GRIDS:
        raise ValueError(f"stream_bits is {shown(stream_bits)}; choose one of {sorted(GRIDS)}, or None.")
    if rewiring == DUAL_RESIDUAL:
        raise ValueError(
            f"stream_bits={stream_bits} makes the inverse exact where streams are added only, and {rewiring!r} "
            "multiplies them by its coefficients, too, which rounds: leave it out, or use rewiring='re2tal'."
        )
    if COUPLINGS[rewiring].beta != 1:
        raise ValueError(
            f"stream_bits={stream_bits} is for an inverse, and rewiring={rewiring!r} has none: leave it out."
        )


def as_couplings(values: AnyCoupling, num_stages: int | None = None) -> list[Coupling]:
    """The coefficients of every stage, checked; without their number, as many pairs as there are."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, Sequence) or isinstance(values, str) or not len(values):
        raise ValueError(f"The coupling is {shown(values)}; it must be two coefficients, or a pair for each stage.")
    pairs = list(values) if isinstance(values[0], Sequence) else [values]
    for pair in pairs:
        _check_pair(pair)
    if pairs[0] is values:
        pairs *= num_stages or 1
    if num_stages is not None and len(pairs) != num_stages:
        raise ValueError(f"There are {len(pairs)} couplings for {num_stages} stages; give one for each.")
    return [Coupling(float(alpha), float(beta)) for alpha, beta in cast(list[Sequence[float]], pairs)]


def _check_pair(pair: Any) -> None:
    numbers = pair if isinstance(pair, Sequence) and not isinstance(pair, str) else ()
    reals = [float(value) for value in numbers if isinstance(value, Real) and not isinstance(value, bool)]
    if len(numbers) != 2 or len(reals) != 2 or not all(0 <= value <= 1 for value in reals):
        raise ValueError(f"The coupling {shown(pair)} must be two coefficients, alpha and beta, each between 0 and 1.")
