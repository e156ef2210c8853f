"""Pretrained weights of a backbone: from a library, from a file, or from a model of ours."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from transformers import PreTrainedModel

from ..architecture import ADAPTERS
from ..backbone_clip_transformer import ClipTransformer
from ..backbone_image import ImageNetwork, hub_id
from ..configuration_re2tal import CONFIGS, LABELS, Re2TALVideoClassificationConfig
from ..coupling import COUPLING
from ..loaded_weights import WeightFit, is_computed, is_infinite, some, without_loading_report
from ..lora import merged_state
from ..modeling_re2tal import Re2TALModel
from ..published_weights import download
from ..rewired_model import RewiredModel
from ..rewiring import build_backbone, rewire
from ..saved_files import read_json
from ..value_checks import check_bounds, one_line, shown
from .model_source import model_folder, near_folder
from .same_function import differences
from .weight_files import FILE_SUFFIXES, read_weight_file, read_weight_folder, unwrap

logger = logging.getLogger(__name__)

# What stands before the library's names in our models with and without a head.
PREFIXES = ("model.backbone.", "backbone.")


def load_backbone_weights(backbone: RewiredModel, source: str, partial: bool = False) -> str:
    """Loads weights under the library's own names into a backbone; a classifier's weights are left out.

    What usually stands before the names is taken away (see `unwrap`). Where the settings of the source are known, from
    a `config.json` beside it or from torchvision, those that change what is computed must be the backbone's.

    Args:
        backbone: A rewired model without classifier (`Re2TALModel.backbone`).
        source: One of - a torchvision name such as `Swin3D_T_Weights.KINETICS400_V1`; - the path of a `.safetensors`,
            `.pth`, `.pt`, `.bin` or `.ckpt` file: a state dict, or a checkpoint that holds one; - a folder as
            `save_pretrained` writes it of a Re2TAL model, such as the result of the classification stage, or of the
            library's own model, where that is of transformers or timm; - the Hub id of such a folder, or timm's name of
            it.
        partial: Take what fits; the rest of the backbone keeps the weights that it has.

    Returns:
        How many of the backbone's tensors were loaded.

    Raises:
        ValueError: if the source is none of them or cannot be read, or, unless `partial`, if a tensor of the backbone
            is missing, unused or of another shape, or the source computes something else.
    """
    state, original = _read(backbone, source)
    state = unwrap(state, backbone.state_dict().keys(), [getattr(backbone, "base_model_prefix", "")])
    state = backbone.architecture.todays_names(backbone, state)
    if isinstance(backbone, PreTrainedModel):
        state = _with_todays_names(backbone, state)
    own, left_out = backbone.state_dict(), backbone.architecture.classifier_names
    # Which coefficients a Dr2Net has is the recipe's to say.
    for tensors in (own, state):
        tensors.pop(COUPLING, None)
    reshaped = {n: t for n, t in own.items() if n in state and state[n].shape != t.shape}
    missing = {
        name
        for name, tensor in own.items()
        if name not in state and not is_computed(tensor) and name.split(".")[0] != ADAPTERS
    }
    fit = WeightFit(
        source,
        total=len(own.keys() & state.keys() | missing),
        missing=sorted(missing),
        unused=[name for name in state.keys() - own.keys() if name.split(".")[0] not in left_out],
        reshaped={name: (tuple(state[name].shape), tuple(tensor.shape)) for name, tensor in reshaped.items()},
        infinite=sorted(name for name in own.keys() & state.keys() - reshaped.keys() if is_infinite(state[name])),
        retyped=sorted(n for n, t in own.items() if n in state and is_computed(state[n]) != is_computed(t)),
    )
    fitting = {name: state[name] for name in own.keys() & state.keys() - reshaped.keys()}
    changed = _changed_indices(own, fitting)
    if original is not None:
        changed += differences(original, backbone, left_out)
    fit.check_numbers()
    if not partial:
        remedy = "set training.pretrained_partial=true to take what fits and begin the rest anew."
        fit.check("the backbone", f"Check the sizes in model.backbone_config, or {remedy}")
        if changed:
            raise ValueError(
                f"{source} does not fit the backbone: {fit}, but of a network that computes something else: "
                f"{'; '.join(changed)}. Set model.backbone_config as the source has it, or {remedy}"
            )
    backbone.load_state_dict(fitting, strict=False)
    summary = str(fit)
    if missing or reshaped:
        summary += f"; begun anew: {some([*missing, *reshaped])}"
    if unused := state.keys() - own.keys():
        summary += f"; not used: {some(unused)}"
    if changed:
        summary += f"; other settings: {'; '.join(changed)}"
    logger.info(summary)
    return summary


def full_name(source: str | None, model_type: str) -> str | None:
    """Returns what the name of a source stands for.

    Of the folder of a run it is that of its model; of timm's name of an image network's weights their Hub id; any other
    source stands for itself.
    """
    if not source:
        return source
    if os.path.isdir(source):
        return str(model_folder(source))
    return hub_id(source) if model_type == ImageNetwork.model_type and not Path(source).exists() else source


def load_classifier_weights(model: nn.Module, label_names: Sequence[str], source: str) -> bool:
    """Loads classifier and norm of a model of ours where it tells the same classes apart; returns whether it does."""
    folder = model_folder(source)
    if _model_type(folder) != Re2TALVideoClassificationConfig.model_type:
        return False
    config, state = Re2TALVideoClassificationConfig.from_pretrained(folder), read_weight_folder(folder)
    names = [config.id2label.get(index) for index in range(len(label_names))]
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(PREFIXES)}
    fits = all(name in state and state[name].shape == tensor.shape for name, tensor in own.items())
    if names != list(label_names) or not fits:
        return False
    model.load_state_dict({name: state[name] for name in own}, strict=False)
    return True


def _read(backbone: RewiredModel, source: str) -> tuple[dict[str, Tensor], nn.Module | None]:
    """Returns the weights, and the network that they belong to, on the meta device, where its settings are known."""
    found = find_weights(backbone, source)
    if isinstance(found, Path) and found.is_dir() and _model_type(found) in CONFIGS:
        settings = _settings_in(found)
        if settings.get("lora") is not None or settings.get("backbone_weights") is not None:
            # Of the backbone as a whole, what LoRA adds to it included.
            whole = Re2TALModel.from_pretrained(found, partial=True)
            return merged_state(whole.backbone), _described(backbone, found)
    if not isinstance(found, Path):
        return dict(found.get_state_dict(progress=True, check_hash=True)), _of_torchvision(found)
    if found.is_file():
        of_family = _model_type(found.parent) in (*CONFIGS, backbone.architecture.model_type)
        return read_weight_file(found), _described(backbone, found.parent) if of_family else None
    return read_weight_folder(found), _described(backbone, found) if _is_described(found) else None


def find_weights(
    backbone: RewiredModel, source: str, field: str = "training.pretrained_backbone"
) -> Path | WeightsEnum:
    """Returns where weights lie, without reading them.

    Args:
        backbone: What they are for.
        source: As for [`load_backbone_weights`]; a folder on the Hub is fetched.
        field: Of the recipe that names it.

    Returns:
        A file, a folder, or what torchvision calls the weights.

    Raises:
        ValueError: if there are none of this name.
    """
    source = str(full_name(source, backbone.architecture.model_type))
    path = Path(source)
    if os.path.exists(path):
        return path
    try:
        if path.suffix in FILE_SUFFIXES:
            raise FileNotFoundError(f"there is no such file{near_folder(source)}")
        if _known_name(backbone).endswith("torchvision weights") and "/" not in source:
            return torchvision.models.get_weight(source)
        return download(source)
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(
            f"{field} is {shown(source)}: neither a file of weights ({', '.join(FILE_SUFFIXES)}), "
            f"nor a folder of a Re2TAL model{near_folder(source)}, nor a {_known_name(backbone)} for "
            f"{type(backbone).original_class.__name__} ({one_line(error)})."
        ) from error


def _known_name(backbone: RewiredModel) -> str:
    if isinstance(backbone.architecture, ImageNetwork):
        return "name or Hub id of timm's"
    return "Hub id of transformers" if isinstance(backbone, PreTrainedModel) else "name of torchvision weights"


def _settings_in(folder: Path) -> dict[str, Any]:
    config = folder / "config.json"
    if not config.is_file():
        return {}
    return read_json(config)


def _model_type(folder: Path) -> str | None:
    model_type = _settings_in(folder).get("model_type")
    return model_type if isinstance(model_type, str) else None


def _is_described(folder: Path) -> bool:
    return not _settings_in(folder).keys().isdisjoint({"model_type", "architecture"})


def _described(backbone: RewiredModel, folder: Path) -> nn.Module:
    """Builds the network that the `config.json` of a folder describes, on the meta device."""
    architecture, model_type = backbone.architecture, _model_type(folder)
    with torch.device("meta"):
        if model_type in CONFIGS:
            settings = CONFIGS[model_type].from_pretrained(folder).backbone_config
            model_type = settings.get("model_type")
            if model_type == architecture.model_type:
                return build_backbone(settings, "none", "plain")
        elif isinstance(architecture, ClipTransformer) and model_type == architecture.config_class.model_type:
            return rewire(architecture.encoder(_library_config(architecture, folder / "config.json")), "none", "plain")
        elif isinstance(architecture, ImageNetwork) and "architecture" in (values := _settings_in(folder)):
            arguments = values.get("model_args") or {}
            if not isinstance(arguments, dict):
                raise ValueError(f"{folder / 'config.json'}: model_args is {shown(arguments)}; it must be a mapping.")
            settings = {"variant": values["architecture"], **arguments}
            architecture.check(settings, f"{folder / 'config.json'}: ")
            return rewire(architecture.build(**settings), "none")
    raise ValueError(
        f"{folder} holds a model of type {model_type!r}, but the backbone is of type {architecture.model_type!r}: "
        "choose other weights, or another model.backbone_config."
    )


def _library_config(architecture: ClipTransformer, path: Path) -> Any:
    """The configuration of a library's model, checked."""
    config_class = architecture.config_class
    values = {n: v for n, v in read_json(path).items() if n != "self" and not callable(getattr(config_class, n, None))}
    settings = {n: v for n, v in values.items() if n in architecture.settings() and n not in LABELS}
    check_bounds(str(path), settings)
    architecture.check(settings, f"{path}: ")
    return config_class.from_dict(values)


