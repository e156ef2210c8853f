"""Reference files of other projects: reading them and renaming their weights to ours."""

import json
import re
from pathlib import Path

from safetensors import safe_open
from torch import Tensor


def read_golden(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a reference file."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


SWIN_NAMES = [
    (r"inv_block\.[FG]m\.", ""),
    (r"^layers\.(\d+)\.blocks\.", lambda m: f"features.{2 * int(m[1])}."),
    (r"^layers\.(\d+)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 1}."),
    (r"^norm3\.", "norm."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
]


def swin_name(name: str) -> str:
    """From OpenTAD's or mmaction2's name of a Swin parameter to torchvision's."""
    for pattern, replacement in SWIN_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def gradient_norms(metadata: dict[str, str], key: str) -> dict[str, float]:
    """Norms of the gradients of all parameters, by the reference's names."""
    return json.loads(metadata[key])
