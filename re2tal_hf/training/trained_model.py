"""A model as it is trained: prepared for the devices of a run, with its optimiser and its average."""

from __future__ import annotations

import copy
from typing import Any, cast

from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .arguments import OptimizationArguments
from .optimization import build_optimizer
from .sharding import WholeModel, clip_gradients, describe_shares, shard


class TrainedModel:
    """A model as it is trained; to be made on all processes, whose models have the same weights.

    Args:
        plain: The model itself. Where its weights are shared out it holds the shares of this process from here on.
        arguments: Whether weights are shared out or averaged, and the optimiser's settings.
        accelerator: Of the run.

    Attributes:
        plain: The model itself.
        prepared: What is called in a step.
        optimizer: Prepared.
        average: Of the weights over the updates; None without.
    """

    def __init__(self, plain: Any, arguments: OptimizationArguments, accelerator: Accelerator):
        self.plain, self._accelerator = plain, accelerator
        self._shares: WholeModel | None = None
        self._copy: Any = None
        self.average: AveragedModel | None = None
        if arguments.shard_weights and accelerator.num_processes > 1:
            self._copy = copy.deepcopy(plain.to(accelerator.device))
            shard(plain)
            self._shares = WholeModel(plain)
        optimizer = build_optimizer(plain, arguments)
        # Shared out it must not become a model of DistributedDataParallel, too.
        self.prepared = accelerator.prepare_model(plain, evaluation_mode=self._shares is not None)
        self.optimizer = accelerator.prepare(optimizer)
        if arguments.ema_decay is not None:
            self.average = AveragedModel(self._copy or plain, multi_avg_fn=get_ema_multi_avg_fn(arguments.ema_decay))
            self._copy = None

    @property
    def shares(self) -> str:
        """What this process holds of weights that are shared out; empty where they are not."""
        return describe_shares(self.plain) if self._shares is not None else ""

    @property
    def evaluated(self) -> Any:
        """The averaged model where there is one, else the model itself, in evaluation mode."""
        model = self.plain if self._copy is None else self._copy
        return (model if self.average is None else self.average.module).eval()

    def clip_gradients(self, largest: float) -> Tensor:
        """Scales the gradients to a norm of at most `largest`; returns the norm they had."""
        parameters = [*self.plain.parameters()]
        if self._shares is None:
            return self._accelerator.clip_grad_norm_(parameters, largest)
        return clip_gradients(parameters, largest)

    def follow(self) -> None:
        """Takes the weights into their average, after an update."""
        if self.average is not None:
            self.average.update_parameters(cast(Any, self._shares or self.plain))

    def gather(self) -> None:
        """Gives `evaluated` the present weights; to be called on all processes."""
        if self._shares is not None and self._copy is not None:
            self._shares.copy_to(self._copy)

    def release(self) -> None:
        """Lets go of the processes of the run; the model itself stays."""
        self.prepared = self.plain
        self._accelerator.free_memory()
