"""What is said about the data before training, and what stops it."""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Any, cast

import torch
from accelerate import Accelerator

from ..data.annotation_set import AnnotationSet
from ..data.learnable import CanLearn, check_learnable
from ..data.subsets import check_actions, check_shared, compare_classes
from ..data.windows import TrainingWindows
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from .arguments import DataArguments

logger = logging.getLogger(__name__)


def check_subsets(
    training: AnnotationSet, validation: AnnotationSet, data: DataArguments, accelerator: Accelerator
) -> None:
    """Refuses subsets from which nothing can be learned or measured, and says which classes one of them lacks.

    Raises:
        AnnotationError: A subset has no actions, or both have the same videos.
    """
    check_actions(training, f"data.training_subset={data.training_subset}")
    check_actions(validation, f"data.validation_subset={data.validation_subset}")
    shared = check_shared(training, validation, data.allow_shared_videos)
    if shared and accelerator.is_main_process:
        logger.warning(shared)
    if accelerator.is_main_process:
        for fault, classes in compare_classes(training, validation).items():
            logger.warning("classes that %s: %s", fault, ", ".join(classes))


def check_windows(
    windows: TrainingWindows,
    model: Re2TALForTemporalActionLocalization,
    data: DataArguments,
    accelerator: Accelerator,
) -> None:
    """Says which actions this model cannot learn from these windows.

    Raises:
        AnnotationError: They are more than `data.max_unlearnable`.
    """
    names = [model.config.id2label[label] for label in range(model.config.num_labels)]
    can_learn = label_assignment(model, windows.processor.num_frames)
    report = check_learnable(windows, names, can_learn, model.model.feature_stride, data.max_unlearnable)
    if report and accelerator.is_main_process:
        logger.warning(report)


def label_assignment(model: Re2TALForTemporalActionLocalization, num_frames: int) -> CanLearn:
    """Asks the loss which segments the head's points would learn, in a window of so many frames."""
    steps, training = math.ceil(num_frames / model.model.feature_stride), model.head.training
    model.head.eval()
    with torch.no_grad():
        output = model.head(torch.zeros(1, model.model.feature_size, steps), torch.ones(1, steps, dtype=torch.bool))
    model.head.train(training)

    return partial(cast(Any, model.criterion).can_learn, output)
