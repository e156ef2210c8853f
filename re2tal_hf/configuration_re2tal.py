"""What a model is: backbone and rewiring, and head and loss of a localizer or what a classifier has."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from .architecture import BACKBONES
from .configuration_labels import checked_labels
from .coupling import check_rewiring, default_backprop
from .head import HEADS
from .lora import check_lora
from .saved_files import JSON_NAMES, check_folder, check_json, files_checked, read_json
from .value_checks import (
    BELOW_ONE,
    COUNT,
    DTYPE,
    arguments_of,
    check_arguments,
    check_bounds,
    check_value,
    check_values,
    did_you_mean,
    fields_of,
    one_line,
    shown,
)

# What transformers' `pipeline()` looks for in a saved configuration.
PIPELINES = {
    "temporal-action-localization": {
        "impl": "pipeline_re2tal.TemporalActionLocalizationPipeline",
        "pt": ["AutoModel"],
    }
}

LABELS = ("id2label", "label2id")
# Settings that transformers takes beside the fields of its configuration.
OTHERS: dict[str, Any] = {
    "name_or_path": str,
    "auto_map": dict | None,
    "custom_pipelines": dict | None,
    "torch_dtype": DTYPE,
    "output_attentions": bool | None,
    "attn_implementation": str | dict | None,
    "experts_implementation": str | dict | None,
}


class RewiredConfig(PreTrainedConfig):
    """What the models of every task have: a backbone, its rewiring, and where its weights come from."""

    backbone_config: dict[str, Any] = field(default_factory=lambda: {"model_type": "video_swin", "variant": "tiny"})
    rewiring: str = "re2tal"
    coupling: list[float] | list[list[float]] | None = None
    backprop: str | None = None
    stream_bits: int | None = None
    lora: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None
    backbone_weights: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fills in defaults and checks the values."""
        if (model_type := kwargs.pop("model_type", self.model_type)) != self.model_type:
            if not isinstance(model_type, str) or model_type not in CONFIGS:
                raise ValueError(f"model_type is {shown(model_type)}; {did_you_mean(model_type, CONFIGS)}")
            # The saved configuration of another task's model, whose backbone is to be used.
            for name in (
                "auto_map",
                "custom_pipelines",
                *(name for kind in CONFIGS.values() for name in settings_of(kind)),
            ):
                kwargs.pop(name, None)
        _check_others(type(self), kwargs)
        if kwargs.get("num_labels") is None:
            kwargs.pop("num_labels", None)
        this: Any = self
        this.id2label, this.label2id = checked_labels(kwargs.get("num_labels"), this.id2label, this.label2id)
        hints = settings_of(type(self))
        for name in hints:
            value = getattr(self, name)
            if name.endswith("_config") and not isinstance(value, Mapping):
                raise TypeError(f"{name} is a {type(value).__name__}; it must map settings to values.")
            if name != "origin":
                check_bounds(name, value)
        check_values("", {name: getattr(self, name) for name in hints}, hints)
        of_library = {name: hint for name, hint in fields_of(PreTrainedConfig).items() if name not in LABELS}
        of_library["dtype"] = DTYPE
        check_values("", {name: getattr(self, name) for name in of_library}, of_library)
        if self.backprop is None:
            self.backprop = default_backprop(self.rewiring)
        check_rewiring(self.rewiring, self.backprop, self.coupling, self.stream_bits)
        # A type that is not registered may be of a file of the user's own, without which this may still be read.
        check_part_settings("", {name: getattr(self, name) for name in hints}, unknown_types=True)
        # Where this package is installed its own pipeline is registered, and transformers would ask for
        # trust in the saved one.
        if not __name__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; what is wrong is named with its file."""
        kwargs.setdefault("name_or_path", str(pretrained_model_name_or_path))
        with files_checked(pretrained_model_name_or_path, kwargs, lambda path: check_json(path, JSON_NAMES[:1])):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, but settings in `kwargs` are checked as those of the file are.

        Another number of classes, or other names, take the place of those in the file.
        """
        values, own = dict(config_dict), {*settings_of(cls), *LABELS, "num_labels"}
        if source := str(kwargs.get("name_or_path") or ""):
            kwargs["name_or_path"] = source
        given = {name: kwargs.pop(name) for name in own if name in kwargs}
        if given.keys() & {*LABELS, "num_labels"}:
            same = "num_labels" in given and given["num_labels"] == len(values.get("id2label") or ())
            for name in () if same and given.keys().isdisjoint(LABELS) else (*LABELS, "num_labels"):
                values.pop(name, None)
        try:
            return super().from_dict(values | given, **kwargs)
        except (ValueError, TypeError) as error:
            if source:
                raise ValueError(f"The config.json of {source}: {one_line(error)}") from error
            raise


