"""The PreTrainedModel classes: backbone, head and loss put together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.utils import can_return_tuple

from .backprop_plan import AnyBackprop
from .configuration_re2tal import (
    Re2TALConfig,
    Re2TALVideoClassificationConfig,
    RewiredConfig,
    check_part_settings,
)
from .coupling import COUPLING
from .families import FAMILIES  # noqa: F401 - importing them registers them
from .head import HEADS
from .lora import add_lora, check_lora
from .model_inputs import (
    check_classes,
    check_features,
    check_labels,
    check_videos,
    input_channels,
    naming_argument,
)
from .modeling_outputs import Re2TALModelOutput, TemporalActionLocalizationOutput, VideoClassificationOutput
from .modeling_pretrained import Re2TALPreTrainedModel
from .pipeline_re2tal import TemporalActionLocalizationPipeline  # noqa: F401 - transformers saves what is imported
from .rewiring import build_backbone
from .value_checks import check_value, one_line, shown, suggesting


class Re2TALModel(Re2TALPreTrainedModel):
    """A rewired video backbone: video in, temporal features out.

    Args:
        config: What the model is.
    """

    def __init__(self, config: RewiredConfig):
        super().__init__(config)
        settings = dict(config.backbone_config)
        if config._attn_implementation is not None:
            settings["attn_implementation"] = config._attn_implementation
        backprop = cast(AnyBackprop, config.backprop)
        self.backbone = build_backbone(settings, config.rewiring, backprop, config.coupling, config.stream_bits)
        architecture = self.backbone.architecture
        self.feature_size = architecture.feature_size(self.backbone)
        self.feature_stride = architecture.feature_stride(self.backbone)
        self.input_channels = input_channels(self.backbone)
        self.published_digests: dict[str, str] = {}
        # Of `freeze` and of `gradient_checkpointing_enable`.
        self.norms_frozen = False
        self.backprop_before: AnyBackprop = "plain"
        if config.lora is not None:
            self.add_lora(config.lora)
        self.post_init()

    def add_lora(self, settings: Mapping[str, Any]) -> None:
        """Puts LoRA into the backbone and freezes the rest of it.

        Args:
            settings: Arguments of `add_lora` of `lora.py`, called as peft's are: `r`, `lora_alpha`, `lora_dropout` and
                `target_modules`.

        Raises:
            ValueError: if they are not as they must be.
            ImportError: if peft is not installed.
        """
        check_lora(settings)
        add_lora(self.backbone, **settings)
        self.config.lora = dict(settings)
        self.freeze(backbone=True)

    @torch.no_grad()
    def compute_buffers(self, missing: Collection[str]) -> None:
        """Gives buffers that were not loaded the values of a newly constructed backbone.

        Loading leaves uninitialised memory in them, in those that are never saved as well.

        Args:
            missing: Names, from the backbone or from the whole model, that were not loaded.
        """
        saved, buffers = self.backbone.state_dict().keys(), dict(self.backbone.named_buffers())
        missing = {name.rpartition("backbone.")[2] for name in missing}
        wanted = [n for n, b in buffers.items() if (n in missing or n not in saved) and not b.is_meta]
        if wanted:
            with torch.random.fork_rng(devices=[]):
                settings = (self.config.rewiring, self.config.backprop, self.config.coupling)
                computed = dict(build_backbone(self.config.backbone_config, *settings).named_buffers())
            for name in wanted:
                buffers[name].copy_(computed[name])
        self.backbone.couplings()

    @suggesting
    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor,
        frame_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        pixel_statistics: Tensor | None = None,
    ) -> Re2TALModelOutput:
        """Computes temporal features.

        Args:
            pixel_values_videos: float `(batch, T, channels, height, width)`. Normalised frames.
            frame_mask: bool `(batch, T)`. True where a frame is real.
            output_hidden_states: Whether to return the output of every stage, too.
            pixel_statistics: float32 `(2, channels)`. Mean and standard deviation of the pixels, where
                `pixel_values_videos` is uint8 and not normalised (`Re2TALVideoProcessor.prepare(normalized=False)`).
            return_dict: With `False` a tuple is returned.

        Returns:
            [`Re2TALModelOutput`]

        Raises:
            TypeError, ValueError: if an argument is of another type, shape or dtype; names it.
        """
        self.check_inputs(pixel_values_videos, frame_mask, output_hidden_states, pixel_statistics)
        if frame_mask is None:
            frame_mask = pixel_values_videos.new_ones(pixel_values_videos.shape[:2], dtype=torch.bool)
        asked = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        stage_outputs: list[Tensor] | None = [] if asked else None
        # Frames of a file and of an array differ in strides, and with them kernels in rounding.
        with naming_argument("pixel_values_videos", pixel_values_videos, self):
            features = self.backbone.video_features(
                pixel_values_videos.contiguous(), stage_outputs, frame_mask, pixel_statistics
            )
        return Re2TALModelOutput(
            last_hidden_state=features,
            feature_mask=frame_mask[:, :: self.feature_stride].bool(),
            hidden_states=None if stage_outputs is None else tuple(stage_outputs),
        )

    def check_inputs(
        self, videos: Any, frame_mask: Any, output_hidden_states: Any, pixel_statistics: Any = None
    ) -> None:
        """Checks the arguments of `forward`; a compiled graph takes them as they are."""
        if not torch.compiler.is_compiling():
            check_videos(videos, frame_mask, self.input_channels, next(self.parameters(), None), pixel_statistics)
            check_value("output_hidden_states", output_hidden_states, bool | None)

    def train(self, mode: bool = True) -> Re2TALModel:
        """As in PyTorch; frozen norms stay in evaluation mode."""
        super().train(mode)
        if self.norms_frozen:
            for norm in self.norms():
                norm.eval()
        return self

    def norms(self) -> list[nn.Module]:
        """Returns the norms of the backbone."""
        kinds = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
        return [module for module in self.backbone.modules() if isinstance(module, kinds)]


class Re2TALForTemporalActionLocalization(Re2TALPreTrainedModel):
    """A rewired video backbone with a localization head: video in, scored segments out.

    Args:
        config: What the model is.

    Attributes:
        finds_points: Whether segments are points in time, which start where they end, as the head says.
    """

    model_tags = ["re2tal", "temporal-action-localization"]
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
        except (TypeError, ArithmeticError, LookupError, AssertionError) as error:
            raise ValueError(f"head_config or loss_config: {one_line(error)}") from error
        self.finds_points = registered.finds_points
        self._keep_in_fp32_modules_strict = {COUPLING, *getattr(registered.loss_class, "fp32_buffers", ())}
        self.post_init()

    def registered_parts(self) -> list[type]:  # noqa: D102
        return [*super().registered_parts(), type(self.head), type(self.criterion)]

    def initialize_parts(self) -> None:  # noqa: D102
        for part in (self.head, self.criterion):
            cast(Any, part).initialize_weights()

    @suggesting
    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        frame_mask: Tensor | None = None,
        labels: list[dict[str, Tensor]] | None = None,
        temporal_features: Tensor | None = None,
        feature_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        pixel_statistics: Tensor | None = None,
    ) -> TemporalActionLocalizationOutput:
        """Localizes actions in windows of video.

        Args:
            pixel_values_videos: float `(batch, T, channels, height, width)`. Normalised frames.
            frame_mask: bool `(batch, T)`. True where a frame is real.
            labels: One dictionary for each video: `segments`, float `[N, 2]` in frames of the window, 0.0 being the
                start of the first, and `class_labels`, int64 `[N]`.
            temporal_features: float `(batch, T', D)`. Features computed before (`Re2TALModelOutput.last_hidden_state`),
                in place of the video.
            feature_mask: bool `(batch, T')`. With `temporal_features`.
            output_hidden_states: Whether to return the output of every stage, too.
            pixel_statistics: float32 `(2, channels)`. With uint8 frames; as of [`Re2TALModel`].
            return_dict: With `False` a tuple is returned.

        Returns:
            [`TemporalActionLocalizationOutput`]

        Raises:
            TypeError, ValueError: if an argument is of another type, shape, dtype or range, or neither or both of video
                and features are given; names it.
        """
        video = _given_one(pixel_values_videos, temporal_features, frame_mask, feature_mask)
        if temporal_features is None:
            self.model.check_inputs(pixel_values_videos, frame_mask, output_hidden_states, pixel_statistics)
        else:
            check_features(temporal_features, feature_mask, self.model.feature_size)
            if pixel_statistics is not None:
                raise ValueError("pixel_statistics belongs to pixel_values_videos; with features leave it out.")
        if labels is not None and not torch.compiler.is_compiling():
            check_labels("labels", labels, len(video), self.config.num_labels)
        hidden_states = None
        if pixel_values_videos is not None:
            output = self.model(
                pixel_values_videos, frame_mask, output_hidden_states, pixel_statistics, return_dict=True
            )
            temporal_features, feature_mask = output.last_hidden_state, output.feature_mask
            hidden_states = output.hidden_states
        temporal_features = cast(Tensor, temporal_features)
        if feature_mask is None:
            feature_mask = temporal_features.new_ones(temporal_features.shape[:2], dtype=torch.bool)
        stride = self.model.feature_stride
        with naming_argument("temporal_features", temporal_features, self):
            head_output = self.run_head(temporal_features.transpose(1, 2), feature_mask)
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
            hidden_states=hidden_states,
        )

    def run_head(self, features: Tensor, mask: Tensor, recomputes: bool | None = None) -> Any:
        """Runs the head, which of long videos keeps little, too, unless it is one that takes no notice.

        Args:
            features: `[B, D, T']`.
            mask: bool `[B, T']`.
            recomputes: Whether it and the loss keep the inputs of their parts only; by default where clips go one after
                the other, or `backprop="auto"` has planned it.
        """
        if not torch.compiler.is_compiling():
            backbone = self.model.backbone
            leanly = backbone.by_clips or backbone.backprop_planner.recomputes_head
            for part in (self.head, self.criterion):
                cast(Any, part).recomputes = leanly if recomputes is None else recomputes
        return self.head(features, mask)


class Re2TALForVideoClassification(Re2TALPreTrainedModel):
    """A rewired video backbone with a linear classifier, to fine-tune the backbone on clips after the rewiring.

    Args:
        config: What the model is.
    """

    config_class = Re2TALVideoClassificationConfig
    pipeline_tag = "video-classification"
    model_tags = ["re2tal", "video-classification"]
    head_parts = ("classifier", "norm")

    def __init__(self, config: Re2TALVideoClassificationConfig):
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

    @suggesting
    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor,
        frame_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> VideoClassificationOutput:
        """Classifies clips.

        Args:
            pixel_values_videos: float `(batch, T, channels, height, width)`. Normalised frames.
            frame_mask: bool `(batch, T)`. True where a frame is real; the others do not count.
            labels: long `(batch,)`. Classes, for the cross entropy.
            output_hidden_states: Whether to return the output of every stage, too.
            return_dict: With `False` a tuple is returned.

        Returns:
            [`VideoClassificationOutput`]

        Raises:
            TypeError, ValueError: if an argument is of another type, shape, dtype or range; names it.
        """
        self.model.check_inputs(pixel_values_videos, frame_mask, output_hidden_states)
        if labels is not None:
            labels = check_classes(labels, len(pixel_values_videos), self.config.num_labels)
        output = self.model(pixel_values_videos, frame_mask, output_hidden_states, return_dict=True)
        weights = output.feature_mask.unsqueeze(-1).to(output.last_hidden_state)
        pooled = (output.last_hidden_state * weights).sum(1) / weights.sum(1).clamp_min(1.0)
        logits = self.classifier(self.dropout(self.norm(pooled)))
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return VideoClassificationOutput(
            loss=loss,
            logits=logits,
            last_hidden_state=output.last_hidden_state,
            feature_mask=output.feature_mask,
            hidden_states=output.hidden_states,
        )


def _given_one(videos: Any, features: Any, frame_mask: Any, feature_mask: Any) -> Any:
    """The one of video and features that is given, with no mask of the other."""
    if (videos is None) == (features is None):
        raise ValueError(
            f"pixel_values_videos is {shown(videos)} and temporal_features is {shown(features)}: give either."
        )
    if videos is None and frame_mask is not None:
        raise ValueError("frame_mask belongs to pixel_values_videos; of temporal_features give feature_mask.")
    if features is None and feature_mask is not None:
        raise ValueError("feature_mask belongs to temporal_features; of pixel_values_videos give frame_mask.")
    return features if videos is None else videos
