"""Weights in files and folders, freed from what training programs wrap them in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ..saved_files import WEIGHT_NAMES, load_torch_file, named, read_header, weight_files

FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")

# Of mappings in mappings that a checkpoint may have around its weights.
MAX_WRAPPERS = 8

# Where checkpoints keep the weights; averaged ones first, since these are what was measured.
STATE_NAMES = (
    "state_dict_ema", "model_ema", "ema", "ema_encoder", "target_encoder", "state_dict", "model_state_dict",
    "model_state", "model", "module", "net",
)  # fmt: skip

# What stands before the names of a network that was part of something.
WRAPPERS = ("module", "model", "backbone", "net", "network", "encoder", "ema", "ema_model")

# What torch.compile, FSDP and activation checkpointing put between the names, at any place.
INSERTIONS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def read_weight_file(path: Path, name: str | None = None) -> dict[str, Tensor]:
    """Reads a `.safetensors` file, or what `torch.save` wrote: a state dict, or a checkpoint that holds one.

    Args:
        path: The file.
        name: Of the weights in a checkpoint that has several; averaged ones by default.

    Raises:
        ValueError: if the file cannot be read, holds objects other than tensors and plain values, or no weights.
    """
    if path.suffix == ".safetensors":
        read_header(path)
        loaded: Any = load_file(path)
    else:
        loaded = load_torch_file(path)
    if name is not None:
        if not isinstance(loaded, Mapping) or not isinstance(loaded.get(name), Mapping):
            held = [key for key in STATE_NAMES if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping)]
            raise ValueError(f"{path} holds no weights as {name!r}{f'; it has {held}' if held else ''}.")
        loaded = loaded[name]
    for _ in range(MAX_WRAPPERS):
        if not isinstance(loaded, Mapping):
            raise ValueError(f"{path} holds {named(loaded)} and no weights: save a state dict.")
        inner = [loaded[key] for key in STATE_NAMES if isinstance(loaded.get(key), Mapping)]
        if not inner:
            break
        loaded = inner[0]
    state = {str(n): t for n, t in loaded.items() if isinstance(t, Tensor)}
    if not state:
        raise ValueError(f"{path} holds no weights: save a state dict, or a checkpoint with one as 'state_dict'.")
    return state


def read_weight_folder(folder: Path) -> dict[str, Tensor]:
    """Reads the weights that `save_pretrained` wrote, in one file or in several.

    Raises:
        ValueError: if there are none, a part is missing, or a file cannot be read.
    """
    if parts := weight_files(folder):
        return {key: tensor for part in parts for key, tensor in read_weight_file(part).items()}
    raise ValueError(f"{folder} holds no weights, neither {' nor '.join(WEIGHT_NAMES)}.")


def unwrap(state: Mapping[str, Tensor], names: Collection[str], wrappers: Collection[str] = ()) -> dict[str, Tensor]:
    """Takes away what stands before the names of a network's tensors.

    Args:
        state: Tensors of the network, perhaps of more beside it.
        names: What the network calls its tensors.
        wrappers: Attributes that may hold the network, beside the usual ones.

    Returns:
        The tensors under that prefix under which most of the names are found; all where there is no prefix.
    """
    state = {without_insertions(name): tensor for name, tensor in state.items()}
    found: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for i, part in enumerate(parts):
            if ".".join(parts[i:]) in names:
                found["".join(f"{p}." for p in parts[:i])] += 1
            if part not in WRAPPERS and part not in wrappers:
                break
    prefix = max(found, key=lambda p: (found[p], "ema" in p), default="")
    return {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix) and name != "n_averaged"}


def without_insertions(name: str) -> str:
    """Returns the name of a tensor without what programs put between its parts."""
    for insertion in INSERTIONS:
        name = name.replace(insertion, "")
    return name