class Re2TALConfig(RewiredConfig):
    r"""Configuration of the backbone and of the localizer.

    Args:
        backbone_config: `model_type` of a registered architecture and its settings, by the library's own argument
            names, for example `{"model_type": "video_swin", "variant": "tiny"}`.
        head_config: `model_type` of a registered localization head (`re2tal_hf.head.HEADS`) and its settings, for
            example `{"model_type": "actionformer", "hidden_size": 256}`.
        loss_config: Arguments of the loss that is registered with the head.
        rewiring: `"re2tal"`, `"none"` for the network as it is, or `"dr2net"` for what lies between, by two
            coefficients that training moves and the weights hold.
        coupling: The coefficients `(alpha, beta)` that a new Dr2Net begins with, by default `[1.0, 0.0]`, the network
            as it is.
        backprop: `"reversible"` (the default of a rewired network), `"checkpoint"` (of one that is not), `"plain"`,
            `"auto"`, the fastest of them stage by stage within `model.memory_budget`, or `"clips"`, the same for some
            of a video at a time, clips or chunks, so that nothing grows with its length, the head's activations
            included; `"auto"` goes by clips, too, where the whole is too large. Same outputs and gradients, other
            memory.
        stream_bits: 16 or 24 rounds what each branch adds, so that the inverse is exact in any precision; of 16 what is
            kept takes two bytes a number. See `rewire`.
        lora: LoRA in a frozen backbone, by peft's names: `r`, `lora_alpha`, `lora_dropout`, `target_modules`; see
            `lora.py`.
        origin: The pretrained weights that training began with and their license, as training records them.
        backbone_weights: Where those weights of the backbone are published that are not saved with the model, as
            `leave_out_published` records it.
        num_labels: Number of action classes; 1 for a class-agnostic model.

    Raises:
        ValueError: if a value is unknown or beyond the bounds of `value_checks`, or rewiring and backprop do
            not go together.

    Example:
        >>> from re2tal_hf import Re2TALConfig
        >>> config = Re2TALConfig(backbone_config={"model_type": "video_swin", "variant": "tiny"}, num_labels=20)
        >>> config.rewiring, config.num_labels
        ('re2tal', 20)
    """

    model_type = "re2tal"
    keys_to_ignore_at_inference = ["loss_dict"]

    head_config: dict[str, Any] = field(default_factory=lambda: {"model_type": "actionformer"})
    loss_config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self, **kwargs: Any) -> None:
        """Fills in defaults and checks the values."""
        if isinstance(self.head_config, Mapping):
            self.head_config = {"model_type": "actionformer", **self.head_config}
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers; that of a localization model names the pipeline, whose code is saved with the model."""
        values = super().to_dict()
        if "Re2TALForTemporalActionLocalization" in (values.get("architectures") or ()):
            values["custom_pipelines"] = PIPELINES
        return values


class Re2TALVideoClassificationConfig(RewiredConfig):
    r"""Configuration of the classifier of clips.

    Args:
        backbone_config, rewiring, coupling, backprop, stream_bits, lora, origin, backbone_weights: As in
            [`Re2TALConfig`].
        classifier_norm: Whether the pooled features are standardised over the batch, as a backbone from scratch needs,
            whose features differ little between clips.
        classifier_dropout: Dropout of the pooled features.
        num_frames: Frames that `pipeline("video-classification")` takes of a video; by default as many as the video
            processor says.
        num_labels: Number of classes.

    Raises:
        ValueError: as in [`Re2TALConfig`].
    """

    model_type = "re2tal_video_classification"
    keys_to_ignore_at_inference = ["last_hidden_state", "feature_mask"]

    classifier_norm: bool = False
    classifier_dropout: Annotated[float, BELOW_ONE] = 0.0
    num_frames: Annotated[int | None, COUNT] = None

    def to_dict(self) -> dict[str, Any]:
        """As in transformers; of a model whose code is saved with it `AutoModel` is told, too."""
        values = super().to_dict()
        if (own_class := (values.get("auto_map") or {}).get("AutoModelForVideoClassification")) is not None:
            values["auto_map"] = {**values["auto_map"], "AutoModel": own_class}
        return values


CONFIGS: dict[str, type[RewiredConfig]] = {
    kind.model_type: kind for kind in (Re2TALConfig, Re2TALVideoClassificationConfig)
}
"""The configurations of saved models of ours, by their `model_type`."""


def check_model_folder(folder: Path) -> None:
    """Checks the files of a saved model before any of them is loaded: configuration, video processor and weights.

    Raises:
        ValueError: if one is damaged or something else, or the configuration is not as it must be; names the file.
    """
    check_folder(folder)
    if not (path := folder / "config.json").is_file():
        return
    values = read_json(path)
    if isinstance(model_type := values.get("model_type"), str) and model_type in CONFIGS:
        CONFIGS[model_type].from_pretrained(folder)
    elif not (isinstance(model_type, str) and model_type in CONFIG_MAPPING) and not _has_other_code(values):
        raise ValueError(f"{path}: model_type is {shown(model_type)}; {did_you_mean(model_type, CONFIGS)}")


def _has_other_code(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of a class that is saved with it and none of ours."""
    code = config["auto_map"].get("AutoConfig") if isinstance(config.get("auto_map"), dict) else None
    return isinstance(code, str) and "configuration_re2tal." not in code


