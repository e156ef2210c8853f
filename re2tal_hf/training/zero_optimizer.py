"""The optimiser's means, and by the second stage the gradients, shared out among the processes by DeepSpeed's ZeRO.

Each process holds the whole weights, and updates its share of them. ZeRO lays the parameters of a group one behind
another, with zeros at the end, and cuts them into as many equal parts as there are processes (Rajbhandari et al. 2020,
arXiv 1910.02054; DeepSpeed 0.19.8).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import OptimizationArguments

# Gradients that are averaged together, in numbers: DeepSpeed keeps a buffer of so many.
_BUCKET = 10_000_000
_NOT_SENT = "ds_optim_param"


class ZeroOptimizer:
    """AdamW over shares of the weights; to be made on all processes, whose models have the same weights.

    Args:
        model: On the device of the process.
        optimizer: Over its parameters; becomes one over this process's shares.
        arguments: Stage, batch, accumulation and largest norm of the gradients.

    Attributes:
        engine: What is called in a step.

    Raises:
        ValueError: if this version of DeepSpeed lays the weights out in another way.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, arguments: OptimizationArguments):
        import deepspeed

        self._stage = arguments.zero_stage
        self._parameters: list[list[nn.Parameter]] = [[*group["params"]] for group in optimizer.param_groups]
        # DeepSpeed sends the others a parameter's bytes, and one without dimensions has no view as such. All have the
        # same weights, and what is marked is not sent.
        without_dimensions = [parameter for parameter in model.parameters() if parameter.dim() == 0]
        for parameter in without_dimensions:
            setattr(parameter, _NOT_SENT, True)
        self.engine: Any = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": arguments.batch_size,
                "gradient_accumulation_steps": arguments.gradient_accumulation,
                "gradient_clipping": arguments.max_gradient_norm or 0.0,
                "zero_optimization": {"stage": arguments.zero_stage, "reduce_bucket_size": _BUCKET},
            },
        )[0]
        for parameter in without_dimensions:
            delattr(parameter, _NOT_SENT)
        self._adam: torch.optim.Optimizer = self.engine.optimizer.optimizer
        for parameters, share in zip(self._parameters, self._shares(), strict=True):
            if not torch.equal(self._cut([p.detach() for p in parameters], share), share.detach()):
                raise ValueError(
                    f"training.zero_stage: DeepSpeed {deepspeed.__version__} shares weights out in a way that is not "
                    "known here; 0.19.8 does."
                )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the optimiser, over shares."""
        return self._adam.param_groups

    def describe_shares(self) -> str:
        """Says how much of the optimiser's means this process holds."""
        held = 2 * sum(share.nbytes for share in self._shares())
        whole = 2 * sum(parameter.nbytes for group in self._parameters for parameter in group)
        gradients = " and gradients are" if self._stage == 2 else " are"
        return (
            f"DeepSpeed's ZeRO {self._stage}: the optimiser's means{gradients} shared out among {_processes()} "
            f"processes; {held / 1e6:.3g} of {whole / 1e6:.3g} MB of means are here."
        )

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Adds the gradients of a loss to those of the update, of which it may be the last."""
        self.engine.set_gradient_accumulation_boundary(is_last)
        self.engine.backward(loss)

    def step(self) -> Tensor:
        """Clips the gradients and updates by them; drops them where they are not finite.

        Returns:
            The norm that they had; infinite where they were not finite.
        """
        self.engine.step()
        return torch.as_tensor(self.engine.get_global_grad_norm() if self.engine.was_step_applied() else torch.inf)

    def state_dict(self) -> dict[str, Any]:
        """Returns the whole state as AdamW over all parameters has it; to be called on all processes.

        Its tensors are on the processor, and on the first process only.
        """
        state: dict[int, dict[str, Any]] = {}
        groups, first = [], 0
        for parameters, group, share in zip(self._parameters, self.param_groups, self._shares(), strict=True):
            numbers = range(first, first + len(parameters))
            first += len(parameters)
            groups.append({**group, "params": [*numbers]})
            for name, value in self._adam.state.get(share, {}).items():
                for number, mean in zip(numbers, _whole(value, parameters), strict=True):
                    state.setdefault(number, {})[name] = mean
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes this process's share of a whole state, and of the weights that the model has now."""
        self.engine.optimizer.refresh_fp32_params()
        for parameters, group, kept, share in zip(
            self._parameters, self.param_groups, state["param_groups"], self._shares(), strict=True
        ):
            if len(parameters) != len(kept["params"]):
                raise ValueError(f"a group has {len(kept['params'])} parameters, and not {len(parameters)}")
            group |= {name: value for name, value in kept.items() if name != "params"}
            means = [state["state"][number] for number in kept["params"] if number in state["state"]]
            if means:
                self._adam.state[share] = {
                    name: self._cut([of_one[name] for of_one in means], share) if name != "step" else value.clone()
                    for name, value in means[0].items()
                }

    def release(self) -> None:
        """Lets go of the processes."""
        self.engine.destroy()

    def _shares(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    def _cut(self, values: list[Tensor], share: Tensor) -> Tensor:
        """This process's share of values of the parameters of a group."""
        flat = torch.cat([value.flatten() for value in values])
        start = share.numel() * torch.distributed.get_rank()
        part = flat[start : start + share.numel()].to(share)
        return torch.nn.functional.pad(part, (0, share.numel() - part.numel()))


def _processes() -> int:
    return torch.distributed.get_world_size()


def _whole(value: Tensor, parameters: list[nn.Parameter]) -> list[Tensor | None]:
    """Values of the parameters of a group, of what the processes hold of them; None on others than the first."""
    kept = torch.distributed.get_rank() == 0
    if value.dim() == 0:
        return [value.cpu().clone() for _ in parameters]
    parts = [torch.empty_like(value) for _ in range(_processes())]
    torch.distributed.all_gather(parts, value)
    if not kept:
        return [None for _ in parameters]
    flat = torch.cat([part.cpu() for part in parts])
    pieces = flat[: sum(p.numel() for p in parameters)].split([p.numel() for p in parameters])
    return [piece.view(p.shape).clone() for piece, p in zip(pieces, parameters, strict=True)]
