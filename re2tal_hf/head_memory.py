"""How heads of long videos keep little: parts run again in the backward pass, and along time some steps at a time.

What a part with a finite reach, such as a convolution or a local attention, says of some steps rests on these and a few
to either side. So it can be had chunk by chunk, each with these steps more, and differentiated likewise: the same
numbers, of which only the inputs are kept, and never the activations of more than one chunk are there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .reversible_replay import RecordedCall, apply, as_leaves, first_derivatives, gradients

# More keep more and are not faster; with fewer, the steps to either side take time.
CHUNK_STEPS = 1024


def run_block(block: nn.Module, *inputs: Tensor, recomputes: bool) -> Any:
    """Runs a part of a head; with `recomputes` it keeps its inputs only, and the backward pass runs it again."""
    if recomputes and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


class Method(nn.Module):
    """A method of a module, from tensors to a tensor, as a module."""

    def __init__(self, module: nn.Module, method: str = "__call__"):
        super().__init__()
        self.module = module
        self.method = method

    def forward(self, *arguments: Any) -> Tensor:
        """Returns what the method does, of several results the first."""
        output = getattr(self.module, self.method)(*arguments)
        return output[0] if isinstance(output, tuple) else output


def in_chunks(
    part: nn.Module,
    sequences: Sequence[Tensor],
    whole: Sequence[Tensor] = (),
    *constants: Any,
    reach: int = 0,
    stride: int = 1,
    summed: bool = False,
) -> Tensor:
    """Runs a part over sequences of the same length, some steps at a time; of the graph only the inputs are kept.

    The gradients are those of the part at one go. Dropout draws chunk by chunk, hence other numbers than at one go;
    what is to be drawn once for a sequence belongs to `whole`.

    Args:
        part: Takes as many sequences, then `whole`, then `constants`; returns `[B, T / stride, ...]`.
        sequences: `[B, T, ...]` each.
        whole: Tensors that all chunks see, such as a mean over the sequence.
        constants: Further arguments.
        reach: Steps to either side on which an output rests.
        stride: 1, or 2 if the part halves the sequence.
        summed: Whether the part returns sums over the steps that it is given, which are added up. Then `reach` is 0.
    """
    parameters = list(part.parameters())
    setting = _Setting(part, constants, len(sequences), len(whole), reach, stride, summed)
    return apply(_InChunks, setting, *sequences, *whole, *parameters)


class _Setting(NamedTuple):
    part: nn.Module
    constants: tuple[Any, ...]
    num_sequences: int
    num_whole: int
    reach: int
    stride: int
    summed: bool


class _Chunk(NamedTuple):
    """Steps that a part is given; of what it says, what holds; where that belongs."""

    given: slice
    holds: slice
    place: slice


def _chunks(length: int, reach: int, stride: int) -> Iterator[_Chunk]:
    size = max(CHUNK_STEPS // stride, 1) * stride
    reach = math.ceil(reach / stride) * stride
    for start in range(0, length, size):
        end = min(start + size, length)
        first = max(start - reach, 0)
        place = slice(start // stride, math.ceil(end / stride))
        shift = first // stride
        yield _Chunk(slice(first, end + reach), slice(place.start - shift, place.stop - shift), place)


class _InChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, setting: _Setting, *tensors: Tensor) -> Tensor:
        ctx.setting, ctx.calls = setting, []
        ctx.save_for_backward(*tensors)
        sequences, whole = tensors[: setting.num_sequences], tensors[setting.num_sequences :][: setting.num_whole]
        length = sequences[0].shape[1]
        output: Tensor | None = None
        for chunk in _chunks(length, setting.reach, setting.stride):
            call = RecordedCall(setting.part, *setting.constants)
            said = call(*(sequence[:, chunk.given] for sequence in sequences), *whole)
            ctx.calls.append((chunk, call))
            if setting.summed:
                output = said if output is None else output + said
                continue
            if output is None:
                shape = (len(said), math.ceil(length / setting.stride), *said.shape[2:])
                output = said.new_empty(shape)
            output[:, chunk.place] = said[:, chunk.holds]
        assert output is not None
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        setting: _Setting = ctx.setting
        tensors, num = ctx.saved_tensors, setting.num_sequences
        needed = ctx.needs_input_grad[1:]
        with torch.no_grad():
            found: list[Tensor | None] = [
                torch.zeros_like(tensor) if needs and index < num else None
                for index, (tensor, needs) in enumerate(zip(tensors, needed, strict=True))
            ]
            for chunk, call in reversed(ctx.calls):
                given = [t[:, chunk.given] if index < num else t for index, t in enumerate(tensors)]
                leaves = as_leaves(given, needed)
                inputs = num + setting.num_whole
                with torch.enable_grad():
                    said = call.again(leaves[inputs:], *leaves[:inputs])
                    said = said if setting.summed else said[:, chunk.holds]
                own = gradients(said, leaves, grad if setting.summed else grad[:, chunk.place])
                for index, more in enumerate(own):
                    total = found[index]
                    if more is None:
                        continue
                    if index < num:
                        assert total is not None
                        total[:, chunk.given] += more
                    else:
                        found[index] = more if total is None else total.add_(more)
        return (None, *first_derivatives(found, [grad]))
