"""The PreTrainedModel classes: backbone, head and loss put together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput

from .configuration_re2tal import Re2TALConfig
from .families import FAMILIES  # noqa: F401 - importing them registers them
from .head import HEADS
from .modeling_outputs import Re2TALModelOutput, TemporalActionLocalizationOutput
from .modeling_pretrained import Re2TALPreTrainedModel
from .pipeline_re2tal import TemporalActionLocalizationPipeline  # noqa: F401 - transformers saves what is imported
from .reversible import Backprop, Stage
from .rewiring import BACKBONE_SETTINGS, build_backbone
from .value_checks import arguments_of, check_values


class Re2TALModel(Re2TALPreTrainedModel):
    """A rewired video backbone: video in, temporal features out.

    Args:
        config ([`Re2TALConfig`]): What the model is.
    """

    def __init__(self, config: Re2TALConfig):
        super().__init__(config)
        self.backbone = build_backbone(
            config.backbone_config, config.rewiring, cast(Backprop, config.backprop), config.coupling
        )
        architecture = self.backbone.architecture
        self.feature_size = architecture.feature_size(self.backbone)
        self.feature_stride = architecture.feature_stride(self.backbone)
        self.post_init()
        self.freeze()

    @property
    def backprop(self) -> Backprop:
        """How activations are had in the backward pass; may be set at any time."""
        return self.backbone.backprop

    @backprop.setter
    def backprop(self, value: Backprop) -> None:
        self.backbone.backprop = value

    @torch.no_grad()
    def compute_buffers(self, missing: Collection[str]) -> None:
        """Gives buffers that were not loaded the values of a newly constructed backbone.

        Loading leaves uninitialised memory in them, in those that are never saved as well.

        Args:
            missing (`Collection[str]`): Names, from the backbone or from the whole model, that were not loaded.
        """
        saved, buffers = self.backbone.state_dict().keys(), dict(self.backbone.named_buffers())
        missing = {name.rpartition("backbone.")[2] for name in missing}
        wanted = [n for n, b in buffers.items() if (n in missing or n not in saved) and not b.is_meta]
        if wanted:
            with torch.random.fork_rng(devices=[]):
                computed = dict(build_backbone(self.config.backbone_config).named_buffers())
            for name in wanted:
                buffers[name].copy_(computed[name])

    def set_coupling(self, coupling: Sequence[float]) -> None:
        """Sets the coefficients `(alpha, beta)` of Dr2Net, in all stages; the configuration keeps them."""
        self.backbone.set_coupling(coupling)
        self.config.coupling = list(coupling)

    def reconstruction_error(self) -> float:
        """Returns the largest relative error of the inversions in the latest backward pass."""
        return self.backbone.reconstruction_errors.largest()

    def forward(
        self, pixel_values_videos: Tensor, frame_mask: Tensor | None = None, **kwargs: Any
    ) -> Re2TALModelOutput:
        """Computes temporal features.

        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch, T, channels, height, width)`): Normalised frames.
            frame_mask (`torch.BoolTensor` of shape `(batch, T)`, *optional*): True where a frame is real.

        Returns:
            [`Re2TALModelOutput`]

        Raises:
            ValueError: if the shapes do not fit.
        """
        _check_videos(pixel_values_videos, frame_mask)
        if frame_mask is None:
            frame_mask = pixel_values_videos.new_ones(pixel_values_videos.shape[:2], dtype=torch.bool)
        # Frames of a file and of an array differ in strides, and with them kernels in rounding.
        features = self.backbone.video_features(pixel_values_videos.contiguous())
        return Re2TALModelOutput(
            last_hidden_state=features,
            feature_mask=frame_mask[:, :: self.feature_stride].bool(),
        )

    def train(self, mode: bool = True) -> Re2TALModel:
        """As in PyTorch; frozen norms stay in evaluation mode."""
        super().train(mode)
        if self.config.freeze_norms:
            for norm in self._norms():
                norm.eval()
        return self

    def _norms(self) -> list[nn.Module]:
        kinds = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
        return [module for module in self.backbone.modules() if isinstance(module, kinds)]

    def freeze(self) -> None:
        """Takes the gradient from the parameters that the configuration freezes."""
        frozen: list[nn.Module] = []
        if self.config.freeze_backbone:
            frozen.append(self.backbone)
        if self.config.frozen_stages:
            stages: list[Stage] = self.backbone.architecture.stages(self.backbone)
            if self.config.frozen_stages > len(stages):
                raise ValueError(
                    f"frozen_stages is {self.config.frozen_stages}, but the backbone has {len(stages)} stages."
                )
            frozen += [m for stage in stages[: self.config.frozen_stages] for m in stage.modules]
        if self.config.freeze_norms:
            frozen += self._norms()
        for module in frozen:
            module.requires_grad_(False)


class Re2TALForTemporalActionLocalization(Re2TALPreTrainedModel):
    """A rewired video backbone with a localization head: video in, scored segments out.

    Args:
        config ([`Re2TALConfig`]): What the model is.
    """

    head_parts = ("head", "criterion")

    def __init__(self, config: Re2TALConfig):
        super().__init__(config)
        self.model = Re2TALModel(config)
        settings = dict(config.head_config)
        registered = HEADS.find(settings.pop("model_type"))
        check_part_settings("", {name: getattr(config, name) for name in ("head_config", "loss_config")})
        try:
            self.head = registered.head_class(self.model.feature_size, config.num_labels, **settings)
            self.criterion = registered.loss_class(**config.loss_config)
        except TypeError as error:
            raise ValueError(f"head_config or loss_config: {error}") from error
        self._keep_in_fp32_modules_strict = set(getattr(registered.loss_class, "fp32_buffers", ()))
        self.post_init()

    def initialize_parts(self) -> None:  # noqa: D102
        for part in (self.head, self.criterion):
            cast(Any, part).initialize_weights()

    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        frame_mask: Tensor | None = None,
        labels: list[dict[str, Tensor]] | None = None,
        temporal_features: Tensor | None = None,
        feature_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> TemporalActionLocalizationOutput:
        """Localizes actions in windows of video.

        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch, T, channels, height, width)`, *optional*):
                Normalised frames.
            frame_mask (`torch.BoolTensor` of shape `(batch, T)`, *optional*): True where a frame is real.
            labels (`list[dict]`, *optional*): One dictionary for each video: `segments`, float `[N, 2]` in frames of
                the window, 0.0 being the start of the first, and `class_labels`, int64 `[N]`.
            temporal_features (`torch.FloatTensor` of shape `(batch, T', D)`, *optional*): Features computed before
                (`Re2TALModelOutput.last_hidden_state`), in place of the video.
            feature_mask (`torch.BoolTensor` of shape `(batch, T')`, *optional*): With `temporal_features`.

        Returns:
            [`TemporalActionLocalizationOutput`]

        Raises:
            ValueError: if neither or both of video and features are given, or the shapes do not fit.
        """
        if pixel_values_videos is not None and temporal_features is None:
            output = self.model(pixel_values_videos, frame_mask)
            temporal_features, feature_mask = output.last_hidden_state, output.feature_mask
        elif pixel_values_videos is not None or temporal_features is None:
            raise ValueError("Give either pixel_values_videos or temporal_features.")
        if feature_mask is None:
            feature_mask = temporal_features.new_ones(temporal_features.shape[:2], dtype=torch.bool)
        stride = self.model.feature_stride
        head_output = self.head(temporal_features.transpose(1, 2), feature_mask)
        losses = None
        if labels is not None:
            targets = [
                {"segments": target["segments"] / stride, "class_labels": target["class_labels"]} for target in labels
            ]
            losses = self.criterion(head_output, targets)
        logits, segments, point_mask = head_output.scored_segments()
        return TemporalActionLocalizationOutput(
            loss=losses.pop("loss") if losses else None,
            loss_dict=losses,
            logits=logits,
            pred_segments=segments * stride,
            point_mask=point_mask,
        )


class Re2TALForVideoClassification(Re2TALPreTrainedModel):
    """A rewired video backbone with a linear classifier, to fine-tune the backbone on clips after the rewiring.

    Args:
        config ([`Re2TALConfig`]): What the model is; `classifier_norm` and `classifier_dropout` are of this model only.
    """

    head_parts = ("classifier", "norm")

    def __init__(self, config: Re2TALConfig):
        super().__init__(config)
        self.model = Re2TALModel(config)
        size = self.model.feature_size
        self.norm = nn.BatchNorm1d(size, affine=False) if config.classifier_norm else nn.Identity()
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(size, config.num_labels)
        self.post_init()

    def initialize_parts(self) -> None:  # noqa: D102
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)
        if isinstance(self.norm, nn.BatchNorm1d):
            nn.init.zeros_(cast(Tensor, self.norm.running_mean))
            nn.init.zeros_(cast(Tensor, self.norm.num_batches_tracked))
            nn.init.ones_(cast(Tensor, self.norm.running_var))

    def forward(
        self,
        pixel_values_videos: Tensor,
        frame_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Classifies clips.

        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch, T, channels, height, width)`): Normalised frames.
            frame_mask (`torch.BoolTensor` of shape `(batch, T)`, *optional*): True where a frame is real; the
                others do not count.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*): Classes, for the cross entropy.

        Returns:
            `ImageClassifierOutput`: `logits` of shape `(batch, num_labels)`, `loss` where labels are given, and as
            `hidden_states` one tensor, the features that are pooled, of shape `(batch, T', D)`.

        Raises:
            ValueError: if the shapes do not fit.
        """
        output = self.model(pixel_values_videos, frame_mask)
        weights = output.feature_mask.unsqueeze(-1).to(output.last_hidden_state)
        pooled = (output.last_hidden_state * weights).sum(1) / weights.sum(1).clamp_min(1.0)
        logits = self.classifier(self.dropout(self.norm(pooled)))
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=(output.last_hidden_state,))


