"""SlowFast networks (arXiv 1812.03982) and their pathways alone, with the parameter names of mmaction2's models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from .value_checks import BELOW_ONE, COUNT

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of each stage, by depth (arXiv 1512.03385, table 1)."""

Depth = Literal[50, 101, 152]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# Output channels of a bottleneck for each of its width.
EXPANSION = 4

# Scale that a branch begins with. At 1, activations of the deep networks grow until the inverse is lost, as long as
# the norms' statistics are not yet those of data; at 0, the ReLU after a rewired branch would never open.
BRANCH_SCALE = 0.2


class ConvNorm(nn.Sequential):
    """A convolution that keeps the number of frames, its batch norm and, if `activation`, a ReLU."""

    conv: nn.Conv3d
    bn: nn.BatchNorm3d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int],
        spatial_stride: int = 1,
        activation: bool = True,
    ):
        frames, height, width = kernel_size
        conv = nn.Conv3d(
            in_channels,
            out_channels,
            kernel_size,
            stride=(1, spatial_stride, spatial_stride),
            padding=(frames // 2, height // 2, width // 2),
            bias=False,
        )
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, bn=nn.BatchNorm3d(out_channels))
        if activation:
            layers["relu"] = nn.ReLU(inplace=True)
        super().__init__(layers)


