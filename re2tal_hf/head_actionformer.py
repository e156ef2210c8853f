"""ActionFormer's localization head: a transformer pyramid.

Zhang, Wu and Li, "ActionFormer: Localizing Moments of Actions with Transformers", arXiv 2202.07925.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from .head import register_head
from .head_layers import TransformerBlock
from .head_pyramid import PyramidConfig, PyramidHead
from .loss_points import LocalizationLoss
from .value_checks import BELOW_ONE, COUNT, Range, shown


@dataclass(frozen=True, kw_only=True)
class ActionFormerConfig(PyramidConfig):
    """Settings of `ActionFormerHead`, beside those of every pyramid.

    Args:
        num_attention_heads: divides `hidden_size`.
        attention_window: width of the local attention in steps of the level, `w // 2` on either
            side of the step; None for full attention. One for all levels, or a list with one a level, finest first.
        use_relative_position_bias: whether each head of a local attention, of an odd window, learns a bias for each
            place in it (`use_rel_pe` in actionformer_release).
        dropout: in the transformer blocks.
    """

    num_attention_heads: Annotated[int, COUNT] = 4
    attention_window: Annotated[int | Sequence[int | None] | None, Range(low=2)] = None
    use_relative_position_bias: bool = False
    dropout: Annotated[float, BELOW_ONE] = 0.0

    def __post_init__(self) -> None:
        """Checks what goes together."""
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads is {self.num_attention_heads}, which does not divide "
                f"hidden_size={self.hidden_size}."
            )
        if len(self.windows) != self.num_levels:
            raise ValueError(
                f"attention_window is {shown(self.attention_window)} for num_levels={self.num_levels}; give one "
                "number, or one a level (null: full attention)."
            )
        local = [window for window in self.windows if window is not None]
        if self.use_relative_position_bias and (not local or any(window % 2 == 0 for window in local)):
            raise ValueError(
                f"use_relative_position_bias needs an odd attention_window, not {shown(self.attention_window)}: there "
                "must be as many places before a step as after it."
            )

    @property
    def windows(self) -> list[int | None]:
        """The window of each level."""
        window = self.attention_window
        return list(window) if isinstance(window, Sequence) else [window] * self.num_levels

    @property
    def length_multiple(self) -> int:
        """What the references pad inputs longer than `max_length` to a multiple of: the most steps of a window."""
        steps = [2**level * (window // 2) * 2 for level, window in enumerate(self.windows) if window is not None]
        return math.lcm(max(steps, default=1), 2 ** (self.num_levels - 1))


@register_head("actionformer", loss=LocalizationLoss, paper="ActionFormer, arXiv 2202.07925")
class ActionFormerHead(PyramidHead):
    """ActionFormer from features to predictions (arXiv 2202.07925): a pyramid of transformer blocks.

    Built from the channels of the features, the number of classes and the settings of `ActionFormerConfig`.
    """

    config_class: ClassVar = ActionFormerConfig
    boundary_size: ClassVar[int] = 2

    def __init__(self, input_size: int, num_labels: int, **settings: Any):
        config = self.config_class(**settings)
        blocks = [
            TransformerBlock(
                config.hidden_size,
                config.num_attention_heads,
                stride=2 if level else 1,
                window=config.windows[level],
                dropout=config.dropout,
                drop_path=config.drop_path,
                branch_scale=config.branch_scale,
                isolate_padding=config.isolate_padding,
                relative_positions=config.use_relative_position_bias,
            )
            for level in config.block_levels
        ]
        super().__init__(input_size, num_labels, config, blocks=blocks, boundary_size=self.boundary_size)
        self.initialize_weights()
