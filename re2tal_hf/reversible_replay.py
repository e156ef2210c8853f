"""Running a module again as it ran before: what recomputed activations rest on.

A module's output depends on more than its inputs: on random numbers, autocast, its mode, its buffers and
parameters. `RecordedCall` notes them in the forward pass and puts them back for the recomputation, so that both
compute the same, whatever stands inside the module: dropout, batch norms, spectral norms, adapters, hooks.
This file knows nothing of residual streams.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

ONLY_PLAIN = "Recomputation serves backward() and autograd.grad(), once; backprop='plain' allows it."


class RecordedCall:
    """A module, called once in the forward pass and again, to the same effect, in the backward pass.

    Hooks run in both. Buffers that the first call changes are changed once; what a module keeps elsewhere, in
    attributes that are no buffers, is not seen.

    Args:
        module: Takes tensors, then `constants`; returns a tensor.
        constants: Further arguments of the module, such as a coupling.
    """

    def __init__(self, module: nn.Module, *constants: Any):
        self.module = module
        self.constants = constants

    @functools.cached_property
    def parameters(self) -> list[nn.Parameter]:
        """The module's parameters, in the order in which `again` takes them."""
        return list(self.module.parameters())

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Runs the module and notes what the output depends on."""
        device = inputs[0].device
        self.device = device
        self.autocast = _Autocast.read(device)
        self.modes = [(module, module.training) for module in self.module.modules()]
        random_state = _RandomState.read(device)
        self.buffers = _Buffers([module for module, _ in self.modes])
        output = self.module(*inputs, *self.constants)
        self.buffers.settle()
        self.random_state = None if random_state.unchanged(device) else random_state
        return output

    def again(self, parameters: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        """Runs the module as it ran in the latest call; the generators and the buffers are left as they are.

        Args:
            parameters: In place of `self.parameters`.
            inputs: Tensors of the shapes of the first call.

        Raises:
            RuntimeError: if a buffer that the module used was changed in place since.
        """
        with contextlib.ExitStack() as stack:
            if self.random_state is not None:
                stack.enter_context(self.random_state.put_back(self.device))
            stack.enter_context(self.autocast.put_back())
            stack.enter_context(_modes_put_back(self.modes))
            stack.enter_context(_in_place([*self._exchanged(parameters), *self.buffers.to_put_back(self.module)]))
            return self.module(*inputs, *self.constants)

    def _exchanged(self, parameters: Sequence[Tensor]) -> Iterator[tuple[_Place, Tensor]]:
        """Where parameters stand in the module now, and which stands there instead; one may stand in several places."""
        places = [place for module, _ in self.modes for place in _places(module._parameters)]
        given: dict[int, Tensor] = {}
        following = iter(parameters)
        for store, name in places:
            own = store[name]
            if id(own) not in given:
                given[id(own)] = next(following)
            if given[id(own)] is not own:
                yield (store, name), given[id(own)]


_Place: TypeAlias = tuple[dict[str, Any], str]
"""The parameters or the buffers of one module, and the name of one of them."""


def _places(store: dict[str, Any]) -> list[_Place]:
    return [(store, name) for name, tensor in store.items() if tensor is not None]


@contextlib.contextmanager
def _in_place(exchanged: Sequence[tuple[_Place, Tensor]]) -> Iterator[None]:
    """`functional_call`, without a search of the whole module for each call."""
    before = [store[name] for (store, name), _ in exchanged]
    for (store, name), given in exchanged:
        store[name] = given
    try:
        yield
    finally:
        for ((store, name), _), own in zip(exchanged, before, strict=True):
            store[name] = own


class Recomputed(torch.autograd.Function):
    """A recorded call as a node of the graph that keeps its inputs only: checkpointing (arXiv 1604.06174)."""

    @staticmethod
    def forward(ctx: Any, call: RecordedCall, num_inputs: int, *tensors: Tensor) -> Tensor:
        """Takes the module's inputs, then its parameters."""
        ctx.call = call
        ctx.num_inputs = num_inputs
        ctx.save_for_backward(*tensors)
        return call(*tensors[:num_inputs])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Runs the module again and differentiates it."""
        with torch.no_grad():
            leaves = as_leaves(ctx.saved_tensors, ctx.needs_input_grad[2:])
            with torch.enable_grad():
                output = ctx.call.again(leaves[ctx.num_inputs :], *leaves[: ctx.num_inputs])
            grads = gradients(output, leaves, grad)
        return (None, None, *first_derivatives(grads, [grad]))


def recomputed(call: RecordedCall, *inputs: Tensor) -> Tensor:
    """Runs a module so that the backward pass runs it again; nothing but the inputs is kept."""
    return apply(Recomputed, call, len(inputs), *inputs, *call.parameters)


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`function.apply`, which transforms of `torch.func` refuse in words of our own."""
    try:
        return function.apply(*arguments)
    except RuntimeError as error:
        if "setup_context" not in str(error):
            raise
        raise RuntimeError(f"torch.func cannot transform a recomputed network. {ONLY_PLAIN}") from error


