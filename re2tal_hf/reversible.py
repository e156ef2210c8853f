"""Residual stages whose activations are recomputed from their output instead of stored.

A stage is an entry module followed by residual branches ``F_0 ... F_{n-1}`` of one shape. Its state is a
pair of streams ``(x, y)``, coupled by two coefficients (Dr2Net, arXiv 2401.04105, eq. 5)::

    start      x_0 = entry(input)                          y_0 = beta x_0
    advance    x_{i+1} = h(F_i(x_i) + alpha x_i) + y_i     y_{i+1} = beta x_i
    undo       x_i = y_{i+1} / beta                        y_i = x_{i+1} - h(F_i(x_i) + alpha x_i)
    merge      (x_n + y_n) / (1 + beta)

``h`` is what the original network applies to the sum of a residual connection: the last ReLU of a ResNet's
block, the identity in a transformer. ``(alpha, beta) = (0, 1)`` is Re2TAL's rewiring (arXiv 2211.14053): each
residual connection skips one more block. ``(1, 0)`` is the ordinary residual stack, which has no inverse.

Gradients, with ``g`` the gradient of a quantity and ``J_i`` the Jacobian of ``h(F_i(x) + alpha x)`` at ``x_i``::

    g x_i = J_i^T g x_{i+1} + beta g y_{i+1}      g y_i = g x_{i+1}

Between forward and backward a stage keeps its inputs (the streams of the stages before it, which those keep
anyway) and its two output streams; one without branches keeps its single output. This file knows nothing of
video; how a module is run again as it ran is in `reversible_replay.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn

from .reversible_replay import RecordedCall, apply, as_leaves, first_derivatives, gradients, recomputed

Backprop = Literal["reversible", "checkpoint", "plain"]


class Streams(NamedTuple):
    """State of a stage after some of its branches: `x` is the newest term, `y` what is left of the one before."""

    x: Tensor
    y: Tensor


class Coupling(NamedTuple):
    """The two coefficients of the recurrence: `alpha` weighs the nearer residual connection, `beta` the farther."""

    alpha: float
    beta: float

    def start(self, entered: Tensor) -> Streams:
        """Returns the state before the first branch."""
        return Streams(entered, _scaled(entered, self.beta))

    def advance(self, streams: Streams, increment: Tensor) -> Streams:
        """Returns the state after a branch, whose `increment` is `h(F_i(x_i) + alpha x_i)`."""
        x = increment + streams.y if self.beta else increment
        return Streams(x, _scaled(streams.x, self.beta))

    def input_of_branch(self, streams: Streams) -> Tensor:
        """Returns `x_i`, from the state after the branch."""
        return streams.y if self.beta == 1 else streams.y / self.beta

    def undo(self, streams: Streams, x: Tensor, increment: Tensor) -> Streams:
        """Returns the state before a branch, from that after it, the branch's input and its increment."""
        return Streams(x, streams.x - increment)

    def merge(self, streams: Streams) -> Tensor:
        """Returns the stage's output."""
        return (streams.x + streams.y) / (1 + self.beta) if self.beta else streams.x


