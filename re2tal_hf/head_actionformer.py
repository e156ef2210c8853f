"""ActionFormer's localization head: a transformer pyramid.

Zhang, Wu and Li, "ActionFormer: Localizing Moments of Actions with Transformers", arXiv 2202.07925.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from .head import register_head
from .head_layers import TransformerBlock
from .head_pyramid import PyramidConfig, PyramidHead
from .loss_points import LocalizationLoss
from .value_checks import BELOW_ONE, COUNT, Range


@dataclass(frozen=True, kw_only=True)
class ActionFormerConfig(PyramidConfig):
    """Settings of `ActionFormerHead`, beside those of every pyramid.

    Args:
        num_attention_heads: divides `hidden_size`.
        attention_window: width of the local attention in steps of the level, `w // 2` on either
            side of the step; None for full attention.
        use_relative_position_bias: whether each head of a local attention, of an odd window, learns a bias for each
            place in it (`use_rel_pe` in actionformer_release).
        dropout: in the transformer blocks.
    """

    num_attention_heads: Annotated[int, COUNT] = 4
    attention_window: Annotated[int | None, Range(low=2)] = None
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
        if self.use_relative_position_bias and (self.attention_window or 0) % 2 == 0:
            raise ValueError(
                f"use_relative_position_bias needs an odd attention_window, not {self.attention_window}: there must be "
                "as many places before a step as after it."
            )


@register_head("actionformer", loss=LocalizationLoss, paper="ActionFormer, arXiv 2202.07925")
class ActionFormerHead(PyramidHead):
    """ActionFormer from features to predictions (arXiv 2202.07925): a pyramid of transformer blocks.

    Built from the channels of the features, the number of classes and the settings of `ActionFormerConfig`.
    """

    config_class: ClassVar = ActionFormerConfig

    def __init__(self, input_size: int, num_labels: int, **settings: Any):
        config = ActionFormerConfig(**settings)
        length_multiple = 2 ** (config.num_levels - 1)
        if not config.isolate_padding and config.attention_window is not None:
            length_multiple *= 2 * (config.attention_window // 2)
        stem, pyramid = (
            [
                TransformerBlock(
                    config.hidden_size,
                    config.num_attention_heads,
                    stride=stride,
                    window=config.attention_window,
                    dropout=config.dropout,
                    drop_path=config.drop_path,
                    branch_scale=config.branch_scale,
                    isolate_padding=config.isolate_padding,
                    relative_positions=config.use_relative_position_bias,
                )
                for _ in range(count)
            ]
            for stride, count in ((1, config.num_stem_layers), (2, config.num_levels - 1))
        )
        super().__init__(input_size, num_labels, config, stem=stem, pyramid=pyramid, length_multiple=length_multiple)
        self.initialize_weights()
