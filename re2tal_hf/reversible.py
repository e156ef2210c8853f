"""Residual stages whose activations are recomputed from their output instead of stored.

A stage is an entry module followed by residual branches ``F_0 ... F_{n-1}`` of one shape. Its state is a
pair of streams ``(x, y)``, coupled by two numbers ``a`` and ``b`` (Dr2Net, arXiv 2401.04105, eq. 5)::

    start      x_0 = entry(input)                  y_0 = b x_0
    forward    x_{i+1} = h(F_i(x_i) + a x_i) + y_i    y_{i+1} = b x_i
    inverse    x_i = y_{i+1} / b                      y_i = x_{i+1} - h(F_i(x_i) + a x_i)
    merge      (x_n + y_n) / (1 + b)

``h`` is what the original network applies to the sum of a residual connection: the last ReLU of a ResNet's
block, the identity in a transformer. ``(a, b) = (0, 1)`` is Re2TAL's rewiring (arXiv 2211.14053): each residual
connection skips one more block. ``(a, b) = (1, 0)`` is the ordinary residual stack, which has no inverse.

Gradients, with ``g`` the gradient of a quantity and ``J_i`` the Jacobian of ``h(F_i(x) + a x)`` at ``x_i``::

    g x_i = J_i^T g x_{i+1} + b g y_{i+1}      g y_i = g x_{i+1}

Between forward and backward a stage keeps its inputs (the streams of the stages before it, which those keep
anyway) and its two output streams; one without branches keeps its single output. This file knows nothing of
video.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

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


State: TypeAlias = tuple[Tensor, ...]
"""The model's input or the output of a stage without branches (one tensor), or two streams."""

INPUT = -1
"""Position of the model's input among the sources of a stage."""


@dataclass
class Stage:
    """One run of residual branches of equal shape.

    Args:
        entry (`nn.Module`): From the merged outputs of its sources to the state that the branches work on: a
            stem, a patch merging, an ordinary block, a fusion of two pathways.
        branches (`Sequence[nn.Module]`): The functions `F_i`, one for each residual addition, tensor in and
            tensor of the same shape out; may be empty.
        sources (`Sequence[int]`, *optional*): Positions of the stages whose merged outputs the entry takes, in
            the order of its arguments; `INPUT` for the model's input. By default the stage before.
        activation (`Callable`, *optional*): The function `h`, elementwise and without parameters; by default
            the identity.
        coupled_entry (`bool`): Whether the entry takes the stage's coupling too, as its last argument: it may end
            in a residual addition of its own, whose shortcut changes the shape.
    """

    entry: nn.Module
    branches: Sequence[nn.Module]
    sources: Sequence[int] | None = None
    activation: Callable[[Tensor], Tensor] | None = None
    coupled_entry: bool = False

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
    coupling: Coupling | Sequence[Coupling],
    backprop: Backprop | Sequence[Backprop],
    errors: ReconstructionErrors | None = None,
    probes: Collection[int] = (),
) -> list[Tensor]:
    """Runs stages, in order, and returns the merged outputs of those that are no other's source.

    Args:
        stages (`Sequence[Stage]`): In an order in which every stage comes after its sources.
        inputs (`Tensor`): The model's input.
        coupling (`Coupling` or one for each stage): Coefficients of the recurrence.
        backprop (`str` or one for each stage): How the backward pass gets its activations: `"reversible"`
            recomputes them from the output streams, `"checkpoint"` recomputes each module from its stored input,
            `"plain"` stores all. Outputs and gradients are the same.
        errors (`ReconstructionErrors`, *optional*): Receives the errors of the inversions.
        probes (`Collection[int]`): Positions of stages that are inverted once after their forward pass, for
            nothing but the error that this would have.

    Raises:
        ValueError: if `backprop` is unknown, or `"reversible"` with a coupling that has no inverse (`b = 0`).
    """
    couplings = [coupling] * len(stages) if isinstance(coupling, Coupling) else list(coupling)
    modes = [backprop] * len(stages) if isinstance(backprop, str) else list(backprop)
    states: list[State] = []
    ends = set(range(len(stages)))
    for index, (stage, own, mode) in enumerate(zip(stages, couplings, modes, strict=True)):
        _check_mode(own, mode)
        positions = (index - 1,) if stage.sources is None else stage.sources
        ends -= set(positions)
        sources = [(inputs,) if position == INPUT else states[position] for position in positions]
        merges = [None if position == INPUT else couplings[position] for position in positions]
        record = _StageRecord(stage, own, merges, index, errors)
        states.append(_run_stage(record, sources, mode, probed=index in probes))
    return [_merged(states[index], couplings[index]) for index in sorted(ends)]


def _check_mode(coupling: Coupling, backprop: str) -> None:
    if backprop not in get_args(Backprop):
        raise ValueError(f"backprop is {backprop!r}; choose 'reversible', 'checkpoint' or 'plain'.")
    if backprop == "reversible" and coupling.b == 0:
        raise ValueError(
            "backprop='reversible' needs a rewired network: with b = 0 the recurrence has no inverse. "
            "Use backprop='checkpoint' or 'plain', or a rewiring other than 'none'."
        )


