"""TimeSformer (arXiv 2102.05095) as transformers ships it, with its parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import TimesformerConfig, TimesformerForVideoClassification, TimesformerModel
from transformers.models.timesformer.modeling_timesformer import TimesformerLayer

from .architecture import register_backbone
from .backbone_clip_transformer import ClipTransformer, FirstOutput, pair
from .backbone_positions import check_clip
from .reversible import Stage
from .value_checks import Arguments


class TemporalAttentionBranch(nn.Module):
    """Attention of each patch to the same place in all frames (section 3, divided attention); nothing for the class."""

    def __init__(self, layer: TimesformerLayer, num_frames: int):
        super().__init__()
        self.norm = layer.temporal_layernorm
        self.attention = layer.temporal_attention
        self.drop_path = layer.drop_path
        self.dense = layer.temporal_dense
        self.num_frames = num_frames

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 1 + H' * W' * T, D]` -> the same shape."""
        patches = x[:, 1:]
        places = patches.reshape(-1, self.num_frames, x.shape[-1])
        attended = self.drop_path(self.attention(self.norm(places))[0])
        return F.pad(self.dense(attended.view_as(patches)), (0, 0, 1, 0))


class SpatialAttentionBranch(nn.Module):
    """Attention within each frame, of its patches and the class token; what the frames add to that is averaged."""

    def __init__(self, layer: TimesformerLayer, num_frames: int):
        super().__init__()
        self.norm = layer.layernorm_before
        self.attention = layer.attention
        self.drop_path = layer.drop_path
        self.num_frames = num_frames

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 1 + H' * W' * T, D]` -> the same shape."""
        class_token, patches = x.tensor_split([1], dim=1)
        patches = patches.unflatten(1, (-1, self.num_frames)).transpose(1, 2)  # [B, T, H' * W', D]
        class_tokens = class_token.unsqueeze(1).expand(-1, self.num_frames, -1, -1)
        frames = torch.cat([class_tokens, patches], dim=2).flatten(0, 1)
        attended = self.drop_path(self.attention(self.norm(frames))[0])
        class_tokens, patches = attended.unflatten(0, (-1, self.num_frames)).tensor_split([1], dim=2)
        return torch.cat([class_tokens.mean(1), patches.transpose(1, 2).flatten(1, 2)], dim=1)


@register_backbone
class TimeSformer(ClipTransformer):
    """transformers' `TimesformerModel` and `TimesformerForVideoClassification`."""

    model_type = "timesformer"
    model_class = (TimesformerModel, TimesformerForVideoClassification)
    config_class = TimesformerConfig
    variants = {
        "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    }

    def settings(self) -> Arguments:
        kinds = Literal["divided_space_time", "space_only", "joint_space_time"]
        return Arguments(super().settings() | {"attention_type": kinds})

    def encoder(self, config: TimesformerConfig) -> TimesformerModel:
        return TimesformerModel(config)

    def clip_stages(self, model: Any, size: Sequence[int] | None) -> list[Stage]:
        encoder, num_frames = model.base_model, model.config.num_frames
        if size is not None:
            height, width = pair(model.config.patch_size)
            # The library cannot interpolate its positions to a single column of patches.
            check_clip(size, num_frames, (height, 2 * width))
        branches: list[nn.Module] = []
        for layer in encoder.encoder.layer:
            if layer.attention_type == "divided_space_time":
                branches.append(TemporalAttentionBranch(layer, num_frames))
                branches.append(SpatialAttentionBranch(layer, num_frames))
            else:
                branches.append(nn.Sequential(layer.layernorm_before, FirstOutput(layer.attention), layer.drop_path))
            branches.append(nn.Sequential(layer.layernorm_after, layer.intermediate, layer.output, layer.drop_path))
        return [Stage(encoder.embeddings, branches)]

    def norm(self, model: Any, *outputs: Tensor) -> Tensor:
        return model.base_model.layernorm(*outputs)

    def temporal_features(self, model: Any, features: Tensor) -> Tensor:
        num_frames, patches = model.config.num_frames, features[:, 1:]
        if model.config.attention_type == "space_only":  # frames are items of the batch
            return patches.mean(1).unflatten(0, (-1, num_frames))
        return patches.unflatten(1, (-1, num_frames)).mean(1)

    def initialize(self, model: Any) -> None:
        super().initialize(model)
        # The library's constructor makes these zero, its _init_weights leaves them out.
        embeddings = model.base_model.embeddings
        if embeddings.attention_type != "space_only":
            nn.init.zeros_(embeddings.time_embeddings)

    def frames_per_step(self, model: Any) -> int:
        return 1

    def clip_length(self, model: Any) -> int:
        return model.config.num_frames
