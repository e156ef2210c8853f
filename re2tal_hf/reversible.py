"""Residual stages whose activations are recomputed from their output instead of stored.

A stage is an entry module followed by residual branches ``F_0 ... F_{n-1}`` of one shape. Its state is a
pair of streams ``(x, y)``, coupled by two numbers ``a`` and ``b`` (Dr2Net, arXiv 2401.04105, eq. 5)::

    start      x_0 = entry(input)                  y_0 = b x_0
    forward    x_{i+1} = F_i(x_i) + a x_i + y_i    y_{i+1} = b x_i
    inverse    x_i = y_{i+1} / b                   y_i = x_{i+1} - F_i(x_i) - a x_i
    merge      (x_n + y_n) / (1 + b)

``(a, b) = (0, 1)`` is Re2TAL's rewiring (arXiv 2211.14053): each residual connection skips one more block.
``(a, b) = (1, 0)`` is the ordinary residual stack, which has no inverse.

Gradients, with ``g`` the gradient of a quantity::

    g x_i = J_{F_i}(x_i)^T g x_{i+1} + a g x_{i+1} + b g y_{i+1}      g y_i = g x_{i+1}

Between forward and backward a stage keeps its inputs (the streams of the stages before it, which those keep
anyway) and its two output streams. This file knows nothing of video.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

Backprop = Literal["reversible", "checkpoint", "plain"]


class Coupling(NamedTuple):
    """The two coefficients of the recurrence: `a` weighs the nearer residual connection, `b` the farther."""

    a: float
    b: float


class Streams(NamedTuple):
    """State of a stage after some of its branches: `x` is the newest term, `y` what is left of the one before."""

    x: Tensor
    y: Tensor

    def merge(self, coupling: Coupling) -> Tensor:
        """Returns the stage's output, `(x + y) / (1 + b)`."""
        if coupling.b == 0:
            return self.x
        return (self.x + self.y) / (1 + coupling.b)


