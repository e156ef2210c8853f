"""`pipeline("temporal-action-localization")`: a video in, actions in seconds out."""

from __future__ import annotations

import contextlib
import itertools
import logging
import numbers
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModel
from transformers.pipelines.base import ChunkPipeline

from .class_scores import ClassScores, checked_class_scores
from .configuration_re2tal import check_model_folder
from .named_segments import TEMPLATE, TextModel, named
from .saved_files import check_place, files_checked
from .value_checks import BELOW_ONE, COUNT, POSITIVE, SHARE, check_value, check_values, did_you_mean, shown
from .video_features import FeaturesInMemory, features_at
from .video_processing_re2tal import Re2TALVideoProcessor
from .video_source import FramesInMemory, VideoSource, is_video, open_video
from .video_windows import MAX_FRAMES, Window

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Takes the number of windows done and of all windows of the video."""


# Of frames in memory the pipeline looks at so many, or so many times each, without being asked for more.
MAX_FRAMES_IN_MEMORY = 2**14
MAX_LOOKS = 64

SETTINGS: dict[str, Any] = {
    "threshold": Annotated[float | None, SHARE],
    "top_k": Annotated[int | None, COUNT],
    "max_segments": Annotated[int | None, COUNT],
    "window_overlap": Annotated[float | None, BELOW_ONE],
    "max_frames": Annotated[int | None, COUNT],
    "exact": bool,
}
NAMING: dict[str, Any] = {
    "candidate_labels": list[str] | tuple[str, ...] | None,
    "text_model": str | None,
    "hypothesis_template": str,
}


class TemporalActionLocalizationPipeline(ChunkPipeline):
    """Localizes actions in videos, one batch of windows in memory at a time.

    Example:
        >>> from transformers import pipeline
        >>> name = "user/re2tal-swin-tiny-thumos14"
        >>> pipe = pipeline("temporal-action-localization", model=name, trust_remote_code=True)  # doctest: +SKIP
        >>> pipe("match.mp4")  # doctest: +SKIP
        [{'label': 'CricketShot', 'score': 0.91, 'start': 12.4, 'end': 14.0}, ...]

    With `re2tal_hf` installed and imported, its own code runs and `trust_remote_code` is not needed.

    Raises:
        TypeError: if the model is none, the video processor is none, or a setting is unknown.
        ValueError: if no `video_processor` is given and none is saved with the model, its head was not trained, there
            is no such device, or a setting is out of range.
    """

    _load_processor = False
    _load_image_processor = False
    # Not True: where it is missing transformers would not say how to save one.
    _load_video_processor = None
    _load_feature_extractor = False
    _load_tokenizer = False

    video_processor: Any

    def __init__(self, *args: Any, **kwargs: Any):
        _check_parts(kwargs.get("model", args[0] if args else None), kwargs.get("video_processor"))
        check_device("device", kwargs.get("device"))
        check_value("batch_size", kwargs.get("batch_size"), Annotated[int | None, COUNT])
        super().__init__(*args, **kwargs)
        kind = type(self.model).__name__
        if kind in ("Re2TALModel", "Re2TALForVideoClassification"):
            raise ValueError(
                f"{self.model.name_or_path or 'The model'} is a {kind}, which localizes nothing: load a "
                "Re2TALForTemporalActionLocalization that was trained, or train one from this backbone."
            )
        if anew := getattr(self.model, "untrained_head", ()):
            raise ValueError(
                f"{self.model.name_or_path} has no trained head: {len(anew)} tensors of it, such as {anew[0]}, were "
                "begun anew. Train the model, or load one that was trained to localize."
            )
        if self.video_processor is None:
            self.video_processor = _load_processor_of(self.model)
        if self.model.finds_points and self.video_processor.point_window is None:
            raise ValueError(
                f"The head of {self.model.name_or_path or 'the model'} finds points in time: set point_window of the "
                "video processor, the seconds within which they suppress each other."
            )
        self.model.eval()
        self._text_models: dict[str, TextModel] = {}

    def __call__(
        self,
        videos: Any,
        *,
        frame_rate: float | None = None,
        progress: bool | Progress = False,
        batch_size: int | None = None,
        **settings: Any,
    ) -> Any:
        """Localizes actions in one video or in several.

        Args:
            videos: A video is the path of a file, its bytes, an open file, a URL (http, https, hf; downloaded to a
                temporary file), or frames: a list of PIL images or of arrays, or an array or tensor `[T, H, W, 3]` or
                `[T, 3, H, W]`, uint8, RGB. Or it is a dictionary: `{"frames": ..., "frame_rate": ...}`, or
                `{"path": ..., "bytes": ...}` as `datasets` has it. A row of a video column of `datasets` is one in
                either form, decoded or not. For a model on stored features it is the path of a file of them (`.npy`,
                `.npz` or `.safetensors`), or `{"features": array [N, D] or path, "duration": seconds, "frame_rate":
                frames per second of the video}`.
            frame_rate: Frames per second of frames in memory, which need it.
            progress: `True` for a bar over the windows of each video, or a function that takes the number of windows
                done and of all of them.
            batch_size: Windows of a video that go through the model together; by default what the pipeline was built
                with, or 1. Kernels are chosen by the size of a batch, and another adds up in another order: scores
                differ by rounding from those with 1, unless `exact`.
            **settings: Any of those that follow, for this call alone.
            threshold: Lowest score returned.
            top_k: Most actions returned for a video, the best.
            max_segments: Segments of a video that the suppression keeps, in place of the processor's `max_detections`.
            window_overlap: Overlap of sliding windows, a share of their length in [0, 1).
            max_frames: Frames that the windows of a video may come to, all together. By default as many as
                `Re2TALVideoProcessor.windows` allows; of frames in memory 16384 or 64 for each, whichever is more:
                what comes to more has a wrong `frame_rate`, or else asks for it by a larger number.
            exact: Whether the detections are the same to the bit for any `batch_size` and any number of threads, on one
                device: windows go through the model one by one, and on a CPU on one thread. It takes longer.
            video_scores: Scores of an external video classifier, which give the segments of a class-agnostic model
                their classes: by label name, by class id, or `[num_classes]`; for several videos a list with the scores
                of each. The names are the labels of the actions; a class id is called as the model's configuration
                names it, `LABEL_7` where it names one class only.
            candidate_labels: Labels among which `text_model`, which nobody has to train, chooses for each segment of a
                class-agnostic model; scores are multiplied by the share that it gives to the label.
            text_model: Name or folder of an image-and-text model of transformers, such as
                `openai/clip-vit-base-patch32` or `google/siglip2-base-patch16-224`.
            hypothesis_template: The text that is compared, `{}` in the place of the label.

        Returns:
            `label`, `score`, `start` and `end` (seconds) of each action, best first; for several videos a list of
            such lists, and for an iterator of videos an iterator over them.

        Raises:
            VideoReadError: if a file cannot be downloaded or read as a video; names it.
            ValueError: if a setting is out of range, or frames in memory are not as they must be.
            TypeError: if a setting is unknown, or something stands for no video.
        """
        batch_size = check_value("batch_size", batch_size, Annotated[int | None, COUNT])
        settings["windows_in_batch"] = batch_size or self._batch_size or 1
        naming_settings = {name: settings.pop(name) for name in NAMING if name in settings}
        self._sanitize_parameters(**settings)
        naming = self._naming(naming_settings, settings)
        if not (isinstance(progress, bool) or callable(progress)):
            raise TypeError(f"progress is {shown(progress)}; give True, False or a function of (done, all).")
        frame_rate = check_value("frame_rate", frame_rate, Annotated[float | None, POSITIVE])
        if is_video(videos):
            if (scores := settings.get("video_scores")) is not None:
                settings["video_scores"] = checked_class_scores(scores, "the video")
            return self._localize(videos, frame_rate, progress, settings, naming)
        several = hasattr(videos, "__iter__") or hasattr(videos, "__getitem__")
        if not several or getattr(videos, "ndim", 1) == 0:
            raise TypeError(f"videos is {shown(videos)}, which is no video; give a path, a URL, bytes or frames.")
        scores = _scores_of_each(settings.pop("video_scores", None), videos)
        found = (
            self._localize(video, frame_rate, progress, {**settings, **of_video}, naming)
            for video, of_video in zip(videos, scores, strict=isinstance(scores, list))
        )
        return found if isinstance(videos, Iterator) else list(found)

    def _localize(
        self,
        video: Any,
        frame_rate: float | None,
        progress: bool | Progress,
        settings: dict[str, Any],
        naming: dict[str, Any] | None,
    ) -> list[dict[str, Any]]:
        exact = settings.get("exact", self._preprocess_params.get("exact", False))
        with open_video(video, frame_rate) as source, one_thread() if exact else contextlib.nullcontext():
            if naming is not None and isinstance(source, FeaturesInMemory):
                raise ValueError(f"{source.name} has features and no frames, by which candidate_labels are chosen.")
            with _reporting(progress, source.name) as report:
                # Windows are put together here; transformers would put together what a tokenizer pads.
                rows = super().__call__(source, batch_size=1, progress=report, **settings)
            if naming is None:
                return rows
            least = settings.get("threshold") or 0.0
            return [row for row in named(rows, cast(VideoSource, source), **naming) if row["score"] >= least]

    def _naming(self, given: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any] | None:
        """What chooses labels for segments, checked and loaded; None where it is not asked for."""
        given = check_values("", given, NAMING)
        labels, source = given.get("candidate_labels"), given.get("text_model")
        template = given.get("hypothesis_template", TEMPLATE)
        if labels is None:
            if given:
                raise ValueError(f"{min(given)} is of use with candidate_labels only: give the labels to choose among.")
            return None
        if not labels or len(set(labels)) < len(labels) or not all(label.strip() for label in labels):
            raise ValueError(f"candidate_labels are {shown(labels)}; give one label or more, each once.")
        if source is None:
            raise ValueError(
                "candidate_labels need text_model, an image-and-text model of transformers such as "
                "'openai/clip-vit-base-patch32' or 'google/siglip2-base-patch16-224'."
            )
        if template.count("{}") != 1:
            raise ValueError(f"hypothesis_template is {shown(template)}; it needs one {{}}, for the label.")
        if self.model.config.num_labels > 1:
            raise ValueError("candidate_labels are for a model without classes of its own; this one names its classes.")
        if settings.get("video_scores") is not None:
            raise ValueError("candidate_labels and video_scores both name the segments; give one of them.")
        if source not in self._text_models:
            self._text_models[source] = TextModel(source, self.device)
        return {"text_model": self._text_models[source], "labels": list(labels), "template": template}

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        known = {
            "preprocess": ("window_overlap", "max_frames", "windows_in_batch", "exact"),
            "forward": ("progress",),
            "postprocess": ("threshold", "top_k", "max_segments", "video_scores"),
        }
        if unknown := sorted(kwargs.keys() - set(itertools.chain(*known.values()))):
            options = [*SETTINGS, *NAMING, "frame_rate", "progress", "batch_size", "video_scores"]
            raise TypeError(f"The pipeline has no argument {unknown[0]!r}; {did_you_mean(unknown[0], options)}")
        kwargs |= check_values("", {name: value for name, value in kwargs.items() if name in SETTINGS}, SETTINGS)
        chosen = [{name: kwargs[name] for name in names if name in kwargs} for names in known.values()]
        return chosen[0], chosen[1], chosen[2]

    def preprocess(
        self,
        source: VideoSource | FeaturesInMemory,
        window_overlap: float | None = None,
        max_frames: int | None = None,
        windows_in_batch: int = 1,
        exact: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Yields batches of windows, decoding each when it is asked for."""
        processor = self.video_processor
        windows_in_batch = 1 if exact else windows_in_batch
        if max_frames is None:
            max_frames = MAX_FRAMES
            if isinstance(source, FramesInMemory):
                max_frames = max(MAX_FRAMES_IN_MEMORY, MAX_LOOKS * len(source))
        read: Callable[[Window], Tensor]
        if isinstance(source, FeaturesInMemory):
            whole = source.whole(processor)
            read = partial(features_at, source.features, whole, resizing=self.video_processor.feature_resizing)
        else:
            whole = processor.whole_video(source.name, source.duration, max_frames=max_frames)
            read = partial(processor.read_frames, source)
        windows = processor.split(whole, overlap=window_overlap, max_frames=max_frames)
        for first in range(0, len(windows), windows_in_batch):
            chosen = windows[first : first + windows_in_batch]
            done = first + len(chosen)
            yield {
                "frames": [read(window) for window in chosen],
                "windows": chosen,
                "counts": (done, len(windows)),
                "is_last": done == len(windows),
            }

    def get_inference_context(self) -> Any:
        """The model runs without anything that only gradients need."""
        return torch.inference_mode

    def _forward(self, model_inputs: dict[str, Any], progress: Progress | None = None) -> dict[str, Any]:
        carried = {name: model_inputs[name] for name in ("windows", "is_last")}
        normalized = self.model.backprop != "clips"  # else the frames of a long video become numbers some at a time
        inputs = self.video_processor.prepare(model_inputs["frames"], normalized=normalized)
        for name in inputs.keys() - {"pixel_statistics"}:
            inputs[name] = inputs[name].to(self.model.dtype) if inputs[name].is_floating_point() else inputs[name]
        output = self.model(**inputs)
        if progress:
            progress(*model_inputs["counts"])
        return {
            "logits": output.logits.float(),
            "pred_segments": output.pred_segments.float(),
            "point_mask": output.point_mask,
            **carried,
        }

    def postprocess(
        self,
        model_outputs: list[dict[str, Any]],
        threshold: float | None = None,
        top_k: int | None = None,
        max_segments: int | None = None,
        video_scores: ClassScores | None = None,
    ) -> list[dict[str, Any]]:
        """Merges the windows of the video into detections in seconds."""
        windows = [window for output in model_outputs for window in output["windows"]]
        names = self.model.config.id2label
        if video_scores is not None:
            scores = checked_class_scores(video_scores, windows[0].video_id)
            video_scores, names = _with_names(scores, names)
        [found] = self.video_processor.post_process_temporal_action_localization(
            model_outputs,
            windows,
            video_scores=video_scores,
            **({} if max_segments is None else {"max_detections": max_segments}),
        )
        columns = [found[name].tolist() for name in ("labels", "scores", "segments")]
        rows = [
            {"label": names[label], "score": score, "start": start, "end": end}
            for label, score, (start, end) in zip(*columns, strict=True)
        ]
        kept = [row for row in rows if threshold is None or row["score"] >= threshold]
        if threshold is not None and not kept:
            logger.warning("%s: %s", windows[0].video_id, _nothing_found(rows, threshold))
        return kept[:top_k]

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Saves model, code and video processor to a folder; the code of the pipeline goes with the model's."""
        check_place("save_directory", save_directory)
        self.model.save_pretrained(save_directory, **kwargs)
        self.video_processor.save_pretrained(save_directory, **kwargs)


