"""What a visitor's model costs, found out from its files before memory is taken or a window is read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

# PyTorch's way of running a model on shapes alone, on which torch.export rests.
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, AutoVideoProcessor

from ..saved_files import read_json
from ..value_checks import check_bounds

MAX_JSON_MEGABYTES = 16.0
MAX_WINDOW_MEGABYTES = 2000.0
MAX_TENSOR_MEGABYTES = 4000.0
MAX_TERAFLOPS = 50.0
MAX_WINDOWS = 10_000
MAX_CANDIDATES = 10_000
MAX_SIDE = 4096


class ModelError(ValueError):
    """A model that cannot be used; the message is for the visitor who named it."""


def check_cost(folder: str | Path, name: str, max_megabytes: float, max_seconds: float) -> None:
    """Refuses a model whose network, windows or detections cost more than its files suggest.

    Args:
        folder: with configuration, processor and weights.
        name: what the visitor calls the model.
        max_megabytes: memory allowed for the network.
        max_seconds: of the longest video.

    Raises:
        ModelError: if it costs too much; names what and the limit.
        ValueError: of what reads the files, if they are not as they must be.
    """
    for file in Path(folder).glob("*preprocessor_config.json"):
        check_bounds(file.name, read_json(file))
    try:
        processor = AutoVideoProcessor.from_pretrained(folder, trust_remote_code=False)
    except ValueError as error:  # without the folders of this machine
        raise ModelError(str(error).replace(str(folder), name)) from error
    shape = _check_windows(processor, name, max_seconds)
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        network = AutoModel.from_config(config, trust_remote_code=False).eval()
    held = [*network.parameters(), *network.buffers()]
    _limit(name, "the network", "MB of memory", sum(tensor.nbytes for tensor in held) / 2**20, max_megabytes)
    # A number takes a byte at least.
    weights = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    numbers = sum(parameter.numel() for parameter in network.parameters())
    if numbers > weights:
        raise ModelError(
            f"{name}: its configuration asks for {numbers:,} weights, and its safetensors files hold {weights:,} bytes."
        )
    megabytes, teraflops = _cost_of_window(network, shape)
    _limit(name, "a step on a window", "MB of memory", megabytes, MAX_TENSOR_MEGABYTES)
    _limit(name, "a window", "teraflops", teraflops, MAX_TERAFLOPS)


def _check_windows(processor: Any, name: str, max_seconds: float) -> tuple[int, int, int]:
    """Frames, height and width of a window, if that and the number of windows and detections are within limits."""
    sizes = [processor.size, *([processor.crop_size] if processor.do_center_crop else [])]
    sides = [[size.height or size.shortest_edge, size.width or size.shortest_edge] for size in sizes]
    _limit(name, "a frame", "pixels a side", max(map(max, sides)), MAX_SIDE)
    pixels = max(math.prod(pair) for pair in sides)
    _limit(name, "a window", "MB of memory", processor.num_frames * pixels * 3 * 4 / 2**20, MAX_WINDOW_MEGABYTES)
    step = max(1, round(processor.num_frames * (1 - processor.window_overlap)))
    count = max_seconds * processor.frame_rate / step if processor.sampling == "sliding" else 1
    _limit(name, "the longest video", "windows", count, MAX_WINDOWS)
    for setting in ("max_candidates", "max_detections"):
        _limit(name, setting, "segments", getattr(processor, setting), MAX_CANDIDATES)
    return (processor.num_frames, *sides[-1])


def _limit(name: str, what: str, unit: str, value: float, largest: float) -> None:
    if not value <= largest:
        raise ModelError(f"{name}: {what} takes {value:.0f} {unit}; this page allows {largest:g}.")


def _cost_of_window(network: nn.Module, shape: tuple[int, int, int]) -> tuple[float, float]:
    """The largest tensor in MB and the teraflops of a forward pass, without numbers and without memory for them."""
    frames, height, width = shape
    fake, largest = FakeTensorMode(allow_non_fake_inputs=True), _LargestTensor()
    with fake, torch.no_grad(), FlopCounterMode(display=False) as flops, largest:
        network.to_empty(device="cpu")
        videos = torch.empty(1, frames, 3, height, width)
        network(videos, frame_mask=torch.ones(1, frames, dtype=torch.bool))
    return largest.num_bytes / 2**20, flops.get_total_flops() / 1e12


class _LargestTensor(TorchDispatchMode):
    """Keeps the size of the largest tensor that is made."""

    num_bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        self.num_bytes = max([self.num_bytes, *(tensor.numel() * tensor.element_size() for tensor in tensors)])
        return output
