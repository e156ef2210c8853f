"""Weights, gradients and the optimiser's means shared out among the processes of a run, by PyTorch's FSDP2.

The unit is the whole model: a step gathers the weights once, and between two steps each process holds its share only.
With smaller units, each attention and MLP, parameters got no gradient from a reversible backward pass, which calls
modules again, and no error said so (torch 2.14); stages and branches are no modules of the model. Parameters without
dimensions, which FSDP2 does not take, stay whole on all processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module) -> None:
    """Shares the weights of a model out, in place; to be called on all processes, which have the same weights."""
    fully_shard(model, ignored_params={parameter for parameter in model.parameters() if parameter.dim() == 0})


def describe_shares(model: nn.Module) -> str:
    """Says how much of the weights this process holds between two steps."""
    weights = [*model.parameters()]
    held = sum(weight.to_local().nbytes if isinstance(weight, DTensor) else weight.nbytes for weight in weights)
    whole = sum(weight.numel() * weight.element_size() for weight in weights)
    count = torch.distributed.get_world_size()
    return f"The weights are shared out among {count} processes: {held / 1e6:.1f} of {whole / 1e6:.1f} MB are here."


class WholeModel:
    """The whole weights of a model that is shared out, as `AveragedModel` takes a model; on all processes."""

    def __init__(self, model: nn.Module):
        self.model = model

    def parameters(self) -> Iterator[Tensor]:
        """Yields them in their order, one gathered at a time."""
        assert isinstance(self.model, FSDPModule)
        self.model.reshard()  # a step without a backward pass has not
        for parameter in self.model.parameters():
            yield _whole(parameter.detach())

    def buffers(self) -> Iterator[Tensor]:
        """Yields them in their order."""
        return self.model.buffers()

    @torch.no_grad()
    def copy_to(self, other: nn.Module) -> None:
        """Gives a model that is not shared out the same parameters and buffers."""
        for mine, theirs in ((self.parameters(), other.parameters()), (self.buffers(), other.buffers())):
            for value, kept in zip(mine, theirs, strict=True):
                kept.copy_(value)


def whole_state(state: Any, kept: bool) -> Any:
    """Returns a state with whole tensors, on the processor where they were shared out; to be called on all.

    Args:
        state: Of dicts, lists and values.
        kept: Whether this process needs them.
    """
    if isinstance(state, DTensor):
        found = _whole(state)
        return found.cpu() if kept else None
    if isinstance(state, dict):
        return {name: whole_state(value, kept) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(whole_state(value, kept) for value in state)
    return state


def shared_weights(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Returns this process's share of the whole state of a model."""
    own = model.state_dict()
    return {name: _share(value, own[name]) if name in own else value for name, value in state.items()}


def shared_means(state: dict[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """Returns this process's share of the whole state of an optimiser of these parameters."""
    means = {
        number: {name: _share(value, parameters[number]) for name, value in of_one.items()}
        for number, of_one in state["state"].items()
    }
    return {**state, "state": means}


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], largest: float) -> Tensor:
    """Scales the gradients of all processes to a norm of at most `largest`; returns the norm they had.

    Those of parameters that are not shared out become their mean over the processes first, as the others are.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = []
    for gradient in gradients:
        if not isinstance(gradient, DTensor):
            torch.distributed.all_reduce(gradient)
            gradient /= torch.distributed.get_world_size()
    shares = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    rest = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    if shares:
        squares.append(_whole(torch.nn.utils.get_total_norm(shares)) ** 2)
    if rest:
        squares.append(torch.nn.utils.get_total_norm(rest) ** 2)
    norm = torch.stack(squares).sum().sqrt()
    if norm > largest:
        scale = (largest / (norm + 1e-6)).item()
        for gradient in gradients:
            gradient *= scale
    return norm


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _share(value: Any, like: Tensor) -> Any:
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    # Every process has the whole: nothing is sent.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
