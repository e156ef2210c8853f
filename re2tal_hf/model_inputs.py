"""What the models are given, checked before anything is computed: videos, masks, features and labels.

Of a tensor shape and type are checked, which costs nothing; only the values of labels are read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .value_checks import shown

# Of cross entropy: such a clip has no part in the loss.
IGNORED_CLASS = -100


def check_tensor(name: str, value: Any, form: str, *, floating: bool = False, fix: str = "") -> None:
    """Checks that a value is a tensor of a form, and not empty.

    Args:
        name: of the argument.
        value: of the argument.
        form: its dimensions, such as `"[batch, frames]"`.
        floating: whether it must hold floating-point numbers.
        fix: what to do about a tensor that does not.

    Raises:
        TypeError: if it is no tensor.
        ValueError: if its shape or dtype is another, or it holds nothing.
    """
    if not isinstance(value, Tensor):
        hint = "; torch.from_numpy(...) makes one of an array" if hasattr(value, "__array__") else ""
        raise TypeError(f"{name} is {shown(value)}; it must be a tensor {form}{hint}.")
    if value.dim() != form.count(",") + 1:
        raise ValueError(f"{name} has shape {list(value.shape)}; it must be {form}.")
    if 0 in value.shape:
        raise ValueError(
            f"{name} has shape {list(value.shape)}: it is empty; it must be {form}, with one or more of each."
        )
    if value.layout != torch.strided:
        raise ValueError(f"{name} is {value.layout}; make it dense with to_dense().")
    if floating and not value.is_floating_point():
        raise ValueError(f"{name} is {_kind(value)} {list(value.shape)}; it must be of floating-point numbers{fix}.")


def check_videos(
    videos: Any, frame_mask: Any, channels: int | None, weights: Tensor | None, pixel_statistics: Any = None
) -> None:
    """Checks what a backbone is given.

    Args:
        videos: must be float `[B, T, C, H, W]`; uint8, where `pixel_statistics` are given.
        frame_mask: must be `[B, T]`, or None.
        channels: the `C` that the backbone takes; None where it is not known.
        weights: any of the backbone.
        pixel_statistics: must be float `[2, C]`, or None.

    Raises:
        TypeError, ValueError: see `check_tensor`; also if the channels are in another place.
    """
    name, form = "pixel_values_videos", "[batch, frames, channels, height, width]"
    fix = ", normalised: the video processor makes them of uint8 frames"
    check_tensor(name, videos, form, floating=pixel_statistics is None, fix=fix)
    if pixel_statistics is not None:
        check_tensor("pixel_statistics", pixel_statistics, "[2, channels]", floating=True)
        if videos.dtype != torch.uint8:
            raise ValueError(f"{name} is {_kind(videos)}; with pixel_statistics it must be uint8, from 0 to 255.")
        if list(pixel_statistics.shape) != [2, videos.shape[2]]:
            raise ValueError(
                f"pixel_statistics has shape {list(pixel_statistics.shape)}; it must be [2, {videos.shape[2]}], mean "
                "and standard deviation of each channel."
            )
    if videos.is_meta and weights is not None and not weights.is_meta:
        raise ValueError(f"{name} is on the device 'meta', where there are no values.")
    if channels is not None and videos.shape[2] != channels:
        places = {1: "transpose(1, 2)", 3: "movedim(3, 2)", 4: "movedim(4, 2)"}
        fixes = [f"; {name}.{move} makes it so" for place, move in places.items() if videos.shape[place] == channels]
        raise ValueError(
            f"{name} has shape {list(videos.shape)}, which is {videos.shape[2]} channels; it must be {form} with "
            f"{channels}{''.join(fixes[-1:])}."
        )
    check_mask("frame_mask", frame_mask, "[batch, frames]", list(videos.shape[:2]))


def normalized_pixels(frames: Tensor, mask: Tensor, statistics: Tensor) -> Tensor:
    """Normalises frames as the video processor does.

    Args:
        frames: uint8 `[B, T, C, H, W]`.
        mask: bool `[B, T]`; what is not real becomes 0.
        statistics: float32 `[2, C]`, mean and standard deviation of the pixels.

    Returns:
        float32 `[B, T, C, H, W]`.
    """
    mean, deviation = statistics[:, :, None, None]
    return ((frames - mean) / deviation).masked_fill_(~mask.bool()[:, :, None, None, None], 0)


def check_features(features: Any, feature_mask: Any, size: int) -> None:
    """Checks features computed before.

    Args:
        features: must be float `[B, T', D]`.
        feature_mask: must be `[B, T']`, or None.
        size: the `D` of the model.

    Raises:
        TypeError, ValueError: see `check_tensor`.
    """
    form = "[batch, steps, features]"
    check_tensor("temporal_features", features, form, floating=True)
    if features.shape[2] != size:
        moved = "; transpose(1, 2) makes it so" if features.shape[1] == size else ""
        raise ValueError(
            f"temporal_features has shape {list(features.shape)}; it must be {form} with {size} features{moved}."
        )
    check_mask("feature_mask", feature_mask, "[batch, steps]", list(features.shape[:2]))


def check_mask(name: str, mask: Any, form: str, shape: list[int]) -> None:
    """Checks a mask, which may be None, against the shape of what it is of; errors as of `check_tensor`."""
    if mask is None:
        return
    check_tensor(name, mask, form)
    if list(mask.shape) != shape or mask.is_complex():
        raise ValueError(f"{name} is {_kind(mask)} {list(mask.shape)}; it must be bool {shape}, {form}.")


def check_labels(name: str, labels: Any, batch: int, num_labels: int) -> None:
    """Checks the annotated actions of a batch.

    Args:
        name: what messages call them.
        labels: must be a sequence of `batch` mappings: `segments`, real `[N, 2]`, of which none ends before it starts,
            and `class_labels`, whole numbers `[N]` from 0 to below `num_labels`; with one class any number will do.
        batch: number of videos.
        num_labels: number of classes.

    Raises:
        TypeError: if they are of another type.
        ValueError: if shapes, types or values are others.
    """
    if not isinstance(labels, Sequence) or isinstance(labels, (str, bytes)):
        raise TypeError(f"{name} is {shown(labels)}; it must be a list of dictionaries, one for each video.")
    if len(labels) != batch:
        raise ValueError(f"{name} has {len(labels)} entries for a batch of {batch} videos; give one each.")
    for index, target in enumerate(labels):
        _check_target(f"{name}[{index}]", target)
    # Read at once: reading from a device means to wait for it.
    segments = torch.cat([target["segments"].detach().float().cpu() for target in labels])
    classes = torch.cat([target["class_labels"].detach().long().cpu() for target in labels])
    owners = [index for index, target in enumerate(labels) for _ in target["segments"]]
    wrong = ~segments.isfinite().all(dim=1) | (segments[:, 1] < segments[:, 0])
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name}[{owners[row]}]: among the segments is {segments[row].tolist()}; each must be a start and an end "
            "that is not before it, both finite."
        )
    wrong = (classes < 0) | (classes >= num_labels)
    if num_labels > 1 and wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name}[{owners[row]}]: class_labels must lie in 0..{num_labels - 1}, got {int(classes[row])}; "
            "set num_labels to the classes of the annotations."
        )


def check_classes(labels: Any, batch: int, num_labels: int) -> Tensor:
    """Checks the classes of clips.

    Args:
        labels: must be whole numbers `[B]` from 0 to below `num_labels`, -100 for a clip that does not count; or the
            probability of each class, float `[B, num_labels]`.
        batch: number of clips.
        num_labels: number of classes.

    Returns:
        The same as cross entropy takes it.

    Raises:
        TypeError, ValueError: if they are others.
    """
    must = f"it must be int64 [{batch}] of classes, 0 to {num_labels - 1}"
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels is {shown(labels)}; {must}.")
    if list(labels.shape) == [batch, num_labels] and labels.is_floating_point():
        return labels
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if list(labels.shape) != [batch] or not whole:
        raise ValueError(f"labels is {_kind(labels)} {list(labels.shape)}; {must}.")
    if torch.compiler.is_compiling():
        return labels.long()
    counted = labels[labels != IGNORED_CLASS]
    if not len(counted) or counted.min() < 0 or counted.max() >= num_labels:
        raise ValueError(f"labels is {shown(labels.tolist())}; {must}.")
    return labels.long()


@contextlib.contextmanager
def naming_argument(name: str, value: Tensor, model: nn.Module) -> Iterator[None]:
    """Names the argument in what is refused inside, and says so where its dtype or device is not that of the model.

    These need not be the same: autocast and hooks bring them together.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name} {list(value.shape)}: {error}") from error
    except RuntimeError as error:
        there, here = (f"{_kind(tensor)} on {tensor.device}" for tensor in (value, next(model.parameters())))
        if there == here:
            raise
        raise ValueError(
            f"{name} is {there}, the model {here}; bring them together: {name}.to(model.device, model.dtype) "
            f"({str(error).splitlines()[0][:200]})."
        ) from error


