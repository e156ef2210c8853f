"""What losses are divided by, so that several processes learn what one would from the total batch.

Each process has a part of the batch, and DDP descends the mean of their losses. A process therefore divides
its sums by its share of what is counted in all parts.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


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
