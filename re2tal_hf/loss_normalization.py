"""What losses are divided by, so that several processes learn what one would from the total batch.

Each process has a part of the batch, and DDP descends the mean of their losses. A process therefore divides
its sums by its share of what is counted in all parts.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .value_checks import NOT_NEGATIVE, POSITIVE, SHARE


def total_over_processes(part: Tensor) -> tuple[Tensor, int]:
    """The sum of a tensor over the processes of distributed training, without gradient, and how many these are."""
    total = part.detach()
    if not (dist.is_available() and dist.is_initialized()):
        return total, 1
    total = total.clone()
    dist.all_reduce(total)
    return total, dist.get_world_size()


def process_share(count: Tensor, dtype: torch.dtype) -> Tensor:
    """The count of all processes, at least 1, divided by their number.

    Args:
        count: what is counted in this process's part of the batch, of any shape.
        dtype: of the result.
    """
    total, processes = total_over_processes(count)
    return total.to(dtype).clamp(min=1) / processes


def update_running_mean(mean: Tensor, count: Tensor, momentum: float, dtype: torch.dtype) -> Tensor:
    """Moves `mean`, in place, towards the count (at least 1) of all processes.

    Returns:
        The new mean divided by the number of processes, in `dtype`.
    """
    total, processes = total_over_processes(count)
    mean.copy_(momentum * mean + (1 - momentum) * total.to(mean.dtype).clamp(min=1))
    return mean.to(dtype) / processes


class NormalizedLoss(nn.Module):
    """A loss divided by running means of numbers of positives, which are part of its state.

    Args:
        loss_weight: of the parts about boundaries.
        initial_normalizer: of the running means, near the number of positives in a batch, that of all processes.
        normalizer_momentum: share of the old value that an update keeps.

    Attributes:
        fp32_buffers: names of the running means, scalar buffers that stay float32 in a model of another dtype.
    """

    fp32_buffers: ClassVar[tuple[str, ...]] = ("normalizer",)

    def __init__(
        self,
        *,
        loss_weight: Annotated[float, NOT_NEGATIVE] = 1.0,
        initial_normalizer: Annotated[float, POSITIVE] = 100.0,
        normalizer_momentum: Annotated[float, SHARE] = 0.9,
    ):
        super().__init__()
        self.loss_weight = loss_weight
        self.initial_normalizer = initial_normalizer
        self.normalizer_momentum = normalizer_momentum
        for name in self.fp32_buffers:
            self.register_buffer(name, torch.tensor(initial_normalizer, dtype=torch.float32))

    def initialize_weights(self) -> None:
        """Sets the running means to their initial value."""
        for name in self.fp32_buffers:
            nn.init.constant_(self.get_buffer(name), self.initial_normalizer)

    @torch.no_grad()
    def normalize_by(self, name: str, num_positives: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns what to divide by: in training the running mean, moved; otherwise the number, at least 1.

        Args:
            name: of the running mean.
            num_positives: integer scalar, of this process's part of the batch.
            dtype: of the running mean's share.
        """
        if not self.training:
            return num_positives.clamp(min=1)
        return update_running_mean(self.get_buffer(name), num_positives, self.normalizer_momentum, dtype)
