"""What the models return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class Re2TALModelOutput(ModelOutput):
    """Temporal features of a video.

    Args:
        last_hidden_state: float `(batch, T', D)`. One feature for every `model.feature_stride` frames; feature `t`
            starts at frame `t * feature_stride`.
        feature_mask: bool `(batch, T')`. True where a feature's first frame is real.
        hidden_states: The output of every stage of the backbone, in its own layout; of one that takes clips, of every
            clip. Only when asked for.
    """

    last_hidden_state: Tensor | None = None
    feature_mask: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class VideoClassificationOutput(ModelOutput):
    """Class scores of clips, and the features that they were computed from.

    Args:
        loss: float `()`, when `labels` are given. Cross entropy.
        logits: float `(batch, num_labels)`. Class scores before the softmax.
        last_hidden_state: float `(batch, T', D)`. The features, before they are pooled.
        feature_mask: bool `(batch, T')`. True where a feature's first frame is real; the others are not pooled.
        hidden_states: The output of every stage of the backbone, in its own layout; of one that takes clips, of every
            clip. Only when asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    feature_mask: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class TemporalActionLocalizationOutput(ModelOutput):
    """Scored segments, one for each point of the head and class.

    Args:
        loss: float `()`, when `labels` are given. Weighted sum of the parts.
        loss_dict: The parts, by the head's own names, such as `classification` and `regression`.
        logits: float `(batch, P, num_labels)`. Class scores before the sigmoid, whatever the head; minus infinity where
            a point stands for one class only.
        pred_segments: float `(batch, P, 2)`. Start and end in frames of the window; not clipped to it.
        point_mask: bool `(batch, P)`. False for points that lie on padding; their scores mean nothing.
        hidden_states: The output of every stage of the backbone, in its own layout; of one that takes clips, of every
            clip. Only when asked for.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_segments: Tensor | None = None
    point_mask: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
