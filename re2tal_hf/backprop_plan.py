"""The fastest way to have the activations of every stage within a budget of memory.

A stage that is recomputed keeps less and takes longer. What each keeps in each mode, and what its recomputation costs,
is counted in one pass without numbers (PyTorch's fake tensors), so that it takes no memory and is the same in every
process. Stages keep tensors of each other: the streams between two are kept by the one and read by the other, and count
once. The best modes are found exactly.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from .reversible import (
    INPUT,
    Backprop,
    Coupling,
    ReconstructionErrors,
    Stage,
    StagePass,
    State,
    called,
    merged,
    module_dtype,
)
from .reversible_replay import RecordedCall
from .stream_grid import StreamGrid
from .value_checks import one_line, shown

AnyBackprop: TypeAlias = Backprop | Literal["auto", "clips"]
"""One mode for all stages, the fastest of each within a budget, or the same for a few clips of a video at a time."""

MODES: tuple[Backprop, ...] = ("plain", "checkpoint", "reversible")
MIB = 2**20
# Floating-point operations in the time that a byte takes to or from memory. Of a core or of a GPU in single precision
# it is between 5 and 20; the order of the plans changes little with it.
FLOPS_PER_BYTE = 10
# Plans that are remembered, one for each shape of input and what else it rests on.
MOST_PLANS = 16
UNITS = {"": 1, "B": 1, **{f"{p}{b}": n**e for e, p in enumerate("KMGT", 1) for b, n in (("B", 1000), ("IB", 1024))}}


class OverBudgetError(ValueError):
    """The leanest modes keep more than the budget."""


@dataclass(frozen=True)
class StageMemory:
    """What one stage keeps for the backward pass, and what its recomputation costs.

    Attributes:
        kept: By mode, the storages, a number for each, and their bytes; only plain where there is no gradient.
        work: Of the forward pass, in floating-point operations or what takes their time.
        extra: Of the recomputation, by mode.
        largest_module: Bytes that the branch or entry with most of them keeps, for as long as it is differentiated.
        is_trained: Whether there is a gradient.
    """

    kept: dict[Backprop, dict[int, int]]
    work: int
    extra: dict[Backprop, int]
    largest_module: int
    is_trained: bool


class Choice(NamedTuple):
    """Modes for all stages: bytes kept, work of the recomputation."""

    kept: int
    extra: int
    modes: tuple[Backprop, ...]


@dataclass(frozen=True)
class BackpropPlan:
    """How the activations of every stage are had, and why.

    Of `backprop="clips"` it is that of the clips which go through the backbone together.

    Attributes:
        modes: One for each stage.
        kept: Bytes that the backbone keeps between forward and backward, parameters and buffers excepted.
        step: Predicted time of a training step, relative to one in which all is kept.
        budget: Bytes that it may keep.
        shape: Of the input, or of one clip.
        choices: All that are worth taking, from the leanest to the fastest, as bytes and relative time of a step.
        stages: Bytes of every stage by itself in every mode that it may take.
        largest_module: Bytes that recomputing one module takes for a while.
        together: Number of clips at a time; 0 for all of the input. The last three are of one clip.
        chunk: Of windowed backbones in place of clips, the frames of a chunk without what is computed twice.
        reason: Why it is not that of the whole input with a head that keeps all, where `"auto"` has chosen so.
    """

    modes: tuple[Backprop, ...]
    kept: int
    step: float
    budget: int
    shape: tuple[int, ...]
    choices: tuple[tuple[int, float], ...]
    stages: tuple[dict[Backprop, int], ...]
    largest_module: int
    together: int = 0
    chunk: int = 0
    reason: str = ""

    def __str__(self) -> str:
        leanest, fastest = self.choices[0], self.choices[-1]
        shape = "x".join(map(str, self.shape))
        given = f"clips, {self.together} at a time of" if self.together else "auto, input"
        given = f"clips, chunks of {self.chunk} frames with what they see around them," if self.chunk else given
        lines = [
            f"backprop={given} {shape}: the backbone keeps {_mib(self.kept)} of the {_mib(self.budget)} that it may, "
            f"at {self.step:.2f} times the arithmetic of a plain step "
            f"(leanest {_mib(leanest[0])} at {leanest[1]:.2f}, fastest {_mib(fastest[0])} at {fastest[1]:.2f})"
        ]
        for index, (mode, kept) in enumerate(zip(self.modes, self.stages, strict=True)):
            alone = ", ".join(f"{name} {_mib(number)}" for name, number in kept.items())
            lines.append(f"  stage {index}: {mode:10} (by itself {alone})")
        if self.reason:
            lines.append(f"  {self.reason}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Returns what a record of a run holds."""
        return {
            "modes": list(self.modes),
            "kept_bytes": self.kept,
            "budget_bytes": self.budget,
            "relative_step": round(self.step, 4),
            "input_shape": list(self.shape),
            "clips_together": self.together,
            "chunk_frames": self.chunk,
        }


