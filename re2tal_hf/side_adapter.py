"""AdaTAD's side variant: adapters beside a frozen network, through which nothing is propagated back.

Source: arXiv 2311.17241; OpenTAD's `vit_ladder.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .reversible import HALF, Coupling, Stage
from .temporal_adapter import along_clips


class SideAdapters(nn.ModuleList):
    """One adapter for each of a network's last layers; what they make of these layers' outputs is added to the last."""


class LayerOutputs(nn.Module):
    """A stage as one module, whose output is that of several layers and not of the last alone.

    It is the entry of a stage of its own without branches, so that a frozen network runs without a graph and is not
    run again in the backward pass.

    Args:
        stage: The whole network.
        number: Of layers whose outputs are wanted, from the last backwards.
        parts: Branches of each layer.
    """

    def __init__(self, stage: Stage, number: int, parts: int):
        super().__init__()
        self.entry, self.branches = stage.entry, nn.ModuleList(stage.branches)
        self.number, self.parts = number, parts

    def forward(self, videos: Tensor, coupling: Coupling) -> Tensor:
        """What the stage takes -> `[B, number, ...]`, each as the stage's output if it ended with that layer."""
        entered = self.entry(videos)
        if entered.dtype in HALF and torch.is_autocast_enabled(entered.device.type):
            entered = entered.float()  # as every stage does
        streams = coupling.start(entered)
        outputs, first = [], len(self.branches) // self.parts - self.number
        for index, branch in enumerate(self.branches, start=1):
            increment = branch(streams.x).to(entered.dtype)
            if coupling.alpha:
                increment = increment + coupling.alpha * streams.x
            streams = coupling.advance(streams, increment)
            layer, rest = divmod(index, self.parts)
            if rest == 0 and layer > first:
                outputs.append(coupling.merge(streams))
        return torch.stack(outputs, dim=1)


class BesideClips(nn.Module):
    """Side adapters along all clips of a video.

    Args:
        adapters: One for each layer.
        steps: `T'` of a clip.
        dims: Dimensions of the tokens of clips, `N` included; those of videos `[B, clips, ...]` have one more.
    """

    def __init__(self, adapters: SideAdapters, steps: int, dims: int):
        super().__init__()
        self.adapters, self.steps, self.dims = adapters, steps, dims

    def forward(self, outputs: Tensor) -> Tensor:
        """`[B, layers, ...]` -> `[B, ...]`."""
        layers = outputs.unbind(1)
        result = layers[-1]
        for adapter, x in zip(self.adapters, layers, strict=True):
            result = result + along_clips(adapter, x, self.steps, self.dims)
        return result


def beside(stage: Stage, adapters: SideAdapters, steps: int, dims: int, parts: int) -> list[Stage]:
    """Returns the stages of a network with adapters beside it: its layers, and what the adapters make of them."""
    layers = Stage(LayerOutputs(stage, len(adapters), parts), [], coupled_entry=True)
    return [layers, Stage(BesideClips(adapters, steps, dims), [])]
