"""A recipe: everything that defines a training run, read from YAML, any field overridden by name."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from ..configuration_re2tal import CONFIGS, settings_of
from ..data.annotation_set import PointOf
from ..data.augmentation import Augmentation
from ..data.time_units import MAX_LOST
from ..value_checks import (
    BELOW_ONE,
    NOT_NEGATIVE,
    POSITIVE_SHARE,
    SHARE,
    Range,
    check_value,
    did_you_mean,
    fields_of,
    shown,
)
from ..video_settings import VideoSettings
from .coupling_schedule import CouplingArguments
from .own_files import import_files
from .recipe_checks import check_recipe
from .recipe_yaml import MAX_BYTES, read_yaml

AUTO = "auto"
"""The recipe that is no file; see `auto_recipe.py`."""
# So far above any use that beyond it is a slip.
FEW = Range(1, 10**6)
EPOCHS = Range(0, 10**6)
WORKERS = Range(0, 512)
# At the highest rate of frames, a frame.
SECONDS = Range(1e-3, 10**6)
RATE = Range(0, 100)


@dataclass
class DataArguments:
    """Where the videos and annotations are, and how training windows are drawn.

    Args:
        annotations: Annotation file (JSON), a folder of videos with `metadata.jsonl`, or a dataset on the Hub,
            `user/name` or `user/name@revision`.
        videos: Folder of the video files; not needed where the annotations name them. Each file is measured once; what
            is found is kept in `HF_HOME`, and checked by the file's size and time of change.
        features: Folder of stored features, `.npy`, `.npz` or `.safetensors`, a file for each video and called like it,
            in place of the videos; `re2tal features` writes such a folder. The model's backbone is then `features`.
        streaming: Fetch a video from the Hub when it is first needed, instead of all at the start.
        training_subset, validation_subset: Names of the subsets in the annotations, in any case.
        allow_shared_videos: Train and measure on the same videos on purpose, as to see whether a model can learn them
            by heart; otherwise subsets that share video files are an error.
        max_unlearnable: Largest share of the training actions that cannot be learned with which a run goes on: longer
            than a window shows, shorter than a feature step, with no point of the head responsible for them, or outside
            their video. Also the largest share of validation actions outside their video.
        point_width: Seconds about its time that an action is given which starts where it ends; by default such points
            are dropped.
        points: For a head that finds points in time: each action is one, `middle` or `start` of those that have a
            length. `processor.point_window` goes with it, and the metric is that of SoccerNet.
        class_agnostic: All actions are one class (with an external video classifier at test time).
        windows_per_video: Windows drawn in an epoch from each video, or from each `seconds_per_window` of it where that
            is given.
        truncation_threshold: An action cut by the window's edge stays a label if at least this share of it (or of the
            window, where the action is longer) is inside.
        crop_ratio: Range of the share of the window's frames that is kept, or none.
        cache: Folder for decoded, resized frames; worth it for small frames on a CPU.
        max_unreadable: Largest share of unreadable video files with which a run goes on; of videos without stored
            features, too.
        num_workers: Processes that decode.
        timeout: Seconds without the next batch of these after which they, and the run, are ended; 0 for no limit.
    """

    annotations: str = ""
    videos: str | None = None
    features: str | None = None
    streaming: bool = False
    training_subset: str = "training"
    validation_subset: str = "validation"
    allow_shared_videos: bool = False
    max_unlearnable: Annotated[float, SHARE] = MAX_LOST
    point_width: Annotated[float | None, SECONDS] = None
    points: PointOf | None = None
    class_agnostic: bool = False
    windows_per_video: Annotated[int, FEW] = 1
    seconds_per_window: Annotated[float | None, SECONDS] = None
    truncation_threshold: Annotated[float, POSITIVE_SHARE] = 0.75
    crop_ratio: Annotated[list[float] | None, Range(0, 1, with_low=False, length=2, rising=True)] = None
    cache: str | None = None
    max_unreadable: Annotated[float, SHARE] = 0.05
    num_workers: Annotated[int, WORKERS] = 2
    timeout: Annotated[float, Range(0, 86400)] = 1800.0


@dataclass
class OptimizationArguments:
    """Optimiser, schedule and length of the training.

    Args:
        epochs: Epochs to train; `schedule_epochs` (default: the same) is where the cosine ends. Raised, they train the
            run of a folder further, at the learning rates of a training of that length.
        batch_size: Windows for each process and step; `gradient_accumulation` steps make an update.
        learning_rate, backbone_learning_rate: Peak rates of the head and of the backbone.
        final_learning_rate: Of the head, where the cosine ends; the backbone's ends at the same share of its peak.
        weight_decay: For weights of linear and convolution layers; none for norms, biases, tables.
        warmup_epochs: Linear warm-up.
        max_gradient_norm: Gradients are clipped to this norm; 0 or none for no clipping.
        max_skipped_steps: Most steps in a row that are skipped, because their loss or gradients are not finite, with
            which a run goes on.
        ema_decay: Decay of the moving average of the weights, which is what gets evaluated and saved; none for the
            weights themselves.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`.
        shard_weights: With several processes, each holds a share of the weights, their gradients and the optimiser's
            means, by FSDP2, and the whole weights during a step; and one whole copy, which is measured.
        zero_stage: With several processes, 1 shares the optimiser's means out, by DeepSpeed's ZeRO, 2 gradients, too,
            and 0 neither. `shard_weights` shares the weights out as well.
        memory_budget: With `model.backprop=auto` or `clips`, the memory that the training may take of the device, such
            as `"24GB"` or a number of bytes: weights, their gradients and the optimiser's means, the head, and the
            backbone, whose stages keep as much as is left. By default what is free; name a number where a run should be
            the same to the bit elsewhere.
        backprop_share: With `model.backprop=clips`, the share of a video's clips or chunks, drawn anew at every step,
            that gradients are taken of: a step takes about 1/3 plus this of a plain one's arithmetic, and gradients are
            those of the whole video in the mean only.
        pretrained_backbone: Weights to start from: a torchvision name such as `Swin3D_T_Weights.KINETICS400_V1`, a Hub
            id of a transformers model, a `.safetensors`, `.pth`, `.pt`, `.bin` or `.ckpt` file, or a folder such as
            `runs/backbone`, a run of re2tal finetune.
        pretrained_model: A trained localizer to start from, in place of a backbone alone: the folder of a run or of a
            model, or a Hub id. Its head carries over, too, and those of its classes that the annotations have.
        pretrained_license: License of these weights, by its name on the Hub, where it is not known: of a file, or of a
            repository that is not the publisher's.
        pretrained_partial: Take of these weights what fits and begin the rest anew, where by default weights that do
            not fit the whole backbone, or belong to one that computes something else, are an error.
        save_epochs: A checkpoint to resume from every so many epochs, and before every evaluation.
        save_steps: And, in the middle of an epoch, every so many updates; 0 for none. A signal saves first in any case.
        save_total_limit: Most checkpoints that are kept: the last ones, among them that after which the best model was
            measured. `best/` and `last/`, the models, do not count.
        trackers: Experiment trackers by their names in Accelerate.
    """

    epochs: Annotated[int, FEW] = 30
    schedule_epochs: Annotated[int | None, FEW] = None
    batch_size: Annotated[int, FEW] = 2
    gradient_accumulation: Annotated[int, FEW] = 1
    learning_rate: Annotated[float, Range(0, 100, with_low=False)] = 1e-4
    backbone_learning_rate: Annotated[float, RATE] = 1e-5
    final_learning_rate: Annotated[float, RATE] = 0.0
    weight_decay: Annotated[float, RATE] = 0.05
    warmup_epochs: Annotated[float, EPOCHS] = 5.0
    max_gradient_norm: Annotated[float | None, NOT_NEGATIVE] = 1.0
    max_skipped_steps: Annotated[int, NOT_NEGATIVE] = 10
    ema_decay: Annotated[float | None, BELOW_ONE] = 0.999
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    shard_weights: bool = False
    zero_stage: Annotated[int, Range(0, 2)] = 0
    memory_budget: int | str | None = None
    backprop_share: Annotated[float, POSITIVE_SHARE] = 1.0
    pretrained_backbone: str | None = None
    pretrained_model: str | None = None
    pretrained_license: str | None = None
    pretrained_partial: bool = False
    save_epochs: Annotated[int, FEW] = 1
    save_steps: Annotated[int, NOT_NEGATIVE] = 0
    save_total_limit: Annotated[int, FEW] = 1
    trackers: list[str] | None = field(default_factory=lambda: ["tensorboard"])

    @property
    def shared(self) -> str:
        """The field by which processes share something out; empty for none."""
        return "training.shard_weights" if self.shard_weights else "training.zero_stage" if self.zero_stage else ""

    @property
    def pretrained_weights(self) -> str | None:
        """What the training starts from; None for random weights."""
        return self.pretrained_model or self.pretrained_backbone


@dataclass
class EvaluationArguments:
    """How and when the model is measured.

    Args:
        epochs: Evaluate every so many epochs, and always after the last; 0 for only after the last.
        start_epoch: Not before so many epochs.
        patience: So many evaluations in a row without a better figure end the training; by default none do. Early in a
            schedule figures rise and fall, so give it a third of all evaluations or more.
        tiou_thresholds: Thresholds of the mAP.
        batch_size: Windows that go through the model together.
        views: Windows spread over a clip whose scores are averaged, in classification.
    """

    epochs: Annotated[int, EPOCHS] = 1
    start_epoch: Annotated[int, EPOCHS] = 0
    patience: Annotated[int | None, FEW] = None
    tiou_thresholds: Annotated[list[float], POSITIVE_SHARE] = field(default_factory=lambda: [0.3, 0.4, 0.5, 0.6, 0.7])
    batch_size: Annotated[int, FEW] = 1
    views: Annotated[int, FEW] = 3


@dataclass
class DistillationArguments:
    """Learning from the network as it was before the rewiring, in the classification of clips.

    Args:
        weight: Of the distance between the features of the two networks; 0 for no distillation.
        label_weight: Of the classification loss; 0 where clips have no labels of use.
    """

    weight: Annotated[float, Range(0, 10**6)] = 0.0
    label_weight: Annotated[float, Range(0, 10**6)] = 1.0


@dataclass
class FreezeArguments:
    """What of the backbone is not trained; of the run only, a model that was saved trains whole again.

    Args:
        backbone: None of its parameters but those of adapters and of LoRA. The model is then saved without the weights
            that are as published, where `training.pretrained_backbone` is a name and no file.
        stages: So many leading stages, the stem included, are not trained.
        norms: Norms keep their parameters, and batch norms their running statistics.
    """

    backbone: bool = False
    stages: Annotated[int, NOT_NEGATIVE] = 0
    norms: bool = False


@dataclass
class Recipe:
    """One training run.

    A file may begin with `base: NAME`, a recipe of the package: it then says only what differs.

    Args:
        model: Arguments of [`Re2TALConfig`] or, to classify clips, of [`Re2TALVideoClassificationConfig`], without the
            labels, which come from the annotations. Those that only the other task has are left out.
        processor: Arguments of [`Re2TALVideoProcessor`].
        augmentation: Arguments of [`Augmentation`].
        data ([`DataArguments`]), training ([`OptimizationArguments`]), evaluation ([`EvaluationArguments`]),
            freeze ([`FreezeArguments`]), coupling ([`CouplingArguments`]), distillation ([`DistillationArguments`])
        imports: Your own Python files, which register an architecture or a head.
        seed: Of weights, windows, augmentation and stochastic layers.
        licence: `"commercial"` refuses pretrained weights that are for non-commercial use only, also behind runs
            between; `"any"` takes them and says so.
        name: Of the recipe; by default that of its file.
    """

    model: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    augmentation: dict[str, Any] = field(default_factory=dict)
    data: DataArguments = field(default_factory=DataArguments)
    training: OptimizationArguments = field(default_factory=OptimizationArguments)
    evaluation: EvaluationArguments = field(default_factory=EvaluationArguments)
    freeze: FreezeArguments = field(default_factory=FreezeArguments)
    coupling: CouplingArguments = field(default_factory=CouplingArguments)
    distillation: DistillationArguments = field(default_factory=DistillationArguments)
    imports: list[str] = field(default_factory=list)
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    licence: Literal["any", "commercial"] = "any"
    name: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns nested dictionaries, as in the YAML file."""
        return dataclasses.asdict(self)


def recipe_names() -> list[str]:
    """Returns the names of the recipes in the package."""
    folder = resources.files("re2tal_hf") / "recipes"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str, overrides: Sequence[str] = (), imports: Sequence[str] = ()) -> Recipe:
    """Reads a recipe, applies overrides and imports the user's own files.

    Args:
        name: Name of a recipe in the package, or path of a YAML file.
        overrides: `section.field=value`, values in YAML, for example `training.epochs=5` or
            `model.backbone_config.depths=[2,2,2,2]`.
        imports: Files beside those in the recipe's `imports`; see [`import_files`].

    Raises:
        ValueError: if the recipe or a field does not exist, a key is there twice, a value is of the wrong type or
            out of its range, or a file cannot be imported.
    """
    return parse_recipe(_text_of(name), name, overrides, imports)


def parse_recipe(text: str | bytes, name: str, overrides: Sequence[str] = (), imports: Sequence[str] = ()) -> Recipe:
    """Makes a recipe of its text; see [`load_recipe`]."""
    values = {"name": Path(name).stem, **_with_base(_mapping(read_yaml(text, name), name), name)}
    values = with_overrides(values, overrides)
    where = f"Recipe {name}: "
    recipe = _build(values, where)
    import_files(recipe.imports, f"{where}imports:")
    import_files(imports)
    recipe.imports = list(dict.fromkeys([*recipe.imports, *imports]))
    check_recipe(recipe, where)
    return recipe


def with_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns nested values with those of `section.field=value` in place of their own."""
    for override in overrides:
        path, separator, value = override.partition("=")
        if not separator or override.startswith("-"):
            raise ValueError(f"The override {shown(override)} is not of the form section.field=value.")
        _set(values, path.split("."), _override_value(value, override))
    return values


def _text_of(name: str) -> bytes:
    """The file of a recipe, no more of it than a recipe can have."""
    if name in recipe_names():
        return (resources.files("re2tal_hf") / "recipes" / f"{name}.yaml").read_bytes()
    if name == AUTO:
        raise ValueError(
            f"--recipe {AUTO} finds settings for `re2tal train`; add --print there for a recipe to give here. "
            f"Or choose one of {', '.join(recipe_names())}."
        )
    path = Path(name)
    if os.path.isdir(path):
        inside = sorted(path.glob("*.yaml"))
        hint = f"; did you mean {inside[0]}?" if inside else "; give a YAML file in it."
        raise ValueError(f"The recipe {shown(name)} is a folder{hint}")
    if not os.path.isfile(path):
        near = difflib.get_close_matches(name, recipe_names(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(recipe_names())}."
        raise ValueError(f"There is no recipe {shown(name)}; {hint} Or give a YAML file.")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _override_value(text: str, override: str) -> Any:
    try:
        return read_yaml(text, f"The override {shown(override)}")
    except ValueError as error:
        raise ValueError(f"{error}; in YAML, text with signs such as brackets or colons needs quotes.") from error


def _mapping(values: Any, name: str) -> dict[str, Any]:
    if not isinstance(values, (dict, type(None))):
        raise ValueError(f"Recipe {name}: {shown(values)} must be sections with fields.")
    return values or {}


def _with_base(values: dict[str, Any], name: str) -> dict[str, Any]:
    """A recipe's values, with those of the recipe that it names as its base where it is silent."""
    if (base := values.pop("base", None)) is None:
        return values
    if not isinstance(base, str) or base not in recipe_names():
        near = did_you_mean(str(base), recipe_names())
        raise ValueError(f"Recipe {name}: base is {shown(base)}, which is no recipe of the package; {near}")
    silent = [section for section, value in values.items() if value is None and section in SECTIONS]
    said = {section: value for section, value in values.items() if section not in silent}
    return _merged(_with_base(_mapping(read_yaml(_text_of(base), base), base), base), said)


def _merged(values: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested values, those of `above` in place of others of their name."""
    merged = dict(values)
    for name, value in above.items():
        inside = merged.get(name)
        merged[name] = _merged(inside, value) if isinstance(inside, dict) and isinstance(value, dict) else value
    return merged


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        if not isinstance(values.get(key), dict):
            values[key] = {}
        values = values[key]
    values[path[-1]] = value


def _build(values: dict[str, Any], where: str) -> Recipe:
    """A recipe from its values, each checked by name, type and range."""
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in SECTIONS:
            arguments[name] = _checked(where, name, value)
            continue
        if not isinstance(value, (dict, type(None))):
            raise ValueError(f"{where}{name} is {shown(value)}; it must be a section with fields.")
        fields = {key: _checked(where, f"{name}.{key}", part) for key, part in (value or {}).items()}
        arguments[name] = SECTIONS[name](**fields)
    return Recipe(**arguments)


def _checked(where: str, place: str, value: Any) -> Any:
    """The value of a field, checked; refused where there is no such field."""
    if place in _DERIVED:
        raise ValueError(f"{where}{place} is set by the training itself: leave it out.")
    if place not in _FIELDS:
        raise ValueError(f"{where}there is no field {shown(place)}; {_near(place)}")
    return check_value(f"{where}{place}", value, _FIELDS[place])


def _near(place: str) -> str:
    """The end of a message on a field that there is not: where it may be, under this name or one that is like it."""
    section, _, name = place.rpartition(".")
    inside = {field.rpartition(".")[2]: field for field in _FIELDS if field.rpartition(".")[0] == section}
    found = [field for field in _FIELDS if field.rpartition(".")[2] == name]
    found = found or [inside[like] for like in difflib.get_close_matches(name, inside, 1)]
    found = found or difflib.get_close_matches(place, [*_FIELDS, *SECTIONS], 1, cutoff=0.75)
    if found:
        return f"did you mean {' or '.join(map(repr, found))}?"
    return f"known are {', '.join(sorted(inside if section in SECTIONS else fields_of(Recipe)))}."


def _fields() -> dict[str, Any]:
    """Every field of a recipe by its dotted name, with its type and range."""
    recorded = ("origin", "backbone_weights")
    settings = {name: hint for kind in CONFIGS.values() for name, hint in settings_of(kind).items()}
    of_model = {name: hint for name, hint in settings.items() if name not in recorded}
    of_frames = {
        **fields_of(VideoSettings),
        **dict.fromkeys(("size", "crop_size"), Annotated[int | list[int] | dict[str, int], Range(1, 2**13)]),
        "frame_rate": Annotated[float, Range(1e-3, 1000)],
        "resample": Annotated[int, Range(0, 3)],
        "do_pad": bool,
    }
    handed_on = {"model": of_model, "processor": of_frames, "augmentation": fields_of(Augmentation)}
    found: dict[str, Any] = {}
    for name, kind in fields_of(Recipe).items():
        if name in SECTIONS:
            fields = handed_on[name] if name in handed_on else fields_of(kind)
            found |= {f"{name}.{field}": hint for field, hint in fields.items()}
        else:
            found[name] = kind
    return found


SECTIONS: dict[str, type] = {
    name: get_origin(kind) or kind
    for name, kind in fields_of(Recipe).items()
    if dataclasses.is_dataclass(kind) or get_origin(kind) is dict
}
_FIELDS = _fields()
# From the annotations, training.pretrained_backbone and the class of the model.
_DERIVED = [
    f"model.{name}"
    for name in (
        "num_labels",
        "id2label",
        "label2id",
        "origin",
        "backbone_weights",
        "model_type",
        "architectures",
        "dtype",
    )
]
