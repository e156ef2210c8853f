"""Training of a temporal action localizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..data.annotation_set import AnnotationError, AnnotationSet
from ..data.annotations import read_annotations
from ..data.augmentation import Augmentation
from ..data.durations import check_measured_times
from ..data.feature_store import FeatureStore, check_complete
from ..data.timeline_index import TimelineIndex
from ..data.windows import TrainingWindows
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..pipeline_re2tal import TemporalActionLocalizationPipeline
from .arguments import DataArguments, Recipe
from .data_checks import check_subsets, check_windows
from .evaluation import Detections, localize_videos, mean_average_precision, metrics_table
from .feature_settings import feature_size, with_features
from .pretrained import load_backbone_weights
from .pretrained_model import load_localizer_weights
from .run_folder import write_results
from .run_record import draw_example
from .trainer import Trainer


class LocalizationTrainer(Trainer):
    """Trains end to end from video files, or a head on stored features.

    `best/` and `last/` also hold `detections.json` and `timeline.png`.
    """

    criterion = "map"
    model_class = Re2TALForTemporalActionLocalization
    usage = "re2tal predict --model {model} VIDEO"

    def __init__(self, recipe: Recipe, folder: str | Path, resume: bool = False):
        super().__init__(with_features(recipe), folder, resume)

    def read_data(self) -> None:
        data = self.recipe.data
        self.training_set = read_subset(data, data.training_subset, repair=True)
        # The metric's rules keep the benchmark's ground truth as it is.
        self.validation_set = read_subset(data, data.validation_subset, repair=False)
        check_subsets(self.training_set, self.validation_set, data, self.accelerator)
        self.features: FeatureStore | None = None
        if data.features is not None:
            for annotations in (self.training_set, self.validation_set):
                check_complete(annotations, f"data.features {data.features}", data.max_unreadable)
            videos = [*self.training_set.videos, *self.validation_set.videos]
            self.features = FeatureStore(videos, self.processor, feature_size(self.recipe))
            self.timelines = self.features.timelines

    def build_model(self) -> Re2TALForTemporalActionLocalization:
        model = Re2TALForTemporalActionLocalization(self.model_config(self.training_set.label_names))
        check_windows(self.windows, model, self.recipe.data, self.accelerator)
        arguments = self.recipe.training
        if source := arguments.pretrained_model:
            self.accelerator.print(load_localizer_weights(model, source, self.processor))
        elif source := arguments.pretrained_backbone:
            self.accelerator.print(load_backbone_weights(model.model.backbone, source, arguments.pretrained_partial))
        return model

    def build_windows(self, augmentation: Augmentation) -> TrainingWindows:
        data, measured = self.recipe.data, self.validation_set.videos
        check_measured_times(measured, "validation videos", data.max_unlearnable, self.timelines)
        windows = TrainingWindows(
            self.training_set.videos,
            self.processor,
            augmentation=augmentation,
            windows_per_video=data.windows_per_video,
            seconds_per_window=data.seconds_per_window,
            truncation_threshold=data.truncation_threshold,
            crop_ratio=(data.crop_ratio[0], data.crop_ratio[1]) if data.crop_ratio else None,
            max_unreadable=data.max_unreadable,
            max_lost=data.max_unlearnable,
            timelines=self.timelines if isinstance(self.timelines, TimelineIndex) else None,
            cache=data.cache,
            seed=self.recipe.seed,
            features=self.features,
        )
        windows.lost += self.training_set.lost  # what was dropped before the durations were measured
        return windows

    def evaluate(self) -> tuple[dict[str, Any], Callable[[Path], None]]:
        pipe = TemporalActionLocalizationPipeline(
            model=self.trained.evaluated, video_processor=self.processor, device=self.accelerator.device
        )
        arguments = self.recipe.evaluation
        detections = localize_videos(
            pipe,
            self.validation_set.videos,
            self.accelerator,
            features=self.features,
            batch_size=arguments.batch_size,
        )
        metrics = self._on_main(
            lambda: mean_average_precision(detections, self.validation_set, arguments.tiou_thresholds)
        )
        self.accelerator.print(metrics_table(metrics))
        return metrics, partial(self._write_model, pipe, detections)

    def _write_model(self, pipe: TemporalActionLocalizationPipeline, detections: Detections, folder: Path) -> None:
        pipe.save_pretrained(folder)
        write_results(folder, detections, draw_example(self.validation_set, detections, self.timelines))


def read_subset(data: DataArguments, subset: str, *, repair: bool) -> AnnotationSet:
    """Reads what a recipe trains on or, without `repair`, measures by.

    Raises:
        ValueError: if there are no annotations, or no videos to them.
    """
    if not data.annotations:
        raise ValueError("The recipe's data.annotations is empty: name the annotation file.")
    try:
        found = read_annotations(
            data.annotations,
            subset=subset or "",  # None would read all
            video_folder=data.videos,
            feature_folder=data.features,
            repair=repair,
            point_width=data.point_width,
            points=data.points,
            max_lost=data.max_unlearnable,
            streaming=data.streaming,
        )
    except AnnotationError as error:
        field = "training_subset" if repair else "validation_subset"
        raise AnnotationError(f"data.annotations, data.{field}: {error}") from error
    if all(video.path is None for video in found.videos):
        raise ValueError(f"The annotations {data.annotations} name no video files: set data.videos to their folder.")
    return found.class_agnostic() if data.class_agnostic else found
