"""Wrong run folders: a file is missing, damaged or changed, of the checkpoint or of what a run leaves behind."""

from __future__ import annotations

import copy
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from mutations import Case
from run_factory import small_pipeline, write_run

from re2tal_hf.training.arguments import Recipe, load_recipe
from re2tal_hf.training.checkpoint import RunState, read_checkpoint
from re2tal_hf.training.run_folder import CHECKPOINT, RunFolder
from re2tal_hf.training.trained_model import TrainedModel
from re2tal_hf.training.training_run import TrainingRun, read_training_run

DATA = {"class names": ["jump", "run"], "number of training videos": 2}
VALUES = (None, True, -1, 0, 3, 0.5, 1e400, -1e400, float("nan"), 10**30, "", "text", "../../x", [], [1], {}, {"a": 1})
DAMAGES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "emptied": lambda draw, whole: b"",
    "cut short": lambda draw, whole: whole[: draw.randrange(len(whole))],
    "with bytes changed": lambda draw, whole: _changed(draw, whole),
    "a web page": lambda draw, whole: b"<!DOCTYPE html><html><body>404</body></html>",
    "a pointer of Git LFS": lambda draw, whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
    "another encoding": lambda draw, whole: "\ufeff{}".encode("utf-16"),
    "deep": lambda draw, whole: b"[" * 100_000,
    "with zeros": lambda draw, whole: bytes(len(whole)),
}


@cache
def whole_run() -> tuple[Path, Recipe, RunState]:
    """A run folder with its checkpoint, the recipe, and what the checkpoint is of."""
    folder = write_run(Path(tempfile.mkdtemp(prefix="re2tal-mutate-runs-")) / "run")
    recipe = load_recipe(str(folder / "recipe.yaml"))
    accelerator = Accelerator(cpu=True)
    model = small_pipeline().model
    state = RunState(accelerator, TrainedModel(model, recipe.training, accelerator), DATA)
    state.progress.epoch, state.progress.epochs, state.progress.log = 2, 5, [{"epoch": 1}, {"epoch": 2}]
    state.save(RunFolder(folder))
    return folder, recipe, state


def mutate(draw: random.Random, folder: Path) -> Case:
    source, recipe, state = whole_run()
    run = folder / "run"
    use = draw.choice((go_on, publish, finished))
    shutil.copytree(source, run, ignore=None if use is go_on else shutil.ignore_patterns(CHECKPOINT))
    names = [path for path in sorted(run.rglob("*")) if path.suffix in ENDINGS[use]]
    path = draw.choice(names)
    what = draw.choice((_damage, _damage, _replace, _change, _change, _change))(draw, path)
    return Case(
        f"{use.__name__} {run}: {path.relative_to(run)} {what}",
        lambda: use(run, recipe, state),
        (
            path.name,
            "checkpoint",
            "recipe.yaml",
            "run already holds a run with another",
            "run already holds a run with other",
        ),
        lambda result: CHECKS[use](result, run),
    )


def go_on(run: Path, recipe: Recipe, state: RunState) -> RunState:
    """What the trainer does before it goes on."""
    folder = RunFolder(run)
    folder.check(recipe, resume=True)
    parts = read_checkpoint(folder, DATA)
    fresh = RunState(state.accelerator, state.trained, DATA)
    assert parts is not None
    fresh.load(folder, parts)
    return fresh


def publish(run: Path, recipe: Recipe, state: RunState) -> TrainingRun:
    """What is read before anything is published."""
    return read_training_run(run)


def finished(run: Path, recipe: Recipe, state: RunState) -> tuple[int, dict[str, Any] | None]:
    """What the trainer reads of a finished run whose checkpoint was deleted."""
    folder = RunFolder(run)
    return folder.logged_epochs(), folder.read_metrics("best", "map")


def _check_state(state: RunState, run: Path) -> None:
    assert 0 <= state.progress.epoch <= state.progress.epochs and state.place()
    assert all(torch.isfinite(value).all() for value in state.trained.plain.state_dict().values())


def _check_run(found: TrainingRun, run: Path) -> None:
    assert found.map_by_threshold and all(0 <= value <= 1 for value in found.map_by_threshold.values())
    assert all(isinstance(entry["epoch"], int) for entry in found.log)


def _check_finished(found: tuple[int, dict[str, Any] | None], run: Path) -> None:
    epochs, metrics = found
    assert isinstance(epochs, int) and epochs >= 0
    assert metrics is None or 0 <= metrics["map"] <= 1


ENDINGS = {go_on: (".pkl", ".yaml"), publish: (".json", ".jsonl", ".yaml"), finished: (".jsonl", ".json")}
CHECKS = {go_on: _check_state, publish: _check_run, finished: _check_finished}


def _damage(draw: random.Random, path: Path) -> str:
    name = draw.choice(sorted(DAMAGES))
    path.write_bytes(DAMAGES[name](draw, path.read_bytes()))
    return name


def _replace(draw: random.Random, path: Path) -> str:
    kind = draw.choice(("missing", "a folder", "a link to itself", "another file of the run"))
    other = draw.choice([p for p in path.parent.iterdir() if p.is_file() and p != path])
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a link to itself":
        path.symlink_to(path)
    elif kind == "another file of the run":
        shutil.copyfile(other, path)
    return kind


def _change(draw: random.Random, path: Path) -> str:
    """Changes something in what the file holds, at any depth."""
    if path.suffix == ".pkl":
        content = [torch.load(path, weights_only=True)]
        told = _change_value(draw, content)
        torch.save(content[0], path)
        return told
    if path.suffix == ".yaml":
        lines = path.read_text().splitlines()
        number = draw.randrange(len(lines))
        lines[number] = f"{lines[number].partition(':')[0]}: {draw.choice(VALUES)}"
        path.write_text("\n".join(lines))
        return f"with the line {lines[number]!r}"
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = draw.randrange(len(lines))
    content = [json.loads(lines[number])]
    told = _change_value(draw, content)
    lines[number] = json.dumps(content[0], default=str)
    path.write_text("\n".join(lines))
    return told


def _change_value(draw: random.Random, holder: list[Any]) -> str:
    """Puts another value in a place of nested containers, or takes one away."""
    place: Any = holder
    key: Any = 0
    keys = []
    while True:
        inside = place[key]
        entries = (
            list(inside) if isinstance(inside, dict) else list(range(len(inside))) if isinstance(inside, list) else []
        )
        if not entries or (keys and draw.random() < 0.5):
            break
        place, key = inside, draw.choice(entries)
        keys.append(key)
    if keys and draw.random() < 0.25:
        del place[key]
        return f"without {keys}"
    place[key] = copy.deepcopy(draw.choice(VALUES))
    return f"with {place[key]!r} at {keys}"


def _changed(draw: random.Random, whole: bytes) -> bytes:
    content = bytearray(whole)
    for _ in range(draw.choice((1, 4, 100))):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)
