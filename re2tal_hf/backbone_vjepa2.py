"""V-JEPA 2 (arXiv 2506.09985) as transformers ships it, with its parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import VJEPA2Config, VJEPA2ForVideoClassification, VJEPA2Model
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2Embeddings, VJEPA2Layer, VJEPA2WithMaskedInputModelOutput
from transformers.utils import ModelOutput

from .architecture import register_backbone
from .backbone_clip_transformer import ClipTransformer
from .reversible import Stage


class TubeletEmbedding(nn.Module):
    """Tokens of tubelets; the encoder's attention knows their positions."""

    def __init__(self, embeddings: VJEPA2Embeddings, grid: Sequence[int] | None):
        super().__init__()
        self.embeddings = embeddings
        self.grid = grid

    def forward(self, videos: Tensor) -> Tensor:
        """`[B, T, C, H, W]` -> `[B, T', H' * W', D]`."""
        assert self.grid is not None
        return self.embeddings(videos).unflatten(1, (self.grid[0], -1))


class AttentionBranch(nn.Module):
    """Norm, attention with rotary positions, and stochastic depth.

    The library numbers the tokens as if images had the configured size. For smaller ones the numbers are those
    of the patches in the upper left corner of an image of that size, which keeps the distances between them.
    """

    def __init__(self, layer: VJEPA2Layer, grid: Sequence[int] | None):
        super().__init__()
        self.norm = layer.norm1
        self.attention = layer.attention
        self.drop_path = layer.drop_path
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T', H' * W', D]` -> the same shape."""
        tokens = self.norm(x).flatten(1, 2)
        output = self.attention(tokens, position_mask=self._places(tokens))[0]
        return self.drop_path(output).view_as(x)

    def _places(self, tokens: Tensor) -> Tensor | None:
        """Numbers of the tokens, `[B, N]`; None where the library's own are right."""
        assert self.grid is not None
        side = self.attention.grid_size
        if self.grid[1:] == (side, side):
            return None
        frame, row, column = (torch.arange(n, device=tokens.device) for n in self.grid)
        places = (frame[:, None, None] * side + row[:, None]) * side + column
        return places.flatten().expand(len(tokens), -1)


@register_backbone
class VJEPA2(ClipTransformer):
    """transformers' `VJEPA2Model`, as with its `skip_predictor=True`, and `VJEPA2ForVideoClassification`."""

    model_type = "vjepa2"
    model_class = (VJEPA2Model, VJEPA2ForVideoClassification)
    config_class = VJEPA2Config
    input_name = "pixel_values_videos"
    token_dims = 4
    variants = {
        "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "mlp_ratio": 4.0},
        "huge": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "mlp_ratio": 4.0},
        "giant": {"hidden_size": 1408, "num_hidden_layers": 40, "num_attention_heads": 22, "mlp_ratio": 48 / 11},
    }

    def encoder(self, config: VJEPA2Config) -> VJEPA2Model:
        # The predictor serves the pretraining only.
        config.pred_num_hidden_layers = 0
        model = VJEPA2Model(config)
        model.predictor = nn.Identity()
        return model

    def clip_stages(self, model: Any, size: Sequence[int] | None) -> list[Stage]:
        encoder = model.base_model.encoder
        grid = None if size is None else self._grid(model.config, size)
        branches: list[nn.Module] = []
        for layer in encoder.layer:
            branches.append(AttentionBranch(layer, grid))
            branches.append(nn.Sequential(layer.norm2, layer.mlp, layer.drop_path))
        return [Stage(TubeletEmbedding(encoder.embeddings, grid), branches)]

    def _grid(self, config: VJEPA2Config, size: Sequence[int]) -> tuple[int, int, int]:
        _, frames, _, height, width = size
        patch = config.patch_size
        rows, columns = height // patch, width // patch
        if not (0 < rows <= config.crop_size // patch and 0 < columns <= config.crop_size // patch):
            raise ValueError(
                f"The frames are {height}x{width}; this model takes {patch}x{patch} to "
                f"{config.crop_size}x{config.crop_size}. Its crop_size may be set larger, which changes no weights."
            )
        return max(frames // config.tubelet_size, 1), rows, columns

    def norm(self, model: Any, *outputs: Tensor) -> Tensor:
        return model.base_model.encoder.layernorm(*outputs)

    def classify(self, model: Any, features: Tensor, labels: Tensor | None = None) -> ModelOutput:
        if model.base_model is not model:
            return super().classify(model, features, labels)
        tokens = features.flatten(1, 2)
        return VJEPA2WithMaskedInputModelOutput(last_hidden_state=tokens, masked_hidden_state=tokens)

    def temporal_features(self, model: Any, features: Tensor) -> Tensor:
        return features.mean(-2)

    def logits(self, model: Any, features: Tensor) -> Tensor:
        return model.classifier(model.pooler(features.flatten(1, 2)))

    def frames_per_step(self, model: Any) -> int:
        return model.config.tubelet_size

    def clip_length(self, model: Any) -> int:
        return model.config.frames_per_clip
