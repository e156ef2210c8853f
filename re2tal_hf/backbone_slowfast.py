"""SlowFast, slow-only and fast-only networks: their stages, residual branches and temporal features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from .architecture import Architecture, TemporalReach, register_backbone
from .backbone_rates import at_feature_rate
from .network_slowfast import (
    DEPTHS,
    Bottleneck,
    FastOnly,
    SinglePathway,
    SlowFast,
    SlowOnly,
    initialize_weights,
)
from .reversible import INPUT, Stage
from .value_checks import Arguments, arguments_of

SETTINGS = {
    "4x16": {"resample_rate": 8, "speed_ratio": 8, "fusion_kernel": 5},
    "8x8": {"resample_rate": 4, "speed_ratio": 4, "fusion_kernel": 7},
}
"""Settings by number and distance of the slow frames; of the video, the input has every second frame."""


def residual_branch(block: Bottleneck) -> nn.Sequential:
    """Returns a block without its shortcut and without the ReLU after the sum."""
    return nn.Sequential(block.conv1, block.conv2, block.conv3)


class FirstBlock(nn.Module):
    """What leads into a stage: the first block, whose shortcut `d` changes the shape, and what comes before it.

    Its residual connection is rewired as those of the other blocks are: with the branch `F` and the coupling
    `(alpha, beta)` it gives `relu(F(x) + alpha d(x)) + beta d(x)`, the block itself at `(1, 0)`.

    Args:
        block: The first block of the stage.
        stem: From the first input to what the block takes.
        lateral: From the second input, the fast pathway, to what is joined to it.
    """

    def __init__(self, block: Bottleneck, stem: nn.Module | None, lateral: nn.Module | None):
        super().__init__()
        self.stem = nn.Identity() if stem is None else stem
        self.lateral = lateral
        self.branch = residual_branch(block)
        self.shortcut = nn.Identity() if block.downsample is None else block.downsample

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        """From `[B, C, T, H, W]`, the fast pathway's output if there is a lateral connection, and the coupling."""
        *fast, coupling = others
        x = self.stem(x)
        if self.lateral is not None:
            x = torch.cat((x, self.lateral(*fast)), dim=1)
        increment, shortcut = self.branch(x), self.shortcut(x)
        if coupling.alpha:
            increment = increment + coupling.alpha * shortcut
        increment = torch.relu(increment)
        return increment + coupling.beta * shortcut if coupling.beta else increment


def residual_stage(
    layer: nn.Sequential,
    sources: Sequence[int] | None = None,
    stem: nn.Module | None = None,
    lateral: nn.Module | None = None,
) -> Stage:
    """Makes a stage of the blocks of `layer`; `stem` and `lateral` are those of its [`FirstBlock`]."""
    first, *others = cast("list[Bottleneck]", list(layer))
    branches = [residual_branch(block) for block in others]
    return Stage(FirstBlock(first, stem, lateral), branches, sources, activation=torch.relu, coupled_entry=True)


VARIANTS = [f"{depth}_{setting}" for depth in DEPTHS for setting in SETTINGS]
"""Depths and settings of the published networks."""


