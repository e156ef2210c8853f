"""How near two floating-point results must be, and why: the one place of the tests for bounds.

Another processor, thread count or memory layout sums in another order. In double precision what that leaves is far
below any fault of the mathematics (a wrong epsilon of a norm, a mask off by one), so the truth is in double precision
and the bound is tight there. A lower precision shows only that its own type does not spoil the computation: it is held
to a multiple of the type's rounding. Decisions (which detections are kept, which score is best) are compared where
their margin exceeds that noise. Equality to the bit is for the same kernels on the same memory: copies, seeds, resumed
trainings.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

# Sums in another order end below 1e-13 of the largest value here, faults of the mathematics begin at 1e-9.
DOUBLE = 1e-12
# Below this share of the largest norm a gradient is the small rest of large terms that cancel: of a bias before a
# softmax it is zero in theory, of the scale of a norm in SlowFast's first stage 1.7 out of 2900.
CANCELLED = 1e-3
SMALLEST = torch.finfo(torch.float64).tiny  # where all is zero


def depth_of(model: nn.Module) -> int:
    """Matrix products and convolutions of a model: no chain of them is longer."""
    return sum(1 for module in model.modules() if getattr(getattr(module, "weight", None), "ndim", 0) > 1)


def rounding(dtype: torch.dtype, depth: int = 1) -> float:
    """Allowed error, relative to the largest value, after `depth` products one after the other.

    Each adds a few roundings of its largest value, and errors of random signs grow as the square root of their number.
    Integers are exact.
    """
    if not dtype.is_floating_point:
        return 0.0
    return DOUBLE if dtype == torch.float64 else 8 * depth**0.5 * torch.finfo(dtype).eps


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest finite expected value.

    Infinities must be the same ones; NaN where there is one in either.
    """
    assert found.shape == expected.shape, (found.shape, expected.shape)
    found, expected = found.detach().double(), expected.detach().double()
    difference = torch.where(found == expected, 0.0, found - expected).abs().max()
    largest = expected.masked_fill(expected.isinf(), 0.0).abs().max()
    return float(difference / largest.clamp_min(SMALLEST))


def _hold(error: float, bound: float, what: object) -> None:
    assert error <= bound, f"{what}: off by {error:.3g}, allowed {bound:.3g}"  # fails for NaN, too


def _allowed(found: Tensor, expected: Tensor, depth: int) -> float:
    """The bound of the type that was computed in, and one rounding more if the truth was stored in a coarser one."""
    return max(rounding(found.dtype, depth), rounding(expected.dtype))


def assert_close(
    found: Tensor,
    expected: Tensor,
    *,
    depth: int = 1,
    dtype: torch.dtype | None = None,
    bound: float = 0.0,
    what: object = "",
) -> None:
    """Holds the largest difference to the rounding of `depth` products in the type of `found`, or a larger `bound`.

    Under autocast the factors are rounded to a coarser `dtype`, but summed and carried on in single precision.
    """
    allowed = max(bound, _allowed(found, expected, depth), rounding(dtype or found.dtype))
    _hold(relative_difference(found, expected), allowed, what)


def assert_as_exact(found: Tensor, other: Tensor, truth: Tensor, *, depth: int = 1) -> None:
    """Holds the distance of `found` from the `truth` to that of another computation of the same, or to the rounding.

    A network may amplify rounding, so that two kernels for the same convolutions end further apart than their products
    are rounded; how far, the other computation says. Both errors are of random size: eight times is no chance.
    """
    _hold(
        relative_difference(found, truth), max(8 * relative_difference(other, truth), _allowed(found, truth, depth)), ""
    )


def assert_gradients_close(
    found: Mapping[str, Tensor | None],
    expected: Mapping[str, Tensor | None],
    *,
    depth: int = 1,
    bound: float = 0.0,
) -> None:
    """Holds every difference's norm against the gradient's own, or against `CANCELLED` of the largest of all.

    A backward pass is a chain of twice the length, and each gradient is the sum over all places of the input: four
    times the rounding of an output.
    """
    assert found.keys() == expected.keys()
    largest = max((float(truth.double().norm()) for truth in expected.values() if truth is not None), default=0.0)
    for name, truth in expected.items():
        gradient = found[name]
        assert (gradient is None) == (truth is None), name
        if gradient is not None and truth is not None:
            difference = float((gradient.double() - truth.double()).norm())
            allowed = max(bound, 4 * _allowed(gradient, truth, depth))
            _hold(difference / max(float(truth.double().norm()), CANCELLED * largest, SMALLEST), allowed, name)


def gradient_noise(found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> float:
    """How far rounding alone takes the gradients from those in double precision, as `assert_gradients_close` counts."""
    least = CANCELLED * max(float(gradient.norm()) for gradient in truth.values())
    return max(
        float((found[name].double() - true).norm()) / max(float(true.norm()), least) for name, true in truth.items()
    )


def assert_norms_close(
    gradients: Mapping[str, Tensor], norms: Mapping[str, float], *, depth: int = 1, bound: float = 0.0
) -> None:
    """The same of norms that a reference stored in place of the gradients."""
    assert gradients.keys() == norms.keys()
    largest = max(norms.values())
    for name, norm in norms.items():
        allowed = max(bound, 4 * rounding(gradients[name].dtype, depth))
        difference = abs(float(gradients[name].double().norm()) - norm)
        _hold(difference / max(norm, CANCELLED * largest, SMALLEST), allowed, f"norm of {name}")


def assert_same_detections(
    found: Sequence[Tensor], expected: Sequence[Tensor], time_noise: float, score_noise: float
) -> None:
    """Compares segments, scores and labels as sets, because detections of nearly one score may swap.

    Those at the end of the list may fall on either side of the least score or of the number that is kept.
    """
    segments, scores, labels = (value.detach().double() for value in found)
    assert len(scores) > 0 and len(expected[1]) > 0
    unmatched = torch.ones(len(scores), dtype=torch.bool)
    missing = []
    for segment, score, label in zip(*expected, strict=True):
        near = (segments - segment).abs().amax(dim=1) <= time_noise
        near &= ((scores - score).abs() <= score_noise) & (labels == label) & unmatched
        if near.any():
            unmatched[int(near.nonzero()[0])] = False
        else:
            missing.append(float(score))
    for rest, others in ((missing, scores), (scores[unmatched].tolist(), expected[1].double())):
        undecided = float(others.min()) + score_noise
        assert all(score <= undecided for score in rest), (rest, undecided)


def assert_same_actions(
    found: Sequence[Mapping], expected: Sequence[Mapping], time_noise: float = 1e-4, score_noise: float = 1e-4
) -> None:
    """The same of a pipeline's rows; by default to a hundredth of the times that people are shown."""
    names = sorted({row["label"] for row in (*found, *expected)})

    def columns(rows: Sequence[Mapping]) -> list[Tensor]:
        return [
            torch.tensor([[row["start"], row["end"]] for row in rows], dtype=torch.float64),
            torch.tensor([row["score"] for row in rows], dtype=torch.float64),
            torch.tensor([names.index(row["label"]) for row in rows]),
        ]

    assert len(found) == len(expected)
    assert_same_detections(columns(found), columns(expected), time_noise, score_noise)
