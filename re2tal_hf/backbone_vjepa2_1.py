"""V-JEPA 2.1 (arXiv 2603.14482): own code, with the parameter names of the authors' checkpoints.

The facts are those of github.com/facebookresearch/vjepa2, `app/vjepa_2_1/models` and `src/hub/backbones.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torchvision.ops import StochasticDepth
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from .architecture import register_backbone
from .backbone_clip_transformer import ClipTransformer
from .reversible import Stage

LAST_NORM = "3"
"""Of the norms at four depths, which the checkpoints have, the one behind the last layer."""


@strict
class VJEPA21Config(PreTrainedConfig):
    """Settings, called as those of transformers' V-JEPA 2.

    A model for clips of 1 frame, with `tubelet_size=1`, has the weights for images, any other those for videos.

    Args:
        patch_size: Pixels of a side.
        crop_size: Pixels of a side of the frames; others do as well.
        frames_per_clip: Frames that are seen together.
        tubelet_size: Frames that become one step.
        pretrained_grid_size: Patches of a side in the images of the first pretraining. Positions are spread over as
            many, however many patches there are.
    """

    model_type = "vjepa2_1"

    patch_size: int = 16
    crop_size: int = 384
    frames_per_clip: int = 64
    tubelet_size: int = 2
    pretrained_grid_size: int = 16
    in_chans: int = 3
    hidden_size: int = 768
    num_attention_heads: int = 12
    num_hidden_layers: int = 12
    mlp_ratio: int | float = 4.0
    layer_norm_eps: float = 1e-6
    drop_path_rate: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float = 0.02


def rotary_angles(grid: Sequence[int], channels: int, side: int, like: Tensor) -> Tensor:
    """Returns the angles by which pairs of channels are turned at each place.

    Frames are numbered; rows and columns are spread evenly from 0 to `side - 1`.

    Args:
        grid: Frames, rows and columns of places.
        channels: For each of the three axes; even.
        side: Rows and columns that the network began with.
        like: A tensor of the device and at most of the precision.

    Returns:
        `[places, 3 * channels / 2]`, in radians.
    """
    options: dict[str, Any] = {"dtype": torch.promote_types(like.dtype, torch.float32), "device": like.device}
    spread = [1.0, *((side - 1) / max(length - 1, 1) for length in grid[1:])]
    frequencies = 10000.0 ** (-2 / max(channels, 1) * torch.arange(channels // 2, **options))
    axes = (torch.arange(n, **options) * step for n, step in zip(grid, spread, strict=True))
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)  # [T', H', W', 3]
    return (positions.unsqueeze(-1) * frequencies).flatten(-2).flatten(0, -2)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turns neighbouring channels `(2i, 2i + 1)` of `[..., places, D]` by the angles; the last may be left over."""
    pairs = angles.shape[-1]
    turned, rest = x.split([2 * pairs, x.shape[-1] - 2 * pairs], dim=-1)
    even, odd = turned.unflatten(-1, (pairs, 2)).unbind(-1)
    cosine, sine = angles.cos(), angles.sin()
    both = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1)
    return torch.cat([both.flatten(-2).to(x.dtype), rest], dim=-1)


