"""A model as it is trained: prepared for the devices of a run, with its optimiser and its average."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .arguments import OptimizationArguments
from .optimization import build_optimizer
from .sharding import WholeModel, clip_gradients, describe_shares, shard, shared_means, shared_weights
from .zero_optimizer import ZeroOptimizer


class TrainedModel:
    """A model as it is trained; to be made on all processes, whose models have the same weights.

    Args:
        plain: The model itself. Where its weights are shared out it holds the shares of this process from here on.
        arguments: What is shared out, whether weights are averaged, the largest norm of the gradients, and the
            optimiser's settings.
        accelerator: Of the run.

    Attributes:
        plain: The model itself.
        prepared: What is called in a step.
        optimizer: Prepared.
        average: Of the weights over the updates; None without.
    """

    def __init__(self, plain: Any, arguments: OptimizationArguments, accelerator: Accelerator):
        self.plain, self._accelerator = plain, accelerator
        self._largest_norm = arguments.max_gradient_norm or math.inf
        self._shares: WholeModel | None = None
        self._copy: Any = None
        self._zero: ZeroOptimizer | None = None
        self.average: AveragedModel | None = None
        if arguments.shard_weights and accelerator.num_processes > 1:
            self._copy = copy.deepcopy(plain.to(accelerator.device))
            shard(plain)
            self._shares = WholeModel(plain)
        optimizer = build_optimizer(plain, arguments)
        by_zero = arguments.zero_stage > 0 and accelerator.num_processes > 1
        # Shared out it must not become a model of DistributedDataParallel, too.
        self.prepared = accelerator.prepare_model(plain, evaluation_mode=by_zero or self._shares is not None)
        self.optimizer: Any = optimizer if by_zero else accelerator.prepare(optimizer)
        if arguments.ema_decay is not None:
            self.average = AveragedModel(self._copy or plain, multi_avg_fn=get_ema_multi_avg_fn(arguments.ema_decay))
            self._copy = None
        if by_zero:
            self.optimizer = self._zero = ZeroOptimizer(self.prepared, optimizer, arguments)
            self.prepared = self._zero.engine

    @property
    def shares(self) -> str:
        """What this process holds of what is shared out; empty where nothing is."""
        if self._zero is not None:
            return self._zero.describe_shares()
        return describe_shares(self.plain) if self._shares is not None else ""

    @property
    def evaluated(self) -> Any:
        """The averaged model where there is one, else the model itself, in evaluation mode."""
        model = self.plain if self._copy is None else self._copy
        return (model if self.average is None else self.average.module).eval()

    def accumulating(self) -> contextlib.AbstractContextManager[Any]:
        """Returns what a step of an update runs in."""
        # DeepSpeed averages the gradients of each step, and has no way to put that off by the second stage of ZeRO.
        return self._accelerator.accumulate(self.plain if self._zero is not None else self.prepared)

    def backward(self, loss: Tensor, is_finite: bool) -> None:
        """Adds the gradients of a loss to those of the update.

        Args:
            loss: Of this process.
            is_finite: Whether it is, on all; else nothing is added, and the update must be dropped.
        """
        if self._zero is not None:
            # DeepSpeed drops gradients only in an update, which it does not make by those that are not finite.
            self._zero.backward(loss if is_finite else loss * torch.nan, self._accelerator.sync_gradients)
        elif is_finite:
            self._accelerator.backward(loss)

    def update(self) -> Tensor:
        """Updates by the gradients, clipped as the recipe says; drops them where they are not finite.

        Gradients in fp16 are the loss scaler's matter.

        Returns:
            The norm that they had.
        """
        if self._zero is not None:
            return self._zero.step()
        norm = self._clip_gradients()
        if self._accelerator.scaler is not None or torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def drop_gradients(self) -> None:
        """Lets go of the gradients of an update of which a loss was not finite."""
        if self._zero is not None:
            self._zero.step()
        else:
            self.optimizer.zero_grad()

    def follow(self) -> None:
        """Takes the weights into their average, after an update."""
        if self.average is not None:
            self.average.update_parameters(cast(Any, self._shares or self.plain))

    def load_weights(self, state: dict[str, Tensor]) -> None:
        """Takes this process's share of whole weights."""
        self.plain.load_state_dict(shared_weights(state, self.plain))

    def load_optimizer(self, state: dict[str, Any]) -> None:
        """Takes this process's share of the whole state of the optimiser; after the weights."""
        if self._zero is None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            state = shared_means(state, parameters)
        self.optimizer.load_state_dict(state)

    def gather(self) -> None:
        """Gives `evaluated` the present weights; to be called on all processes."""
        if self._shares is not None and self._copy is not None:
            self._shares.copy_to(self._copy)

    def release(self) -> None:
        """Lets go of the processes of the run; the model itself stays."""
        if self._zero is not None:
            self._zero.release()
        self.prepared = self.plain
        self._accelerator.free_memory()

    def _clip_gradients(self) -> Tensor:
        parameters = [*self.plain.parameters()]
        if self._shares is None:
            return self._accelerator.clip_grad_norm_(parameters, self._largest_norm)
        return clip_gradients(parameters, self._largest_norm)