@dataclass
class Stage:
    """One run of residual branches of equal shape.

    Args:
        entry (`nn.Module`): From the merged output of the stage before (the model's input for the first
            stage) to the state that the branches work on: a stem, a patch merging, an ordinary block.
        branches (`Sequence[nn.Module]`): The functions `F_i`, one for each residual addition, tensor in and
            tensor of the same shape out.
    """

    entry: nn.Module
    branches: Sequence[nn.Module]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Returns the entry, at position 0, and the branches after it."""
        return (self.entry, *self.branches)


@dataclass
class ReconstructionErrors:
    """Relative errors of the inversions in the latest backward pass, one 0-dim tensor for each stage.

    After a stage is inverted `x_0` and `y_0 / b` are both the stage's input; the largest difference between
    them, relative to the largest value, is what rounding has cost.
    """

    by_stage: dict[int, Tensor] = field(default_factory=dict)

    def largest(self) -> float:
        """Returns the largest error over the stages; 0.0 before any reversible backward pass."""
        if not self.by_stage:
            return 0.0
        return float(torch.stack([error.float().cpu() for error in self.by_stage.values()]).max())


def run_stages(
    stages: Sequence[Stage],
    inputs: Tensor,
    coupling: Coupling,
    backprop: Backprop,
    errors: ReconstructionErrors | None = None,
) -> Tensor:
    """Runs a chain of stages and returns the merged output of the last.

    Args:
        stages (`Sequence[Stage]`): In order; each one's entry takes the merged output of the one before.
        inputs (`Tensor`): What the first entry takes.
        coupling (`Coupling`): Coefficients of the recurrence, the same for all stages.
        backprop (`str`): How the backward pass gets its activations: `"reversible"` recomputes them from the
            output streams, `"checkpoint"` recomputes each branch from its stored input, `"plain"` stores all.
            Outputs and gradients are the same.
        errors (`ReconstructionErrors`, *optional*): Receives the errors of the inversions.

    Raises:
        ValueError: if `backprop` is unknown, or `"reversible"` with a coupling that has no inverse (`b = 0`).
    """
    if backprop not in ("reversible", "checkpoint", "plain"):
        raise ValueError(f"backprop is {backprop!r}; choose 'reversible', 'checkpoint' or 'plain'.")
    if backprop == "reversible" and coupling.b == 0:
        raise ValueError(
            "backprop='reversible' needs a rewired network: with b = 0 the recurrence has no inverse. "
            "Use backprop='checkpoint' or 'plain', or a rewiring other than 'none'."
        )
    state: tuple[Tensor, ...] = (inputs,)
    for index, stage in enumerate(stages):
        # Not asked for in inference, where compilers cannot follow the question.
        modules = stage.modules if torch.is_grad_enabled() else ()
        parameters = [parameter for module in modules for parameter in module.parameters()]
        if not torch.is_grad_enabled() or not any(t.requires_grad for t in (*state, *parameters)):
            with torch.no_grad():
                state = _forward(stage, state, coupling)
        elif backprop == "reversible":
            record = _StageRecord(stage, coupling, index, errors)
            state = _ReversibleStage.apply(record, len(state), *state, *parameters)
        elif backprop == "checkpoint":
            state = _forward(stage, state, coupling, call=_checkpointed)
        else:
            state = _forward(stage, state, coupling)
    return _merged(state, coupling)


def _merged(state: Sequence[Tensor], coupling: Coupling) -> Tensor:
    return state[0] if len(state) == 1 else Streams(*state).merge(coupling)


def _start(entry_output: Tensor, coupling: Coupling) -> Streams:
    # Streams in half precision would lose the inverse; under autocast only the branches run in it.
    x = entry_output
    if torch.is_autocast_enabled(x.device.type) and x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    return Streams(x, _scaled(x, coupling.b))


def _advance(branch_output: Tensor, streams: Streams, coupling: Coupling) -> Streams:
    x = branch_output + streams.y if coupling.b else branch_output.to(streams.x.dtype)
    if coupling.a:
        x = x + _scaled(streams.x, coupling.a)
    return Streams(x, _scaled(streams.x, coupling.b))


def _scaled(x: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return x
    return torch.zeros_like(x) if factor == 0 else x * factor


def _called(stage: Stage, position: int, x: Tensor) -> Tensor:
    return stage.modules[position](x)


def _checkpointed(stage: Stage, position: int, x: Tensor) -> Tensor:
    return checkpoint(stage.modules[position], x, use_reentrant=False)


def _forward(
    stage: Stage,
    state: Sequence[Tensor],
    coupling: Coupling,
    call: Callable[[Stage, int, Tensor], Tensor] = _called,
) -> Streams:
    streams = _start(call(stage, 0, _merged(state, coupling)), coupling)
    for position in range(1, len(stage.modules)):
        streams = _advance(call(stage, position, streams.x), streams, coupling)
    return streams


class _RandomState(NamedTuple):
    """States of the CPU's generator and of one device's, as they stood before a module ran."""

    cpu: Tensor
    device: Tensor | None

    @classmethod
    def read(cls, device: torch.device) -> _RandomState:
        if device.type == "cpu":
            return cls(torch.get_rng_state(), None)
        return cls(torch.get_rng_state(), torch.get_device_module(device).get_rng_state(device))

    def write(self, device: torch.device) -> None:
        torch.set_rng_state(self.cpu)
        if self.device is not None:
            torch.get_device_module(device).set_rng_state(self.device, device)

    def unchanged(self, device: torch.device) -> bool:
        now = _RandomState.read(device)
        pairs = zip(self, now, strict=True)
        return all(torch.equal(a, b) for a, b in pairs if a is not None and b is not None)


@contextlib.contextmanager
def _preserved_random_state(device: torch.device) -> Iterator[None]:
    before = _RandomState.read(device)
    try:
        yield
    finally:
        before.write(device)


class _Autocast(NamedTuple):
    """Autocast as it stood in the forward pass, on the CPU and on the device of the streams."""

    settings: tuple[tuple[str, bool, torch.dtype], ...]

    @classmethod
    def read(cls, device: torch.device) -> _Autocast:
        types = dict.fromkeys(("cpu", device.type))
        return cls(tuple((t, torch.is_autocast_enabled(t), torch.get_autocast_dtype(t)) for t in types))

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for device_type, enabled, dtype in self.settings:
                stack.enter_context(torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=False))
            yield


class _StageRecord:
    """What the backward pass of one stage needs beside its tensors."""

    def __init__(self, stage: Stage, coupling: Coupling, index: int, errors: ReconstructionErrors | None):
        self.stage = stage
        self.coupling = coupling
        self.index = index
        self.errors = errors
        # By position in the stage; only modules that drew random numbers have an entry.
        self.random_states: dict[int, _RandomState] = {}

    def call(self, stage: Stage, position: int, x: Tensor) -> Tensor:
        """Runs a module of the stage, noting the random state if it draws from it."""
        before = _RandomState.read(x.device)
        output = stage.modules[position](x)
        if not before.unchanged(x.device):
            self.random_states[position] = before
        return output

    def recall(self, position: int, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        """Runs a module again as it ran in the forward pass, on the given parameter tensors."""
        if position in self.random_states:
            self.random_states[position].write(x.device)
        module = self.stage.modules[position]
        names = [name for name, _ in module.named_parameters()]
        return functional_call(module, dict(zip(names, parameters, strict=True)), (x,))


class _ReversibleStage(torch.autograd.Function):
    """One stage as a node of the graph: inputs, then parameters, in; two streams out."""

    @staticmethod
    def forward(ctx: Any, record: _StageRecord, num_inputs: int, *tensors: Tensor) -> Streams:
        inputs = tensors[:num_inputs]
        ctx.record = record
        ctx.num_inputs = num_inputs
        ctx.autocast = _Autocast.read(inputs[0].device)
        output = _forward(record.stage, inputs, record.coupling, call=record.call)
        ctx.save_for_backward(*output, *tensors)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_x: Tensor, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        record = ctx.record
        x, y, *tensors = ctx.saved_tensors
        inputs, parameters = tensors[: ctx.num_inputs], tensors[ctx.num_inputs :]
        needed = ctx.needs_input_grad[2:]
        input_needed, parameter_needed = needed[: ctx.num_inputs], needed[ctx.num_inputs :]
        slices = _parameter_slices(record.stage)
        grads: list[Tensor | None] = [None] * len(parameters)
        # Position of the first module, the entry being 0, before which no gradient is asked for.
        first = 0
        if not any(input_needed):
            first = next(i for i, where in enumerate(slices) if any(parameter_needed[where]))

        with _preserved_random_state(x.device), ctx.autocast.restored():
            streams, grad = Streams(x, y), Streams(grad_x, grad_y)
            del x, y, grad_x, grad_y
            for position in range(len(slices) - 1, max(first, 1) - 1, -1):
                where = slices[position]
                streams, grad, grads[where] = _branch_backward(
                    record, position, streams, grad, parameters[where], parameter_needed[where]
                )
            if first > 0:
                return (None, None, *[None] * ctx.num_inputs, *grads)
            _note_error(record, streams)
            start_grad = grad.x + _scaled(grad.y, record.coupling.b)
            input_grads, grads[slices[0]] = _entry_backward(
                record,
                inputs,
                input_needed,
                start_grad,
                parameters[slices[0]],
                parameter_needed[slices[0]],
            )
        return (None, None, *input_grads, *grads)


def _parameter_slices(stage: Stage) -> list[slice]:
    """Where in the flat list of a stage's parameters each of its modules has its own."""
    slices, end = [], 0
    for module in stage.modules:
        start, end = end, end + sum(1 for _ in module.parameters())
        slices.append(slice(start, end))
    return slices