def _nothing_found(rows: list[dict[str, Any]], threshold: float) -> str:
    """What is said of a video without an action; `rows` has all that were found, best first."""
    if not rows:
        return "no action was found, at any threshold"
    best = rows[0]
    return (
        f"no action scores the threshold of {threshold:g} or more; the best score is {best['score']:.3g}, of "
        f"{best['label']} from {best['start']:.1f} s to {best['end']:.1f} s"
    )


def load_pipeline(model: str, **settings: Any) -> TemporalActionLocalizationPipeline:
    """Loads a model as `pipeline("temporal-action-localization", model=model)` does, but lets its errors through.

    transformers would put them behind a page of its own.

    Args:
        model: A folder or a Hub id.
        settings: `device`, of the pipeline; others are of `AutoModel.from_pretrained`.

    Raises:
        ValueError, OSError: if the model does not load, or there is no video processor with it.
    """
    check_place("model", model)
    device = settings.pop("device", None)
    check_device("device", device)
    with files_checked(model, settings, check_model_folder):
        loaded = AutoModel.from_pretrained(model, **settings)
    return TemporalActionLocalizationPipeline(model=loaded, device=device)


def check_device(name: str, device: Any) -> None:
    """Raises a `ValueError` if there is no such device here; None is any, and -1 the CPU."""
    if device is None or (isinstance(device, int) and device == -1):
        return
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} is {shown(device)}: {shown(str(error).partition('. ')[0])}.") from error


