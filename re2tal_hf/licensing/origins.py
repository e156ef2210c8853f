"""Where the weights of a model come from, followed through the runs between, and what that allows."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError, HTTPError

from ..configuration_re2tal import CONFIGS
from ..saved_files import read_json
from .families import FAMILIES, Family, Kind

OWN_LICENSE = "apache-2.0"
LICENCES = ("any", "commercial")
"""What a recipe's `licence` may be: whether weights for non-commercial use only may be started from."""

_WEIGHTS_SUFFIXES = (".pth", ".pt", ".pyth", ".safetensors", ".bin", ".ckpt")
_NAMES = {
    "hub": re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII),
    "library": re.compile(r"\w+_Weights\.\w+", re.ASCII),
}
# How huggingface_hub names the folder of a downloaded repository.
_IN_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+)[/\\]snapshots[/\\]\w+[/\\]?$", re.ASCII)
_LICENSE_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,95}")
_NON_COMMERCIAL = re.compile(r"(^|-)nc(-|$)|non-?commercial|research", re.IGNORECASE)


@dataclass(frozen=True)
class Origin:
    """Where weights come from.

    Args:
        source: Name of the weights that the first training began with, of a file without its folders; none for training
            from scratch.
        kind: Of the source; see `Kind`.
        license: Identifier on the Hub; none where nobody has said.
        stated: Whether the license is what the user says, and not what the table knows.
    """

    source: str | None
    kind: Kind | None
    license: str | None
    stated: bool = False

    @property
    def family(self) -> Family | None:
        """The row of the table that the source is known by."""
        fits = (f for f in FAMILIES if self.kind in f.kinds and re.search(f.pattern, self.source or "", re.I))
        return next(fits, None)

    @property
    def non_commercial(self) -> bool:
        """Whether the license permits non-commercial use only."""
        return self.license is not None and _NON_COMMERCIAL.search(self.license) is not None

    @property
    def terms(self) -> str | None:
        """Address of the terms."""
        return None if self.family is None else self.family.terms

    @property
    def notice(self) -> str:
        """What a reader must know, in Markdown."""
        if self.source is None:
            text = "All weights were trained from scratch; no pretrained weights went into them."
        elif self.family is None:
            text = f"The backbone started from `{self.source}`, whose license applies to the weights of this model too."
        else:
            text = f"The backbone started from the {self.family.name} weights `{self.source}`"
            text += f". {self.family.remark}" if self.family.remark else f", published under `{self.family.license}`."
        if self.stated:
            text += f" The publisher states: `{self.license}`."
        if self.non_commercial:
            text += " **Non-commercial use only**: the weights of this model are derived from them and carry the same "
            text += "terms."
        return text

    def state(self, license: str, option: str) -> Origin:
        """Returns the origin with a license that the user states by an option.

        Raises:
            ValueError: if the license is no name of one, or contradicts the known license of the weights.
        """
        if not _LICENSE_NAME.fullmatch(license):
            raise ValueError(f"{option} {license!r} is no name of a license: give one of the Hub, such as apache-2.0.")
        if self.family is None:
            return replace(self, license=license, stated=True)
        if license != self.license:
            raise ValueError(
                f"{option} {license} cannot be: the weights come from {self.source}, whose terms make it "
                f"{self.license!r} ({self.terms}). Leave the option out."
            )
        return self

    def record(self) -> dict[str, Any]:
        """Returns what a model's configuration holds as `origin`."""
        return asdict(self)


FROM_SCRATCH = Origin(source=None, kind=None, license=OWN_LICENSE)


def find_origin(
    source: str | None, stated: str | None = None, option: str = "--license", download: bool = False
) -> Origin:
    """Returns the origin of weights.

    A model of ours says its own, so that it is known through any number of runs.

    Args:
        source: `training.pretrained_backbone` of a recipe; None for training from scratch.
        stated: License that the user states, an identifier of the Hub.
        option: What error messages call the statement.
        download: Whether the configuration of a model on the Hub may be fetched, and not only be in the cache.

    Raises:
        ValueError: if a license is stated other than that of the weights' known origin.
    """
    origin = _follow(source, set(), download)
    return origin if stated is None else origin.state(stated, option)


def recorded_origin(config: dict[str, Any]) -> Origin | None:
    """Returns the origin that a model's configuration records; None if it records none."""
    record = config.get("origin")
    if not isinstance(record, dict):
        return None
    source, kind, license = (record.get(name) for name in ("source", "kind", "license"))
    if source is None:
        return FROM_SCRATCH
    form = _NAMES.get(str(kind))
    found = Origin(str(source), kind, None) if form and form.fullmatch(str(source)) else _file(str(source))
    if found.family is not None:
        return replace(found, license=found.family.license)
    known = isinstance(license, str) and _LICENSE_NAME.fullmatch(license)
    return replace(found, license=license if known else None, stated=bool(known))


