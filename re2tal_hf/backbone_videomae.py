"""VideoMAE (arXiv 2203.12602) as transformers ships it, with its parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEModel
from transformers.models.videomae.modeling_videomae import VideoMAEEmbeddings

from .architecture import register_backbone
from .backbone_clip_transformer import ClipTransformer, pair
from .backbone_positions import check_clip, resize_positions
from .reversible import Stage


class TubeletEmbedding(VideoMAEEmbeddings):
    """Tokens of tubelets, with sine and cosine positions that are interpolated where the image size differs."""

    def forward(self, videos: Tensor) -> Tensor:
        """`[B, T, C, H, W]` -> `[B, T' * H' * W', D]`."""
        patches = self.patch_embeddings.projection(videos.transpose(1, 2))
        sizes = zip(self.patch_embeddings.image_size, self.patch_embeddings.patch_size, strict=True)
        rows, columns = (image // patch for image, patch in sizes)
        positions = self.position_embeddings[0]
        positions = resize_positions(positions, (len(positions) // (rows * columns), rows, columns), patches.shape[2:])
        return patches.flatten(2).transpose(1, 2) + positions.to(patches)


@register_backbone
class VideoMAE(ClipTransformer):
    """transformers' `VideoMAEModel` and `VideoMAEForVideoClassification`."""

    model_type = "videomae"
    model_class = (VideoMAEModel, VideoMAEForVideoClassification)
    config_class = VideoMAEConfig
    token_dims = 3
    max_clip_values = 2**24  # the library makes its table of positions in Python, number by number
    recast_modules = {VideoMAEEmbeddings: TubeletEmbedding}
    variants = {
        "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536},
        "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
        "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
        "huge": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120},
    }

    def encoder(self, config: VideoMAEConfig) -> VideoMAEModel:
        return VideoMAEModel(config)

    def clip_stages(self, model: Any, size: Sequence[int] | None) -> list[Stage]:
        encoder = model.base_model
        if size is not None:
            check_clip(size, model.config.num_frames, pair(model.config.patch_size))
        branches: list[nn.Module] = []
        for layer in encoder.encoder.layer:
            branches.append(nn.Sequential(layer.layernorm_before, layer.attention))
            output = layer.output
            branches.append(nn.Sequential(layer.layernorm_after, layer.intermediate, output.dense, output.dropout))
        return [Stage(encoder.embeddings, branches)]

    def norm(self, model: Any, *outputs: Tensor) -> Tensor:
        [tokens] = outputs
        layernorm = model.base_model.layernorm
        return tokens if layernorm is None else layernorm(tokens)

    def logits(self, model: Any, features: Tensor) -> Tensor:
        # The norm comes after the mean in models that were trained with it.
        pooled = features[:, 0] if model.fc_norm is None else model.fc_norm(features.mean(1))
        return model.classifier(pooled)

    def temporal_features(self, model: Any, features: Tensor) -> Tensor:
        return features.unflatten(-2, (model.config.num_frames // self.frames_per_step(model), -1)).mean(-2)

    def frames_per_step(self, model: Any) -> int:
        return model.config.tubelet_size

    def clip_length(self, model: Any) -> int:
        return model.config.num_frames