@dataclass
class BackpropPlanner:
    """Makes the plans of one backbone and remembers them.

    Attributes:
        memory_budget: Bytes that the backbone may keep between forward and backward; None for what is free on the
            device when a plan is made, less the gradients that are yet to come.
        plan: The latest, None before the first training pass.
        clips: Whether `"auto"` goes by clips whatever the backbone keeps; otherwise where the whole input has no plan.
        chunk: Frames that chunks of windowed backbones have; 0: as many as make the shortest step.
        recomputes_head: Whether the head keeps little though the backbone does not go by clips.
        share: Of the parts that go through the backbone by `"clips"`, so many are drawn anew in every pass and give
            gradients, the others none.
    """

    memory_budget: int | None = None
    plan: BackpropPlan | None = None
    clips: bool = False
    chunk: int = 0
    recomputes_head: bool = False
    share: float = 1.0
    _plans: dict[Any, BackpropPlan] = field(default_factory=dict)

    def choose(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        inputs: Tensor,
        couplings: Sequence[Coupling],
        invertible: Collection[int],
        norm: Callable[..., Tensor],
        grid: StreamGrid | None,
        most_together: int = 0,
    ) -> BackpropPlan:
        """Returns the plan of the coming training pass.

        Args:
            model: Has the stages.
            stages: As for `run_stages`, as are `inputs` and `couplings`.
            inputs: Only shape, strides, dtype and whether there is a gradient matter; may be on the meta device.
            couplings: One for each stage.
            invertible: Positions of the stages that may be inverted.
            norm: What follows on the outputs of the last stages.
            grid: As for `run_stages`.
            most_together: As for `make_plan`.

        Raises:
            OverBudgetError: if the leanest modes keep more than the budget.
            ValueError: if the network cannot be run without numbers.
        """
        device = next((parameter.device for parameter in model.parameters()), inputs.device)
        key = (
            (tuple(inputs.shape), inputs.stride(), inputs.dtype, device, inputs.requires_grad),
            tuple((coupling.alpha == 0, coupling.beta) if coupling.beta in (0, 1) else None for coupling in couplings),
            frozenset(invertible),
            tuple(parameter.requires_grad for parameter in model.parameters()),
            tuple(module.training for module in model.modules()),
            (torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)),
            self.memory_budget,
            grid,
            most_together,
        )
        if (found := self._plans.get(key)) is None:
            measured = measure(model, stages, inputs, couplings, norm, device, grid)
            budget = self.memory_budget
            if budget is None:
                budget = free_memory(device) - _bytes_to_come(model) - 2 * largest_module(measured)
            found = make_plan(measured, budget, tuple(inputs.shape), invertible, most_together)
            while len(self._plans) >= MOST_PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = found
        self.plan = found
        return found


