"""A trained localizer as the start of another, which knows the same classes, some of them or none."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..configuration_re2tal import Re2TALConfig
from ..head import HEADS
from ..loaded_weights import WeightFit, is_infinite, some
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..value_checks import arguments_of, shown
from ..video_processing_re2tal import Re2TALVideoProcessor
from .model_source import model_folder
from .pretrained import find_weights, load_backbone_weights
from .weight_files import read_weight_folder

FIELD = "training.pretrained_model"
HEAD = "head."
# Settings of a head that act in training only, or before it.
AT_THE_START = re.compile(r".*drop.*|branch_scale|class_prior|regression_ranges")
# Of the processor, what the weights got used to.
PROCESSOR = ("frame_rate", "image_mean", "image_std", "rescale_factor", "do_normalize", "do_rescale")


def find_localizer(model: Re2TALForTemporalActionLocalization, source: str) -> Path:
    """Returns the folder of a localizer whose weights another can begin with, without reading them.

    Args:
        model: That begins with them; may be on the meta device.
        source: A folder of a model or a run, or a Hub id, which is fetched.

    Raises:
        ValueError: if there is none, or its head computes something else.
    """
    found = find_weights(model.model.backbone, source, FIELD)
    config = None
    if isinstance(found, Path) and found.is_dir():
        found = model_folder(found)
        config, _ = Re2TALConfig.get_config_dict(found)
    if config is None or config.get("model_type") != Re2TALConfig.model_type or not isinstance(found, Path):
        raise ValueError(
            f"{FIELD} is {shown(source)}, which is no localizer: name the folder of a run of re2tal train or of its "
            "model, or a Hub id; weights of a backbone are training.pretrained_backbone's."
        )
    if changed := _other_settings(Re2TALConfig.from_pretrained(found).head_config, model.config.head_config):
        own = found.parent / "recipe.yaml"
        advice = f"; its own recipe is {own}" if own.is_file() else ""
        raise ValueError(
            f"{FIELD} is {shown(source)}, whose head is another: {'; '.join(changed)}. Set model.head_config and "
            f"model.backbone_config as its config.json has them{advice}."
        )
    return found


def load_localizer_weights(
    model: Re2TALForTemporalActionLocalization, source: str, processor: Re2TALVideoProcessor
) -> str:
    """Loads backbone and head of a trained localizer into another.

    What is there once for each class, the last layer of the classification, carries over for the classes of the same
    name, wherever they stand, and begins anew for others.

    Args:
        model: Whose weights are replaced; its `config.id2label` names its classes.
        source: As for [`find_localizer`].
        processor: Of the training that begins.

    Returns:
        What was loaded, of which classes, and in what the frames are other than those of the source.

    Raises:
        ValueError: see `find_localizer`; if a tensor of backbone or head is missing, of another shape
            or without a place.
    """
    folder = find_localizer(model, source)
    loaded = load_backbone_weights(model.model.backbone, str(folder))
    config = Re2TALConfig.from_pretrained(folder)
    theirs, ours = _class_names(config), _class_names(model.config)
    state = {name.removeprefix(HEAD): t for name, t in read_weight_folder(folder).items() if name.startswith(HEAD)}
    own = model.head.state_dict()
    of_classes = {} if theirs == ours else _class_dimensions(model.config)
    fit = WeightFit(
        source,
        total=len(own),
        missing=sorted(own.keys() - state.keys()),
        unused=sorted(state.keys() - own.keys()),
        reshaped={
            name: (tuple(state[name].shape), tuple(tensor.shape))
            for name, tensor in own.items()
            if name in state and name not in of_classes and state[name].shape != tensor.shape
        },
        infinite=sorted(name for name in own.keys() & state.keys() if is_infinite(state[name])),
    )
    fit.check_numbers()
    fit.check("the head", "Set model.head_config as its config.json has it.")
    fitting = {
        name: _of_same_classes(tensor, state[name], of_classes[name], ours, theirs)
        if name in of_classes
        else state[name]
        for name, tensor in own.items()
    }
    model.head.load_state_dict(fitting)
    carried, anew = [name for name in ours if name in theirs], [name for name in ours if name not in theirs]
    if None in of_classes.values():
        carried, anew = [], ours
    told = [f"classes that carry over: {some(carried)}"] * bool(carried) + [f"begun anew: {some(anew)}"] * bool(anew)
    return "; ".join([loaded, f"head: {fit}", *told, *other_frames(folder, processor)])


def other_frames(source: str | Path, processor: Re2TALVideoProcessor) -> list[str]:
    """Returns in what the frames differ that a model was trained on and that another processor gives it."""
    trained = Re2TALVideoProcessor.from_pretrained(source)
    pairs = [(name, getattr(trained, name), getattr(processor, name)) for name in PROCESSOR]
    return [
        f"processor.{name} was {there!r} there and is {here!r} here" for name, there, here in pairs if there != here
    ]


def _other_settings(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """In what two `head_config` differ that changes what is computed."""
    there, here = (_whole(settings) for settings in (theirs, ours))
    names = ["model_type"] if there["model_type"] != here["model_type"] else sorted(here)
    return [
        f"{name} is {shown(there[name])} there and {shown(here[name])} here"
        for name in names
        if there[name] != here[name] and not AT_THE_START.fullmatch(name)
    ]


def _whole(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A `head_config` with its defaults, lists as in JSON."""
    head = HEADS[settings["model_type"]].head_class
    defaults = arguments_of(getattr(head, "config_class", None) or head).defaults
    return json.loads(json.dumps({**defaults, **settings}))


def _class_dimensions(config: Re2TALConfig) -> dict[str, int | None]:
    """Tensors of a head whose shape depends on the number of classes: the dimension that counts them.

    None where it counts something else, too, such as anchors of each class.
    """
    number = config.num_labels
    settings = {"backbone_config": config.backbone_config, "head_config": config.head_config}
    with torch.device("meta"):
        one, other = (
            Re2TALForTemporalActionLocalization(Re2TALConfig(**settings, num_labels=count)).head.state_dict()
            for count in (number, number + 1)
        )
    found: dict[str, int | None] = {}
    for name, tensor in one.items():
        if changed := [dim for dim, size in enumerate(tensor.shape) if size != other[name].shape[dim]]:
            single = len(changed) == 1 and tensor.shape[changed[0]] == number
            found[name] = changed[0] if single else None
    return found


def _class_names(config: Re2TALConfig) -> list[str]:
    return [config.id2label[index] for index in range(config.num_labels)]


def _of_same_classes(
    own: Tensor, there: Tensor, dimension: int | None, ours: Sequence[str], theirs: Sequence[str]
) -> Tensor:
    """A tensor as it is, with the parts of the classes that the other has, too."""
    if dimension is None:
        return own
    shared = [name for name in ours if name in theirs]
    here = torch.tensor([ours.index(name) for name in shared], dtype=torch.long)
    taken = there.to(own).index_select(
        dimension, torch.tensor([theirs.index(name) for name in shared], dtype=torch.long)
    )
    return own.index_copy(dimension, here, taken)
