"""Training windows: pieces of annotated videos, drawn anew in every epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..video_processing_re2tal import Re2TALVideoProcessor
from ..video_reader import Backend, VideoReadError
from ..video_windows import Window
from .annotation_set import AnnotatedVideo
from .augmentation import Augmentation
from .feature_store import FeatureStore
from .frame_store import FrameStore
from .readable_videos import ReadableVideos
from .time_units import MAX_LOST
from .timeline_index import TimelineIndex

# Of an epoch; no training comes to the end of more.
MAX_WINDOWS = 10**7


class TrainingWindows(Dataset[dict[str, Any]]):
    """Windows of annotated videos, with the segments in them in frames of the window.

    With `processor.sampling == "resized"` a window is the whole video. With "sliding" it is a
    random crop of `processor.num_frames` frames at `processor.frame_rate`, drawn as ActionFormer
    does (arXiv 2202.07925, `truncate_feats` of its implementation): crops are drawn until one keeps
    an action, and an action is kept, clipped to the crop, where at least `truncation_threshold` of
    its length lies inside. Other than there, of an action longer than the crop it is the share of the
    crop that counts, so that a crop inside an action is that action and not background. A video that
    fits into one window gives a crop of a share of `crop_ratio` of itself. Windows shorter than
    `processor.num_frames` are padded and masked. Of stored features a window is drawn in the same way, its frames
    being the features.

    An item is `frames`, uint8 `[T, C, H, W]` or features, float `[T, D]`, T up to `processor.num_frames`, `labels`, a
    dict of `segments` float32 `[N, 2]` in frames and `class_labels` long `[N]`, and `video_id`. It depends on the seed,
    the epoch and the index only, not on the number of workers. `processor.prepare` makes the model's
    input of the frames of a batch.

    Every file that the index of timelines does not know is read once at the start, for its true
    duration. One that is still on the Hub is fetched and read when its first window is drawn, by the
    process that draws it; until then the duration in its annotations counts (without one it is
    fetched at the start). A file that cannot be opened at the start is left out; one that fails
    later, in any worker, is replaced by a window of another video. Each is reported in one warning
    and counted.

    Args:
        videos: With their `path`, as `read_annotations` gives them.
        processor: Says how windows are sampled and frames are prepared.
        augmentation: Of the frames; default none.
        windows_per_video: Windows drawn from each video in an epoch, or from each stretch of
            `seconds_per_window` of it where that is given.
        seconds_per_window: Makes long videos give more windows than short ones.
        truncation_threshold: Share of an action (or of the window, where the action is longer) that must
            lie in the window, in (0, 1].
        crop_ratio: Range of the share kept of a video that fits into one window; `None`: all of it.
        max_attempts: Crops drawn at most in search of an action; the first one if none has any.
        seed: Of all draws.
        max_unreadable: Largest share of unreadable videos with which training goes on.
        max_lost: Largest share of segments that are dropped because they lie outside their video, by its
            true duration, or end before they start; see `check_times`.
        timelines: When the frames of files are on screen; by default the user's index.
        cache: Folder for decoded frames (see `FrameCache`), for when training waits for decoding.
        backend: Of the `VideoReader`.
        features: In place of the frames; `timelines`, `cache` and `backend` then mean nothing.

    Attributes:
        videos: The readable videos with measured durations, where they are not on the Hub still,
            and segments clipped to them.
        counts: How often each rule of `annotations.RULES` was met once the durations were measured.
        lost: Segments outside their video, or that end before they start, by class id.

    Raises:
        ValueError: Settings out of range, no videos, or a video without a path.
        AnnotationError: More segments are lost than `max_lost` allows.
        UnreadableVideosError: Too many videos cannot be read; also while items are read.
    """

    def __init__(
        self,
        videos: Sequence[AnnotatedVideo],
        processor: Re2TALVideoProcessor,
        *,
        augmentation: Augmentation | None = None,
        windows_per_video: int = 1,
        seconds_per_window: float | None = None,
        truncation_threshold: float = 0.75,
        crop_ratio: tuple[float, float] | None = (0.9, 1.0),
        max_attempts: int = 200,
        seed: int = 0,
        max_unreadable: float = 0.05,
        max_lost: float = MAX_LOST,
        timelines: TimelineIndex | None = None,
        cache: str | Path | None = None,
        backend: Backend = "auto",
        features: FeatureStore | None = None,
    ) -> None:
        self.processor = processor
        self.augmentation = augmentation or Augmentation()
        crop_scale = self.augmentation.crop_scale
        smallest_crop = None if crop_scale is None else crop_scale[0]
        self.frames = features or FrameStore(
            processor,
            timelines=timelines,
            smallest_crop=smallest_crop,
            crop_edge=self.augmentation.crop_edge,
            cache=cache,
            backend=backend,
        )
        self.windows_per_video = windows_per_video
        self.seconds_per_window = seconds_per_window
        self.truncation_threshold = truncation_threshold
        self.crop_ratio = crop_ratio
        self.max_attempts = max_attempts
        self.seed = seed
        self.max_unreadable = max_unreadable
        self.max_lost = max_lost
        self._check_settings()
        # Shared with the workers, so that they see the epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._readable = ReadableVideos(videos, self.frames, max_unreadable=max_unreadable, max_lost=max_lost)
        self.videos = self._readable.videos
        self.counts, self.lost = dict(self._readable.rules.counts), self._readable.rules.lost
        numbers = [self._num_windows(video) for video in self.videos]
        if sum(numbers) > MAX_WINDOWS:
            raise ValueError(
                f"windows_per_video={windows_per_video} and seconds_per_window={seconds_per_window} come to "
                f"{sum(numbers)} windows an epoch, and at most {MAX_WINDOWS}: take fewer, or longer ones."
            )
        self._video_of_window = np.repeat(np.arange(len(self.videos)), numbers)

    def set_epoch(self, epoch: int) -> None:
        """Makes the items those of `epoch`; to be called before iterating over a loader."""
        self._epoch.fill_(epoch)

    @property
    def num_unreadable(self) -> int:
        """Videos found unreadable so far, at the start and by any worker."""
        return self._readable.num_unreadable

    def __len__(self) -> int:
        return len(self._video_of_window)

    def video_of(self, index: int) -> AnnotatedVideo:
        """The video that an item shows a window of, where it can be read."""
        return self.videos[int(self._video_of_window[index])]

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self._video_of_window[index])
        seeds = np.random.SeedSequence((self.seed, int(self._epoch), index % len(self)))
        generator = torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))
        while True:
            try:
                return self._item(self._readable.here(number), generator)
            except VideoReadError as error:
                self._readable.report(number, error)
            number = int(torch.randint(len(self.videos), (), generator=generator))

    def _item(self, video: AnnotatedVideo, generator: torch.Generator) -> dict[str, Any]:
        window, labels = self.draw_window(video, generator)
        frames = self.frames.at(video, window.times)
        classes = labels["class_labels"].tolist()
        if isinstance(self.frames, FrameStore):
            frames = self.augmentation(frames, self.processor.frame_size, labels=classes, generator=generator)
        return {"frames": frames, "labels": labels, "video_id": video.video_id}

    def draw_window(self, video: AnnotatedVideo, generator: torch.Generator) -> tuple[Window, dict[str, Tensor]]:
        """Draws a window of a video and finds the actions in it, without decoding anything.

        Args:
            video: One of `videos`.
            generator: Source of the draw.

        Returns:
            The window, and its labels: `segments` float32 `[N, 2]` in frames, clipped to the
            window, and `class_labels` long `[N]`.
        """
        whole = self._whole(video)
        start, num_frames = 0, whole.num_frames
        segments = torch.from_numpy(video.segments - whole.start) * whole.frame_rate
        kept = torch.ones(len(segments), dtype=torch.bool)
        if self.processor.sampling != "resized":
            start, num_frames, kept = self._draw_crop(whole.num_frames, segments, generator)
        window = replace(whole, start=whole.start + start / whole.frame_rate, num_frames=num_frames)
        labels = {
            "segments": (segments[kept] - start).clamp(0, num_frames).float(),
            "class_labels": torch.tensor(video.labels, dtype=torch.long)[kept],
        }
        return window, labels

    def longest_window(self, video: AnnotatedVideo) -> int:
        """Frames of the longest window that is drawn from one of `videos`."""
        return self._crop_lengths(self._whole(video).num_frames)[1]

    def frame_rate(self, video: AnnotatedVideo) -> float:
        """Frames per second of the windows that are drawn from one of `videos`."""
        return self._whole(video).frame_rate

    def placements(self, video: AnnotatedVideo, number: int) -> np.ndarray:
        """The actions of one of `videos` as `number` of its longest windows show them.

        The windows show the action whole, where one can, and as near their middle as may be. They begin a frame
        apart, as far as the video goes, since where a feature step begins decides what learns the action.

        Returns:
            float64 `[N, number, 2]` in frames of the window, clipped to it.
        """
        whole, length = self._whole(video), self.longest_window(video)
        segments = (video.segments - whole.start) * whole.frame_rate
        first = np.maximum(np.ceil(segments[:, 1] - length), 0)
        last = np.maximum(np.minimum(np.floor(segments[:, 0]), whole.num_frames - length), first)
        middle = np.floor(segments.mean(axis=1) - length / 2)
        middle = np.maximum(np.minimum(middle, last - number + 1), first)
        starts = np.minimum(middle[:, None] + np.arange(number), last[:, None])
        starts = starts.clip(0, whole.num_frames - length)[..., None]
        return (segments[:, None] - starts).clip(0, length)

    def _crop_lengths(self, total: int) -> tuple[int, int]:
        """The least and the most frames of a window of a video of `total` frames."""
        if self.processor.sampling == "resized":
            return total, total
        length = min(total, self.processor.num_frames)
        if length < total or self.crop_ratio is None:
            return length, length
        low, high = (max(1, round(ratio * total)) for ratio in self.crop_ratio)
        return low, high

    def _draw_crop(self, total: int, segments: Tensor, generator: torch.Generator) -> tuple[int, int, Tensor]:
        """First frame and length of a crop of `total` frames, and which actions it keeps."""
        low, length = self._crop_lengths(total)
        if low < length:
            length = int(torch.randint(low, length + 1, (), generator=generator))
        starts = torch.randint(total - length + 1, (self.max_attempts, 1), generator=generator)
        inside = segments[:, 1].minimum(starts + length) - segments[:, 0].maximum(starts)
        kept = inside >= self.truncation_threshold * (segments[:, 1] - segments[:, 0]).clamp(max=length)
        first_with_action = int(kept.any(dim=1).int().argmax())
        return int(starts[first_with_action]), length, kept[first_with_action]

    def _whole(self, video: AnnotatedVideo) -> Window:
        return self.frames.whole(video)

    def _num_windows(self, video: AnnotatedVideo) -> int:
        if self.seconds_per_window is None:
            return self.windows_per_video
        assert video.duration is not None
        return self.windows_per_video * math.ceil(video.duration / self.seconds_per_window)

    def _check_settings(self) -> None:
        low, high = (1, 1) if self.crop_ratio is None else self.crop_ratio
        fitting = {
            "windows_per_video": self.windows_per_video >= 1,
            "seconds_per_window": self.seconds_per_window is None or self.seconds_per_window > 0,
            "truncation_threshold": 0 < self.truncation_threshold <= 1,
            "crop_ratio": 0 < low <= high <= 1,
            "max_attempts": self.max_attempts >= 1,
            "seed": self.seed >= 0,
            "max_unreadable": 0 <= self.max_unreadable <= 1,
            "max_lost": 0 <= self.max_lost <= 1,
        }
        for name, fits in fitting.items():
            if not fits:
                raise ValueError(f"{name} is out of range: {getattr(self, name)}")


def collate(items: Sequence[dict[str, Any]], processor: Re2TALVideoProcessor | None = None) -> dict[str, Any]:
    """Puts items of `TrainingWindows` or `ClipWindows` into a batch.

    Args:
        items: `frames`, `labels` and `video_id`.
        processor: Where given it prepares the frames here, for a loop that hands its batches to the model as they are:
            `transformers.Trainer(..., data_collator=partial(collate, processor=processor))`. Ours prepares them on the
            model's device.

    Returns:
        `frames`, a list of uint8 `[T, C, H, W]`, with `video_ids`, or what `processor.prepare` makes of them; and
        `labels`, stacked where they are tensors (of clips), else a list.
    """
    frames, labels, video_ids = ([item[name] for item in items] for name in ("frames", "labels", "video_id"))
    batch = {"frames": frames, "video_ids": video_ids} if processor is None else processor.prepare(frames)
    return {**batch, "labels": torch.stack(labels) if isinstance(labels[0], Tensor) else labels}
