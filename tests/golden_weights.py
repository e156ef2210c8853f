"""Reference files of other projects: reading them, comparing gradients."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import safe_open
from tolerances import assert_gradients_close, assert_norms_close
from torch import Tensor

# Sizes of the backbones in the reference files.
SWIN = {
    "model_type": "video_swin",
    "embed_dim": 12,
    "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 4, 8],
    "window_size": [2, 7, 7],
    "stochastic_depth_prob": 0.0,
}
SLOWFAST = {
    "model_type": "slowfast",
    "depth": 50,
    "base_channels": 8,
    "channel_ratio": 4,
    "resample_rate": 4,
    "speed_ratio": 4,
    "fusion_kernel": 7,
}


def read_golden(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a reference file."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def gradient_norms(metadata: dict[str, str], key: str) -> dict[str, float]:
    """Norms of the gradients of all parameters, by the reference's names."""
    return json.loads(metadata[key])


def assert_gradients_of_reference(
    golden: tuple[Mapping[str, Tensor], dict[str, str]],
    gradients: Mapping[str, Tensor],
    our_name: Callable[[str], str],
    depth: int,
) -> None:
    """Compares gradients, `input` among them, with those and with the norms of a file computed in double precision."""
    tensors, metadata = golden
    names = {key: key.removeprefix("f64.grad.").removesuffix(".stored_as_f32") for key in tensors}
    expected = {our_name(names[key]): value for key, value in tensors.items() if key.startswith("f64.grad.")}
    assert len(expected) >= 9
    assert_gradients_close({name: gradients[name] for name in expected}, expected, depth=depth)
    norms = {our_name(name): norm for name, norm in gradient_norms(metadata, "gradnorm_f64").items()}
    parameters = {name: gradient for name, gradient in gradients.items() if name != "input"}
    assert_norms_close(parameters, norms, depth=depth)