def _check_parts(model: Any, processor: Any) -> None:
    """Checks what a pipeline is built from; what a compiler or an adapter has wrapped counts as it did before."""
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise TypeError(
            f"model is {shown(model)}; it must be a loaded Re2TALForTemporalActionLocalization. From a folder or a Hub "
            "id pipeline('temporal-action-localization', model=...) loads it."
        )
    needed = ("windows", "resize_and_crop", "prepare", "post_process_temporal_action_localization")
    if processor is not None and (isinstance(processor, type) or not all(hasattr(processor, name) for name in needed)):
        raise TypeError(f"video_processor is {shown(processor)}; it must be a Re2TALVideoProcessor.")


def _load_processor_of(model: Any) -> Re2TALVideoProcessor:
    """The video processor saved beside a model."""
    source, commit = model.name_or_path, getattr(model.config, "_commit_hash", None)
    reason: OSError | None = None
    try:
        if source:
            return Re2TALVideoProcessor.from_pretrained(source, revision=commit or "main")
    except OSError as error:
        reason = error
    raise ValueError(
        "There is no video processor with the model: save the one that it was trained with beside it, "
        "`processor.save_pretrained(folder)` or `processor.push_to_hub(repo)`, or pass `video_processor=` to the "
        f"pipeline.{f' ({reason})' if reason else ''}"
    ) from reason


