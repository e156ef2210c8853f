"""What is known of a model that is converted, and from where: its weights, an options file, the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..architecture import BACKBONES
from ..head import HEADS
from ..modeling_pretrained import Re2TALPreTrainedModel
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..training.recipe_yaml import read_yaml
from ..value_checks import arguments_of, shown
from ..video_processing_re2tal import Re2TALVideoProcessor

SECTIONS = ("backbone_config", "head_config", "loss_config", "processor")
SINGLE = ("rewiring", "num_labels")
# Of the processor, what the figures depend on.
PROCESSOR = (
    "size", "sampling", "frame_rate", "num_frames", "window_overlap", "image_mean", "image_std", "nms_method",
    "nms_sigma", "nms_min_score", "nms_per_class", "voting_threshold", "max_detections",
)  # fmt: skip


class Settings:
    """Settings by dotted names, such as `"head_config.hidden_size"`, each with where it comes from.

    Args:
        source: What messages call the weights.
    """

    def __init__(self, source: str):
        self.source = source
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}

    def add(self, values: Mapping[str, Any], origin: str) -> None:
        """Adds what one source says.

        Raises:
            ValueError: if an earlier source says something else.
        """
        for name, value in values.items():
            if name in self.values and not _same(self.values[name], value):
                raise ValueError(
                    f"{name} is {shown(value)} by {origin}, and {shown(self.values[name])} by {self.origins[name]}: "
                    "they are not of the same model."
                )
            if name not in self.values:
                self.values[name], self.origins[name] = value, origin

    def need(self, names: Sequence[str], advice: str) -> None:
        """Raises a `ValueError` with those of the names that nobody has said."""
        if missing := [name for name in names if name not in self.values]:
            raise ValueError(f"{self.source} does not say {', '.join(missing)}: {advice}")

    def section(self, name: str) -> dict[str, Any]:
        """Returns the settings of a section, without its name."""
        start = f"{name}."
        return {key[len(start) :]: value for key, value in self.values.items() if key.startswith(start)}

    def config(self) -> dict[str, Any]:
        """Returns arguments of [`Re2TALConfig`]."""
        sections = {name: self.section(name) for name in SECTIONS if name != "processor"}
        single = {name: self.values[name] for name in SINGLE if name in self.values}
        return {name: value for name, value in sections.items() if value} | single

    def by_origin(self) -> dict[str, dict[str, Any]]:
        """Returns the settings of each source."""
        found: dict[str, dict[str, Any]] = {}
        for name, origin in self.origins.items():
            found.setdefault(origin, {})[name] = self.values[name]
        return found

    def defaults(self, model: Re2TALPreTrainedModel) -> dict[str, Any]:
        """Returns what nobody has said of a model, with the package's defaults that stand there."""
        config = model.config
        parts = {"backbone_config": BACKBONES[config.backbone_config["model_type"]].settings().defaults}
        if isinstance(model, Re2TALForTemporalActionLocalization):
            registered = HEADS[config.head_config["model_type"]]
            for name, part in (("head_config", registered.head_class), ("loss_config", registered.loss_class)):
                parts[name] = arguments_of(getattr(part, "config_class", None) or part).defaults
            parts["processor"] = {name: getattr(Re2TALVideoProcessor, name) for name in PROCESSOR}
        return {
            f"{section}.{name}": value
            for section, defaults in parts.items()
            for name, value in defaults.items()
            if f"{section}.{name}" not in self.values and name != "variant"
        }


def read_given(texts: Sequence[str]) -> dict[str, Any]:
    """Reads settings from the command line, `section.field=value` with values in YAML.

    Raises:
        ValueError: if one is not of that form, or of no section that there is.
    """
    values = {}
    for text in texts:
        name, separator, value = text.partition("=")
        section, _, field = name.partition(".")
        if not separator or not (name in SINGLE or (section in SECTIONS and field)):
            known = ", ".join([*(f"{section}.FIELD" for section in SECTIONS), *SINGLE])
            raise ValueError(f"{shown(text)} is no setting; give FIELD=VALUE with one of {known}.")
        values[name] = read_yaml(value, f"The setting {shown(text)}")
    return values


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one is other or (not isinstance(one, bool) and not isinstance(other, bool) and one == other)
