"""From a plan of a conversion to a model of ours in a folder, with a report of every tensor."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..configuration_re2tal import RewiredConfig
from ..coupling import COUPLING
from ..data.whole_files import check_writable, naming
from ..licensing.origins import Origin
from ..loaded_weights import is_computed, is_infinite
from ..modeling_pretrained import Re2TALPreTrainedModel
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..training.arguments import load_recipe
from ..training.recipe_yaml import write_yaml
from ..training.run_folder import as_json
from ..value_checks import shown
from ..video_processing_re2tal import Re2TALVideoProcessor
from .card import card_of
from .settings import Settings

REPORT, RECIPE = "conversion.json", "recipe.yaml"
# Names in a message; the report of a conversion that works has all.
MAX_NAMES = 40


class Fill(NamedTuple):
    """Tensors that a project leaves out of its checkpoints where they do nothing.

    Attributes:
        pattern: Regular expression, found in our names; fills only where no tensor of them is there.
        value: None for that of a new model.
        reason: Why they may be left out.
    """

    pattern: str
    value: float | None
    reason: str


COEFFICIENTS = Fill(rf"(^|\.){COUPLING}$", None, "Dr2Net's coefficients are no weights; they are those of a new model")


@dataclass
class Plan:
    """What becomes of a checkpoint.

    Attributes:
        source: What messages call it.
        model_class: Of the model to make.
        state: Its tensors.
        names: Ours, by those of the checkpoint.
        dropped: Why a tensor of the checkpoint is not used, by its name.
        fills: What the checkpoint may leave out.
        settings: Of the model.
        origin: Of the weights, with their license.
        labels: Names of the classes.
    """

    source: str
    model_class: type[Re2TALPreTrainedModel]
    state: Mapping[str, Tensor]
    names: dict[str, str]
    settings: Settings
    origin: Origin
    dropped: dict[str, str] = field(default_factory=dict)
    fills: Sequence[Fill] = ()
    labels: list[str] | None = None


@dataclass(frozen=True)
class Converted:
    """A model that was converted, and what became of every tensor and setting."""

    plan: Plan
    model: Re2TALPreTrainedModel
    filled: dict[str, str]
    computed: list[str]

    def report(self) -> dict[str, Any]:
        """Returns all of it, for a file."""
        plan = self.plan
        return {
            "source": plan.origin.source,
            "license": plan.origin.license,
            "used": plan.names,
            "dropped": plan.dropped,
            "filled": self.filled,
            "computed": self.computed,
            "settings": plan.settings.by_origin(),
            "defaults": plan.settings.defaults(self.model),
        }

    def lines(self) -> list[str]:
        """Returns what a user is told."""
        plan = self.plan
        lines = [f"used {len(plan.names)} of {len(plan.state)} tensors of {plan.source}"]
        for what, reasons in (("dropped", plan.dropped), ("filled", self.filled)):
            for reason in dict.fromkeys(reasons.values()):
                names = [name for name, why in reasons.items() if why == reason]
                lines.append(f"{what} {len(names)} ({_listed(names, 3)}): {reason}")
        for origin, values in plan.settings.by_origin().items():
            lines.append(f"from {origin}: {', '.join(f'{name}={shown(value)}' for name, value in values.items())}")
        if defaults := plan.settings.defaults(self.model):
            said = ", ".join(f"{name}={shown(value)}" for name, value in defaults.items())
            lines.append(f"the package's defaults, for want of a word: {said}")
        lines.append(f"license: {plan.origin.license or 'not known; name it with --license before you publish it'}")
        return lines

    def save(self, folder: Path) -> None:
        """Writes model, processor where it has one, recipe and report into a new folder, all or nothing.

        Raises:
            OSError: if it cannot be written, or the folder holds something.
        """
        check_new(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            with naming(folder):
                self._write(partial)
                partial.chmod(0o777 & ~_umask())
                if folder.is_dir():
                    folder.rmdir()
                os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        (folder / "README.md").write_text(card_of(self.plan.origin), encoding="utf-8")
        (folder / REPORT).write_text(as_json(self.report()), encoding="utf-8")
        if isinstance(self.model, Re2TALForTemporalActionLocalization):
            settings = self.plan.settings
            Re2TALVideoProcessor(**settings.section("processor")).save_pretrained(folder)
            model = {name: value for name, value in settings.config().items() if name != "num_labels"}
            recipe = {"model": model, "freeze": {"norms": True}, "processor": settings.section("processor")}
            (folder / RECIPE).write_text(write_yaml(recipe), encoding="utf-8")
            load_recipe(str(folder / RECIPE))


def convert(plan: Plan) -> Converted:
    """Builds the model of a plan with the tensors of its checkpoint.

    Raises:
        ValueError: if a tensor of the checkpoint has no place in the model, one of the model's is not there, is of
            another shape, or holds NaN or infinite numbers; if an index differs, so that the network would compute
            something else; or if settings do not go together.
    """
    config_class: type[RewiredConfig] = plan.model_class.config_class
    settings = plan.settings.config()
    if plan.labels is not None:
        settings["id2label"] = dict(enumerate(plan.labels))
    model = plan.model_class(config_class(origin=plan.origin.record(), **settings))
    if isinstance(model, Re2TALForTemporalActionLocalization):
        _plan_windows(plan.settings, model)
    own = model.state_dict()
    fills = _fills(plan, own)
    _check_names(plan, own, fills)
    weights = {ours: _shaped(plan, theirs, own[ours]) for theirs, ours in plan.names.items()}
    weights |= {
        name: own[name] if fill.value is None else torch.full_like(own[name], fill.value)
        for name, fill in fills.items()
    }
    for name, tensor in weights.items():
        if is_computed(own[name]) and own[name].ndim and not torch.equal(tensor.to(own[name]), own[name]):
            raise ValueError(f"{plan.source}: {name} is of a network that computes something else.")
    computed = sorted(own.keys() - weights.keys())
    model.load_state_dict({name: own[name] for name in computed} | weights)
    return Converted(plan, model.eval(), {name: fill.reason for name, fill in fills.items()}, computed)


def _plan_windows(settings: Settings, model: Re2TALForTemporalActionLocalization) -> None:
    """Makes windows as long as those of the training, where nothing else is said."""
    length = settings.values.get("head_config.max_length")
    if length is not None and "processor.num_frames" not in settings.values:
        settings.add({"processor.num_frames": length * model.model.feature_stride}, "head_config.max_length")


def check_new(folder: Path) -> None:
    """Raises an `OSError` unless a folder can be made, or is there and empty."""
    check_writable(folder.parent)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"--output {folder} is there already: name a new folder.")


def _fills(plan: Plan, own: Mapping[str, Tensor]) -> dict[str, Fill]:
    there = set(plan.names.values())
    found: dict[str, Fill] = {}
    for fill in (*plan.fills, COEFFICIENTS):
        if not any(re.search(fill.pattern, name) for name in there):
            found |= {name: fill for name in own if re.search(fill.pattern, name)}
    return found


def _check_names(plan: Plan, own: Mapping[str, Tensor], filled: Collection[str]) -> None:
    unknown = [name for name in plan.state if plan.names.get(name) not in own and name not in plan.dropped]
    there = {*plan.names.values(), *filled}
    missing = [name for name, tensor in own.items() if name not in there and not is_computed(tensor)]
    wrong = []
    if unknown:
        wrong.append(f"there is no place for {len(unknown)} tensors ({_listed(unknown)})")
    if missing:
        wrong.append(f"it lacks {len(missing)} ({_listed(missing)})")
    if wrong:
        raise ValueError(f"{plan.source} is not what it looks like: {', and '.join(wrong)}.")
    targets = list(plan.names.values())
    if twice := sorted(name for name in set(targets) if targets.count(name) > 1):
        both = [name for name, ours in plan.names.items() if ours == twice[0]]
        raise ValueError(f"{plan.source} has several tensors for one of ours: {_listed(both)}.")


def _shaped(plan: Plan, name: str, ours: Tensor) -> Tensor:
    """A tensor in our shape, from which it may differ by dimensions of 1, and in our type."""
    tensor = plan.state[name]
    if [side for side in tensor.shape if side != 1] != [side for side in ours.shape if side != 1]:
        raise ValueError(f"{plan.source}: {name} has the shape {list(tensor.shape)}; ours is {list(ours.shape)}.")
    if is_infinite(tensor):
        raise ValueError(f"{plan.source}: {name} holds NaN or infinite numbers. Take an earlier checkpoint.")
    return tensor.reshape(ours.shape).to(ours.dtype)


def _listed(names: Iterable[str], limit: int = MAX_NAMES) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(name[:150] for name in names[:limit]) + more


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