def _leaves(tensors: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    return [t.detach().requires_grad_(n) for t, n in zip(tensors, needed, strict=True)]


def _gradients(output: Tensor, leaves: Sequence[Tensor], grad: Tensor) -> list[Tensor | None]:
    """Gradients of `output` for the leaves that require one, None for the others."""
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    if not wanted or not output.requires_grad:
        return [None] * len(leaves)
    found = iter(torch.autograd.grad(output, wanted, grad.to(output.dtype), allow_unused=True))
    return [next(found) if leaf.requires_grad else None for leaf in leaves]


def _branch_backward(
    record: _StageRecord,
    position: int,
    streams: Streams,
    grad: Streams,
    parameters: Sequence[Tensor],
    parameter_needed: Sequence[bool],
) -> tuple[Streams, Streams, list[Tensor | None]]:
    """Undoes the branch at `position`: state and gradient before it, and the gradients of its parameters."""
    a, b = record.coupling
    x = streams.y if b == 1 else streams.y / b
    x = x.detach().requires_grad_()
    leaves = _leaves(parameters, parameter_needed)
    with torch.enable_grad():
        output = record.recall(position, leaves, x)
    grad_x, *parameter_grads = _gradients(output, [x, *leaves], grad.x)
    x = x.detach()
    y = streams.x - output.detach()
    if a:
        y = y - _scaled(x, a)
    grad_y = grad.x
    grad_x = _scaled(grad.y, b) if grad_x is None else grad_x + _scaled(grad.y, b)
    if a:
        grad_x = grad_x + _scaled(grad.x, a)
    return Streams(x, y), Streams(grad_x, grad_y), parameter_grads


def _entry_backward(
    record: _StageRecord,
    inputs: Sequence[Tensor],
    input_needed: Sequence[bool],
    grad: Tensor,
    parameters: Sequence[Tensor],
    parameter_needed: Sequence[bool],
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Gradients of a stage's inputs and of its entry's parameters."""
    leaves = _leaves([*inputs, *parameters], [*input_needed, *parameter_needed])
    inputs, parameters = leaves[: len(inputs)], leaves[len(inputs) :]
    with torch.enable_grad():
        output = record.recall(0, parameters, _merged(inputs, record.coupling))
    grads = _gradients(output, leaves, grad)
    return grads[: len(inputs)], grads[len(inputs) :]


def _note_error(record: _StageRecord, start: Streams) -> None:
    if record.errors is None:
        return
    b = record.coupling.b
    difference = (start.x - start.y / b).abs().amax()
    record.errors.by_stage[record.index] = difference / start.x.abs().amax().clamp_min(1e-30)
