"""How much memory training takes: bytes kept for the backward pass, and peaks."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor


@dataclass
class SavedBytes:
    """Storages kept for the backward pass, by address, in bytes."""

    by_storage: dict[int, int] = field(default_factory=dict)

    def total(self) -> int:
        """Returns the sum in bytes; a storage that several operations keep counts once."""
        return sum(self.by_storage.values())


@contextlib.contextmanager
def saved_for_backward(without: Iterable[Tensor]) -> Iterator[SavedBytes]:
    """Counts what autograd keeps of the forward passes inside the block.

    Args:
        without: Tensors that do not count, usually the parameters and buffers.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in without}
    saved = SavedBytes()
    # Held until the block ends: a storage that is freed would let another take its address.
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved.by_storage[storage.data_ptr()] = storage.nbytes()
            held.append(tensor.detach())
        # Itself, an output that is kept would keep the graph that keeps it.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def whole_memory() -> float:
    """Returns the bytes of memory there are, on the GPU where there is one; infinite where that is not known."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    known = hasattr(os, "sysconf") and {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= os.sysconf_names.keys()
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else math.inf


def peak_memory() -> float:
    """Returns the peak so far in MiB: allocated on the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss begins with the peak of the process that started this one; VmHWM does not.
        [peak] = [
            line.split()[1] for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
        ]
        return int(peak) / 2**10
    units = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units


def reset_peak_memory() -> float:
    """Lets the peak begin anew, on Linux and on the GPU, and returns what is in use in MiB."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return peak_memory()
