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
video; how a module is run again as it ran is in `reversible_replay.py`, and how `undo` is made exact by rounding what
is added in `stream_grid.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn

from .reversible_replay import RecordedCall, apply, as_leaves, first_derivatives, gradients, recomputed
from .stream_grid import StreamGrid

Backprop = Literal["reversible", "checkpoint", "plain"]

T = TypeVar("T")
HALF = (torch.float16, torch.bfloat16)


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
        # A node of its own: so autograd sums the gradients of the two as the inversion does, to the bit.
        y = entered.view_as(entered) if self.beta == 1 else _scaled(entered, self.beta)
        return Streams(entered, y)

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


class State(NamedTuple):
    """What a stage hands on.

    Attributes:
        streams: The model's input or the output of a stage without branches (one tensor), or two streams.
        kept: What a later stage keeps of each for its backward pass: the same, or integers in place of it.
    """

    streams: tuple[Tensor, ...]
    kept: tuple[Tensor, ...]


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
    grid: StreamGrid | None = None,
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
        grid: What the streams are rounded to, so that the inverse is exact; needs `beta = 1`.

    Raises:
        ValueError: if `backprop` is unknown, or `"reversible"` with a coupling that has no inverse (`beta = 0`).
        FloatingPointError: if a stage hands on what the grid does not hold.
    """
    couplings = [coupling] * len(stages) if isinstance(coupling, Coupling) else list(coupling)
    modes = [backprop] * len(stages) if isinstance(backprop, str) else list(backprop)
    errors = ReconstructionErrors() if errors is None else errors
    last_uses = {source: index for index, stage in enumerate(stages) for source in stage.positions_of_sources(index)}
    states = {INPUT: State((inputs,), (inputs,))}
    outputs: dict[int, Tensor] = {}
    for index, (stage, own, mode) in enumerate(zip(stages, couplings, modes, strict=True)):
        _check_mode(own, mode)
        stage_pass = StagePass(stages, couplings, index, errors, grid, module_dtype(stages, inputs))
        state = states[index] = stage_pass.run(stage_pass.sources(states), mode, probed=index in probes)
        if grid is not None and stage_pass.is_kept and "reversible" in modes:
            grid.check_range(state.streams, index)
        if stage_outputs is not None or index not in last_uses:
            outputs[index] = stage_pass.for_modules(merged(state, own))
        # Where integers are kept in their place, the streams need not live on.
        for source in {*stage.positions_of_sources(index), index}:
            if last_uses.get(source, index) == index:
                del states[source]
    if stage_outputs is not None:
        stage_outputs += outputs.values()
    return [output for index, output in outputs.items() if index not in last_uses]


def _check_mode(coupling: Coupling, backprop: str) -> None:
    if backprop not in get_args(Backprop):
        raise ValueError(f"backprop is {backprop!r}; choose 'reversible', 'checkpoint' or 'plain'.")
    if backprop == "reversible" and coupling.beta == 0:
        raise ValueError(
            "backprop='reversible' needs a rewired network: with beta = 0 the recurrence has no inverse. "
            "Use backprop='checkpoint' or 'plain', or a rewiring other than 'none'."
        )


def module_dtype(stages: Sequence[Stage], inputs: Tensor) -> torch.dtype | None:
    """The type that all modules compute in; None where each sees to its own, as under autocast."""
    dtype = inputs.dtype
    if not dtype.is_floating_point:  # frames as bytes
        dtype = next((p.dtype for stage in stages for module in stage.modules for p in module.parameters()), dtype)
    return dtype if dtype in HALF and not torch.is_autocast_enabled(inputs.device.type) else None


def merged(state: State, coupling: Coupling | None) -> Tensor:
    """Returns the output of a stage, or the model's input, from its state."""
    if len(state.streams) == 1:
        return state.streams[0]
    assert coupling is not None
    return coupling.merge(Streams(*state.streams))


class StagePass:
    """One pass over a stage, forward and back.

    Args:
        stages: All of the model.
        couplings: One for each stage.
        index: Position of the stage.
        errors: Receives the error of the inversion.
        grid: As for `run_stages`.
        own_dtype: What the modules compute in, see `module_dtype`; streams on a grid are more precise.

    Attributes:
        calls: The entry and the branches.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        couplings: Sequence[Coupling],
        index: int,
        errors: ReconstructionErrors,
        grid: StreamGrid | None = None,
        own_dtype: torch.dtype | None = None,
    ):
        self.stage = stage = stages[index]
        self.coupling = couplings[index]
        self.positions = stage.positions_of_sources(index)
        self.source_couplings = [None if position == INPUT else couplings[position] for position in self.positions]
        self.index = index
        self.errors = errors
        self.grid = grid
        self.own_dtype = own_dtype
        # In inference nothing is kept, and nothing inverted.
        self.is_kept = torch.is_grad_enabled()
        entry_constants = (self.coupling,) if stage.coupled_entry else ()
        self.calls = [RecordedCall(stage.entry, *entry_constants), *map(RecordedCall, stage.branches)]

    def sources(self, states: Mapping[int, State]) -> list[State]:
        """Returns what the stage takes, from the model's input and the states of the stages before."""
        return [states[position] for position in self.positions]

    def is_trained(self, sources: Sequence[State]) -> bool:
        """Whether anything in the stage or before it has a gradient."""
        # Parameters are not asked for in inference, where compilers cannot follow the question.
        if not torch.is_grad_enabled():
            return False
        tensors = [stream for state in sources for stream in state.streams]
        return any(t.requires_grad for t in itertools.chain(tensors, *(call.parameters for call in self.calls)))

    def run(self, sources: Sequence[State], backprop: Backprop, probed: bool) -> State:
        """Runs the stage; `probed` as for `run_stages`."""
        if not self.is_trained(sources):
            with torch.no_grad():
                return self.forward(sources, called)
        if backprop == "reversible":
            streams = [stream for state in sources for stream in state.streams]
            parameters = [parameter for call in self.calls for parameter in call.parameters]
            tensors = apply(_ReversibleStage, self, sources, *streams, *parameters)
            number = 2 if self.stage.branches else 1
            return State(tensors[:number], tensors[-number:])
        if probed:
            state = self.forward(sources, recomputed if backprop == "checkpoint" else RecordedCall.__call__)
            self.probe_inversion(state)
            return state
        return self.forward(sources, recomputed if backprop == "checkpoint" else called)

    def forward(self, sources: Sequence[State], run: Callable[..., Tensor]) -> State:
        """`run` takes a recorded call and the inputs of its module."""
        streams, branches = self.start(sources, run), self.calls[1:]
        for branch in branches:
            streams = self.after(branch, streams, run)
        return self.handed_on(streams if branches else (streams.x,))

    def start(self, sources: Sequence[State], run: Callable[..., Tensor]) -> Streams:
        """The streams before the first branch."""
        return self.coupling.start(self.as_stream(run(self.calls[0], *self.entry_inputs(sources))))

    def after(self, branch: RecordedCall, streams: Streams, run: Callable[..., Tensor]) -> Streams:
        """The streams after a branch, from those before it."""
        increment = self.increment(run(branch, self.for_modules(streams.x)), streams.x)
        return self.coupling.advance(streams, increment)

    def entry_inputs(self, sources: Sequence[State]) -> list[Tensor]:
        """Returns the merged outputs of the sources."""
        pairs = zip(sources, self.source_couplings, strict=True)
        # The model's input is as it is given, which may be bytes.
        return [
            merged(s, coupling) if coupling is None else self.for_modules(merged(s, coupling)) for s, coupling in pairs
        ]

    def as_stream(self, entered: Tensor) -> Tensor:
        """The entry's output, in the precision of the streams."""
        # Streams in half precision would lose the inverse; under autocast only the branches run in it.
        if entered.dtype in HALF and (self.grid or torch.is_autocast_enabled(entered.device.type)):
            entered = entered.float()
        return self.grid.rounded(entered) if self.grid else entered

    def for_modules(self, x: Tensor) -> Tensor:
        """A stream or what is merged of two, in the precision of the modules."""
        return x.to(self.own_dtype) if self.grid and self.own_dtype else x

    def increment(self, branch_output: Tensor, x: Tensor) -> Tensor:
        """`h(F_i(x) + alpha x)`, in the precision of the streams."""
        alpha, activation = self.coupling.alpha, self.stage.activation
        increment = branch_output if alpha == 0 else branch_output + _scaled(x, alpha)
        increment = (increment if activation is None else activation(increment)).to(x.dtype)
        return self.grid.rounded(increment, like=x) if self.grid else increment

    def handed_on(self, streams: tuple[Tensor, ...]) -> State:
        """The state of the stage after its last branch."""
        packed = self.grid.packed(streams) if self.grid is not None and self.is_kept else None
        return State(streams, packed or streams)

    def restored(self, kept: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
        """The streams, of this type, of which these are kept."""
        return kept if self.grid is None else self.grid.unpacked(kept, dtype)

    def branch_backward(
        self, position: int, streams: Streams, grad: Streams, parameters: Sequence[Tensor]
    ) -> tuple[Streams, Streams, list[Tensor | None]]:
        """Undoes a branch: state and gradient before it, and the gradients of its parameters."""
        x = self.coupling.input_of_branch(streams).detach().requires_grad_()
        with torch.enable_grad():
            increment = self.increment(self.calls[position].again(parameters, self.for_modules(x)), x)
        grad_x, *parameter_grads = gradients(increment, [x, *parameters], grad.x)
        before = self.coupling.undo(streams, x.detach(), increment.detach())
        grad_through_y = _scaled(grad.y, self.coupling.beta)
        # In this order, as autograd does: the layout of the sum is that of the first.
        grad_x = grad_through_y if grad_x is None else grad_through_y + grad_x
        return before, Streams(grad_x, grad.x), parameter_grads

    @torch.no_grad()
    def probe_inversion(self, state: State) -> None:
        """Inverts the stage for its error only, right after its forward pass."""
        if not self.stage.branches or self.coupling.beta == 0:
            return
        streams = Streams(*state.streams)
        for call in reversed(self.calls[1:]):
            x = self.coupling.input_of_branch(streams)
            increment = self.increment(call.again(call.parameters, self.for_modules(x)), x)
            streams = self.coupling.undo(streams, x, increment)
        self.errors.note(self.index, streams, self.coupling)


def called(call: RecordedCall, *inputs: Tensor) -> Tensor:
    """Runs a module and records nothing."""
    return call.module(*inputs, *call.constants)


class _ReversibleStage(torch.autograd.Function):
    """One stage as a node of the graph: the tensors of its sources, then its parameters, in; its state out."""

    @staticmethod
    def forward(ctx: Any, stage_pass: StagePass, sources: Sequence[State], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.stage_pass = stage_pass
        ctx.lengths = [len(source.streams) for source in sources]
        state = stage_pass.forward(sources, RecordedCall.__call__)
        # Of a stage without branches nothing is inverted, so its output is not needed.
        own = state.kept if stage_pass.stage.branches else ()
        ctx.num_own = len(own)
        kept = [tensor for source in sources for tensor in source.kept]
        ctx.save_for_backward(*own, *kept, *tensors[len(kept) :])
        return state.streams if state.kept is state.streams else (*state.streams, *state.kept)

    @staticmethod
    def backward(ctx: Any, *state_grads: Tensor) -> tuple[Tensor | None, ...]:
        # An outer checkpoint lets them be read once.
        saved = ctx.saved_tensors
        own, tensors = saved[: ctx.num_own], saved[ctx.num_own :]
        del saved
        with torch.no_grad():
            grads = _stage_backward(ctx.stage_pass, ctx.lengths, own, tensors, ctx.needs_input_grad[2:], state_grads)
        return (None, None, *first_derivatives(grads, state_grads[: ctx.num_own or 1]))


def _stage_backward(
    stage_pass: StagePass,
    lengths: Sequence[int],
    own: Sequence[Tensor],
    tensors: Sequence[Tensor],
    needed: Sequence[bool],
    state_grads: Sequence[Tensor],
) -> list[Tensor | None]:
    """Gradients of the streams of a stage's sources and of its parameters, where they are needed.

    Args:
        stage_pass: The forward pass.
        lengths: Number of streams of each source.
        own: What is kept of the output streams; empty if the stage has no branches.
        tensors: What is kept of the sources, and the parameters.
        needed: Which of them need a gradient.
        state_grads: Gradients of the stage's output.
    """
    sizes = [sum(lengths), *(len(call.parameters) for call in stage_pass.calls)]
    kept, *parameters = _split(tensors, sizes)
    needed_inputs, *needed_parameters = _split(needed, sizes)
    entry_parameters, *branch_parameters = map(as_leaves, parameters, needed_parameters)
    # Once all that is left is without gradient, going on would be for nothing.
    goes_on = list(itertools.accumulate(map(any, [needed_inputs, *needed_parameters]), max))
    branch_grads: list[Sequence[Tensor | None]] = [[None] * len(part) for part in branch_parameters]
    start_grad = state_grads[0]
    dtype = start_grad.dtype
    if own:
        streams, grad = Streams(*stage_pass.restored(own, dtype)), Streams(*state_grads[:2])
        del own, state_grads
        for branch in reversed(range(len(branch_parameters))):
            if not goes_on[branch + 2]:
                return [*[None] * sum(sizes[:2]), *itertools.chain(*branch_grads)]
            streams, grad, branch_grads[branch] = stage_pass.branch_backward(
                branch + 1, streams, grad, branch_parameters[branch]
            )
        stage_pass.errors.note(stage_pass.index, streams, stage_pass.coupling)
        if stage_pass.grid is not None:
            stage_pass.grid.check_inverse(streams, stage_pass.index)
        start_grad = grad.x + _scaled(grad.y, stage_pass.coupling.beta)
    entry_grads: Sequence[Tensor | None] = [None] * sum(sizes[:2])
    if goes_on[1]:
        inputs = as_leaves(stage_pass.restored(kept, dtype), needed_inputs)
        with torch.enable_grad():
            sources = [State(part, part) for part in _split(inputs, lengths)]
            entered = stage_pass.calls[0].again(entry_parameters, *stage_pass.entry_inputs(sources))
        entry_grads = gradients(entered, [*inputs, *entry_parameters], start_grad)
    return [*entry_grads, *itertools.chain(*branch_grads)]


def _split(values: Sequence[T], lengths: Sequence[int]) -> list[tuple[T, ...]]:
    ends = list(itertools.accumulate(lengths))
    return [tuple(values[end - length : end]) for end, length in zip(ends, lengths, strict=True)]