def _scores_of_each(scores: Any, videos: Any) -> Iterable[dict[str, Any]]:
    """The setting `video_scores` of each of several videos, checked before the first is decoded."""
    if scores is None:
        return itertools.repeat({})
    if not isinstance(scores, list | tuple) or any(isinstance(item, numbers.Number) for item in scores):
        raise ValueError("video_scores are those of one video; for several give a list with the scores of each.")
    if hasattr(videos, "__len__") and len(videos) != len(scores):
        raise ValueError(f"video_scores are of {len(scores)} videos, not of {len(videos)}.")
    return [{"video_scores": checked_class_scores(item, f"video {n}")} for n, item in enumerate(scores)]


def _with_names(scores: dict[Any, float], names: dict[int, str]) -> tuple[dict[int, float], dict[int, str]]:
    """Scores by class id, and the names of the ids: those given, else the configuration's where it has several."""
    if any(isinstance(key, str) for key in scores):
        return dict(enumerate(scores.values())), dict(enumerate(scores))
    known = names if len(names) > 1 else {}
    return scores, {index: known.get(index, f"LABEL_{index}") for index in scores}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one thread: sums are divided among threads, whose number is another in each of several processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _reporting(progress: bool | Progress, name: str) -> Iterator[Progress | None]:
    """The function that takes the counts of windows: the caller's, or that of a bar."""
    if callable(progress) or not progress:
        yield progress or None
        return
    with tqdm(desc=Path(name).name, unit="window") as bar:

        def show(done: int, windows: int) -> None:
            bar.total = windows
            bar.update(done - bar.n)

        yield show
