"""A model that has diverged must not look like one that found nothing: NaN fails every comparison in silence."""

from __future__ import annotations

from torch import Tensor


class NotFiniteError(ValueError):
    """A model's output holds NaN or infinity; says what does, of which video."""


def check_finite(where: str, **outputs: Tensor) -> None:
    """Checks what a model has put out.

    Args:
        where: the video.
        outputs: tensors of any shape, by the name to tell.

    Raises:
        NotFiniteError: if a number is NaN or infinite.
    """
    for name, values in outputs.items():
        if bad := int((~values.isfinite()).sum()):
            raise NotFiniteError(
                f"{where}: {bad} of {values.numel()} {name} are not finite. The model has diverged, or its weights or "
                "the processor's image_mean, image_std or rescale_factor are not what they were in training."
            )


def check_predictions(where: str, logits: Tensor, segments: Tensor) -> None:
    """Checks the predictions of a localization model at real points.

    Args:
        where: the video.
        logits: `[P, K]`; minus infinity is a probability of zero, where a point stands for other classes.
        segments: `[P, 2]`.

    Raises:
        NotFiniteError: if a point has NaN, infinity or no class at all.
    """
    check_finite(where, logits=logits.amax(dim=-1), segments=segments)
