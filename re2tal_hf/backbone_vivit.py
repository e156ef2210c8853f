"""ViViT (arXiv 2103.15691, model 1) as transformers ships it, with its parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import VivitConfig, VivitForVideoClassification, VivitModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.vivit.modeling_vivit import VivitEmbeddings
from transformers.utils import ModelOutput

from .architecture import register_backbone
from .backbone_clip_transformer import ClipTransformer, FirstOutput
from .backbone_positions import check_clip, resize_positions
from .reversible import Stage


class TubeletEmbedding(VivitEmbeddings):
    """The class token and tokens of tubelets, with positions, interpolated where the image size differs."""

    def forward(self, videos: Tensor) -> Tensor:
        """`[B, T, C, H, W]` -> `[B, 1 + T' * H' * W', D]`."""
        patches = self.patch_embeddings.projection(videos.transpose(1, 2))
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.dropout(tokens + self._positions(patches.shape[2:]))

    def _positions(self, grid: Sequence[int]) -> Tensor:
        rows, columns = (s // p for s, p in zip(self.image_size, self.patch_size, strict=True))
        first, rest = self.position_embeddings[0].tensor_split([1])
        return torch.cat([first, resize_positions(rest, (len(rest) // (rows * columns), rows, columns), grid)])


@register_backbone
class ViViT(ClipTransformer):
    """transformers' `VivitModel` and `VivitForVideoClassification`."""

    model_type = "vivit"
    model_class = (VivitModel, VivitForVideoClassification)
    config_class = VivitConfig
    recast_modules = {VivitEmbeddings: TubeletEmbedding}
    variants = {
        "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    }

    def encoder(self, config: VivitConfig) -> VivitModel:
        return VivitModel(config, add_pooling_layer=False)

    def clip_stages(self, model: Any, size: Sequence[int] | None) -> list[Stage]:
        encoder = model.base_model
        if size is not None:
            check_clip(size, model.config.num_frames, model.config.tubelet_size[1:])
        branches: list[nn.Module] = []
        for layer in encoder.layers:
            branches.append(nn.Sequential(layer.layernorm_before, FirstOutput(layer.attention), layer.dropout))
            branches.append(nn.Sequential(layer.layernorm_after, layer.mlp, layer.dropout))
        return [Stage(encoder.embeddings, branches)]

    def norm(self, model: Any, *outputs: Tensor) -> Tensor:
        return model.base_model.layernorm(*outputs)

    def classify(self, model: Any, features: Tensor, labels: Tensor | None = None) -> ModelOutput:
        if model.base_model is not model:
            return super().classify(model, features, labels)
        pooled = None if model.pooler is None else model.pooler(features)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=pooled)

    def temporal_features(self, model: Any, features: Tensor) -> Tensor:
        num_features = model.config.num_frames // self.frames_per_step(model)
        return features[:, 1:].unflatten(1, (num_features, -1)).mean(2)

    def frames_per_step(self, model: Any) -> int:
        return model.config.tubelet_size[0]

    def clip_length(self, model: Any) -> int:
        return model.config.num_frames