def make_plan(
    measured: Sequence[StageMemory],
    budget: int,
    shape: tuple[int, ...],
    invertible: Collection[int],
    most_together: int = 0,
) -> BackpropPlan:
    """Chooses the fastest modes within the budget; of equally fast ones, those that keep least.

    Args:
        measured: Of every stage, and of what comes after the last.
        budget: In bytes.
        shape: Of the input.
        invertible: Positions of the stages that may be inverted.
        most_together: Of `backprop="clips"`, where the input is one clip, how many may go through the backbone at a
            time. All that fit do, if the fastest modes of one fit; there is one forward pass more.

    Raises:
        OverBudgetError: if the leanest modes keep more.
    """
    choices = best_choices(measured, invertible)
    fitting = [choice for choice in choices if choice.kept <= budget]
    if not fitting:
        raise OverBudgetError(
            f"The memory budget leaves {_mib(max(budget, 0))} to the activations of the backbone, which keeps "
            f"{_mib(choices[0].kept)} in the leanest way for an input of {'x'.join(map(str, shape))}: take a smaller "
            "batch, fewer or smaller frames, or a larger budget."
        )
    plain = sum(stage.work * (3 if stage.is_trained else 1) for stage in measured) or 1
    first_pass = sum(stage.work for stage in measured) if most_together else 0
    together = min(most_together, 1)
    if fitting[-1] is choices[-1]:
        # What is differentiated has gradients; room for those of one clip's is there already.
        gradients = 2 * largest_module(measured)
        together = min(most_together, (budget + gradients) // max(choices[-1].kept + gradients, 1))
    return BackpropPlan(
        modes=fitting[-1].modes[:-1],
        kept=fitting[-1].kept * max(together, 1),
        step=1 + (fitting[-1].extra + first_pass) / plain,
        budget=budget,
        shape=shape,
        choices=tuple((choice.kept, 1 + (choice.extra + first_pass) / plain) for choice in choices),
        stages=tuple(
            {mode: sum(stage.kept[mode].values()) for mode in _allowed(stage, index in invertible)}
            for index, stage in enumerate(measured[:-1])
        ),
        largest_module=largest_module(measured),
        together=together,
    )


def best_choices(measured: Sequence[StageMemory], invertible: Collection[int]) -> list[Choice]:
    """Returns all choices of modes that no other beats in both bytes and work, the leanest first.

    Stage by stage, what is worth going on with is all that no other beats which keeps the same of the tensors that
    later stages may keep, too: so the choices are exact.
    """
    last = {storage: index for index, stage in enumerate(measured) for kept in stage.kept.values() for storage in kept}
    fronts: dict[frozenset[int], list[Choice]] = {frozenset(): [Choice(0, 0, ())]}
    for index, stage in enumerate(measured):
        reached: dict[frozenset[int], list[Choice]] = {}
        for held, front in fronts.items():
            for mode in _allowed(stage, index in invertible):
                kept = stage.kept[mode]
                more = sum(number for storage, number in kept.items() if storage not in held)
                ahead = frozenset(storage for storage in held.union(kept) if last[storage] > index)
                reached.setdefault(ahead, []).extend(
                    Choice(c.kept + more, c.extra + stage.extra[mode], (*c.modes, mode)) for c in front
                )
        fronts = {held: _unbeaten(found) for held, found in reached.items()}
    return _unbeaten([choice for front in fronts.values() for choice in front])


def _unbeaten(choices: list[Choice]) -> list[Choice]:
    found: list[Choice] = []
    for choice in sorted(choices, key=lambda choice: (choice.kept, choice.extra)):
        if not found or choice.extra < found[-1].extra:
            found.append(choice)
    return found


def _allowed(stage: StageMemory, invertible: bool) -> list[Backprop]:
    return [mode for mode in stage.kept if invertible or mode != "reversible"]


def largest_module(measured: Sequence[StageMemory]) -> int:
    """Returns the bytes that the entry or branch with most of them keeps while it is differentiated."""
    return max((stage.largest_module for stage in measured), default=0)


def measure(
    model: nn.Module,
    stages: Sequence[Stage],
    inputs: Tensor,
    couplings: Sequence[Coupling],
    norm: Callable[..., Tensor],
    device: torch.device,
    grid: StreamGrid | None = None,
) -> list[StageMemory]:
    """Runs the stages without numbers and counts; see [`BackpropPlanner.choose`].

    Returns:
        What each stage keeps and, at the end, what is kept after the last, whatever the modes.

    Raises:
        ValueError: if a module asks for a number.
    """
    autocast = torch.autocast(
        device.type,
        dtype=torch.get_autocast_dtype(device.type),
        enabled=torch.is_autocast_enabled(device.type),
        # It would hand the real pass weights without numbers.
        cache_enabled=False,
    )
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.enable_grad(), autocast:
            given = torch.empty_strided(
                inputs.shape, inputs.stride(), dtype=inputs.dtype, device=device, requires_grad=inputs.requires_grad
            )
            own = dict(itertools.chain(model.named_parameters(), model.named_buffers()))
            unreal: dict[str, Tensor] = {f"model.{name}": fake.from_tensor(tensor) for name, tensor in own.items()}
            counter = _Counter({_storage(tensor) for tensor in (*own.values(), *unreal.values())})
            walk = functools.partial(_measure_stages, stages, given, couplings, norm, grid, counter)
            return functional_call(_Holder(model), unreal, (walk,))
    except (RuntimeError, NotImplementedError) as error:  # torch's own for an operation that needs numbers
        raise ValueError(
            f"backprop='auto' runs {type(model).__name__} without numbers to count its memory, and it fails there "
            f"({one_line(error)}): choose 'reversible', 'checkpoint' or 'plain'."
        ) from error


class _Holder(nn.Module):
    """For `functional_call`: runs a function in place of the model that it holds."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def _measure_stages(
    stages: Sequence[Stage],
    inputs: Tensor,
    couplings: Sequence[Coupling],
    norm: Callable[..., Tensor],
    grid: StreamGrid | None,
    counter: _Counter,
) -> list[StageMemory]:
    states = {INPUT: State((inputs,), (inputs,))}
    found: list[StageMemory] = []
    for index in range(len(stages)):
        stage_pass = StagePass(stages, couplings, index, ReconstructionErrors(), grid, module_dtype(stages, inputs))
        states[index], memory = _measure_stage(stage_pass, stage_pass.sources(states), counter)
        found.append(memory)
    ends = set(range(len(stages))).difference(*(s.positions_of_sources(i) for i, s in enumerate(stages)))
    with counter.kept() as tail, _Work() as work:
        norm(*(stage_pass.for_modules(merged(states[index], couplings[index])) for index in sorted(ends)))
    return [*found, StageMemory({"plain": tail}, work.total, {"plain": 0}, 0, is_trained=bool(tail))]


def _measure_stage(stage_pass: StagePass, sources: Sequence[State], counter: _Counter) -> tuple[State, StageMemory]:
    """One plain pass; what the other modes keep follows from the tensors that go in and out of its modules."""
    if not stage_pass.is_trained(sources):
        with torch.no_grad(), _Work() as work:
            state = stage_pass.forward(sources, called)
        return state, StageMemory({"plain": {}}, work.total, {"plain": 0}, 0, is_trained=False)
    inside: dict[int, int] = {}
    module_inputs: dict[int, int] = {}
    largest = again = 0

    def run(call: RecordedCall, *inputs: Tensor) -> Tensor:
        nonlocal largest, again
        with counter.kept() as own, _Work() as work:
            output = called(call, *inputs)
        inside.update(own)
        largest = max(largest, sum(own.values()))
        if any(tensor.requires_grad for tensor in (*inputs, *call.parameters)):
            module_inputs.update(counter.sizes(inputs))
            again += work.total
        return output

    with counter.kept() as between, _Work() as whole:
        state = stage_pass.forward(sources, run)
    streams = counter.sizes(state.kept) if stage_pass.stage.branches else {}
    source_sizes = counter.sizes([tensor for source in sources for tensor in source.kept])
    kept: dict[Backprop, dict[int, int]] = {
        "plain": inside | between,
        "checkpoint": module_inputs | between,
        "reversible": source_sizes | streams,
    }
    # To undo a branch reads the newer stream and its increment, and writes the older stream.
    undoing = 3 * FLOPS_PER_BYTE * state.streams[0].nbytes * len(stage_pass.stage.branches)
    extra: dict[Backprop, int] = {"plain": 0, "checkpoint": again, "reversible": again + undoing}
    return state, StageMemory(kept, whole.total, extra, largest, is_trained=True)


class _Counter:
    """Storages that autograd keeps; those that are known do not count."""

    def __init__(self, known: Collection[int]):
        self.known = known
        # A storage that is freed would let another take its number.
        self._held: list[Tensor] = []

    def sizes(self, tensors: Sequence[Tensor]) -> dict[int, int]:
        self._held += [tensor.detach() for tensor in tensors]
        counted = {_storage(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
        return {storage: number for storage, number in counted.items() if storage not in self.known}

    @contextlib.contextmanager
    def kept(self) -> Iterator[dict[int, int]]:
        found: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            found.update(self.sizes([tensor]))
            # Itself, an output that is kept would keep the graph that keeps it.
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield found


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _Work(TorchDispatchMode):
    """Work of the operations inside the block: their floating-point operations, and the bytes they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        read = {_storage(tensor): tensor.nbytes for tensor in _tensors(args)}
        written = {_storage(tensor): tensor.nbytes for tensor in _tensors(output)}
        if not written.keys() <= read.keys() or func._schema.is_mutable:  # else a view
            self.total += FLOPS_PER_BYTE * (sum(read.values()) + sum(written.values()))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=output)
        elif func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
            self.total += sdpa_flop_count(args[0].shape, args[1].shape, args[2].shape)
        return output


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