def _run_stage(record: _StageRecord, sources: Sequence[State], backprop: Backprop, probed: bool = False) -> State:
    tensors = [tensor for state in sources for tensor in state]
    # Not asked for in inference, where compilers cannot follow the question.
    modules = record.stage.modules if torch.is_grad_enabled() else ()
    parameters = [parameter for module in modules for parameter in module.parameters()]
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in (*tensors, *parameters)):
        with torch.no_grad():
            return _forward(record, sources, _called)
    if backprop == "reversible":
        lengths = [len(state) for state in sources]
        return _ReversibleStage.apply(record, lengths, *tensors, *parameters)
    call = _checkpointed if backprop == "checkpoint" else _called
    if not probed:
        return _forward(record, sources, call)
    state = _forward(record, sources, partial(_noting_random_states, call=call))
    _probe_inversion(record, state)
    return state


def _merged(state: State, coupling: Coupling | None) -> Tensor:
    if len(state) == 1:
        return state[0]
    assert coupling is not None
    return Streams(*state).merge(coupling)


def _start(entry_output: Tensor, coupling: Coupling) -> Streams:
    # Streams in half precision would lose the inverse; under autocast only the branches run in it.
    x = entry_output
    if torch.is_autocast_enabled(x.device.type) and x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    return Streams(x, _scaled(x, coupling.b))


def _increment(record: _StageRecord, branch_output: Tensor, x: Tensor) -> Tensor:
    """`h(F_i(x) + a x)`, in the precision of the streams."""
    a, activation = record.coupling.a, record.stage.activation
    increment = branch_output if a == 0 else branch_output + _scaled(x, a)
    return (increment if activation is None else activation(increment)).to(x.dtype)


def _advance(increment: Tensor, streams: Streams, coupling: Coupling) -> Streams:
    x = increment + streams.y if coupling.b else increment
    return Streams(x, _scaled(streams.x, coupling.b))


def _scaled(x: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return x
    return torch.zeros_like(x) if factor == 0 else x * factor


def _called(record: _StageRecord, position: int, *inputs: Any) -> Tensor:
    return record.stage.modules[position](*inputs)


def _checkpointed(record: _StageRecord, position: int, *inputs: Any) -> Tensor:
    module = record.stage.modules[position]
    contexts = contextlib.nullcontext(), _RunningStatisticsKept(module)
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=lambda: contexts)


def _noting_random_states(
    record: _StageRecord, position: int, *inputs: Any, call: Callable[..., Tensor] = _called
) -> Tensor:
    device = inputs[0].device
    before = _RandomState.read(device)
    output = call(record, position, *inputs)
    if not before.unchanged(device):
        record.random_states[position] = before
    return output


def _forward(record: _StageRecord, sources: Sequence[State], call: Callable[..., Tensor]) -> State:
    entered = call(record, 0, *record.merge(sources))
    streams = _start(entered, record.coupling)
    if not record.stage.branches:
        return (streams.x,)
    for position in range(1, len(record.stage.modules)):
        increment = _increment(record, call(record, position, streams.x), streams.x)
        streams = _advance(increment, streams, record.coupling)
    return streams


class _RunningStatisticsKept:
    """Context in which batch norms update copies of their running statistics, once the forward pass has updated them.

    It may be entered several times, by one backward pass after another.
    """

    def __init__(self, module: nn.Module):
        self.module = module

    def __enter__(self) -> None:
        modules = self.module.modules()
        self.norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
        self.kept = [norm._buffers for norm in self.norms]
        for norm, buffers in zip(self.norms, self.kept, strict=True):
            norm._buffers = {name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()}

    def __exit__(self, *exception: object) -> None:
        for norm, buffers in zip(self.norms, self.kept, strict=True):
            norm._buffers = buffers


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
    """What the passes over one stage need beside its tensors."""

    def __init__(
        self,
        stage: Stage,
        coupling: Coupling,
        source_couplings: Sequence[Coupling | None],
        index: int,
        errors: ReconstructionErrors | None,
    ):
        self.stage = stage
        self.coupling = coupling
        self.source_couplings = source_couplings
        self.index = index
        self.errors = errors
        # By position in the stage; only modules that drew random numbers have an entry.
        self.random_states: dict[int, _RandomState] = {}

    def merge(self, sources: Sequence[State]) -> list[Any]:
        """Returns what the entry takes."""
        merged = [_merged(state, coupling) for state, coupling in zip(sources, self.source_couplings, strict=True)]
        return [*merged, self.coupling] if self.stage.coupled_entry else merged

    def recall(self, position: int, parameters: Sequence[Tensor], *inputs: Any) -> Tensor:
        """Runs a module again as it ran in the forward pass, on the given parameter tensors."""
        if position in self.random_states:
            self.random_states[position].write(inputs[0].device)
        module = self.stage.modules[position]
        names = [name for name, _ in module.named_parameters()]
        with _RunningStatisticsKept(module):
            return functional_call(module, dict(zip(names, parameters, strict=True)), inputs)