def _scaled(x: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return x
    return torch.zeros_like(x) if factor == 0 else x * factor


State: TypeAlias = tuple[Tensor, ...]
"""The model's input or the output of a stage without branches (one tensor), or two streams."""

INPUT = -1
"""Position of the model's input among the sources of a stage."""


@dataclass
class Stage:
    """One run of residual branches of equal shape.

    Args:
        entry: From the merged outputs of its sources to the state that the branches work on: a stem, a patch merging,
            an ordinary block, a fusion of two pathways.
        branches: The functions `F_i`, one for each residual addition, tensor in and tensor of the same shape out; may
            be empty.
        sources: Positions of the stages whose merged outputs the entry takes, in the order of its arguments; `INPUT`
            for the model's input. By default the stage before.
        activation: The function `h`, elementwise and without parameters; by default the identity.
        coupled_entry: Whether the entry takes the stage's coupling too, as its last argument: it may end in a residual
            addition of its own, whose shortcut changes the shape.
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

    def positions_of_sources(self, index: int) -> Sequence[int]:
        """Returns its `sources`, where it is the stage at position `index`."""
        return (index - 1,) if self.sources is None else self.sources


@dataclass
class ReconstructionErrors:
    """Relative errors of the inversions in the latest backward pass, one 0-dim tensor for each stage.

    After a stage is inverted `x_0` and `y_0 / beta` are both the stage's input; the largest difference between
    them, relative to the largest value, is what rounding has cost.
    """

    by_stage: dict[int, Tensor] = field(default_factory=dict)

    def largest(self) -> float:
        """Returns the largest error over the stages; 0.0 before any reversible backward pass."""
        if not self.by_stage:
            return 0.0
        return float(torch.stack([error.float().cpu() for error in self.by_stage.values()]).max())

    def note(self, stage: int, start: Streams, coupling: Coupling) -> None:
        """Measures the error by the state that the inversion of a stage ended at."""
        difference = (start.x - coupling.input_of_branch(start)).abs().amax()
        self.by_stage[stage] = difference / start.x.abs().amax().clamp_min(1e-30)


def run_stages(
    stages: Sequence[Stage],
    inputs: Tensor,
    coupling: Coupling | Sequence[Coupling],
    backprop: Backprop | Sequence[Backprop],
    errors: ReconstructionErrors | None = None,
    probes: Collection[int] = (),
    stage_outputs: list[Tensor] | None = None,
) -> list[Tensor]:
    """Runs stages, in order, and returns the merged outputs of those that are no other's source.

    Args:
        stages: In an order in which every stage comes after its sources.
        inputs: The model's input.
        coupling: Coefficients of the recurrence.
        backprop: How the backward pass gets its activations: `"reversible"` recomputes them from the output streams,
            `"checkpoint"` recomputes each module from its stored input, `"plain"` stores all. Outputs and gradients are
            the same.
        errors: Receives the errors of the inversions.
        probes: Positions of stages that are inverted once after their forward pass, for nothing but the error that this
            would have.
        stage_outputs: Receives the merged outputs of all stages.

    Raises:
        ValueError: if `backprop` is unknown, or `"reversible"` with a coupling that has no inverse (`beta = 0`).
    """
    couplings = [coupling] * len(stages) if isinstance(coupling, Coupling) else list(coupling)
    modes = [backprop] * len(stages) if isinstance(backprop, str) else list(backprop)
    errors = ReconstructionErrors() if errors is None else errors
    states: list[State] = []
    ends = set(range(len(stages)))
    for index, (stage, own, mode) in enumerate(zip(stages, couplings, modes, strict=True)):
        _check_mode(own, mode)
        ends -= set(stage.positions_of_sources(index))
        stage_pass = StagePass(stages, couplings, index, errors)
        states.append(stage_pass.run(stage_pass.sources(inputs, states), mode, probed=index in probes))
    if stage_outputs is not None:
        stage_outputs += map(merged, states, couplings)
    return [merged(states[index], couplings[index]) for index in sorted(ends)]


def _check_mode(coupling: Coupling, backprop: str) -> None:
    if backprop not in get_args(Backprop):
        raise ValueError(f"backprop is {backprop!r}; choose 'reversible', 'checkpoint' or 'plain'.")
    if backprop == "reversible" and coupling.beta == 0:
        raise ValueError(
            "backprop='reversible' needs a rewired network: with beta = 0 the recurrence has no inverse. "
            "Use backprop='checkpoint' or 'plain', or a rewiring other than 'none'."
        )


def merged(state: State, coupling: Coupling | None) -> Tensor:
    """Returns the output of a stage, or the model's input, from its state."""
    if len(state) == 1:
        return state[0]
    assert coupling is not None
    return coupling.merge(Streams(*state))


class StagePass:
    """One pass over a stage, forward and back.

    Args:
        stages: All of the model.
        couplings: One for each stage.
        index: Position of the stage.
        errors: Receives the error of the inversion.

    Attributes:
        calls: The entry and the branches.
    """

    def __init__(
        self, stages: Sequence[Stage], couplings: Sequence[Coupling], index: int, errors: ReconstructionErrors
    ):
        self.stage = stage = stages[index]
        self.coupling = couplings[index]
        self.positions = stage.positions_of_sources(index)
        self.source_couplings = [None if position == INPUT else couplings[position] for position in self.positions]
        self.index = index
        self.errors = errors
        entry_constants = (self.coupling,) if stage.coupled_entry else ()
        self.calls = [RecordedCall(stage.entry, *entry_constants), *map(RecordedCall, stage.branches)]

    def sources(self, inputs: Tensor, states: Sequence[State]) -> list[State]:
        """Returns what the stage takes, from the model's input and the states of the stages before."""
        return [(inputs,) if position == INPUT else states[position] for position in self.positions]

    def is_trained(self, sources: Sequence[State]) -> bool:
        """Whether anything in the stage or before it has a gradient."""
        # Parameters are not asked for in inference, where compilers cannot follow the question.
        if not torch.is_grad_enabled():
            return False
        tensors = [tensor for state in sources for tensor in state]
        return any(t.requires_grad for t in itertools.chain(tensors, *(call.parameters for call in self.calls)))

    def run(self, sources: Sequence[State], backprop: Backprop, probed: bool) -> State:
        """Runs the stage; `probed` as for `run_stages`."""
        if not self.is_trained(sources):
            with torch.no_grad():
                return self.forward(sources, called)
        if backprop == "reversible":
            tensors = [tensor for state in sources for tensor in state]
            parameters = [parameter for call in self.calls for parameter in call.parameters]
            return apply(_ReversibleStage, self, [len(state) for state in sources], *tensors, *parameters)
        if probed:
            state = self.forward(sources, recomputed if backprop == "checkpoint" else RecordedCall.__call__)
            self.probe_inversion(state)
            return state
        return self.forward(sources, recomputed if backprop == "checkpoint" else called)

    def forward(self, sources: Sequence[State], run: Callable[..., Tensor]) -> State:
        """`run` takes a recorded call and the inputs of its module."""
        entry, *branches = self.calls
        streams = self.coupling.start(_in_stream_precision(run(entry, *self.entry_inputs(sources))))
        if not branches:
            return (streams.x,)
        for branch in branches:
            streams = self.coupling.advance(streams, self.increment(run(branch, streams.x), streams.x))
        return streams

    def entry_inputs(self, sources: Sequence[State]) -> list[Tensor]:
        """Returns the merged outputs of the sources."""
        return [merged(state, coupling) for state, coupling in zip(sources, self.source_couplings, strict=True)]

    def increment(self, branch_output: Tensor, x: Tensor) -> Tensor:
        """`h(F_i(x) + alpha x)`, in the precision of the streams."""
        alpha, activation = self.coupling.alpha, self.stage.activation
        increment = branch_output if alpha == 0 else branch_output + _scaled(x, alpha)
        return (increment if activation is None else activation(increment)).to(x.dtype)

    def branch_backward(
        self, position: int, streams: Streams, grad: Streams, parameters: Sequence[Tensor]
    ) -> tuple[Streams, Streams, list[Tensor | None]]:
        """Undoes a branch: state and gradient before it, and the gradients of its parameters."""
        x = self.coupling.input_of_branch(streams).detach().requires_grad_()
        with torch.enable_grad():
            increment = self.increment(self.calls[position].again(parameters, x), x)
        grad_x, *parameter_grads = gradients(increment, [x, *parameters], grad.x)
        before = self.coupling.undo(streams, x.detach(), increment.detach())
        grad_through_y = _scaled(grad.y, self.coupling.beta)
        grad_x = grad_through_y if grad_x is None else grad_x + grad_through_y
        return before, Streams(grad_x, grad.x), parameter_grads

    @torch.no_grad()
    def probe_inversion(self, state: State) -> None:
        """Inverts the stage for its error only, right after its forward pass."""
        if not self.stage.branches or self.coupling.beta == 0:
            return
        streams = Streams(*state)
        for call in reversed(self.calls[1:]):
            x = self.coupling.input_of_branch(streams)
            increment = self.increment(call.again(call.parameters, x), x)
            streams = self.coupling.undo(streams, x, increment)
        self.errors.note(self.index, streams, self.coupling)


def called(call: RecordedCall, *inputs: Tensor) -> Tensor:
    """Runs a module and records nothing."""
    return call.module(*inputs, *call.constants)


def _in_stream_precision(x: Tensor) -> Tensor:
    # Streams in half precision would lose the inverse; under autocast only the branches run in it.
    half = x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if half and torch.is_autocast_enabled(x.device.type) else x


class _ReversibleStage(torch.autograd.Function):
    """One stage as a node of the graph: the tensors of its sources, then its parameters, in; its state out."""

    @staticmethod
    def forward(ctx: Any, stage_pass: StagePass, lengths: Sequence[int], *tensors: Tensor) -> State:
        ctx.stage_pass = stage_pass
        ctx.lengths = lengths
        sources = _split(tensors[: sum(lengths)], lengths)
        state = stage_pass.forward(sources, RecordedCall.__call__)
        # Of a stage without branches nothing is inverted, so its output is not needed.
        ctx.num_streams = len(state) if stage_pass.stage.branches else 0
        ctx.save_for_backward(*state[: ctx.num_streams], *tensors)
        return state

    @staticmethod
    def backward(ctx: Any, *state_grads: Tensor) -> tuple[Tensor | None, ...]:
        # An outer checkpoint lets them be read once.
        saved = ctx.saved_tensors
        state, tensors = saved[: ctx.num_streams], saved[ctx.num_streams :]
        del saved
        with torch.no_grad():
            leaves = as_leaves(tensors, ctx.needs_input_grad[2:])
            del tensors
            grads = _stage_backward(ctx.stage_pass, ctx.lengths, state, leaves, state_grads)
        return (None, None, *first_derivatives(grads, state_grads))


def _stage_backward(
    stage_pass: StagePass, lengths: Sequence[int], state: State, leaves: Sequence[Tensor], state_grads: State
) -> list[Tensor | None]:
    """Gradients of `leaves`, the tensors of a stage's sources and its parameters, where they require one.

    Args:
        stage_pass: The forward pass.
        lengths: Number of tensors of each source.
        state: The output streams; empty if the stage has no branches.
        leaves: Detached.
        state_grads: Gradients of the stage's output.
    """
    sizes = [sum(lengths), *(len(call.parameters) for call in stage_pass.calls)]
    inputs, entry_parameters, *branch_parameters = _split(leaves, sizes)
    # Once all that is left is without gradient, going on would be for nothing.
    needed = list(itertools.accumulate((any(t.requires_grad for t in part) for part in _split(leaves, sizes)), max))
    branch_grads: list[Sequence[Tensor | None]] = [[None] * len(part) for part in branch_parameters]
    start_grad = state_grads[0]
    if state:
        streams, grad = Streams(*state), Streams(*state_grads)
        del state, state_grads
        for branch in reversed(range(len(branch_parameters))):
            if not needed[branch + 2]:
                return [*[None] * sum(sizes[:2]), *itertools.chain(*branch_grads)]
            streams, grad, branch_grads[branch] = stage_pass.branch_backward(
                branch + 1, streams, grad, branch_parameters[branch]
            )
        stage_pass.errors.note(stage_pass.index, streams, stage_pass.coupling)
        start_grad = grad.x + _scaled(grad.y, stage_pass.coupling.beta)
    entry_grads: Sequence[Tensor | None] = [None] * sum(sizes[:2])
    if needed[1]:
        with torch.enable_grad():
            merged = stage_pass.entry_inputs(_split(inputs, lengths))
            entered = stage_pass.calls[0].again(entry_parameters, *merged)
        entry_grads = gradients(entered, [*inputs, *entry_parameters], start_grad)
    return [*entry_grads, *itertools.chain(*branch_grads)]


def _split(tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[State]:
    ends = list(itertools.accumulate(lengths))
    return [tuple(tensors[end - length : end]) for end, length in zip(ends, lengths, strict=True)]
