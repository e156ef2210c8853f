"""The settings of a video processor, and what they may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_type_hints

import torch
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.processing_utils import VideosKwargs

from .value_checks import (
    BELOW_ONE,
    COUNT,
    POSITIVE_SHARE,
    Range,
    check_bounds,
    check_names,
    check_values,
    fields_of,
    shown,
)
from .video_features import Resizing

DETECTION_SETTINGS = (
    "score_threshold", "min_length", "max_candidates", "nms_method", "nms_sigma", "nms_iou_threshold", "nms_min_score",
    "nms_per_class", "point_window", "voting_threshold", "max_detections", "num_video_classes",
)  # fmt: skip
"""Settings of the processor that `post_process_temporal_action_localization` also takes for a call."""
OPTIONAL = ("point_window", "voting_threshold")
"""Those that may be None."""

SIDE = Range(1, 2**13)
# Of a window, as the model gets it.
MAX_WINDOW_BYTES = 2**32

# Not settings, but part of a saved processor.
SERVICE_KEYS = {"auto_map", "image_processor_type", "processor_class", "video_processor_type"}

# Of steps of the preparation, what they need.
NEEDED = {
    "do_resize": ("size",),
    "do_center_crop": ("crop_size",),
    "do_rescale": ("rescale_factor",),
    "do_normalize": ("image_mean", "image_std"),
}

# What a size says of frames.
SIDES: tuple[set[str], ...] = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})


class Re2TALVideoProcessorKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]
    """Settings on top of those of every video processor; see `Re2TALVideoProcessor`."""

    sampling: Literal["sliding", "resized", "whole"]
    frame_rate: float
    window_overlap: float
    feature_stride: float | None
    feature_offset: float
    feature_rate: float | None
    feature_resizing: Resizing
    score_threshold: float
    min_length: float
    max_candidates: int
    nms_method: Literal["soft", "hard", "none"]
    nms_sigma: float
    nms_iou_threshold: float
    nms_min_score: float
    nms_per_class: bool
    point_window: float | None
    voting_threshold: float | None
    max_detections: int
    num_video_classes: int


class VideoSettings:
    """The settings of a `Re2TALVideoProcessor`, with their types, ranges and defaults; see there."""

    resample: Annotated[Any, Range(0, 3)] = PILImageResampling.BILINEAR
    image_mean: Annotated[float | list[float] | None, Range(-1e6, 1e6)] = IMAGENET_DEFAULT_MEAN
    image_std: Annotated[float | list[float] | None, Range(1e-6, 1e6)] = IMAGENET_DEFAULT_STD
    size: Annotated[Any, SIDE] = {"height": 224, "width": 224}
    crop_size: Annotated[Any, SIDE] = {"height": 224, "width": 224}
    rescale_factor: Annotated[float | None, Range(0, 1e6, with_low=False)] = 1 / 255
    do_convert_rgb: bool | None = True
    do_resize: bool | None = True
    do_center_crop: bool | None = False
    do_rescale: bool | None = True
    do_normalize: bool | None = True
    do_sample_frames: bool | None = False

    sampling: Literal["sliding", "resized", "whole"] = "sliding"
    frame_rate: Annotated[float, Range(0, 1000, with_low=False)] = 15.0
    num_frames: Annotated[int, Range(1, 2**20)] = 256
    window_overlap: Annotated[float, BELOW_ONE] = 0.5
    feature_stride: Annotated[float | None, Range(0, 1e6, with_low=False)] = None
    feature_offset: Annotated[float, Range(0, 1e6)] = 0.0
    feature_rate: Annotated[float | None, Range(0, 1000, with_low=False)] = None
    feature_resizing: Resizing = "interpolated"
    score_threshold: Annotated[float, BELOW_ONE] = 0.001
    min_length: Annotated[float, Range(0, 1000)] = 0.0
    max_candidates: Annotated[int, COUNT] = 2000
    nms_method: Literal["soft", "hard", "none"] = "soft"
    nms_sigma: Annotated[float, Range(0, 1000, with_low=False)] = 0.5
    nms_iou_threshold: Annotated[float, POSITIVE_SHARE] = 0.5
    nms_min_score: Annotated[float, BELOW_ONE] = 0.001
    nms_per_class: bool = True
    point_window: Annotated[float | None, Range(0, 1000, with_low=False)] = None
    voting_threshold: Annotated[float | None, POSITIVE_SHARE] = None
    max_detections: Annotated[int, COUNT] = 200
    num_video_classes: Annotated[int, COUNT] = 2


def check_processor_settings(settings: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Checks settings of a `Re2TALVideoProcessor`.

    Args:
        settings: by name, some or all of them.
        where: what stands before the name of a setting in a message.

    Returns:
        The settings, numbers as `check_value` returns them.

    Raises:
        ValueError: if there is no setting of a name, or a value is not of its type or range.
    """
    # transformers imports torch for type checkers only.
    hints = get_type_hints(Re2TALVideoProcessorKwargs, localns={"torch": torch}, include_extras=True)
    hints |= fields_of(VideoSettings)
    hints |= dict.fromkeys(("size", "crop_size"), Annotated[int | Sequence[int] | Mapping[str, int] | None, SIDE])
    hints["resample"] = Annotated[int | None, Range(0, 3)]
    known = {name: value for name, value in settings.items() if name not in SERVICE_KEYS}
    check_names(where, known, hints)
    known = check_values(where, known, hints)
    for name, sides in (("size", SIDES), ("crop_size", SIDES[:1])):
        value = known.get(name)
        if isinstance(value, Mapping) and value.keys() not in sides:
            wanted = " or ".join(" and ".join(sorted(side)) for side in sides)
            raise ValueError(f"{where}{name} has {shown(sorted(map(str, value)))}; give {wanted}.")
        sides_given = (
            value.values() if isinstance(value, Mapping) else value if isinstance(value, Sequence) else [value]
        )
        if set(sides_given) == {1}:
            raise ValueError(f"{where}{name} is {shown(value)}; frames need more than one pixel.")
        if isinstance(value, Sequence) and len(value) != 2:
            raise ValueError(f"{where}{name} is {shown(value)}; give height and width.")
        check_bounds(f"{where}{name}", value)
    for name in ("image_mean", "image_std"):
        if isinstance(value := known.get(name), Sequence) and len(value) != 3:
            raise ValueError(f"{where}{name} is {shown(value)}; give one number, or three, of red, green and blue.")
    return {**settings, **known}
