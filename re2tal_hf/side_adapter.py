"""AdaTAD's side variant: adapters beside a frozen network, through which nothing is propagated back.

Source: arXiv 2311.17241; OpenTAD's `vit_ladder.py`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from .reversible import Coupling, ReconstructionErrors, Stage, StagePass, State, called
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
        # A stage is no module: parameters are found, and modes set, through modules of this one.
        self.stage, self.own = replace(stage, sources=None), nn.ModuleList(stage.modules)
        self.number, self.parts = number, parts

    def forward(self, videos: Tensor, coupling: Coupling) -> Tensor:
        """What the stage takes -> `[B, number, ...]`, each as the stage's output if it ended with that layer."""
        stage_pass = StagePass([self.stage], [coupling], 0, ReconstructionErrors())
        streams = stage_pass.start([State((videos,), (videos,))], called)
        branches = stage_pass.calls[1:]
        outputs, first = [], len(branches) - self.parts * (self.number - 1)
        for index, branch in enumerate(branches, start=1):
            streams = stage_pass.after(branch, streams, called)
            if index >= first and index % self.parts == 0:
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
