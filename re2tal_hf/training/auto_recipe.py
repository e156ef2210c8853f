"""A recipe that finds its own settings: from annotations, videos and machine, each with its reason beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from textwrap import indent
from typing import Any

import numpy as np
import torch

from ..architecture import BACKBONES
from ..data.annotation_set import AnnotatedVideo
from ..data.durations import known_durations
from ..data.timeline_index import TimelineIndex
from ..data.window_choice import choose_window
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..video_reader import VideoReadError
from .arguments import AUTO, SECTIONS, parse_recipe, with_overrides
from .auto_memory import Fit, Trial, device_of_training, fit_frames, memory_for_training
from .library_weights import backbone_of
from .localization import read_subset
from .recipe_yaml import write_yaml

SMALL_WEIGHTS, LARGE_WEIGHTS = "hf-hub:timm/tf_efficientnet_lite0.in1k", "Swin3D_T_Weights.KINETICS400_V1"
SCRATCH = {
    "model_type": "video_swin", "embed_dim": 48, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8],
    "patch_size": [2, 8, 8], "window_size": [4, 5, 7],
}  # fmt: skip
# Windows of an update.
BATCH = 2
# The recipe image_lite0 was run with 3.4 updates for each action, the published one for THUMOS-14 has 4.
UPDATES_PER_ACTION = 4
FEWEST_UPDATES, MOST_UPDATES, MANY_UPDATES = 300, 12000, 3000
EVALUATIONS, PATIENCE = 8, 3
# Whose forms are looked at.
MOST_OPENED = 8


@dataclass
class Footage:
    """What the training videos are.

    Attributes:
        lengths: Of the actions, seconds.
        durations: Of the videos, seconds.
        labels: Names of the classes.
        height, width: Of a typical frame; the shorter edge is that of the smallest.
    """

    lengths: np.ndarray
    durations: list[float]
    labels: list[str]
    height: int
    width: int


class Choices:
    """Values of a recipe by section and field, each with a reason; what is given stays as it is.

    Args:
        given: Values by section.
    """

    def __init__(self, given: dict[str, Any]):
        self.given = {name: {} if fields is None else fields for name, fields in given.items()}
        self.values: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}

    def choose(self, place: str, value: Any, reason: str) -> Any:
        """Takes a value unless there is one already, fields of a mapping one by one; returns what is taken."""
        section, _, field = place.partition(".")
        given = self.given.get(section, {})
        if field in given:
            own = given[field]
            if isinstance(own, dict) and isinstance(value, dict) and "model_type" not in own:
                value, reason = {**value, **own}, f"{reason}; given: {', '.join(own)}"
            else:
                value, reason = own, "given"
        self.values.setdefault(section, {})[field] = value
        self.reasons[place] = reason
        return value

    def as_yaml(self, lines: Sequence[str] = ()) -> str:
        """Returns a recipe with the reasons as comments, beginning with some lines."""
        text = "".join(f"# {line}\n" for line in lines)
        places = [name for name in SECTIONS if name in self.values or name in self.given]
        for section in dict.fromkeys([*places, *self.given]):
            given = self.given.get(section, {})
            if section not in SECTIONS:
                text += write_yaml({section: given})
                continue
            text += f"{section}:\n"
            before = None
            for field, value in {**given, **self.values.get(section, {})}.items():
                reason = self.reasons.get(f"{section}.{field}", "given")
                if reason != before:
                    text += f"  # {' '.join(reason.split())}\n"
                before = reason
                text += indent(write_yaml({field: value}, compact=True), "  ")
        return text


def find_recipe(overrides: Sequence[str] = (), imports: Sequence[str] = ()) -> str:
    """Chooses every setting that is not given.

    Args:
        overrides: `section.field=value`: `data.annotations` and what else is to stay as it is.
        imports: The user's own files.

    Returns:
        YAML of a recipe, with the reason of each choice as a comment.

    Raises:
        ValueError: if nothing can be chosen: no data, fields that are wrong, or too little memory.
    """
    of_points = ("data.points=", "processor.point_window=")
    if given := [override for override in overrides if override.startswith(of_points)]:
        raise ValueError(
            f"--recipe {AUTO} finds settings by the lengths of the actions, without {given[0]}: for points in time "
            "begin with quickstart_spotting, or with image_lite0 and model.head_config.model_type=spotting."
        )
    # Of a model that is given in part nothing can be said yet.
    others = [override for override in overrides if not override.startswith("model.")]
    recipe = parse_recipe("model: {backprop: auto}", AUTO, others, imports)
    if recipe.data.features or recipe.training.pretrained_model:
        field = "data.features" if recipe.data.features else "training.pretrained_model"
        fitting = "features_actionformer" if recipe.data.features else "of the run that it comes from, RUN/recipe.yaml"
        raise ValueError(
            f"--recipe {AUTO} is for videos and pretrained backbones, without {field}: take the recipe {fitting}."
        )
    subset = read_subset(recipe.data, recipe.data.training_subset, repair=True)
    read_subset(recipe.data, recipe.data.validation_subset, repair=False)  # said before anything long
    footage = look_at(subset.videos, subset.label_names)
    choices = Choices(with_overrides({}, overrides))
    device = device_of_training()
    scratch = _choose_backbone(choices, device)
    seconds = _choose_window(choices, footage)
    _choose_augmentation(choices, footage)
    updates = _choose_length(choices, footage, seconds)
    _choose_head(choices, footage, updates)
    _choose_rates(choices, updates, scratch)
    fit = _choose_frames(choices, footage, device)
    lines = [
        f"Chosen by re2tal train --recipe {AUTO} for {len(footage.durations)} videos with {len(footage.lengths)} "
        f"training actions of {len(footage.labels)} classes, on {device.type}.",
        f"A step took {fit.seconds:.2g} s: about {_minutes(fit.seconds * updates)} of training, without evaluations.",
        "Keep it, change it, and give it to --recipe in place of the name.",
    ]
    return choices.as_yaml(lines)


def look_at(videos: Sequence[AnnotatedVideo], labels: list[str]) -> Footage:
    """Reads what training videos are; those that cannot be read are left to the training to name.

    Raises:
        ValueError: if none can be read, or none has an action.
    """
    videos = [video for video in videos if video.path is not None]
    index = TimelineIndex()
    found = known_durations(videos, index)
    index.save()
    durations = [duration for duration in found if not isinstance(duration, VideoReadError)]
    readable = [
        video for video, duration in zip(videos, found, strict=True) if not isinstance(duration, VideoReadError)
    ]
    if not readable:
        raise ValueError(f"None of the {len(videos)} training videos can be read; first: {found[0]}")
    segments = np.concatenate([video.segments for video in readable])
    lengths = segments[:, 1] - segments[:, 0]
    if not (lengths > 0).any():
        raise ValueError("No training video has an action that ends after its start.")
    forms = []
    for video in readable[:: math.ceil(len(readable) / MOST_OPENED)]:
        with index.open(video.local_path()) as reader:
            forms.append((reader.height, reader.width))
    ratio, short = float(np.median([width / height for height, width in forms])), min(min(form) for form in forms)
    height, width = (short, round(short * ratio)) if ratio >= 1 else (round(short / ratio), short)
    return Footage(lengths[lengths > 0], durations, labels, height, width)


def _choose_backbone(choices: Choices, device: torch.device) -> bool:
    """Weights, network and rewiring; returns whether it begins without weights."""
    on_processor, timm = device.type == "cpu", find_spec("timm") is not None
    weights = SMALL_WEIGHTS if timm and on_processor else LARGE_WEIGHTS
    where = "a processor" if on_processor else "a GPU"
    reason = {
        SMALL_WEIGHTS: f"ImageNet, Apache-2.0: a network for {where}",
        LARGE_WEIGHTS: f"Kinetics-400, BSD-3-Clause: the smallest of the published video networks, on {where}"
        + ("; install timm for one that takes a tenth of the time" if on_processor else ""),
    }[weights]
    source = choices.choose("training.pretrained_backbone", weights, reason)
    own = choices.given.get("model", {}).get("backbone_config") or {}
    if "model_type" in own:
        settings, reason = own, "given"
    elif source is None:
        settings, reason = SCRATCH, "no weights: a small network that learns from scratch"
    else:
        settings, reason = _network_of(str(source)), "the network of the weights"
        if settings["model_type"] == "image" and "temporal_shift" not in settings:
            settings["temporal_shift"] = 0.125
            reason += "; an eighth of the channels sees the frames beside (TSM), since single frames show no motion"
    choices.choose("model.backbone_config", settings, reason)
    choices.choose(
        "model.rewiring", "re2tal", "in a fraction of the memory; on real videos no less accurate than not rewired, "
        "also without distillation first"
    )  # fmt: skip
    choices.choose("model.backprop", "auto", "every stage is recomputed or kept, whichever is faster in the memory")
    return source is None


def _network_of(source: str) -> dict[str, Any]:
    try:
        return backbone_of(source)
    except ValueError as error:
        raise ValueError(f"training.pretrained_backbone: {error}") from error


def _choose_window(choices: Choices, footage: Footage) -> float:
    """Frame rate and window; returns its seconds."""
    given = choices.given.get("processor", {})
    window = choose_window(footage.lengths, given.get("frame_rate"))
    assert window is not None
    short, long = np.quantile(footage.lengths, [0.05, 0.99])
    rate = choices.choose(
        "processor.frame_rate", window.frame_rate, f"19 of 20 actions last {short:.3g} s or more: "
        f"{short * window.frame_rate:.0f} frames or more"
    )  # fmt: skip
    frames = choices.choose(
        "processor.num_frames", window.num_frames,
        f"{window.num_frames / rate:.3g} s; 99 of 100 actions are shorter than {long:.3g} s",
    )  # fmt: skip
    seconds = float(frames / rate)
    choices.choose("processor.window_overlap", 0.5, "what one window cuts, the next one shows whole")
    choices.choose("processor.nms_sigma", 0.5, "as in all recipes for small data")
    if choices.values["model"]["backbone_config"].get("model_type") == "image" and find_spec("timm"):
        import timm

        variant = choices.values["model"]["backbone_config"].get("variant", "tf_efficientnet_lite0")
        if (pretrained := timm.get_pretrained_cfg(variant)) is not None:
            choices.choose(
                "processor.image_mean", [round(v, 4) for v in pretrained.mean], "as the weights were trained"
            )
            choices.choose("processor.image_std", [round(v, 4) for v in pretrained.std], "as the weights were trained")
    return seconds


def _choose_augmentation(choices: Choices, footage: Footage) -> None:
    ratio = footage.width / footage.height
    choices.choose("augmentation.crop_scale", [0.7, 1.0], "few videos: each is shown in many ways")
    choices.choose(
        "augmentation.crop_ratio", [round(0.9 * ratio, 3), round(1.1 * ratio, 3)], f"frames are {ratio:.2f}:1"
    )
    sided = [name for name in footage.labels if {"left", "right"} & {*name.lower().replace("_", " ").split()}]
    reason = f"the class {sided[0]!r} has a side" if sided else "no class has a side by its name"
    choices.choose("augmentation.flip_probability", 0.0 if sided else 0.5, reason)
    for name in ("brightness", "contrast", "saturation"):
        choices.choose(f"augmentation.{name}", 0.2, "other light than in training")


def _choose_length(choices: Choices, footage: Footage, seconds: float) -> int:
    """Windows, epochs and evaluations; returns the number of updates."""
    stretch = choices.choose(
        "data.seconds_per_window", round(2 * seconds, 3), "a window an epoch for every two that a video has room for"
    )
    per_video = choices.given.get("data", {}).get("windows_per_video", 1)
    windows = sum(per_video * math.ceil(duration / stretch) if stretch else per_video for duration in footage.durations)
    actions = len(footage.lengths)
    updates = min(max(UPDATES_PER_ACTION * actions, FEWEST_UPDATES), MOST_UPDATES)
    per_epoch = max(windows // BATCH, 1)
    epochs = choices.choose(
        "training.epochs", max(math.ceil(updates / per_epoch), 2),
        f"{per_epoch} updates an epoch, {updates} in all: {UPDATES_PER_ACTION} for each of {actions} actions, within "
        f"{FEWEST_UPDATES} and {MOST_UPDATES}",
    )  # fmt: skip
    choices.choose("training.warmup_epochs", max(1, round(0.05 * epochs)), "a twentieth, and one at least")
    every = choices.choose("evaluation.epochs", math.ceil(epochs / EVALUATIONS), f"{EVALUATIONS} evaluations")
    if every:
        choices.choose("evaluation.patience", PATIENCE, f"{PATIENCE} evaluations without a better figure are the end")
    workers = torch.multiprocessing.cpu_count() - 1
    choices.choose("data.num_workers", min(max(workers, 1), 4), "processes that decode, beside the training")
    return epochs * per_epoch


def _choose_head(choices: Choices, footage: Footage, updates: int) -> None:
    settings = choices.values["model"]["backbone_config"]
    with torch.device("meta"):
        model = Re2TALForTemporalActionLocalization._from_config(
            Re2TALForTemporalActionLocalization.config_class(backbone_config=settings, num_labels=1)
        )
    steps = choices.values["processor"]["num_frames"] // model.model.feature_stride
    levels = min(max(math.floor(math.log2(max(steps, 2))) - 1, 2), 6)
    size = 256 if updates >= MANY_UPDATES else 128
    head = {"model_type": "actionformer", "hidden_size": size, "num_levels": levels, "standardize_input": True}
    choices.choose("model.head_config", head, f"{levels} levels for {steps} feature steps; narrow where data are few")
    choices.choose(
        "model.loss_config",
        {"initial_normalizer": 100 if updates >= MANY_UPDATES else 30},
        "as in the recipes of this size",
    )


def _choose_rates(choices: Choices, updates: int, scratch: bool) -> None:
    convolutional = choices.values["model"]["backbone_config"]["model_type"] in ("image", "video_resnet")
    if scratch:
        rates, reason = (5e-4, 5e-4), "all begins anew"
    elif updates >= MANY_UPDATES:
        rates, reason = (1e-4, 1e-5), f"as published for {MANY_UPDATES} updates and more"
    else:
        rates, reason = (1e-3, 2e-4 if convolutional else 5e-5), "few updates; the backbone moves less than the head"
    choices.choose("training.learning_rate", rates[0], reason)
    choices.choose("training.backbone_learning_rate", rates[1], reason)
    decay = min(max(1 - 10 / updates, 0.9), 0.999)
    choices.choose("training.ema_decay", round(decay, 4), "an average over a tenth of the updates")
    if not scratch:
        choices.choose("freeze.norms", True, f"their statistics are not to be learned from {BATCH} windows at a time")


def _choose_frames(choices: Choices, footage: Footage, device: torch.device) -> Fit:
    """Precision, memory, frame size and batch; the largest with which a step goes well."""
    if device.type == "cpu":
        precision, reason = "no", "a processor"
    else:
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision, reason = ("bf16", "the GPU has it") if has_bf16 else ("fp16", "the GPU has no bf16")
    choices.choose("training.mixed_precision", precision, reason)
    auto = choices.values["model"]["backprop"] == "auto"
    budget, reason = memory_for_training(device)
    if auto:
        choices.choose("training.memory_budget", budget, reason)
    trials = list(_trials(choices, footage, device))
    fit = fit_frames(lambda trial: parse_recipe(_tried(choices, trial), AUTO), trials, device, len(footage.labels))
    for place, value in fit.trial.settings.items():
        of_batch = f"{BATCH} windows an update, as many at once as fit"
        choices.choose(place, value, f"{fit.trial.reason}; {fit}" if place == "processor.size" else of_batch)
    choices.choose("evaluation.batch_size", BATCH, "as many windows as an update has")
    return fit


def _trials(choices: Choices, footage: Footage, device: torch.device) -> Sequence[Trial]:
    """Frame sizes with batches, the best first."""
    batch = choices.given.get("training", {}).get("batch_size", BATCH)
    batches = [{"training.batch_size": batch}]
    if batch == BATCH and "gradient_accumulation" not in choices.given.get("training", {}):
        batches.append({"training.batch_size": 1, "training.gradient_accumulation": BATCH})
    if "size" in choices.given.get("processor", {}):
        sizes, reason = [choices.given["processor"]["size"]], "given"
    elif fixed := _fixed_size(choices.values["model"]["backbone_config"]):
        sizes, reason = [{"height": fixed, "width": fixed}], "the network takes no other"
    else:
        most = 96 if device.type == "cpu" else 224
        edges = [edge for edge in (224, 192, 160, 128, 112, 96, 80, 64, 48) if edge <= most]
        short = min(footage.height, footage.width)
        edges = [edge for edge in edges if edge <= short] or edges[-1:]
        sizes = [_scaled(footage, edge) for edge in edges]
        reason = "a processor takes long for more" if most == 96 else "the size of pretraining"
        reason = f"up to {most}, {reason}, and no more than the videos have ({short})"
    return [Trial({"processor.size": size, **batches_of}, reason) for size in sizes for batches_of in batches]


def _scaled(footage: Footage, edge: int) -> dict[str, int]:
    scale = edge / min(footage.height, footage.width)
    return {name: round(scale * getattr(footage, name) / 16) * 16 for name in ("height", "width")}


def _fixed_size(settings: dict[str, Any]) -> int | None:
    """The edge of the frames of a network that takes one only."""
    architecture = BACKBONES.find(settings["model_type"])
    with torch.device("meta"):
        model = architecture.build(**{name: value for name, value in settings.items() if name != "model_type"})
    if architecture.clip_length(model) is None:
        return None
    named = (settings.get(name) for name in ("image_size", "crop_size", "spatial_size"))
    found = next((value for value in named if value), 224)
    return int(found[0] if isinstance(found, Sequence) else found)


def _tried(choices: Choices, trial: Trial) -> str:
    """The recipe as it is so far, with what is tried."""
    values = {section: dict(fields) for section, fields in choices.values.items()}
    for section, fields in choices.given.items():
        values[section] = {**fields, **values.get(section, {})} if isinstance(fields, dict) else fields
    for place, value in trial.settings.items():
        section, _, field = place.partition(".")
        values.setdefault(section, {}).setdefault(field, value)
    return write_yaml(values)


def _minutes(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{max(1, round(seconds / 60))} minutes"
