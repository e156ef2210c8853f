"""One small model of every registered architecture, for the tests that run over all of them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """A small model of a family.

    Attributes:
        name: of the case in test reports.
        config: `backbone_config`, stochastic depth and dropout off.
        deeper: settings that make its stages twice as deep and leave their shapes as they are.
        stochastic: settings that turn stochastic depth and dropout on, as far as the family has them.
        shape: frames, height and width of its input.
        odd_shape: the same, not divisible by clips, patches or windows, as far as the family takes that.
    """

    name: str
    config: dict[str, Any]
    deeper: dict[str, Any]
    stochastic: dict[str, Any]
    shape: tuple[int, int, int]
    odd_shape: tuple[int, int, int]


CASES = [
    Case(
        "video_swin",
        {
            "model_type": "video_swin",
            "embed_dim": 8,
            "depths": [2, 2],
            "num_heads": [1, 2],
            "window_size": [2, 3, 3],
            "stochastic_depth_prob": 0.0,
        },
        {"depths": [4, 4]},
        {"stochastic_depth_prob": 0.3, "dropout": 0.1, "attention_dropout": 0.1},
        (8, 32, 32),
        (9, 35, 41),
    ),
]
