"""The re-finetuning stage: classification of clips, by labels, by the original network, or by both."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from ..data.annotation_set import AnnotatedVideo, AnnotationError, AnnotationSet
from ..data.augmentation import Augmentation
from ..data.labelled_clips import ClipWindows, read_clips, views
from ..finite import check_finite
from ..loss_normalization import total_over_processes
from ..modeling_re2tal import Re2TALForVideoClassification
from ..rewiring import build_backbone
from ..video_reader import VideoReadError
from .data_checks import check_subsets
from .pretrained import load_backbone_weights, load_classifier_weights
from .trainer import Trainer

logger = logging.getLogger(__name__)


class ClassificationTrainer(Trainer):
    """Trains a rewired backbone on clips, from the weights that it had before the rewiring.

    `recipe.data.annotations` names the clips (see `read_clips`). With `recipe.distillation.weight` the features
    also follow those of the original network, which needs no labels. Where the weights come from a model of this
    class that tells the same classes apart, its classifier is taken too. `best/` is what
    `training.pretrained_backbone` of a localization recipe takes.
    """

    criterion = "top1"
    model_class = Re2TALForVideoClassification
    usage = "re2tal train --recipe RECIPE training.pretrained_backbone={model}"

    def read_data(self) -> None:
        data, distillation = self.recipe.data, self.recipe.distillation
        if not data.annotations:
            raise ValueError("The recipe's data.annotations is empty: name the folder of clips.")
        if self.recipe.training.pretrained_model:
            raise ValueError(
                "training.pretrained_model is for re2tal train; clips take the backbone of a localizer as "
                "training.pretrained_backbone."
            )
        if distillation.weight and not self.recipe.training.pretrained_backbone:
            raise ValueError("distillation.weight needs training.pretrained_backbone: the network to learn from.")
        if distillation.weight and self.recipe.training.pretrained_partial:
            raise ValueError(
                "distillation.weight needs the whole network to learn from, not training.pretrained_partial."
            )
        if data.features is not None:
            raise ValueError("data.features is for re2tal train: clips are classified from their frames; leave it out.")
        self.training_set = self._clips("training_subset")
        self.validation_set = self._clips("validation_subset")
        check_subsets(self.training_set, self.validation_set, data, self.accelerator)

    def _clips(self, field: str) -> AnnotationSet:
        try:
            return read_clips(self.recipe.data.annotations, getattr(self.recipe.data, field) or "", self.timelines)
        except AnnotationError as error:
            raise AnnotationError(f"data.{field}: {error}") from error

    def build_model(self) -> Re2TALForVideoClassification:
        names = self.training_set.label_names
        config = self.model_config(names, num_frames=self.processor.num_frames)
        model = Re2TALForVideoClassification(config)
        self.teacher = None
        if source := self.recipe.training.pretrained_backbone:
            partial = self.recipe.training.pretrained_partial
            loaded = load_backbone_weights(model.model.backbone, source, partial)
            taken = load_classifier_weights(model, names, source)
            self.accelerator.print(f"{loaded}; {'with its classifier' if taken else 'the classifier begins anew'}")
            if self.recipe.distillation.weight:
                self.teacher = build_backbone(config.backbone_config, "none", "plain")
                load_backbone_weights(self.teacher, source)
                self.teacher.eval().requires_grad_(False).to(self.accelerator.device)
        return model

    def build_windows(self, augmentation: Augmentation) -> ClipWindows:
        data = self.recipe.data
        return ClipWindows(
            self.training_set.videos,
            self.processor,
            augmentation=augmentation,
            windows_per_video=data.windows_per_video,
            max_unreadable=data.max_unreadable,
            timelines=self.timelines,
            cache=data.cache,
            seed=self.recipe.seed,
        )

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        weights = self.recipe.distillation
        output = self.trained.prepared(**batch)
        if self.teacher is None:
            return {"loss": output.loss}
        distance = self._distance(output.last_hidden_state, batch)
        return {
            "loss": weights.label_weight * output.loss + weights.weight * distance,
            "classification": output.loss,
            "distillation": distance,
        }

    def _distance(self, features: Tensor, batch: dict[str, Any]) -> Tensor:
        """Squared error of the features `[B, T', D]` on real frames, relative to the teacher's variance.

        Both are over the total batch of all processes.
        """
        assert self.teacher is not None
        videos, stride = batch["pixel_values_videos"], self.backbone_model.feature_stride
        with torch.no_grad():
            expected = self.teacher.video_features(videos)
        real = batch["frame_mask"][:, ::stride]
        features, expected = features[real], expected[real]
        total, processes = total_over_processes(torch.stack((expected.sum(), expected.new_tensor(expected.numel()))))
        deviations, _ = total_over_processes((expected - total[0] / total[1]).square().sum())
        variance = deviations / (total[1] - 1)
        return (features - expected).square().sum() * processes / total[1] / variance.clamp_min(1e-8)

    def evaluate(self) -> tuple[dict[str, Any], Callable[[Path], None]]:
        model = self.trained.evaluated
        found = gather_object(self._rank_classes(model))
        correct = {number: rank for number, rank in found if rank is not None}
        metrics = {f"top{k}": sum(rank < k for rank in correct.values()) / len(correct) for k in (1, 5)}
        metrics["clips"] = len(correct)

        def save(folder: Path) -> None:
            model.save_pretrained(folder)
            self.processor.save_pretrained(folder)

        return metrics, save

    def _rank_classes(self, model: Re2TALForVideoClassification) -> list[tuple[int, int | None]]:
        """For this process's share of the clips: its number, and how many classes score above the true one."""
        accelerator, clips = self.accelerator, self.validation_set.videos
        numbers = range(accelerator.process_index, len(clips), accelerator.num_processes)
        ranks: list[tuple[int, int | None]] = []
        for number in tqdm(numbers, desc="classifying", disable=accelerator.process_index > 0, leave=False):
            try:
                scores = self._scores(model, clips[number])
            except VideoReadError as error:
                logger.warning("left out of the measurement: %s", error)
                ranks.append((number, None))
                continue
            [label] = clips[number].labels
            ranks.append((number, int((scores > scores[label]).sum())))
        return ranks

    @torch.no_grad()
    def _scores(self, model: Re2TALForVideoClassification, clip: AnnotatedVideo) -> Tensor:
        """Class probabilities `[num_labels]`, the mean over the views."""
        frames = views(clip, self.processor, self.recipe.evaluation.views)
        output = model(**self.processor.prepare([view.to(self.accelerator.device) for view in frames]))
        check_finite(clip.video_id, logits=output.logits)
        return output.logits.float().softmax(-1).mean(0).cpu()