def free_memory(device: torch.device) -> int:
    """Returns the bytes that are free on a device, those that PyTorch holds and does not use included.

    Raises:
        ValueError: if the device does not say.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    table = Path("/proc/meminfo")
    said = re.search(r"MemAvailable:\s*(\d+) kB", table.read_text(encoding="utf-8")) if table.exists() else None
    if device.type != "cpu" or said is None:
        raise ValueError(f"How much memory is free on {device} is not known here: give a memory budget.")
    return int(said[1]) * 1024


def _bytes_to_come(model: nn.Module) -> int:
    return sum(p.nbytes for p in model.parameters() if p.requires_grad and p.grad is None)


def read_bytes(text: Any, name: str) -> int:
    """Returns a number of bytes, given as such or as text such as `"24GB"` or `"900 MiB"`.

    Raises:
        ValueError: if it is no positive number of bytes; names it.

    Example:
        >>> read_bytes("1.5 GB", "training.memory_budget")
        1500000000
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    unit = UNITS.get(match[2].upper()) if match and not isinstance(text, bool) else None
    if match is None or unit is None or float(match[1]) * unit < 1:
        raise ValueError(f"{name} is {shown(text)}; it must be a number of bytes, such as '24GB' or '900MiB'.")
    return int(float(match[1]) * unit)


def _mib(number: int) -> str:
    return f"{number / MIB:.1f} MiB"