class Bottleneck(nn.Module):
    """Residual block of three convolutions, `t x 1 x 1`, `1 x 3 x 3` and `1 x 1 x 1`, with a ReLU after the sum.

    Args:
        in_channels, width: Channels of the input and between the convolutions; the output has `4 * width`.
        temporal_kernel: The size `t`.
        spatial_stride: Stride over height and width.
        projection: Whether the shortcut is a convolution, as in the first block of a stage.
    """

    def __init__(self, in_channels: int, width: int, temporal_kernel: int, spatial_stride: int, projection: bool):
        super().__init__()
        out_channels = EXPANSION * width
        self.conv1 = ConvNorm(in_channels, width, (temporal_kernel, 1, 1))
        self.conv2 = ConvNorm(width, width, (1, 3, 3), spatial_stride)
        self.conv3 = ConvNorm(width, out_channels, (1, 1, 1), activation=False)
        self.downsample = None
        if projection:
            self.downsample = ConvNorm(in_channels, out_channels, (1, 1, 1), spatial_stride, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T, H, W]` -> `[B, 4 * width, T, H / spatial_stride, W / spatial_stride]`, rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.conv3(self.conv2(self.conv1(x))) + shortcut)


class FrameSampling(nn.Module):
    """Every so many frames, from the first: `[B, C, T, H, W]` -> `[B, C, T / stride, H, W]`, rounded up."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Returns a view."""
        return x[:, :, :: self.stride]


class Pathway(nn.Module):
    """A 3D ResNet that keeps the number of frames.

    Args:
        stage_blocks: Number of blocks of each stage.
        base_channels: Channels of the stem; stage `i` puts out `4 * base_channels * 2**i`.
        stem_kernel: Frames that the stem's kernel spans.
        first_temporal_stage: Stage from which on kernels span 3 frames, 0 for the first.
        lateral_channels: Channels that come into each stage from elsewhere.
    """

    def __init__(
        self,
        stage_blocks: Sequence[int],
        base_channels: int,
        stem_kernel: int,
        first_temporal_stage: int,
        lateral_channels: Sequence[int] | None = None,
    ):
        super().__init__()
        self.conv1 = ConvNorm(3, base_channels, (stem_kernel, 7, 7), spatial_stride=2)
        self.maxpool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.num_stages = len(stage_blocks)
        channels = base_channels
        for i, num_blocks in enumerate(stage_blocks):
            width = base_channels * 2**i
            temporal_kernel = 3 if i >= first_temporal_stage else 1
            channels += lateral_channels[i] if lateral_channels else 0
            blocks = [Bottleneck(channels, width, temporal_kernel, 2 if i else 1, projection=True)]
            channels = EXPANSION * width
            blocks += [Bottleneck(channels, width, temporal_kernel, 1, projection=False) for _ in range(1, num_blocks)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.out_channels = channels

    @property
    def layers(self) -> list[nn.Sequential]:
        """Returns the blocks of each stage."""
        return [getattr(self, f"layer{i + 1}") for i in range(self.num_stages)]

    def stem(self, frame_stride: int) -> nn.Sequential:
        """Returns what leads from the frames of the video to the first stage."""
        return nn.Sequential(FrameSampling(frame_stride), self.conv1, self.maxpool)


class SlowPathway(Pathway):
    """The slow pathway, to whose stages a fast one is joined by convolutions over time with a stride (section 3.3).

    Args:
        stage_blocks, base_channels: As for [`Pathway`].
        fast_channels: Channels of the fast pathway's stem.
        fusion_kernel: Fast frames that a lateral kernel spans.
        speed_ratio: Fast frames for each slow one.
        lateral_norm: See [`SlowFast`].
    """

    def __init__(
        self,
        stage_blocks: Sequence[int],
        base_channels: int,
        fast_channels: int,
        fusion_kernel: int,
        speed_ratio: int,
        lateral_norm: bool,
    ):
        before = [fast_channels, *(fast_channels * EXPANSION * 2**i for i in range(len(stage_blocks) - 1))]
        super().__init__(stage_blocks, base_channels, 1, 2, lateral_channels=[2 * channels for channels in before])
        for name, channels in zip(self._lateral_names(), before, strict=True):
            conv = nn.Conv3d(
                channels,
                2 * channels,
                (fusion_kernel, 1, 1),
                stride=(speed_ratio, 1, 1),
                padding=(fusion_kernel // 2, 0, 0),
                bias=False,
            )
            layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
            if lateral_norm:
                layers |= {"bn": nn.BatchNorm3d(2 * channels), "relu": nn.ReLU(inplace=True)}
            self.add_module(name, nn.Sequential(layers))

    def _lateral_names(self) -> list[str]:
        return ["conv1_lateral", *(f"layer{i}_lateral" for i in range(1, self.num_stages))]

    @property
    def laterals(self) -> list[nn.Sequential]:
        """Returns what leads from the fast pathway into each stage: from its stem, then from its stage before."""
        return [getattr(self, name) for name in self._lateral_names()]


class ClassificationHead(nn.Module):
    """Dropout and a linear layer: pooled features `[B, D]` -> logits `[B, num_classes]`."""

    def __init__(self, feature_size: int, num_classes: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(feature_size, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits."""
        return self.fc_cls(self.dropout(features))


def initialize_layers(model: nn.Module) -> None:
    """Draws all weights of a 3D ResNet anew, convolutions as in arXiv 1502.01852."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm3d):
            for ones in (module.weight, module.running_var):
                if ones is not None:
                    nn.init.ones_(ones)
            for zeros in (module.bias, module.running_mean, module.num_batches_tracked):
                if zeros is not None:
                    nn.init.zeros_(zeros)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


def initialize_weights(model: SlowFast | SinglePathway) -> None:
    """Draws all weights anew; the branches begin at a fraction of their scale."""
    initialize_layers(model)
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.conv3.bn.weight, BRANCH_SCALE)


class SlowFast(nn.Module):
    """A slow pathway of many channels and a fast one of few and many frames, joined by lateral connections.

    The slow pathway takes every `resample_rate`-th frame, from the first; the number of frames need not be a
    multiple of it. The defaults are those of the 4x16 setting.

    Args:
        depth: 50, 101 or 152; sets `stage_blocks`.
        stage_blocks: Number of blocks of each stage; wins over `depth`.
        base_channels: Channels of the slow pathway's stem.
        channel_ratio: Channels of the slow pathway for each of the fast one's.
        resample_rate: Input frames for each frame of the slow pathway.
        speed_ratio: Frames of the fast pathway for each of the slow one's.
        fusion_kernel: Fast frames that a lateral connection spans; odd.
        lateral_norm: Whether a lateral connection ends in a batch norm and a ReLU, as in PySlowFast and PyTorchVideo.
        feature_stride: Input frames for each temporal feature; by default `resample_rate`.
        num_classes: Size of the classifier; None for none.
        dropout: Before the classifier.
        norm_eval: Whether batch norms use their running statistics in training too, as in the published localization
            settings; their parameters are trained all the same.

    Raises:
        ValueError: if sizes do not go together.
    """

    def __init__(
        self,
        depth: Depth = 50,
        *,
        stage_blocks: Annotated[Sequence[int] | None, COUNT] = None,
        base_channels: Annotated[int, COUNT] = 64,
        channel_ratio: Annotated[int, COUNT] = 8,
        resample_rate: Annotated[int, COUNT] = 8,
        speed_ratio: Annotated[int, COUNT] = 8,
        fusion_kernel: Annotated[int, COUNT] = 5,
        lateral_norm: bool = False,
        feature_stride: Annotated[int | None, COUNT] = None,
        num_classes: Annotated[int | None, COUNT] = None,
        dropout: Annotated[float, BELOW_ONE] = 0.5,
        norm_eval: bool = True,
    ):
        super().__init__()
        self.check_sizes(base_channels, channel_ratio, resample_rate, speed_ratio, fusion_kernel, feature_stride)
        self.resample_rate = resample_rate
        self.speed_ratio = speed_ratio
        self.frame_stride = resample_rate // speed_ratio
        self.feature_stride = feature_stride or resample_rate
        self.norm_eval = norm_eval
        blocks = stage_blocks or _blocks_of(depth)
        fast_channels = base_channels // channel_ratio
        self.slow_path = SlowPathway(blocks, base_channels, fast_channels, fusion_kernel, speed_ratio, lateral_norm)
        self.fast_path = Pathway(blocks, fast_channels, stem_kernel=5, first_temporal_stage=0)
        self.feature_size = self.slow_path.out_channels + self.fast_path.out_channels
        self.cls_head = _head(self.feature_size, num_classes, dropout)
        initialize_weights(self)
        self.train()

    @staticmethod
    def check_sizes(
        base_channels: int,
        channel_ratio: int,
        resample_rate: int,
        speed_ratio: int,
        fusion_kernel: int,
        feature_stride: int | None,
        **others: Any,
    ) -> None:
        """Raises a `ValueError` if sizes do not go together; takes all settings by name."""
        _check_multiple("base_channels", base_channels, "channel_ratio", channel_ratio)
        _check_multiple("resample_rate", resample_rate, "speed_ratio", speed_ratio)
        if fusion_kernel % 2 == 0:
            raise ValueError(f"fusion_kernel is {fusion_kernel}; choose an odd number.")
        _check_multiple(
            "feature_stride", feature_stride or resample_rate, "the frame stride", resample_rate // speed_ratio
        )

    def train(self, mode: bool = True) -> SlowFast:
        """As in PyTorch; with `norm_eval`, batch norms stay in evaluation mode."""
        super().train(mode)
        return _norms_in_evaluation(self) if self.norm_eval else self

    def pathways(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From `[B, 3, T, H, W]` to the outputs of the slow and of the fast pathway."""
        slow = self.slow_path.stem(self.resample_rate)(x)
        fast = self.fast_path.stem(self.frame_stride)(x)
        for lateral, slow_layer, fast_layer in zip(
            self.slow_path.laterals, self.slow_path.layers, self.fast_path.layers, strict=True
        ):
            slow = slow_layer(torch.cat((slow, lateral(fast)), dim=1))
            fast = fast_layer(fast)
        return slow, fast

    def forward(self, x: Tensor) -> Tensor:
        """From `[B, 3, T, H, W]` to logits, or without classifier to what it would take."""
        slow, fast = (output.mean((2, 3, 4)) for output in self.pathways(x))
        return self.cls_head(torch.cat((fast, slow), dim=1))


class SinglePathway(Pathway):
    """One pathway as a network of its own.

    Args:
        depth: As for [`SlowFast`].
        stem_kernel, first_temporal_stage: As for [`Pathway`].
        resample_rate: Input frames for each frame of the pathway.
        base_channels, stage_blocks, feature_stride, num_classes, dropout, norm_eval: As for [`SlowFast`].

    Raises:
        ValueError: if sizes do not go together.
    """

    def __init__(
        self,
        depth: Depth,
        stem_kernel: int,
        first_temporal_stage: int,
        *,
        base_channels: Annotated[int, COUNT],
        resample_rate: Annotated[int, COUNT],
        stage_blocks: Annotated[Sequence[int] | None, COUNT] = None,
        feature_stride: Annotated[int | None, COUNT] = None,
        num_classes: Annotated[int | None, COUNT] = None,
        dropout: Annotated[float, BELOW_ONE] = 0.5,
        norm_eval: bool = True,
    ):
        super().__init__(stage_blocks or _blocks_of(depth), base_channels, stem_kernel, first_temporal_stage)
        self.resample_rate = resample_rate
        self.feature_stride = feature_stride or resample_rate
        self.check_sizes(resample_rate, feature_stride)
        self.norm_eval = norm_eval
        self.cls_head = _head(self.out_channels, num_classes, dropout)
        initialize_weights(self)
        self.train()

    @staticmethod
    def check_sizes(resample_rate: int, feature_stride: int | None, **others: Any) -> None:
        """Raises a `ValueError` if sizes do not go together; takes all settings by name."""
        _check_multiple("feature_stride", feature_stride or resample_rate, "resample_rate", resample_rate)

    def train(self, mode: bool = True) -> SinglePathway:
        """As in PyTorch; with `norm_eval`, batch norms stay in evaluation mode."""
        super().train(mode)
        return _norms_in_evaluation(self) if self.norm_eval else self

    def forward(self, x: Tensor) -> Tensor:
        """From `[B, 3, T, H, W]` to logits, or without classifier to what it would take."""
        x = self.stem(self.resample_rate)(x)
        for layer in self.layers:
            x = layer(x)
        return self.cls_head(x.mean((2, 3, 4)))


class SlowOnly(SinglePathway):
    """A slow pathway without a fast one; settings as of [`SinglePathway`]."""

    def __init__(
        self,
        depth: Depth = 50,
        *,
        base_channels: Annotated[int, COUNT] = 64,
        resample_rate: Annotated[int, COUNT] = 8,
        **settings: Any,
    ):
        super().__init__(depth, 1, 2, base_channels=base_channels, resample_rate=resample_rate, **settings)


class FastOnly(SinglePathway):
    """A fast pathway without a slow one; settings as of [`SinglePathway`]."""

    def __init__(
        self,
        depth: Depth = 50,
        *,
        base_channels: Annotated[int, COUNT] = 8,
        resample_rate: Annotated[int, COUNT] = 1,
        **settings: Any,
    ):
        super().__init__(depth, 5, 0, base_channels=base_channels, resample_rate=resample_rate, **settings)


def _check_multiple(name: str, value: int, divisor_name: str, divisor: int) -> None:
    if value <= 0 or value % divisor:
        raise ValueError(f"{name} is {value}; choose a multiple of {divisor}, {divisor_name}.")


def _blocks_of(depth: int) -> tuple[int, ...]:
    if depth not in DEPTHS:
        raise ValueError(f"depth is {depth}; choose one of {sorted(DEPTHS)}, or give stage_blocks.")
    return DEPTHS[depth]


def _head(feature_size: int, num_classes: int | None, dropout: float) -> nn.Module:
    return nn.Identity() if num_classes is None else ClassificationHead(feature_size, num_classes, dropout)


def _norms_in_evaluation(model: ModuleT) -> ModuleT:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model
