"""A checkpoint of another project: its tensors without what wraps their names, and its license."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..licensing.origins import Origin, find_origin
from ..training.model_source import near_folder
from ..training.weight_files import read_weight_file, without_insertions

_WRAPPERS = re.compile(r"^(module\.)+")


@dataclass(frozen=True)
class Source:
    """A checkpoint.

    Attributes:
        name: What messages call it.
        tensors: By their names.
        origin: With the license.
    """

    name: str
    tensors: dict[str, Tensor]
    origin: Origin


def read_source(path: Path, weights: str | None, license: str | None) -> Source:
    """Reads a checkpoint; of Python objects only tensors and plain values are loaded.

    Args:
        path: `.safetensors`, or what `torch.save` wrote.
        weights: Name of the weights in it, where it has several; averaged ones by default.
        license: That the user states.

    Raises:
        ValueError: if it is no such file, or the license contradicts what is known of it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file{near_folder(str(path))}.")
    origin = find_origin(path.name, license)
    state = {_WRAPPERS.sub("", without_insertions(name)): t for name, t in read_weight_file(path, weights).items()}
    state.pop("n_averaged", None)
    return Source(str(path), state, origin)
