"""Video Swin (arXiv 2106.13230) as torchvision ships it, with torchvision's parameter names."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMerging
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d, SwinTransformer3d

from .reversible import Stage
from .rewiring import Architecture, register

VARIANTS = {
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
}


@register
class VideoSwin(Architecture):
    """torchvision's `swin3d_t`, `swin3d_s`, `swin3d_b` and free sizes."""

    model_type = "video_swin"
    model_class = SwinTransformer3d

    def build(
        self,
        *,
        variant: str | None = None,
        embed_dim: int | None = None,
        depths: tuple[int, ...] | None = None,
        num_heads: tuple[int, ...] | None = None,
        patch_size: tuple[int, int, int] = (2, 4, 4),
        window_size: tuple[int, int, int] = (8, 7, 7),
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        stochastic_depth_prob: float = 0.1,
    ) -> SwinTransformer3d:
        """Builds a Video Swin without classifier.

        Args:
            variant (`str`, *optional*): `"tiny"`, `"small"` or `"base"`: sets `embed_dim`, `depths`, `num_heads`.
            embed_dim, depths, num_heads, patch_size, window_size, mlp_ratio, dropout, attention_dropout,
                stochastic_depth_prob: torchvision's own arguments; they win over the variant's.

        Raises:
            ValueError: if the variant is unknown, or a size is neither given nor part of a variant.
        """
        if variant is not None and variant not in VARIANTS:
            raise ValueError(f"backbone_config['variant'] is {variant!r}; choose one of {sorted(VARIANTS)}.")
        sizes = dict(VARIANTS[variant]) if variant else {}
        given = {"embed_dim": embed_dim, "depths": depths, "num_heads": num_heads}
        sizes.update({name: value for name, value in given.items() if value is not None})
        if missing := sorted(given.keys() - sizes.keys()):
            raise ValueError(f"backbone_config of 'video_swin' needs a variant, or {missing}.")
        model = SwinTransformer3d(
            patch_size=list(patch_size),
            window_size=list(window_size),
            mlp_ratio=mlp_ratio,
            dropout=dropout,
            attention_dropout=attention_dropout,
            stochastic_depth_prob=stochastic_depth_prob,
            norm_layer=partial(nn.LayerNorm, eps=1e-5),
            **sizes,
        )
        model.head = nn.Identity()
        return model

    def stages(self, model: SwinTransformer3d) -> list[Stage]:  # noqa: D102
        stages = []
        entry: nn.Module = nn.Sequential(model.patch_embed, model.pos_drop)
        for layer in model.features:
            if isinstance(layer, PatchMerging):
                entry = layer
                continue
            branches = []
            for block in layer:
                branches.append(nn.Sequential(block.norm1, block.attn, block.stochastic_depth))
                branches.append(nn.Sequential(block.norm2, block.mlp, block.stochastic_depth))
            stages.append(Stage(entry, branches))
        return stages

    def norm(self, model: SwinTransformer3d, output: Tensor) -> Tensor:  # noqa: D102
        return model.norm(output)

    def classify(self, model: SwinTransformer3d, features: Tensor) -> Tensor:  # noqa: D102
        return model.head(torch.flatten(model.avgpool(features.permute(0, 4, 1, 2, 3)), 1))

    def initialize(self, model: SwinTransformer3d) -> None:  # noqa: D102
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, ShiftedWindowAttention3d):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
            elif isinstance(module, (nn.Conv3d, nn.LayerNorm)):
                module.reset_parameters()

    def feature_size(self, model: SwinTransformer3d) -> int:  # noqa: D102
        return model.num_features

    def feature_stride(self, model: SwinTransformer3d) -> int:  # noqa: D102
        return model.patch_embed.tuple_patch_size[0]