def as_leaves(tensors: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    """Detached copies, over the same memory, of the tensors that need a gradient; the others as they are.

    A frozen parameter may be of a class, such as a quantised one, that only the module itself can handle.
    """
    return [t.detach().requires_grad_() if n else t for t, n in zip(tensors, needed, strict=True)]


def gradients(output: Tensor, leaves: Sequence[Tensor], grad: Tensor) -> list[Tensor | None]:
    """Gradients of `output` for the leaves that require one, None for the others."""
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    if not wanted or not output.requires_grad:
        return [None] * len(leaves)
    found = iter(torch.autograd.grad(output, wanted, grad.to(output.dtype), allow_unused=True))
    return [next(found) if leaf.requires_grad else None for leaf in leaves]


def first_derivatives(grads: Sequence[Tensor | None], grad_outputs: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients of a backward pass; where a second one is prepared, such as refuse to be differentiated."""
    if not torch.is_grad_enabled():
        return list(grads)
    return [None if grad is None else _FirstDerivative.apply(grad, *grad_outputs) for grad in grads]


class _FirstDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, *grad_outputs: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(f"The gradient of a recomputed network cannot be differentiated again. {ONLY_PLAIN}")


class _Buffers:
    """The buffers of modules as they stand before these run; `settle` is to be called after that."""

    def __init__(self, modules: Sequence[nn.Module]):
        places = [(place, module.training) for module in modules for place in _places(module._buffers)]
        self.present = [(place, place[0][place[1]]) for place, _ in places]
        self.versions = {id(buffer): buffer._version for _, buffer in self.present}
        # The call may change them in place, which would leave nothing to put back.
        self.copies = {id(buffer): buffer.clone() for _, buffer in self.present}
        # Native batch norms write their statistics without a trace in the version.
        changing = zip(self.present, places, strict=True)
        self.suspects = {id(buffer) for (_, buffer), (_, trains) in changing if trains and buffer.is_floating_point()}

    def settle(self) -> None:
        """Drops the copies of what the call left alone."""
        for _, buffer in self.present:
            if buffer._version == self.versions[id(buffer)] and id(buffer) not in self.suspects:
                self.copies.pop(id(buffer), None)

    def to_put_back(self, module: nn.Module) -> list[tuple[_Place, Tensor]]:
        """What does not stand in its place now; copies are copied again, since the module may change them."""
        copies = {buffer: copy.clone() for buffer, copy in self.copies.items()}
        exchanged = []
        for (store, name), buffer in self.present:
            if id(buffer) in copies:
                exchanged.append(((store, name), copies[id(buffer)]))
            elif buffer._version != self.versions[id(buffer)]:
                full_name = next((full for full, other in module.named_buffers() if other is buffer), name)
                raise RuntimeError(
                    f"The buffer {full_name!r} of {type(module).__name__} was changed after the forward pass that used "
                    "it: run backward() before what changes it."
                )
            elif store.get(name) is not buffer:
                exchanged.append(((store, name), buffer))
        return exchanged


@contextlib.contextmanager
def _modes_put_back(modes: Sequence[tuple[nn.Module, bool]]) -> Iterator[None]:
    changed = [(module, mode) for module, mode in modes if module.training != mode]
    for module, mode in changed:
        module.training = mode
    try:
        yield
    finally:
        for module, mode in changed:
            module.training = not mode


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
    def put_back(self, device: torch.device) -> Iterator[None]:
        present = _RandomState.read(device)
        self.write(device)
        try:
            yield
        finally:
            present.write(device)


class _Autocast(NamedTuple):
    """Autocast on the CPU and on the device of the inputs."""

    settings: tuple[tuple[str, bool, torch.dtype], ...]

    @classmethod
    def read(cls, device: torch.device) -> _Autocast:
        types = dict.fromkeys(("cpu", device.type))
        return cls(tuple((t, torch.is_autocast_enabled(t), torch.get_autocast_dtype(t)) for t in types))

    @contextlib.contextmanager
    def put_back(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for device_type, enabled, dtype in self.settings:
                stack.enter_context(torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=False))
            yield