def check_part_settings(where: str, config: Mapping[str, Any]) -> None:
    """Checks what a configuration hands on to backbone, head and loss: types and ranges of what they declare.

    Args:
        where (`str`): What stands before the name of a setting in a message.
        config (`Mapping`): Any of `backbone_config`, `head_config` and `loss_config`.

    Raises:
        ValueError: if a value is not of its type or range.
    """
    head_config = config.get("head_config") or {}
    if registered := HEADS.get(head_config.get("model_type", "actionformer")):
        for name, part in (("head_config", registered.head_class), ("loss_config", registered.loss_class)):
            check_values(f"{where}{name}.", config.get(name) or {}, arguments_of(part))
    check_values(f"{where}backbone_config.", config.get("backbone_config") or {}, BACKBONE_SETTINGS)


def _check_videos(videos: Tensor, frame_mask: Tensor | None) -> None:
    if videos.dim() != 5:
        raise ValueError(
            f"pixel_values_videos has shape {tuple(videos.shape)}; it must be [batch, frames, channels, height, width]."
        )
    if frame_mask is not None and frame_mask.shape != videos.shape[:2]:
        raise ValueError(
            f"frame_mask has shape {tuple(frame_mask.shape)}; pixel_values_videos needs {tuple(videos.shape[:2])}."
        )
