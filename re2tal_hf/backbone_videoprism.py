"""VideoPrism (arXiv 2402.13217) as transformers ships it, with its parameter names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import VideoPrismForVideoClassification, VideoPrismVisionConfig, VideoPrismVisionModel
from transformers.models.videoprism.modeling_videoprism import BaseModelOutputWithSpatialAndTemporalStates
from transformers.utils import ModelOutput

from .architecture import register_backbone
from .backbone_clip_transformer import ClipTransformer, FirstOutput
from .reversible import Stage
from .temporal_adapter import EachClip


class FrameEmbedding(nn.Module):
    """Patches of each frame; their positions are interpolated where the frames have another size."""

    def __init__(self, embeddings: Any):
        super().__init__()
        self.embeddings = embeddings

    def forward(self, videos: Tensor) -> Tensor:
        """`[B, T, C, H, W]` -> `[B, T, places, D]`."""
        usual = tuple(videos.shape[-2:]) == tuple(self.embeddings.patch_embeddings.image_size)
        return self.embeddings(videos, not usual).unflatten(0, videos.shape[:2])


class TemporalEmbedding(nn.Module):
    """The norm between the two encoders, and the places as series, to which positions in time are added."""

    def __init__(self, norm: nn.Module, embeddings: Any):
        super().__init__()
        self.norm, self.embeddings = norm, embeddings

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, places, D]` -> `[B, places, T, D]`."""
        batch, frames, places, _ = x.shape
        usual = frames == self.embeddings.position_embeddings.shape[1]
        size = (batch, frames, None, None, None)  # of the videos, as far as the library needs it
        return self.embeddings(self.norm(x).flatten(0, 1), size, not usual).unflatten(0, (batch, places))


@register_backbone
class VideoPrism(ClipTransformer):
    """transformers' `VideoPrismVisionModel` and `VideoPrismForVideoClassification`.

    Two encoders follow each other, of the places in each frame and of the frames at each place: two stages.
    """

    model_type = "videoprism"
    model_class = (VideoPrismVisionModel, VideoPrismForVideoClassification)
    config_class = VideoPrismVisionConfig
    input_name = "pixel_values_videos"
    classifier_names = ("classifier", "head", "head_layernorm")
    variants = {
        "base": {"hidden_size": 768, "num_spatial_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
        "large": {
            "hidden_size": 1024, "num_spatial_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
            "num_frames": 8,
        },
    }  # fmt: skip

    def check(self, settings: Mapping[str, Any], where: str = "backbone_config.") -> None:
        """As of every family; a patch is of one frame."""
        super().check(settings, where)
        if (tubelet := settings.get("tubelet_size")) is not None and tubelet[0] != 1:
            raise ValueError(f"{where}tubelet_size is {list(tubelet)}; VideoPrism's patches are of 1 frame.")

    def encoder(self, config: VideoPrismVisionConfig) -> VideoPrismVisionModel:
        return VideoPrismVisionModel(config)

    def clip_stages(self, model: Any, size: Sequence[int] | None) -> list[Stage]:
        encoder = model.base_model
        patch = encoder.config.tubelet_size[1:]
        if size is not None and any(length < side for length, side in zip(size[-2:], patch, strict=True)):
            raise ValueError(f"The frames are {size[-2]}x{size[-1]}; this model takes {patch[0]}x{patch[1]} or larger.")
        return [
            Stage(FrameEmbedding(encoder.spatial_embeddings), _branches(encoder.spatial_layers)),
            Stage(
                TemporalEmbedding(encoder.layernorm1, encoder.temporal_embeddings), _branches(encoder.temporal_layers)
            ),
        ]

    def norm(self, model: Any, *outputs: Tensor) -> Tensor:
        return model.base_model.layernorm2(*outputs).transpose(1, 2)

    def classify(self, model: Any, features: Tensor, labels: Tensor | None = None) -> ModelOutput:
        if model.base_model is not model:
            return super().classify(model, features, labels)
        return BaseModelOutputWithSpatialAndTemporalStates(last_hidden_state=features.flatten(1, 2))

    def logits(self, model: Any, features: Tensor) -> Tensor:
        pooled = model.head_layernorm(model.head(features.flatten(1, 2))[0])
        return model.classifier(pooled)

    def frames_per_step(self, model: Any) -> int:
        return 1

    def clip_length(self, model: Any) -> int:
        return model.config.num_frames


def _branches(layers: Sequence[Any]) -> list[nn.Module]:
    """The two residual branches of each layer, for tokens `[B, N, tokens, D]` that see those of the same `N`."""
    branches: list[nn.Module] = []
    for layer in layers:
        attention = nn.Sequential(layer.layernorm_before, FirstOutput(layer.attention), layer.dropout)
        branches += [EachClip(attention, 3), nn.Sequential(layer.layernorm_after, layer.mlp, layer.dropout)]
    return branches