class RotaryAttention(nn.Module):
    """Self-attention of all tokens of a clip, which turns queries and keys by their time, row and column."""

    def __init__(self, config: VJEPA21Config):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.axis_channels = 2 * (width // self.num_heads // 3 // 2)
        self.pretrained_grid_size = config.pretrained_grid_size
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.dropout_prob = config.attention_probs_dropout_prob

    def forward(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        """`[B, tokens, D]`, the tokens of a grid of frames, rows and columns -> the same shape."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        angles = rotary_angles(grid, self.axis_channels, self.pretrained_grid_size, query)
        dropout = self.dropout_prob if self.training else 0.0
        query, key = rotate(query, angles), rotate(key, angles)
        # Its own memory, since that of all three would be kept with it.
        seen = F.scaled_dot_product_attention(query, key, value.contiguous(), dropout_p=dropout)
        return self.proj(seen.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` -> the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """The modules of a pre-norm layer with two residual branches; see `branches`."""

    def __init__(self, config: VJEPA21Config, index: int):
        super().__init__()
        width = config.hidden_size
        self.norm1 = nn.LayerNorm(width, config.layer_norm_eps)
        self.attn = RotaryAttention(config)
        self.norm2 = nn.LayerNorm(width, config.layer_norm_eps)
        self.mlp = MLP(width, int(width * config.mlp_ratio))
        drop_path_rate = config.drop_path_rate * index / max(config.num_hidden_layers - 1, 1)
        self.drop_path = StochasticDepth(drop_path_rate, "row")

    def branches(self, grid: Sequence[int] | None) -> list[nn.Module]:
        """The residual branches, for tokens `[B, T', H' * W', D]` of a grid of frames, rows and columns."""
        return [AttentionBranch(self, grid), nn.Sequential(self.norm2, self.mlp, self.drop_path)]


class AttentionBranch(nn.Module):
    """Norm, attention and stochastic depth."""

    def __init__(self, block: Block, grid: Sequence[int] | None):
        super().__init__()
        self.norm, self.attention, self.drop_path = block.norm1, block.attn, block.drop_path
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T', H' * W', D]` -> the same shape."""
        assert self.grid is not None
        return self.drop_path(self.attention(self.norm(x).flatten(1, 2), self.grid)).view_as(x)


class PatchEmbedding(nn.Module):
    """Tokens of tubelets, a row of places for each step."""

    def __init__(self, config: VJEPA21Config):
        super().__init__()
        size = (config.tubelet_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_chans, config.hidden_size, size, stride=size)

    def forward(self, videos: Tensor) -> Tensor:
        """`[B, T, C, H, W]` -> `[B, T', H' * W', D]`."""
        return self.proj(videos.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)


class ModalityEmbedding(nn.Module):
    """Tokens, to which is added that they are of a video, or of an image."""

    def __init__(self, model: VJEPA21Model):
        super().__init__()
        if model.of_images:
            self.patches, self.modality = model.patch_embed_img, model.img_mod_embed
        else:
            self.patches, self.modality = model.patch_embed, model.video_mod_embed

    def forward(self, videos: Tensor) -> Tensor:
        """`[B, T, C, H, W]` -> `[B, T', H' * W', D]`."""
        return self.patches(videos) + self.modality


class VJEPA21Model(PreTrainedModel):
    """The encoder, with what its last layer's features need: images or videos, and one norm.

    The smaller published models were distilled from that norm's output alone; the norms at the other depths take no
    part in it.
    """

    config_class = VJEPA21Config
    base_model_prefix = "vjepa2_1"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)

    def __init__(self, config: VJEPA21Config):
        super().__init__(config)
        self.of_images = config.frames_per_clip == 1
        modality = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        if self.of_images:
            self.patch_embed_img, self.img_mod_embed = PatchEmbedding(config), modality
        else:
            self.patch_embed, self.video_mod_embed = PatchEmbedding(config), modality
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.num_hidden_layers))
        self.norms_block = nn.ModuleDict({LAST_NORM: nn.LayerNorm(config.hidden_size, config.layer_norm_eps)})
        self.post_init()

    def forward(self, pixel_values_videos: Tensor) -> BaseModelOutput:
        """`[B, T, C, H, W]` -> `last_hidden_state`, `[B, T' * H' * W', D]`."""
        [stage] = VJEPA21().clip_stages(self, pixel_values_videos.shape)
        x = stage.entry(pixel_values_videos)
        for branch in stage.branches:
            x = x + branch(x)
        return BaseModelOutput(last_hidden_state=self.norms_block[LAST_NORM](x).flatten(1, 2))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the authors draw them: the last layer of a branch the smaller, the deeper it lies."""
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv3d)):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, VJEPA21Model):
            init.normal_(module.img_mod_embed if module.of_images else module.video_mod_embed, std=1e-6)
            for depth, block in enumerate(cast(Any, module.blocks), start=1):
                for last in (block.attn.proj, block.mlp.fc2):
                    init.trunc_normal_(last.weight, std=std / math.sqrt(2 * depth))


@register_backbone
class VJEPA21(ClipTransformer):
    """[`VJEPA21Model`] in the published and in free sizes."""

    model_type = "vjepa2_1"
    model_class = VJEPA21Model
    config_class = VJEPA21Config
    input_name = "pixel_values_videos"
    token_dims = 4
    # Of the other modality, of the other depths.
    classifier_names = ("patch_embed", "video_mod_embed", "patch_embed_img", "img_mod_embed", "norms_block")
    chooses_attention = False
    variants = {
        "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
        "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    }

    def encoder(self, config: VJEPA21Config) -> VJEPA21Model:
        return VJEPA21Model(config)

    def clip_stages(self, model: Any, size: Sequence[int] | None) -> list[Stage]:
        grid = None if size is None else self._grid(model.config, size)
        branches = [branch for block in model.blocks for branch in block.branches(grid)]
        return [Stage(ModalityEmbedding(model), branches)]

    def _grid(self, config: VJEPA21Config, size: Sequence[int]) -> tuple[int, int, int]:
        """Frames, rows and columns of tokens."""
        _, frames, _, height, width = size
        grid = (frames // config.tubelet_size, height // config.patch_size, width // config.patch_size)
        if not all(grid):
            raise ValueError(
                f"The input has {frames} frames of {height}x{width}; this model takes clips of at least "
                f"{config.tubelet_size} frames of {config.patch_size}x{config.patch_size}."
            )
        return grid

    def norm(self, model: Any, *outputs: Tensor) -> Tensor:
        return model.norms_block[LAST_NORM](*outputs)

    def classify(self, model: Any, features: Tensor, labels: Tensor | None = None) -> BaseModelOutput:
        """Returns `last_hidden_state`; there is no classifier."""
        return BaseModelOutput(last_hidden_state=features.flatten(1, 2))

    def temporal_features(self, model: Any, features: Tensor) -> Tensor:
        return features.mean(-2)

    def frames_per_step(self, model: Any) -> int:
        return model.config.tubelet_size

    def clip_length(self, model: Any) -> int:
        return model.config.frames_per_clip
