"""Video Swin and SlowFast as OpenTAD and mmaction2 save them: found in a checkpoint, and sized by their tensors."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from ..network_slowfast import DEPTHS, EXPANSION
from ..value_checks import MAX_STAGES
from .names import SLOWFAST, SWIN, Rules
from .settings import Settings

# A tensor that one family alone has, by its name behind the prefix.
MARKS = {"video_swin": "patch_embed.proj.weight", "slowfast": "slow_path.conv1.conv.weight"}


@dataclass(frozen=True)
class FoundBackbone:
    """A backbone in a checkpoint.

    Attributes:
        prefix: Stands before the names of its tensors.
        settings: What its tensors tell, by the names of [`Settings`].
        rules: From its names, without the prefix, to ours.
        needed: Settings that its tensors do not tell.
    """

    prefix: str
    settings: dict[str, Any]
    rules: Rules
    needed: list[str] = field(default_factory=list)

    @property
    def feature_size(self) -> int:
        """Channels of its features."""
        sizes = self.settings
        if sizes["backbone_config.model_type"] == "video_swin":
            return sizes["backbone_config.embed_dim"] * 2 ** (len(sizes["backbone_config.depths"]) - 1)
        base = sizes["backbone_config.base_channels"]
        stages = len(sizes.get("backbone_config.stage_blocks", DEPTHS[50]))
        return EXPANSION * (base + base // sizes["backbone_config.channel_ratio"]) * 2 ** (stages - 1)


def find_backbone(state: Mapping[str, Tensor]) -> FoundBackbone | None:
    """Returns the backbone in a checkpoint; None if there is none of a known kind.

    Raises:
        ValueError: if its tensors are of no network of the family.
    """
    for family, mark in MARKS.items():
        for name in state:
            if name == mark or name.endswith(f".{mark}"):
                prefix = name[: -len(mark)]
                own = {key[len(prefix) :]: tensor for key, tensor in state.items() if key.startswith(prefix)}
                try:
                    return (_swin if family == "video_swin" else _slowfast)(prefix, own)
                except (KeyError, IndexError, ZeroDivisionError) as error:
                    raise ValueError(f"{name} is of a {family} that is not complete: it lacks {error}.") from error
    return None


def _swin(prefix: str, state: Mapping[str, Tensor]) -> FoundBackbone:
    patch = state["patch_embed.proj.weight"]
    depths = _counts(state, r"layers\.(\d+)\.blocks\.(\d+)\.")
    attention = {
        int(match[1]): name[: match.end()]
        for name in state
        if (match := re.match(r"layers\.(\d+)\.blocks\.0\..*attn\.(?=relative_position_bias_table$)", name))
    }
    tables = [state[f"{attention[stage]}relative_position_bias_table"] for stage in range(len(depths))]
    hidden = next((t for name, t in state.items() if re.match(r"layers\.0\.blocks\.0\..*mlp\.fc1\.weight", name)), None)
    if hidden is None:
        raise KeyError("mlp.fc1.weight")
    settings = {
        "model_type": "video_swin",
        "embed_dim": patch.shape[0],
        "depths": depths,
        "num_heads": [table.shape[1] for table in tables],
        "patch_size": list(patch.shape[2:]),
        "mlp_ratio": hidden.shape[0] / hidden.shape[1],
    }
    window = find_window(len(tables[0]), state.get(f"{attention[0]}relative_position_index"))
    if window:
        settings["window_size"] = window
    return FoundBackbone(prefix, _named(settings, state), SWIN, [] if window else ["backbone_config.window_size"])


def find_window(entries: int, index: Tensor | None) -> list[int] | None:
    """Returns the window of an attention over time, height and width.

    Args:
        entries: Rows of its table of biases, `(2t - 1)(2h - 1)(2w - 1)`.
        index: Its index of relative positions, which tells windows of the same product apart. Without it the window
            must be a square of more than one patch. Where sides of one patch leave several, it is the square one.

    Returns:
        The window; None if several or none have that table.
    """
    sides = [side for side in range(1, entries + 1, 2) if entries % side == 0]
    found = []
    for t, h in itertools.product(sides, sides):
        if entries % (t * h) == 0:
            window = [(side + 1) // 2 for side in (t, h, entries // t // h)]
            if index is None:
                fits = window[1] == window[2] > 1
            else:
                fits = index.numel() == math.prod(window) ** 2 and torch.equal(
                    index.flatten(), relative_positions(window)
                )
            if fits:
                found.append(window)
    if len(found) > 1:
        found = [window for window in found if window[1] == window[2]]
    return found[0] if len(found) == 1 else None


def relative_positions(window: list[int]) -> Tensor:
    """Returns the index of relative positions of a window, flat."""
    attention = ShiftedWindowAttention3d(1, window, [0, 0, 0], 1)
    return attention.relative_position_index.flatten()


def _slowfast(prefix: str, state: Mapping[str, Tensor]) -> FoundBackbone:
    base, fast = (state[f"{path}_path.conv1.conv.weight"].shape[0] for path in ("slow", "fast"))
    blocks = _counts(state, r"slow_path\.layer(\d+)\.(?:blocks\.)?(\d+)\.", first=1)
    settings: dict[str, Any] = {
        "model_type": "slowfast",
        "base_channels": base,
        "channel_ratio": base // fast,
        "fusion_kernel": state["slow_path.conv1_lateral.conv.weight"].shape[2],
    }
    if "slow_path.conv1_lateral.bn.weight" in state:
        settings["lateral_norm"] = True
    depth = next((depth for depth, stages in DEPTHS.items() if list(stages) == blocks), None)
    settings |= {"stage_blocks": blocks} if depth is None else {"depth": depth}
    needed = ["backbone_config.resample_rate", "backbone_config.speed_ratio"]
    return FoundBackbone(prefix, _named(settings, state), SLOWFAST, needed)


def pool_every_frame(settings: Settings, origin: str) -> None:
    """Gives each frame of the fast pathway a feature, whose mean is then that of the frames, as a classifier pools.

    Args:
        settings: Of a SlowFast; changed where they do not say its `feature_stride`.
        origin: Who pools so.
    """
    rate, speed = (settings.values[f"backbone_config.{name}"] for name in ("resample_rate", "speed_ratio"))
    if isinstance(rate, int) and isinstance(speed, int) and speed > 0:
        settings.values.setdefault("backbone_config.feature_stride", max(rate // speed, 1))
        settings.origins.setdefault("backbone_config.feature_stride", origin)


def _counts(state: Mapping[str, Tensor], pattern: str, first: int = 0) -> list[int]:
    """Blocks of each stage, by names that hold the numbers of both; stages are counted from `first`."""
    numbers = {(int(match[1]), int(match[2])) for name in state if (match := re.match(pattern, name))}
    stages = max((stage for stage, _ in numbers), default=0) + 1 - first
    if not 0 < stages <= MAX_STAGES:
        raise KeyError("blocks in 1 to 8 stages")
    return [sum(stage == number + first for stage, _ in numbers) for number in range(stages)]


def _named(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    rewired = any(re.search(r"\.(inv_block|Fm)\.", name) for name in state)
    named = {f"backbone_config.{name}": value for name, value in settings.items()}
    return {**named, "rewiring": "re2tal" if rewired else "none"}