def permitted_origin(source: str | None, stated: str | None, licence: str, backbone: str) -> Origin:
    """Returns the origin of a recipe's weights, where the recipe may start from them.

    Args:
        source: `training.pretrained_backbone`.
        stated: `training.pretrained_license`.
        licence: The recipe's `licence`, one of `LICENCES`.
        backbone: `model_type` of the backbone.

    Raises:
        ValueError: if `licence` is unknown, or is "commercial" and the weights are for non-commercial use only, or
            nobody has said what they are for.
    """
    if licence not in LICENCES:
        raise ValueError(f"The recipe's licence is {licence!r}; choose one of {', '.join(LICENCES)}.")
    origin = find_origin(source, stated, "training.pretrained_license", download=True)
    if licence == "commercial":
        if origin.non_commercial:
            raise ValueError(
                f"The recipe says licence=commercial, and the weights of training.pretrained_backbone are those of "
                f"{_with_terms(origin)}, for non-commercial use only: start from others or from scratch."
            )
        if origin.license is None:
            raise ValueError(f"The recipe says licence=commercial, and {question(origin, _IN_RECIPE, backbone)}")
    return origin


def start_line(origin: Origin, backbone: str) -> str | None:
    """Returns the line that a training begins with, where the weights restrict what may be done with the model."""
    if origin.non_commercial:
        return f"Trained from {_with_terms(origin)}, the model is for non-commercial use only."
    if origin.license is None:
        return f"Before the model is published: {question(origin, _IN_RECIPE, backbone)}"
    return None


_IN_RECIPE = "training.pretrained_license="


def question(origin: Origin, option: str, backbone: str) -> str:
    """Returns what to ask where nobody knows the license of the weights.

    Args:
        origin: Of the weights.
        option: With which it is stated, up to the value.
        backbone: `model_type` of the backbone, which tells whose the weights could be.
    """
    near = [f for f in FAMILIES if re.search(f.pattern, f"{origin.source} {backbone}", re.IGNORECASE)]
    hints = "; ".join(f"{family.name}'s are {family.license}, {family.terms}" for family in near)
    return (
        f"under which license the weights {origin.source} are published is not known: state it with {option}NAME, "
        f"the Hub's name of it, such as apache-2.0{f' ({hints})' if hints else ''}."
    )


def _with_terms(origin: Origin) -> str:
    return f"{origin.source}, {origin.license}{f' ({origin.terms})' if origin.terms else ''}"


def _follow(source: str | None, seen: set[Path], download: bool) -> Origin:
    if source is None:
        return FROM_SCRATCH
    by_name = _by_name(source)
    folder = _folder_of_ours(source) if by_name.kind == "file" else None
    if folder is None:
        config = _hub_config(source, download) if by_name.kind == "hub" and by_name.family is None else None
        return recorded_origin(config or {}) or by_name
    if recorded := recorded_origin(_our_config(folder / "config.json") or {}):
        return recorded
    # Runs of earlier versions say it in their recipe only.
    recipe = folder.resolve().parent / "recipe.yaml"
    if recipe.is_file() and recipe not in seen:
        try:
            values = yaml.safe_load(recipe.read_bytes())
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"{recipe} is not YAML ({str(error).splitlines()[0]}): restore it.") from error
        training = values.get("training") if isinstance(values, dict) else None
        if isinstance(training, dict) and "pretrained_backbone" in training:
            return _follow(training["pretrained_backbone"], seen | {recipe}, download)
    return _file(source)


def _folder_of_ours(source: str) -> Path | None:
    """The folder of a model of ours that a path is, or that of a run holds, or that a file of weights lies in."""
    path = Path(source)
    folders = (path, path / "best", path / "last", path.parent)
    return next((folder for folder in folders if _our_config(folder / "config.json")), None)


def _hub_config(repository: str, download: bool) -> dict[str, Any] | None:
    try:
        return _our_config(Path(hf_hub_download(repository, "config.json", local_files_only=not download)))
    except (OSError, HTTPError, HFValidationError):  # who loads the weights from there says what is wrong
        return None


def _our_config(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    config = read_json(path)
    model_type = config.get("model_type")
    return config if isinstance(model_type, str) and model_type in CONFIGS else None


def _by_name(source: str) -> Origin:
    if cached := _IN_CACHE.search(source):
        source = "/".join(cached.groups())
    if _NAMES["library"].fullmatch(source):
        origin = Origin(source, "library", None)
    elif _NAMES["hub"].fullmatch(source) and not (Path(source).exists() or source.lower().endswith(_WEIGHTS_SUFFIXES)):
        origin = Origin(source, "hub", None)
    else:
        origin = _file(source)
    return origin if origin.family is None else replace(origin, license=origin.family.license)


def _file(source: str) -> Origin:
    """Names a file or folder without those above it, in characters that mean nothing to Markdown and YAML."""
    name = PureWindowsPath(PurePosixPath(source).name).name
    return Origin(re.sub(r"[^\w.+@=-]", "_", name, flags=re.ASCII)[:96] or "a file", "file", None)