def temporal_span(layer: nn.Module) -> int:
    """Returns how many of its frames a layer sees on each side."""
    return sum(module.kernel_size[0] // 2 for module in layer.modules() if isinstance(module, nn.Conv3d))


class VariantsArchitecture(Architecture):
    """A family whose settings are those of its network and a variant, such as `"101_8x8"`."""

    model_class: ClassVar[type[SlowFast | SinglePathway]]

    def build(self, *, variant: str | None = None, **settings: Any) -> SlowFast | SinglePathway:
        """Builds a network without classifier.

        Args:
            variant: Depth and setting, such as `"50_4x16"` or `"101_8x8"`.
            settings: Arguments of the network; they win over the variant's.
        """
        return self.model_class(**self._sizes({"variant": variant, **settings}))

    def settings(self) -> Arguments:
        network = arguments_of(self.model_class)
        names = {name: hint for name, hint in network.items() if name not in ("stem_kernel", "first_temporal_stage")}
        return Arguments({"variant": Literal[tuple(VARIANTS)] | None, **names}, defaults=network.defaults)

    def check(self, settings: Mapping[str, Any], where: str = "backbone_config.") -> None:
        """As of every family; rates and channels must go together."""
        super().check(settings, where)
        try:
            self.model_class.check_sizes(**{**self.settings().defaults, **self._sizes(settings)})
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error

    def _sizes(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the network: those of the variant, over which the others win."""
        own = {name: value for name, value in settings.items() if name != "variant"}
        if (variant := settings.get("variant")) is None:
            return own
        depth, _, setting = variant.partition("_")
        return {"depth": int(depth), **self.variant_sizes(SETTINGS[setting]), **own}

    def variant_sizes(self, setting: Mapping[str, int]) -> dict[str, int]:
        """What a variant sets, beside the depth."""
        return {"resample_rate": setting["resample_rate"]}


@register_backbone
class SlowFastArchitecture(VariantsArchitecture):
    """[`SlowFast`] in the published and in free sizes."""

    model_type = "slowfast"
    model_class = SlowFast

    def variant_sizes(self, setting: Mapping[str, int]) -> dict[str, int]:
        return dict(setting)

    def stages(self, model: SlowFast, size: Sequence[int] | None = None) -> list[Stage]:
        """Returns the fast stem, then by turns the stages of the slow and of the fast pathway."""
        stages = [Stage(model.fast_path.stem(model.frame_stride), [], sources=[INPUT])]
        stem: nn.Module | None = model.slow_path.stem(model.resample_rate)
        slow_source, fast_source = INPUT, 0
        for lateral, slow_layer, fast_layer in zip(
            model.slow_path.laterals, model.slow_path.layers, model.fast_path.layers, strict=True
        ):
            stages.append(residual_stage(slow_layer, [slow_source, fast_source], stem, lateral))
            stages.append(residual_stage(fast_layer, [fast_source]))
            stem, slow_source, fast_source = None, len(stages) - 2, len(stages) - 1
        return stages

    def norm(self, model: SlowFast, *outputs: Tensor) -> Tensor:
        """Pools over space; the features are those of the fast frames, beside each the slow frame that it lies in."""
        slow, fast = (output.mean((3, 4)).transpose(1, 2) for output in outputs)
        slow = slow.repeat_interleave(model.speed_ratio, dim=1)[:, : fast.shape[1]]
        return torch.cat((slow, fast), dim=-1)

    def classify(self, model: SlowFast, features: Tensor) -> Tensor:
        """The classifier takes the fast pathway's features first, as mmaction2's does."""
        slow, fast = self._pathways(model, features)
        return model.cls_head(torch.cat((fast.mean(1), slow.mean(1)), dim=-1))

    def temporal_features(self, model: SlowFast, features: Tensor) -> Tensor:
        """Brings both pathways to the rate of the features: the slow one's channels, then the fast one's."""
        slow, fast = self._pathways(model, features)
        length = -(-fast.shape[1] * model.frame_stride // model.feature_stride)
        slow = at_feature_rate(slow, model.resample_rate, model.feature_stride, length)
        fast = at_feature_rate(fast, model.frame_stride, model.feature_stride, length)
        return torch.cat((slow, fast), dim=-1)

    def temporal_reach(self, model: SlowFast) -> TemporalReach:
        slow_rate, fast_rate, stride = model.resample_rate, model.frame_stride, model.feature_stride
        slow, fast = (temporal_span(path.conv1) * rate for path, rate in self._paths(model))
        for lateral, slow_layer, fast_layer in zip(
            model.slow_path.laterals, model.slow_path.layers, model.fast_path.layers, strict=True
        ):
            # The slow frame stands for several fast ones.
            slow = max(slow, fast + temporal_span(lateral) * fast_rate) + temporal_span(slow_layer) * slow_rate
            fast += temporal_span(fast_layer) * fast_rate
        return TemporalReach(max(slow, fast) + max(slow_rate, stride), math.lcm(slow_rate, fast_rate, stride))

    def _paths(self, model: SlowFast) -> list[tuple[Any, int]]:
        return [(model.slow_path, model.resample_rate), (model.fast_path, model.frame_stride)]

    def _pathways(self, model: SlowFast, features: Tensor) -> tuple[Tensor, Tensor]:
        slow_channels = model.slow_path.out_channels
        return features[:, :: model.speed_ratio, :slow_channels], features[..., slow_channels:]

    def initialize(self, model: SlowFast) -> None:
        initialize_weights(model)

    def feature_size(self, model: SlowFast) -> int:
        return model.feature_size

    def feature_stride(self, model: SlowFast) -> int:
        return model.feature_stride


class SinglePathwayArchitecture(VariantsArchitecture):
    """What slow-only and fast-only networks have in common."""

    def stages(self, model: SinglePathway, size: Sequence[int] | None = None) -> list[Stage]:
        first, *others = model.layers
        stem = model.stem(model.resample_rate)
        return [residual_stage(first, stem=stem), *(residual_stage(layer) for layer in others)]

    def norm(self, model: SinglePathway, *outputs: Tensor) -> Tensor:
        return outputs[0].permute(0, 2, 3, 4, 1)

    def classify(self, model: SinglePathway, features: Tensor) -> Tensor:
        return model.cls_head(features.mean((1, 2, 3)))

    def temporal_features(self, model: SinglePathway, features: Tensor) -> Tensor:
        """Pools over space and brings the frames to the rate of the features."""
        pooled = features.mean((2, 3))
        length = -(-pooled.shape[1] * model.resample_rate // model.feature_stride)
        return at_feature_rate(pooled, model.resample_rate, model.feature_stride, length)

    def temporal_reach(self, model: SinglePathway) -> TemporalReach:
        rate, stride = model.resample_rate, model.feature_stride
        span = sum(temporal_span(part) for part in (model.conv1, *model.layers))
        return TemporalReach(span * rate + max(rate, stride), math.lcm(rate, stride))

    def initialize(self, model: SinglePathway) -> None:
        initialize_weights(model)

    def feature_size(self, model: SinglePathway) -> int:
        return model.out_channels

    def feature_stride(self, model: SinglePathway) -> int:
        return model.feature_stride


@register_backbone
class SlowOnlyArchitecture(SinglePathwayArchitecture):
    """[`SlowOnly`] in the published and in free sizes."""

    model_type = "slow_only"
    model_class = SlowOnly


@register_backbone
class FastOnlyArchitecture(SinglePathwayArchitecture):
    """[`FastOnly`] in the published and in free sizes."""

    model_type = "fast_only"
    model_class = FastOnly

    def variant_sizes(self, setting: Mapping[str, int]) -> dict[str, int]:
        """The features come at the rate of the variant's slow pathway."""
        return {"feature_stride": setting["resample_rate"]}
