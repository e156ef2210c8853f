"""The random states of a process: what its next draws depend on."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import torch


def random_states(device: torch.device) -> dict[str, Any]:
    """Returns the states of Python, NumPy, PyTorch and the device, as tensors and plain values."""
    name, keys, *rest = cast(tuple, np.random.get_state(legacy=True))
    states = {"python": random.getstate(), "numpy": (name, keys.tolist(), *rest), "torch": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Puts back what `random_states` returned; a device of another kind keeps its own state."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type])
