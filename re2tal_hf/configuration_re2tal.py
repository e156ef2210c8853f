"""What a model is: backbone and rewiring, and head and loss of a localizer or what a classifier has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from transformers import PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from .configuration_labels import check_labels
from .rewiring import check_rewiring, default_backprop
from .value_checks import BELOW_ONE, COUNT, check_bounds, check_values, fields_of

# What transformers' `pipeline()` looks for in a saved configuration.
PIPELINES = {
    "temporal-action-localization": {
        "impl": "pipeline_re2tal.TemporalActionLocalizationPipeline",
        "pt": ["AutoModel"],
    }
}


class RewiredConfig(PreTrainedConfig):
    """What the models of every task have: a backbone, its rewiring, and where its weights come from."""

    backbone_config: dict[str, Any] = field(default_factory=lambda: {"model_type": "video_swin", "variant": "tiny"})
    rewiring: str = "re2tal"
    coupling: list[float] | list[list[float]] | None = None
    backprop: str | None = None
    origin: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fills in defaults and checks the values."""
        if kwargs.pop("model_type", self.model_type) != self.model_type:
            # The saved configuration of another task's model, whose backbone is to be used.
            for name in (
                "auto_map",
                "custom_pipelines",
                *(name for kind in CONFIGS.values() for name in settings_of(kind)),
            ):
                kwargs.pop(name, None)
        check_labels(kwargs.get("num_labels"), self.id2label, self.label2id)
        hints = settings_of(type(self))
        for name in hints:
            value = getattr(self, name)
            if name.endswith("_config") and not isinstance(value, Mapping):
                raise TypeError(f"{name} is a {type(value).__name__}; it must map settings to values.")
            if name != "origin":
                check_bounds(name, value)
        check_values("", {name: getattr(self, name) for name in hints}, hints)
        if self.backprop is None:
            self.backprop = default_backprop(self.rewiring)
        check_rewiring(self.rewiring, self.backprop, self.coupling)
        # Where this package is installed its own pipeline is registered, and transformers would ask for
        # trust in the saved one.
        if not __name__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)


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
        backprop: `"reversible"` (the default of a rewired network), `"checkpoint"` (of one that is not) or `"plain"`.
            Same outputs and gradients, other memory.
        origin: The pretrained weights that training began with and their license, as training records them.
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
        backbone_config, rewiring, coupling, backprop, origin: As in [`Re2TALConfig`].
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


def settings_of(config_class: type[RewiredConfig]) -> dict[str, Any]:
    """Returns the types of a configuration's own settings, ranges included, without those of transformers."""
    kinds = [kind for kind in reversed(config_class.__mro__) if issubclass(kind, RewiredConfig)]
    return {name: hint for kind in kinds for name, hint in fields_of(kind).items()}