class _ReversibleStage(torch.autograd.Function):
    """One stage as a node of the graph: the tensors of its sources, then its parameters, in; its state out."""

    @staticmethod
    def forward(ctx: Any, record: _StageRecord, lengths: Sequence[int], *tensors: Tensor) -> State:
        num_inputs = sum(lengths)
        inputs = tensors[:num_inputs]
        ctx.record = record
        ctx.lengths = lengths
        ctx.autocast = _Autocast.read(inputs[0].device)
        output = _forward(record, _split(inputs, lengths), _noting_random_states)
        # Of a stage without branches nothing is inverted, so its output is not needed.
        ctx.save_for_backward(*(output if record.stage.branches else ()), *tensors)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor | None, ...]:
        record = ctx.record
        num_outputs, num_inputs = (2 if record.stage.branches else 0), sum(ctx.lengths)
        output, tensors = ctx.saved_tensors[:num_outputs], ctx.saved_tensors[num_outputs:]
        inputs, parameters = tensors[:num_inputs], tensors[num_inputs:]
        needed = ctx.needs_input_grad[2:]
        input_needed, parameter_needed = needed[:num_inputs], needed[num_inputs:]
        slices = _parameter_slices(record.stage)
        grads: list[Tensor | None] = [None] * len(parameters)
        # Position of the first module, the entry being 0, before which no gradient is asked for.
        first = 0
        if not any(input_needed):
            first = next(i for i, where in enumerate(slices) if any(parameter_needed[where]))

        with _preserved_random_state(inputs[0].device), ctx.autocast.restored():
            start_grad = output_grads[0]
            if output:
                streams, grad = Streams(*output), Streams(*output_grads)
                del output, output_grads
                for position in range(len(slices) - 1, max(first, 1) - 1, -1):
                    where = slices[position]
                    streams, grad, grads[where] = _branch_backward(
                        record, position, streams, grad, parameters[where], parameter_needed[where]
                    )
                start_grad = grad.x + _scaled(grad.y, record.coupling.b)
            if first > 0:
                return (None, None, *[None] * num_inputs, *grads)
            if record.stage.branches:
                _note_error(record, streams)
            leaves = _leaves([*inputs, *parameters[slices[0]]], [*input_needed, *parameter_needed[slices[0]]])
            entry_grads = _entry_backward(record, leaves, ctx.lengths, start_grad)
            grads[slices[0]] = entry_grads[num_inputs:]
        return (None, None, *entry_grads[:num_inputs], *grads)


def _split(tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[State]:
    ends = list(itertools.accumulate(lengths))
    return [tuple(tensors[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


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
    b = record.coupling.b
    x = streams.y if b == 1 else streams.y / b
    x = x.detach().requires_grad_()
    leaves = _leaves(parameters, parameter_needed)
    with torch.enable_grad():
        increment = _increment(record, record.recall(position, leaves, x), x)
    grad_x, *parameter_grads = _gradients(increment, [x, *leaves], grad.x)
    y = streams.x - increment.detach()
    grad_through_y = _scaled(grad.y, b)
    grad_x = grad_through_y if grad_x is None else grad_x + grad_through_y
    return Streams(x.detach(), y), Streams(grad_x, grad.x), parameter_grads


def _entry_backward(
    record: _StageRecord, leaves: Sequence[Tensor], lengths: Sequence[int], grad: Tensor
) -> list[Tensor | None]:
    """Gradients of `leaves`: the tensors of a stage's sources, then the parameters of its entry."""
    num_inputs = sum(lengths)
    with torch.enable_grad():
        entered = record.merge(_split(leaves[:num_inputs], lengths))
        output = record.recall(0, leaves[num_inputs:], *entered)
    return _gradients(output, leaves, grad)


@torch.no_grad()
def _probe_inversion(record: _StageRecord, state: State) -> None:
    if not record.stage.branches or record.coupling.b == 0:
        return
    streams = Streams(*state)
    parameters = [list(module.parameters()) for module in record.stage.modules]
    with _preserved_random_state(streams.x.device):
        for position in range(len(parameters) - 1, 0, -1):
            x = _scaled(streams.y, 1 / record.coupling.b)
            increment = _increment(record, record.recall(position, parameters[position], x), x)
            streams = Streams(x, streams.x - increment)
    _note_error(record, streams)


def _note_error(record: _StageRecord, start: Streams) -> None:
    if record.errors is None:
        return
    b = record.coupling.b
    difference = (start.x - start.y / b).abs().amax()
    record.errors.by_stage[record.index] = difference / start.x.abs().amax().clamp_min(1e-30)