def input_channels(model: nn.Module) -> int | None:
    """Returns the channels of a model's first convolution; None where it has none."""
    kinds = (nn.Conv2d, nn.Conv3d)
    return next((module.in_channels for module in model.modules() if isinstance(module, kinds)), None)


def _check_target(name: str, target: Any) -> None:
    if not isinstance(target, Mapping):
        raise TypeError(f"{name} is {shown(target)}; it must be a dictionary of 'segments' and 'class_labels'.")
    for key in ("segments", "class_labels"):
        if key not in target:
            raise ValueError(f"{name} has {sorted(map(str, target))}; it must have segments and class_labels.")
        if not isinstance(target[key], Tensor):
            raise TypeError(f"{name}: {key} is {shown(target[key])}; it must be a tensor.")
    segments, classes = target["segments"], target["class_labels"]
    if list(segments.shape) != [len(segments) if segments.dim() else 0, 2] or segments.is_complex():
        raise ValueError(f"{name}: segments is {_kind(segments)} {list(segments.shape)}; it must be float [N, 2].")
    if list(classes.shape) != [len(segments)]:
        raise ValueError(
            f"{name}: class_labels has shape {list(classes.shape)} for {len(segments)} segments; it must be [N]."
        )
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise ValueError(f"{name}: class_labels is {_kind(classes)}; it must be of whole numbers, int64.")


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
