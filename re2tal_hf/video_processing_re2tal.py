"""Video files to tensors for the model, and the model's detections back to seconds of the video.

The only place where seconds become frames of a window and frames become seconds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature
from transformers.processing_utils import Unpack
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoInput

from .class_scores import ClassScores, class_scores_by_video
from .saved_files import JSON_NAMES, check_json, check_place, files_checked
from .value_checks import (
    BELOW_ONE,
    COUNT,
    POSITIVE,
    SHARE,
    check_value,
    did_you_mean,
    fields_of,
    one_line,
    shown,
    suggesting,
)
from .video_clips import check_clips, check_frames
from .video_container import describe
from .video_detections import merge_candidates, window_candidates
from .video_features import FeaturesInMemory
from .video_settings import (
    DETECTION_SETTINGS,
    MAX_WINDOW_BYTES,
    NEEDED,
    OPTIONAL,
    Re2TALVideoProcessorKwargs,
    VideoSettings,
    check_processor_settings,
)
from .video_source import VideoSource, is_video, open_video
from .video_windows import MAX_FRAMES, Window, check_windows, checked_outputs

# Frames that are normalised at once.
PREPARED_FRAMES = 64


class Re2TALVideoProcessor(VideoSettings, BaseVideoProcessor):
    """Prepares videos for Re2TAL models and turns what they find into seconds.

    Clips that are in memory go through `processor(clips)`. Files are read by window: `windows` plans
    them, a `VideoReader` takes the frames at the `times` of one through `resize_and_crop`, and
    `prepare` makes the model's input of them, on the device on which they are. `read_window` does
    both for one window.

    Args:
        size: of the frames, `{"height", "width"}` (the whole picture is squeezed into it) or
            `{"shortest_edge"}` together with `do_center_crop` and `crop_size`.
        sampling: "sliding" for windows at a fixed frame rate, "resized" for one window of frames
            spread evenly over the whole video. "whole", for stored features, trains on windows as "sliding" does and
            localizes in all of a video at once, as ActionFormer does.
        frame_rate: frames per second of a sliding window.
        num_frames: frames of a window.
        window_overlap: share of a sliding window that the next one repeats, in [0, 1).
        feature_stride: of stored features, in place of the frame rate: frames of the video from one to the next; None
            where they are spread evenly over the video. The other settings then count features for frames.
        feature_offset: frame of the video at which the first feature stands (without a stride, in features):
            ActionFormer's is half the frames that a feature sees.
        feature_rate: frames per second of the videos that the features were computed from; None: the annotations say
            it of each video.
        feature_resizing: how `sampling="resized"` makes `num_frames` of the features: "interpolated" at as many places
            spread evenly, or "averaged" over as many shares of the video, where there are more features.
        score_threshold: the first setting of the detection; those from here on may also be given for one call of
            `post_process_temporal_action_localization`. Candidates that score less are dropped before the suppression.
        min_length: what is not longer, in frames of the window, is dropped before the suppression.
        max_candidates: best candidates of each window that take part in the suppression.
        nms_method: "soft" (gaussian), "hard" or "none".
        nms_sigma: of soft-NMS.
        nms_iou_threshold: of hard NMS.
        nms_min_score: detections whose score has sunk below are dropped.
        nms_per_class: whether only segments of the same class suppress each other.
        point_window: what is found are points in time, which start where they end, for a head that finds points:
            seconds within which they suppress each other, as segments of that length about them would; `min_length`
            then means nothing. None: segments.
        voting_threshold: tIoU from which candidates refine the segments kept; None for no voting.
        max_detections: segments kept for each video.
        num_video_classes: classes that an external video classifier gives to each segment.
        kwargs: of `BaseVideoProcessor`: `do_resize`, `resample`, `image_mean`, `image_std`, ...

    Raises:
        TypeError: if a setting is unknown.
        ValueError: if a setting is out of range.
    """

    valid_kwargs = Re2TALVideoProcessorKwargs
    model_input_names = ["pixel_values_videos", "frame_mask"]

    def __init__(self, **kwargs: Unpack[Re2TALVideoProcessorKwargs]) -> None:
        super().__init__(**check_processor_settings(kwargs))
        self._validate_settings()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; what is wrong is named with its file."""
        check_place("pretrained_model_name_or_path", pretrained_model_name_or_path)
        try:
            with files_checked(pretrained_model_name_or_path, kwargs, lambda path: check_json(path, JSON_NAMES[1:])):
                return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (ValueError, TypeError) as error:
            raise ValueError(f"The video processor in {pretrained_model_name_or_path}: {one_line(error)}") from error

    @property
    def decode_size(self) -> tuple[int, int] | None:
        """Height and width for a `VideoReader`, where a fixed size is all the resizing there is."""
        if self.do_center_crop or not (self.do_resize and self.size.height and self.size.width):
            return None
        return self.size.height, self.size.width

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width of the frames that the model gets; None where they follow those of the video."""
        if self.do_center_crop:
            return self.crop_size.height, self.crop_size.width
        return self.decode_size

    @suggesting
    def whole_video(self, video_id: str, duration: float, *, max_frames: int = MAX_FRAMES) -> Window:
        """All frames of a video at the sampling rate, as one window.

        Args:
            video_id: carried along.
            duration: of the video in seconds.
            max_frames: what is more is refused.

        Raises:
            ValueError: if `duration` is not positive, or comes to more than `max_frames`.
        """
        check_value("video_id", video_id, str)
        duration = check_value(f"{describe(video_id)}: duration", duration, Annotated[float, POSITIVE])
        check_value("max_frames", max_frames, Annotated[int, COUNT])
        if self.sampling == "resized":
            return Window(video_id, 0.0, self.num_frames / duration, self.num_frames, duration)
        # The margin is for durations that are a whole number of frames but for rounding.
        frames = duration * self.frame_rate - 1e-6
        self._check_budget(video_id, duration, frames, max_frames)
        return Window(video_id, 0.0, self.frame_rate, max(1, math.ceil(frames)), duration)

    def _check_budget(self, video_id: str, duration: float, frames: float, max_frames: int) -> None:
        if frames > max_frames:
            raise ValueError(
                f"{describe(video_id)}: a duration of {duration:.6g} s at {self.frame_rate:g} frames per second, in "
                f"windows that overlap, comes to {frames:.6g} frames. Check duration, frame_rate and overlap; if they "
                f"are right, give a larger max_frames (now {max_frames})."
            )

    @suggesting
    def windows(
        self, video_id: str, duration: float, *, overlap: float | None = None, max_frames: int = MAX_FRAMES
    ) -> list[Window]:
        """Plans the windows that cover a video.

        The last sliding window ends with the video, so that it may overlap more than the others. A
        video shorter than a window makes one window, to be padded.

        Args:
            video_id: carried along.
            duration: of the video in seconds.
            overlap: in place of `window_overlap`.
            max_frames: of all windows together; what is more is refused.

        Returns:
            Windows by rising start.

        Raises:
            ValueError: if `duration` is not positive, `overlap` is not in [0, 1), or there were more than `max_frames`.
        """
        overlap = check_value("overlap", overlap, Annotated[float | None, BELOW_ONE])
        whole = self.whole_video(video_id, duration, max_frames=max_frames)
        return self.split(whole, overlap=overlap, max_frames=max_frames)

    def split(self, whole: Window, *, overlap: float | None = None, max_frames: int = MAX_FRAMES) -> list[Window]:
        """Plans the windows that cover what `whole_video` returned, or `whole_features`; see `windows`."""
        if self.sampling != "sliding":
            return [whole]
        step = max(1, round(self.num_frames * (1 - (self.window_overlap if overlap is None else overlap))))
        last = max(0, whole.num_frames - self.num_frames)
        length = min(whole.num_frames, self.num_frames)
        self._check_budget(whole.video_id, whole.duration, length * (last / step + 1), max_frames)
        return [
            replace(whole, start=whole.start + first / whole.frame_rate, num_frames=length)
            for first in [*range(0, last, step), last]
        ]

    def read_window(self, reader: VideoSource, window: Window) -> dict[str, Tensor]:
        """Decodes one window and prepares it for the model.

        Args:
            reader: of the video.
            window: from `windows`.

        Returns:
            `pixel_values_videos` float `[num_frames, C, H, W]`, normalised, and `frame_mask` bool
            `[num_frames]`, True where a frame is real; padding is zeros at the end.

        Raises:
            VideoReadError: if a frame does not decode.
        """
        if not hasattr(reader, "frames_at"):
            raise TypeError(f"reader is {shown(reader)}; it must be a VideoReader.")
        check_windows([window])
        return {name: tensor[0] for name, tensor in self.prepare([self.read_frames(reader, window)]).items()}

    def read_frames(self, reader: VideoSource, window: Window) -> Tensor:
        """Decodes one window at the size at which the model gets it, uint8 `[T, C, H, W]`."""
        return reader.frames_at(window.times, resize=self.resize_and_crop)

    def resize_and_crop(self, frames: Tensor) -> Tensor:
        """Brings frames as they are decoded to the size at which the model gets them.

        Args:
            frames: uint8 `[N, C, H, W]`.

        Returns:
            uint8 `[N, C, H', W']`.

        Raises:
            TypeError, ValueError: if they are others.
        """
        check_frames("frames", frames)
        if self.do_resize:
            frames = self.resize(frames, self.size, resample=self.resample)
        return self.center_crop(frames, self.crop_size) if self.do_center_crop else frames

    @suggesting
    def prepare(self, videos: Sequence[Tensor], *, normalized: bool = True) -> dict[str, Tensor]:
        """Makes a batch for the model of windows that are decoded and resized: rescaled, normalised, padded.

        It runs where the frames are. Move them to the model's device first: they take a quarter of the memory there.

        Args:
            videos: frames of each window, uint8 `[T, C, H, W]`, at most `num_frames` of them, of one size; or its
                stored features, float `[T, D]`.
            normalized: with False frames stay uint8, and `pixel_statistics` comes with them, by which the model makes
                numbers of some at a time. Of a long video they take a quarter of the memory.

        Returns:
            `pixel_values_videos` float32 `[B, num_frames, C, H, W]` and `frame_mask` bool `[B, num_frames]`, True
            where a frame is real; padding is zeros at the end. Of features, `temporal_features` `[B, num_frames, D]`
            and `feature_mask`; with `sampling="whole"` as many as the longest has, if these are more.

        Raises:
            TypeError: if they are no list of tensors.
            ValueError: if there are no windows, a window has more frames than `num_frames`, or their sizes differ.
        """
        if not isinstance(videos, (list, tuple)):
            raise TypeError(f"videos is {shown(videos)}; it must be a list of the frames of each window.")
        if videos and all(isinstance(video, Tensor) and video.ndim == 2 for video in videos):
            return self._prepare_features(videos)
        for index, frames in enumerate(videos):
            check_frames(f"videos[{index}]", frames)
        if len(sizes := {tuple(frames.shape[1:]) for frames in videos}) != 1:
            raise ValueError(f"videos: frames of the sizes {sorted(sizes)} make no batch; resize them.")
        if (longest := max(map(len, videos))) > self.num_frames:
            raise ValueError(f"videos: a window has {longest} frames, more than num_frames={self.num_frames}.")
        device = videos[0].device
        lengths = torch.tensor([len(frames) for frames in videos], device=device)
        frame_mask = torch.arange(self.num_frames, device=device) < lengths[:, None]
        if not normalized:
            whole = [_pad(frames, self.num_frames)[0] for frames in videos]
            # A video alone is not copied.
            batch = whole[0].unsqueeze(0) if len(whole) == 1 else torch.stack(whole)
            return {
                "pixel_values_videos": batch,
                "frame_mask": frame_mask,
                "pixel_statistics": self._pixel_statistics(batch.shape[2]).to(device),
            }
        pixels = torch.zeros((len(videos), self.num_frames, *videos[0].shape[1:]), device=device)
        for frames, row in zip(videos, pixels, strict=True):
            # A few at a time, since what is normalised lies beside what it becomes.
            for start in range(0, len(frames), PREPARED_FRAMES):
                part = frames[start : start + PREPARED_FRAMES]
                row[start : start + len(part)] = self.rescale_and_normalize(
                    part, self.do_rescale, self.rescale_factor, self.do_normalize, self.image_mean, self.image_std
                )
        return {"pixel_values_videos": pixels, "frame_mask": frame_mask}

    def _pixel_statistics(self, channels: int) -> Tensor:
        """Mean and standard deviation `[2, C]` of the pixels, as integers from 0 to 255."""
        mean, std = (self.image_mean, self.image_std) if self.do_normalize else (0.0, 1.0)
        statistics = torch.stack([torch.as_tensor(value).float().expand(channels) for value in (mean, std)])
        return statistics * (1.0 / cast(float, self.rescale_factor)) if self.do_rescale else statistics

    def _prepare_features(self, videos: Sequence[Tensor]) -> dict[str, Tensor]:
        longest = max(map(len, videos))
        if longest > self.num_frames and self.sampling != "whole":
            raise ValueError(f"videos: a window has {longest} features, more than num_frames={self.num_frames}.")
        padded = [_pad(features, max(longest, self.num_frames)) for features in videos]
        features, masks = (torch.stack(parts) for parts in zip(*padded, strict=True))
        return {"temporal_features": features, "feature_mask": masks}

    def post_process_temporal_action_localization(
        self,
        outputs: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
        windows: Sequence[Window],
        *,
        threshold: float | None = None,
        video_scores: Mapping[str, ClassScores] | ClassScores | None = None,
        **settings: Any,
    ) -> list[dict[str, Any]]:
        """Merges what the model found in windows into the detections of each video.

        The candidates of all windows of a video, in seconds and not rounded, go through one
        suppression.

        Args:
            outputs: an output of the model, or a list of them: `logits` `[B, P, K]`,
                `pred_segments` `[B, P, 2]` in frames of the window, `point_mask` `[B, P]`.
            windows: one for each row of all the outputs, in their order.
            threshold: lowest score returned.
            video_scores: of an external video classifier, for a model without classes (K = 1): by
                video id, the scores by class id, or a list or tensor `[num_classes]`; for windows of one
                video also without the video id. (Scores by name are for the pipeline.) Each segment is
                returned once for each of the `num_video_classes` best classes, its score multiplied by theirs.
            settings: of the detection, in place of the processor's own: `score_threshold`, `min_length`,
                `max_candidates`, `nms_method`, `nms_sigma`, `nms_iou_threshold`, `nms_min_score`, `nms_per_class`,
                `point_window`, `voting_threshold`, `max_detections`, `num_video_classes`.

        Returns:
            For each video, in the order in which they first appear, its `video_id` and, best
            first, `segments` float64 `[N, 2]` (start and end in seconds), `labels` long `[N]` and
            `scores` float64 `[N]`.

        Raises:
            NotFiniteError: if a logit or a segment of a real point is NaN or infinite.
            TypeError: if there is no such setting.
            ValueError: if a setting is out of range, `threshold` is not in [0, 1], outputs and windows do not match, or
                `video_scores` lacks a video, is given for a model with classes, or holds what is no class id or no
                score.
        """
        check_value("threshold", threshold, Annotated[float | None, SHARE])
        chosen = self._detection_settings(settings)
        batches = checked_outputs(outputs)
        check_windows(windows)
        rows = [
            row
            for batch in batches
            for row in zip(batch["logits"], batch["pred_segments"], batch["point_mask"], strict=True)
        ]
        if len(rows) != len(windows):
            raise ValueError(f"The outputs are of {len(rows)} windows, not of {len(windows)}, as windows says.")
        candidates: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        for row, window in zip(rows, windows, strict=True):
            found = window_candidates(*row, window, chosen, clamped=self.sampling != "whole")
            candidates.setdefault(window.video_id, []).append(found)
        class_scores: dict[str, tuple[Tensor, Tensor]] = {}
        if video_scores is not None:
            if any(logits.shape[-1] != 1 for logits, _, _ in rows):
                raise ValueError("video_scores are for a model without classes of its own.")
            class_scores = class_scores_by_video(video_scores, list(candidates))
        detections = []
        durations = {window.video_id: window.duration for window in windows}
        for video_id, parts in candidates.items():
            merged = merge_candidates(parts, chosen, class_scores.get(video_id))
            if self.sampling == "whole":
                segments = merged[0].clamp(0, durations[video_id])
                inside = (segments[:, 1] > segments[:, 0]) | (chosen["point_window"] is not None)
                merged = segments[inside], merged[1][inside], merged[2][inside]
            kept = slice(None) if threshold is None else merged[1] >= threshold
            segments, scores, labels = (tensor[kept] for tensor in merged)
            detections.append({"video_id": video_id, "segments": segments, "labels": labels, "scores": scores})
        return detections

    def preprocess(self, videos: VideoInput, **kwargs: Any) -> BatchFeature:
        """Prepares clips in memory; shorter ones are padded with zeros to the longest.

        With `do_sample_frames=True`, as in `pipeline("video-classification")`, files are taken as well: of each the
        window in its middle is read, and padded to its whole length.

        Args:
            videos: a clip or a list of clips: `[T, C, H, W]` tensors, `[T, H, W, C]` arrays or
                lists of PIL images, with values from 0 to 255; or files (see `open_video`).
            kwargs: settings to use in place of the processor's own, and `return_tensors`.

        Returns:
            `pixel_values_videos` float `[B, T, C, H, W]` and `frame_mask` bool `[B, T]`, True where
            a frame is real.

        Raises:
            TypeError: if a video is a file, and frames are not to be sampled.
            VideoReadError: if a file cannot be read.
            ValueError: if a setting is out of range, or the frames of two clips differ in size after resizing and
                cropping.
        """
        tensor_type = kwargs.pop("return_tensors", None)
        check_value("return_tensors", tensor_type, Literal["pt", "np", "mlx"] | None)
        if kwargs.get("num_frames", self.num_frames) is None:  # as transformers' pipeline has it of the model
            del kwargs["num_frames"]
        kwargs = check_processor_settings(kwargs)
        length = 0
        if kwargs.get("do_sample_frames", self.do_sample_frames) and (files := _files(videos)):
            length = kwargs.get("num_frames", self.num_frames)
            videos = [self._middle_of(file, kwargs) for file in files]
            kwargs["do_sample_frames"] = False
        elif not _files(videos):
            rescaled = bool(kwargs.get("do_rescale", self.do_rescale))
            check_clips("videos", videos, rescaled=rescaled, colours_known=bool(kwargs.get("input_data_format")))
        batch = super().preprocess(videos, **kwargs)
        clips = batch["pixel_values_videos"]
        if len(sizes := {tuple(clip.shape[1:]) for clip in clips}) > 1:
            raise ValueError(f"videos: frames of the sizes {sorted(sizes)} make no batch; resize them.")
        padded = [_pad(clip, max(length, *map(len, clips))) for clip in clips]
        batch["pixel_values_videos"] = torch.stack([clip for clip, _ in padded])
        batch["frame_mask"] = torch.stack([frame_mask for _, frame_mask in padded])
        return batch.convert_to_tensors(tensor_type)

    def fetch_videos(self, video_url_or_urls: Any, sample_indices_fn: Any = None) -> Any:
        """Refuses files, which the base class would decode whole."""
        raise TypeError(
            f"videos is {shown(video_url_or_urls)}, not a clip in memory. Read files with VideoReader, "
            "windows() and read_window(), or with the pipeline; with do_sample_frames=True the middle of each is taken."
        )

    def _middle_of(self, video: Any, settings: Mapping[str, Any]) -> Tensor:
        """The frames of the window in the middle of a file, uint8 `[T, C, H, W]`, not cropped yet."""
        planner = copy.copy(self)
        for name in ("sampling", "frame_rate", "num_frames"):
            if settings.get(name) is not None:
                setattr(planner, name, settings[name])
        with open_video(video) as source:
            if isinstance(source, FeaturesInMemory):
                raise TypeError(f"{source.name} holds features, which the pipeline takes; here give a video.")
            window = planner.windows(source.name, source.duration)[0]
            slack = source.duration - window.num_frames / window.frame_rate
            # Large frames are resized as they come; to be resized again changes them no more.
            resized = self.do_resize and not settings.keys() & {"do_resize", "size", "resample"}
            resize = partial(self.resize, size=self.size, resample=self.resample) if resized else None
            return source.frames_at(replace(window, start=max(slack / 2, 0.0)).times, resize=resize)

    def _detection_settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of the detection, those given in place of the processor's own."""
        if unknown := sorted(given.keys() - set(DETECTION_SETTINGS)):
            known = did_you_mean(unknown[0], DETECTION_SETTINGS)
            raise TypeError(f"The detection has no setting {unknown[0]!r}; {known}")
        given = {name: value for name, value in given.items() if value is not None or name in OPTIONAL}
        given = check_processor_settings(given)
        return {name: given.get(name, getattr(self, name)) for name in DETECTION_SETTINGS}

    def _validate_settings(self) -> None:
        values = {name: getattr(self, name) for name in fields_of(VideoSettings)}
        sizes = {name: dict(values[name]) for name in ("size", "crop_size") if values[name] is not None}
        check_processor_settings(values | sizes)
        for flag, names in NEEDED.items():
            if missing := [name for name in names if values[flag] and values[name] is None]:
                raise ValueError(f"{missing[0]} is None, and {flag} needs it; give it, or set {flag} to false.")
        size = None if self.sampling == "whole" or self.feature_stride else self.frame_size  # of stored features: none
        if size and (needed := 12 * self.num_frames * math.prod(size)) > MAX_WINDOW_BYTES:
            raise ValueError(
                f"num_frames is {self.num_frames} and the frames are {size[0]}x{size[1]}: a window of "
                f"{needed / 2**30:.0f} GiB; at most {MAX_WINDOW_BYTES / 2**30:g}."
            )


def _pad(video: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """Appends frames of zeros to a video [T, C, H, W]; the mask [num_frames] is False there."""
    missing = num_frames - len(video)
    if missing:
        video = torch.cat([video, video.new_zeros(missing, *video.shape[1:])])
    return video, torch.arange(num_frames, device=video.device) < num_frames - missing


def _files(videos: Any) -> list[Any]:
    """The videos, where they are files; none where they are clips in memory."""
    listed = list(videos) if isinstance(videos, (list, tuple)) else [videos]
    kinds = (list, tuple, np.ndarray, Tensor)
    return listed if all(is_video(video) and not isinstance(video, kinds) for video in listed) else []
