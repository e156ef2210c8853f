"""The weights of a backbone under the name that they are published by, for models that are saved without them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import torch
import torchvision
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from .architecture import ADAPTERS
from .coupling import COUPLING
from .loaded_weights import without_loading_report
from .lora import is_lora, library_name
from .rewired_model import RewiredModel
from .saved_files import WEIGHT_NAMES, read_json
from .value_checks import one_line, shown


def published_names(backbone: RewiredModel) -> dict[str, str]:
    """Returns the library's names of a backbone's tensors by its own, those of adapters and LoRA left out."""
    own = backbone.state_dict()
    return {n: library_name(n) for n in own if n.split(".")[0] not in (ADAPTERS, COUPLING) and not is_lora(n)}


def read_published(backbone: RewiredModel, source: str, revision: str | None = None) -> dict[str, Tensor]:
    """Fetches published weights of a backbone.

    Args:
        backbone: Whose weights they are.
        source: A name of torchvision, or a repository on the Hub: a model of transformers', of timm's or of ours.
        revision: Of the repository.

    Returns:
        All of its tensors but those of adapters and LoRA, by the library's names.

    Raises:
        ValueError: if they cannot be had, or a tensor is missing or of another shape.
    """
    try:
        state = _read(backbone, source, revision)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"The weights of the backbone are those of {shown(source)}, which could not be had ({one_line(error)})."
        ) from error
    found, own = {}, backbone.state_dict()
    for name, published in published_names(backbone).items():
        tensor = state.get(published)
        if tensor is None or tensor.shape != own[name].shape:
            raise ValueError(f"{shown(source)} has not the weights of the backbone: {published} is missing or another.")
        found[published] = tensor
    return found


def digest(tensor: Tensor) -> str:
    """Returns a digest of a tensor's values, floating-point ones in single precision."""
    stored = tensor.detach().cpu()
    stored = stored.float() if stored.is_floating_point() else stored
    return hashlib.sha256(stored.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def digest_of_all(digests: dict[str, str]) -> str:
    """Returns one digest for those of tensors by their names."""
    lines = "".join(f"{name} {value}\n" for name, value in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def commit_of(source: str) -> str | None:
    """Returns the commit that a repository is at; None of torchvision's names."""
    return download(source).name if "/" in source else None


def download(repository: str, revision: str | None = None) -> Path:
    """Fetches configuration and weights of a model on the Hub, in the older format where there is no other."""
    for name in WEIGHT_NAMES:
        stem, _, suffix = name.rpartition(".")
        patterns = ["config.json", name, f"{name}.index.json", f"{stem}-*-of-*.{suffix}"]
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        if (folder / name).exists() or (folder / f"{name}.index.json").exists():
            break
    return folder


def _read(backbone: RewiredModel, source: str, revision: str | None) -> dict[str, Tensor]:
    if "/" not in source:
        return dict(torchvision.models.get_weight(source).get_state_dict(progress=True, check_hash=True))
    folder = download(source, revision)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if isinstance(backbone, PreTrainedModel) and config.get("model_type") == backbone.config.model_type:
        library: Any = cast(Any, type(backbone)).original_class
        with without_loading_report():
            model = library.from_pretrained(folder, config=backbone.config, dtype=torch.float32)
        return model.state_dict()
    state = {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}
    for prefix in ("model.backbone.", "backbone."):
        if inside := {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}:
            return inside
    return state
