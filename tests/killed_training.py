"""Trainings that are killed with SIGKILL at random and at named moments, and what they come to in the end.

python tests/killed_training.py 100   # so many kills; prints how many of the runs ended as the one without a kill
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks
import torch
from safetensors.torch import load_file

from re2tal_hf.data.synthetic import generate
from re2tal_hf.training.arguments import Recipe, load_recipe
from re2tal_hf.training.localization import LocalizationTrainer

SETTINGS = [
    "model.backbone_config.embed_dim=8",
    "model.backbone_config.depths=[1,1]",
    "model.backbone_config.num_heads=[1,2]",
    "model.backbone_config.stochastic_depth_prob=0.2",
    "model.head_config.hidden_size=16",
    "model.head_config.num_levels=3",
    "processor.size={height: 32, width: 32}",
    "processor.num_frames=64",
    "data.windows_per_video=2",
    "data.num_workers=0",
    "data.max_unlearnable=1.0",  # a window is shorter than most actions
    "training.epochs=3",
    "training.trackers=[]",
    "evaluation.epochs=1",
    "evaluation.batch_size=4",
]
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def make_recipe(folder: Path, *overrides: str) -> Recipe:
    """Writes three short videos and returns a recipe of a training of a second on them."""
    if not (folder / "annotations.json").exists():
        generate(folder, num_training=2, num_validation=1, num_test=0, durations=(13.0, 14.0), seed=3)
    places = [f"data.annotations={folder / 'annotations.json'}", f"data.videos={folder / 'videos'}"]
    return load_recipe("quickstart", [*SETTINGS, *places, f"data.cache={folder / 'cache'}", *overrides])


class Writes:
    """Counts what a process does to the files of a folder, and calls `at` before each of it.

    Moments are named after the call and the file, such as `rename checkpoint.partial`.
    """

    def __init__(self, folder: Path, at: Callable[[str], None]):
        self.folder, self.at = str(folder) + os.sep, at
        sys.addaudithook(self._hook)
        self._save = torch.save
        torch.save = self._torch_save

    def _hook(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING:
                self._name("open", path)
        elif event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
            self._name(event.partition(".")[2], arguments[0])

    def _name(self, call: str, path: Any) -> None:
        if isinstance(path, (str, os.PathLike)) and str(path).startswith(self.folder):
            self.at(f"{call} {str(path).removeprefix(self.folder)}")

    def _torch_save(self, part: Any, path: Any, **settings: Any) -> None:
        self._save(part, path, **settings)
        if not str(path).startswith(self.folder):
            return
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        self._name("half of", path)
        path.write_bytes(whole)


def train(
    recipe: Recipe, folder: Path, kill_after: float | None = None, at: Callable[[str], None] | None = None
) -> int | None:
    """Trains in a fork, as the command does, and returns its exit status.

    Args:
        recipe: What to train.
        folder: The run folder.
        kill_after: Seconds after which the process is killed.
        at: Called in the process before everything that it writes.
    """

    def run() -> None:
        if at is not None:
            Writes(folder, at)
        LocalizationTrainer(recipe, folder).run()

    process = forks.start(run, folder.with_suffix(".txt"))
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    return forks.wait(process)


def kill_at(moment: str, occurrence: int = 1) -> Callable[[str], None]:
    """Kills the own process at a named moment."""
    seen = 0

    def at(name: str) -> None:
        nonlocal seen
        seen += name == moment
        if seen == occurrence:
            os.kill(os.getpid(), signal.SIGKILL)

    return at


def moments(recipe: Recipe, folder: Path) -> list[str]:
    """Returns all moments of a whole training."""
    file = folder.with_name(f"{folder.name}.moments")

    def at(name: str) -> None:
        with file.open("a") as opened:
            opened.write(f"{name}\n")

    assert train(recipe, folder, at=at) == 0
    return file.read_text().splitlines()


def outcome(folder: Path) -> dict[str, Any]:
    """Everything a run leaves behind that must not depend on kills, for comparison by `same`."""
    found: dict[str, Any] = {"files": sorted(path.name for path in folder.iterdir())}
    for name in ("best", "last"):
        found |= {f"{name}/{key}": value for key, value in load_file(folder / name / "model.safetensors").items()}
        found[f"{name}/metrics"] = json.loads((folder / name / "metrics.json").read_text())
        found[f"{name}/detections"] = (folder / name / "detections.json").read_text()
    for path in sorted((folder / "checkpoint").iterdir()):
        part = torch.load(path, weights_only=True)
        if path.name == "progress.pkl":
            part = {name: value for name, value in part.items() if name not in ("log", "seconds")}
        found[f"checkpoint/{path.name}"] = part
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    timing = ("seconds_per_step", "peak_memory_mib")
    found["log"] = [{name: value for name, value in line.items() if name not in timing} for line in log]
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two outcomes are the same to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def check(recipe: Recipe, folder: Path, expected: dict[str, Any], **kill: Any) -> str | None:
    """Trains, is killed, and trains again by the same command.

    Returns:
        What is wrong with the end, "" for nothing; None where the training ended before it could be killed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if (first := train(recipe, folder, **kill)) == 0:
        return None
    if first != -signal.SIGKILL:
        return f"it was not killed, but ended with {first}"
    if (again := train(recipe, folder)) != 0:
        return f"the second process ended with {again}: {folder.with_suffix('.txt').read_text()[-500:]}"
    found = outcome(folder)
    different = [name for name in {*found, *expected} if not same(found.get(name), expected.get(name))]
    return f"not the same: {sorted(different)}" if different else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int)
    parser.add_argument("--named", nargs="*", metavar="MOMENT", help="kill at these, one after the other")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a fork has no other threads
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nor is every kernel of a GPU the same to the last bit
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        recipe = make_recipe(place / "data", *arguments.overrides)
        counts = Counter(moments(recipe, place / "named"))
        start = time.perf_counter()
        assert train(recipe, place / "whole") == 0
        seconds = time.perf_counter() - start
        expected = outcome(place / "whole")
        print(f"a run takes {seconds:.1f} s and has {len(counts)} moments", flush=True)
        right = number = 0
        while number < arguments.kills:
            if number % 2 or arguments.named:
                name = arguments.named[number % len(arguments.named)] if arguments.named else draw.choice(list(counts))
                occurrence = draw.randint(1, counts[name])
                kill: dict[str, Any] = {"at": kill_at(name, occurrence)}
            else:
                kill = {"kill_after": draw.uniform(0, seconds)}
                name, occurrence = f"{kill['kill_after']:.2f} s", 1
            wrong = check(recipe, place / "run", expected, **kill)
            if wrong is None:
                continue
            number, right = number + 1, right + (not wrong)
            print(f"{number}: killed at {name} ({occurrence}): {wrong or 'the same'}", flush=True)
    print(f"{right} of {arguments.kills} ended as the run without a kill")
    sys.exit(right != arguments.kills)


if __name__ == "__main__":
    main()
