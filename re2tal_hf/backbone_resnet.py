"""Video ResNets (arXiv 1711.11248) as torchvision ships them: R3D, MC3, R(2+1)D, with torchvision's parameter names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.video.resnet import (
    BasicBlock,
    BasicStem,
    Bottleneck,
    Conv2Plus1D,
    Conv3DNoTemporal,
    Conv3DSimple,
    R2Plus1dStem,
    VideoResNet,
)

from .architecture import Architecture, TemporalReach, register_backbone
from .network_slowfast import initialize_layers
from .reversible import Stage
from .value_checks import Range

BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}
STEMS = {"basic": BasicStem, "2plus1d": R2Plus1dStem}
CONVOLUTIONS = {"3d": Conv3DSimple, "2d": Conv3DNoTemporal, "2plus1d": Conv2Plus1D}
VARIANTS: dict[str, dict[str, Any]] = {
    "r3d_18": {"stem": "basic", "conv_makers": ("3d", "3d", "3d", "3d")},
    "mc3_18": {"stem": "basic", "conv_makers": ("3d", "2d", "2d", "2d")},
    "r2plus1d_18": {"stem": "2plus1d", "conv_makers": ("2plus1d", "2plus1d", "2plus1d", "2plus1d")},
}


def residual_branch(block: BasicBlock | Bottleneck) -> nn.Sequential:
    """Returns a block without its shortcut and without the ReLU after the sum."""
    last = [block.conv3] if isinstance(block, Bottleneck) else []
    return nn.Sequential(block.conv1, block.conv2, *last)


@register_backbone
class VideoResNetArchitecture(Architecture):
    """torchvision's `r3d_18`, `mc3_18`, `r2plus1d_18` and free depths."""

    model_type = "video_resnet"
    model_class = VideoResNet

    def build(
        self,
        *,
        variant: Literal["r3d_18", "mc3_18", "r2plus1d_18"] = "r3d_18",
        block: Literal["basic", "bottleneck"] = "basic",
        layers: Annotated[Sequence[int], Range(low=1, length=4)] = (2, 2, 2, 2),
        stem: Literal["basic", "2plus1d"] | None = None,
        conv_makers: Annotated[Sequence[Literal["3d", "2d", "2plus1d"]] | None, Range(length=4)] = None,
    ) -> VideoResNet:
        """Builds a video ResNet without classifier.

        Args:
            variant: `"r3d_18"`, `"mc3_18"` or `"r2plus1d_18"`: sets `stem` and `conv_makers`.
            block: `"basic"` or `"bottleneck"`.
            layers: Number of blocks of each of the four stages.
            stem: `"basic"` or `"2plus1d"`.
            conv_makers: Convolutions of each stage: `"3d"`, `"2d"` (no temporal extent) or `"2plus1d"`.
        """
        settings = VARIANTS[variant]
        model = VideoResNet(
            block=BLOCKS[block],
            conv_makers=[CONVOLUTIONS[c] for c in conv_makers or settings["conv_makers"]],
            layers=list(layers),
            stem=STEMS[stem or settings["stem"]],
        )
        model.fc = nn.Identity()
        return model

    def stages(self, model: VideoResNet, size: Sequence[int] | None = None) -> list[Stage]:
        """Returns the runs of blocks of equal shape; a block that changes it begins the next stage."""
        stages = []
        entry, branches = [model.stem], []
        for block in _blocks(model):
            if block.downsample is None:
                branches.append(residual_branch(block))
                continue
            if branches:
                stages.append(Stage(nn.Sequential(*entry), branches, activation=torch.relu))
                entry, branches = [], []
            entry.append(block)
        stages.append(Stage(nn.Sequential(*entry), branches, activation=torch.relu))
        return stages

    def norm(self, model: VideoResNet, *outputs: Tensor) -> Tensor:
        return outputs[0].permute(0, 2, 3, 4, 1)

    def classify(self, model: VideoResNet, features: Tensor) -> Tensor:
        return model.fc(model.avgpool(features.permute(0, 4, 1, 2, 3)).flatten(1))

    def initialize(self, model: VideoResNet) -> None:
        initialize_layers(model)

    def feature_size(self, model: VideoResNet) -> int:
        return model.inplanes

    def feature_stride(self, model: VideoResNet) -> int:
        shortcuts = [block.downsample for block in _blocks(model) if block.downsample is not None]
        convolutions = [m for part in (model.stem, *shortcuts) for m in part.modules() if isinstance(m, nn.Conv3d)]
        return math.prod(convolution.stride[0] for convolution in convolutions)

    def temporal_reach(self, model: VideoResNet) -> TemporalReach:
        frames, rate = 0, 1
        for part in (model.stem, *(residual_branch(block) for block in _blocks(model))):
            for convolution in (module for module in part.modules() if isinstance(module, nn.Conv3d)):
                frames += convolution.kernel_size[0] // 2 * rate
                rate *= convolution.stride[0]
        return TemporalReach(frames, rate)


def _blocks(model: VideoResNet) -> list[BasicBlock | Bottleneck]:
    return [block for layer in (model.layer1, model.layer2, model.layer3, model.layer4) for block in layer]