def settings_of(config_class: type[RewiredConfig]) -> dict[str, Any]:
    """Returns the types of a configuration's own settings, ranges included, without those of transformers."""
    kinds = [kind for kind in reversed(config_class.__mro__) if issubclass(kind, RewiredConfig)]
    return {name: hint for kind in kinds for name, hint in fields_of(kind).items()}


def check_part_settings(where: str, config: Mapping[str, Any], unknown_types: bool = False) -> None:
    """Checks what a configuration hands on to backbone, head and loss, as they declare it.

    Args:
        where: What stands before the name of a setting in a message.
        config: Any of `backbone_config`, `head_config` and `loss_config`.
        unknown_types: Whether settings of a `model_type` that is not registered pass.

    Raises:
        ValueError: if a setting is unknown, not of its type or range, or does not go with the others.
    """
    if (lora := config.get("lora")) is not None:
        check_lora(lora, f"{where}lora.")
    if (backbone := config.get("backbone_config")) is not None:
        settings = dict(backbone)
        if not unknown_types or _is_known(backbone, BACKBONES):
            BACKBONES.find(settings.pop("model_type", None), where).check(settings, f"{where}backbone_config.")
    head = {"model_type": "actionformer", **(config.get("head_config") or {})}
    if unknown_types and not _is_known(head, HEADS):
        return
    registered = HEADS.find(head.pop("model_type"), where)
    for name, part, settings in (
        ("head_config", registered.head_class, head),
        ("loss_config", registered.loss_class, dict(config.get("loss_config") or {})),
    ):
        arguments = arguments_of(part)
        for given in ("input_size", "num_labels"):
            arguments.pop(given, None)
        check_arguments(f"{where}{name}.", settings, arguments)
        if config_class := getattr(part, "config_class", None):
            try:
                config_class(**settings)
            except ValueError as error:
                raise ValueError(f"{where}{name}.{error}") from error


def _is_known(config: Mapping[str, Any], registry: Mapping[str, Any]) -> bool:
    name = config.get("model_type")
    return not isinstance(name, str) or name in registry


def _check_others(config_class: type[RewiredConfig], values: Mapping[str, Any]) -> None:
    """Checks what transformers keeps as it is: misspelt settings of ours, methods, and what it has types for."""
    own, known = settings_of(config_class), {name for kind in CONFIGS.values() for name in settings_of(kind)}
    for name, value in values.items():
        if name in OTHERS:
            check_value(name, value, OTHERS[name])
        elif not name.isidentifier() or callable(getattr(config_class, name, None)):
            raise ValueError(f"{shown(name)}: there is no such setting.")
        elif name not in known and (near := difflib.get_close_matches(name, own, 1, cutoff=0.8)):
            raise ValueError(f"{name}: there is no such setting; did you mean {near[0]!r}?")
        else:
            check_value(name, value, Any)