def _of_torchvision(weights: Any) -> nn.Module | None:
    models = torchvision.models
    for name in models.list_models(module=models.video):
        if models.get_model_weights(name) is type(weights):
            with torch.device("meta"):
                return rewire(models.get_model(name), "none", "plain")
    return None


def _with_todays_names(backbone: PreTrainedModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames what a library's model was saved with by its older versions, as the library does when it loads."""
    own = backbone.state_dict()
    if not own.keys() - state.keys():
        return state
    library: Any = cast(Any, type(backbone)).original_class
    settings = {"config": backbone.config, "ignore_mismatched_sizes": True, "output_loading_info": True}
    with without_loading_report():
        loaded, info = library.from_pretrained(None, state_dict=state, **settings)
    renamed = {n: t for n, t in loaded.state_dict().items() if n in own and n not in info["missing_keys"]}
    renamed |= {name: torch.empty(shape, device="meta") for name, shape, _ in info["mismatched_keys"] if name in own}
    return renamed | {name: torch.empty(0, device="meta") for name in info["unexpected_keys"]}


def _changed_indices(own: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """Names an index that the source has otherwise, such as the relative positions in a window of another form."""
    changed = [
        name for name, t in found.items() if t.dim() and is_computed(own[name]) and not torch.equal(t, own[name].cpu())
    ]
    return [f"the values of {some(changed)} differ"] if changed else []
