"""`pipeline("temporal-action-localization")`: a video file in, actions in seconds out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import Pipeline
from transformers.pipelines.base import ChunkPipeline

from .video_reader import VideoReader


class TemporalActionLocalizationPipeline(ChunkPipeline):
    """Localizes actions in videos, one batch of windows in memory at a time.

    Example:

    ```python
    >>> from transformers import pipeline

    >>> pipe = pipeline("temporal-action-localization", model="user/re2tal-swin-tiny-thumos14", trust_remote_code=True)
    >>> pipe("match.mp4")
    [{"label": "CricketShot", "score": 0.91, "start": 12.4, "end": 14.0}, ...]
    ```
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.model.eval()

    def __call__(self, videos: Any, **kwargs: Any) -> list[Any]:
        """Localizes actions in one video or in several.

        Args:
            videos (`str`, `Path` or `bytes`, or a list of them): Video files.
            threshold (`float`, *optional*): Lowest score returned.
            max_detections (`int`, *optional*): Most segments returned for a video.
            window_overlap (`float`, *optional*): Overlap of sliding windows, a share of their length in [0, 1).
            windows_per_step (`int`, *optional*, defaults to 1): Windows that go through the model together.
            video_scores (`dict[int, float]` or `torch.Tensor`, *optional*): Scores of an external video
                classifier, which give the segments of a class-agnostic model their classes.

        Returns:
            `list[dict]`: `label`, `score`, `start` and `end` (seconds) of each action, best first; for a list of
            videos, a list of such lists.

        Raises:
            VideoReadError: if a file cannot be read as a video.
        """
        if isinstance(videos, (list, tuple)):
            return [self(video, **kwargs) for video in videos]
        return super().__call__(videos, **kwargs)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        known = {
            "preprocess": ("window_overlap", "windows_per_step"),
            "postprocess": ("threshold", "max_detections", "video_scores"),
        }
        if unknown := kwargs.keys() - set(itertools.chain(*known.values())):
            raise TypeError(f"Unknown arguments of the pipeline: {sorted(unknown)}.")
        chosen = {step: {n: kwargs[n] for n in names if n in kwargs} for step, names in known.items()}
        return chosen["preprocess"], {}, chosen["postprocess"]

    def preprocess(
        self,
        video: str | Path | bytes,
        window_overlap: float | None = None,
        windows_per_step: int = 1,
    ) -> Iterator[dict[str, Any]]:
        """Yields batches of windows, decoding each when it is asked for."""
        processor = self.video_processor
        with VideoReader(video) as reader:
            windows = processor.windows(reader.name, reader.duration, overlap=window_overlap)
            for first in range(0, len(windows), windows_per_step):
                chosen = windows[first : first + windows_per_step]
                read = [processor.read_window(reader, window) for window in chosen]
                batch = {name: torch.stack([item[name] for item in read]) for name in read[0]}
                is_last = first + len(chosen) == len(windows)
                yield {**batch, "windows": chosen, "is_last": is_last}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        carried = {name: model_inputs.pop(name) for name in ("windows", "is_last")}
        model_inputs["pixel_values_videos"] = model_inputs["pixel_values_videos"].to(self.model.dtype)
        output = self.model(**model_inputs)
        return {
            "logits": output.logits.float(),
            "pred_segments": output.pred_segments.float(),
            "point_mask": output.point_mask,
            **carried,
        }

    def postprocess(self, model_outputs: list[dict[str, Any]], **kwargs: Any) -> list[dict]:
        """Merges the windows of the video into detections in seconds."""
        windows = [window for output in model_outputs for window in output["windows"]]
        [found] = self.video_processor.post_process_temporal_action_localization(model_outputs, windows, **kwargs)
        names = self.model.config.id2label
        rows = zip(
            found["labels"].tolist(),
            found["scores"].tolist(),
            found["segments"].tolist(),
            strict=True,
        )
        return [
            {"label": names[label], "score": score, "start": start, "end": end} for label, score, (start, end) in rows
        ]

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Saves model, pipeline code and video processor to a folder."""
        Pipeline.save_pretrained(self, save_directory, **kwargs)
        self.video_processor.save_pretrained(save_directory, **kwargs)
