"""Trainings that are interrupted by signals at named moments, and how each of them ended, as JSON.

python tests/interrupted_training.py FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import forks
import torch
from killed_training import SETTINGS, make_recipe, outcome, same

from re2tal_hf.commands.train import main as train
from re2tal_hf.training import interruption
from re2tal_hf.training.checkpoint import RunState
from re2tal_hf.training.finite_updates import FiniteUpdates
from re2tal_hf.training.localization import LocalizationTrainer

FAST = ["training.epochs=2", "training.batch_size=1", "training.gradient_accumulation=1"]


def before_call(owner: Any, name: str, number: int, action: Callable[[], object]) -> None:
    """Does something before the so manyth call of a method."""
    method, calls = getattr(owner, name), []

    def called(*arguments: Any, **settings: Any) -> Any:
        calls.append(name)
        if len(calls) == number:
            action()
        return method(*arguments, **settings)

    setattr(owner, name, called)


def send(*signals: int) -> None:
    for number in signals:
        os.kill(os.getpid(), number)


def command(
    data: Path, folder: Path, *overrides: str, at: tuple[Any, str, int] | None = None, signals: Sequence[int] = ()
) -> None:
    """Runs re2tal train and ends the process with its exit code."""
    if at:
        before_call(*at, partial(send, *signals))
    if len(signals) > 2:
        interruption._SECONDS_OF_ONE_SIGNAL = 0.0
    places = [f"data.annotations={data / 'annotations.json'}", f"data.videos={data / 'videos'}"]
    options = [*SETTINGS, *places, f"data.cache={data / 'cache'}", *FAST, *overrides]
    code = train(["--recipe", "quickstart", "--output", str(folder), *options])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    torch.set_num_threads(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    place = Path(sys.argv[1])
    data = place / "data"
    make_recipe(data)
    output = place / "output.txt"
    ends: dict[str, Any] = {}

    def run(name: str, folder: Path, *overrides: str, **settings: Any) -> None:
        code = forks.wait(forks.start(partial(command, data, folder, *overrides, **settings), output))
        ends[name] = [code, output.read_text()]

    def interrupted(name: str, expected: dict[str, Any], *overrides: str, **settings: Any) -> None:
        """Interrupts a run and lets the same command go on; a third time it is finished."""
        folder = place / name.replace(" ", "_")
        run(name, folder, *overrides, **settings)
        run(f"{name}, again", folder, *overrides)
        found = outcome(folder)
        ends[f"{name}, different"] = [key for key in {*found, *expected} if not same(found.get(key), expected.get(key))]

    run("whole", place / "whole")
    whole = outcome(place / "whole")
    interrupted("first step", whole, at=(FiniteUpdates, "step", 1), signals=[signal.SIGTERM])
    interrupted("last step", whole, at=(FiniteUpdates, "step", 4), signals=[signal.SIGTERM])
    interrupted("twice", whole, at=(FiniteUpdates, "step", 6), signals=[signal.SIGINT] * 2)
    interrupted("at once", whole, at=(FiniteUpdates, "step", 6), signals=[signal.SIGINT] * 3)
    interrupted("evaluation", whole, at=(LocalizationTrainer, "evaluate", 1), signals=[signal.SIGTERM])
    interrupted("save", whole, at=(RunState, "_write", 2), signals=[signal.SIGINT])
    killed = ["training.save_steps=1"]
    interrupted("killed", whole, *killed, at=(FiniteUpdates, "step", 6), signals=[signal.SIGKILL])
    many = ["data.num_workers=2", "training.gradient_accumulation=2", "model.rewiring=dr2net"]
    run("many", place / "many", *many)
    interrupted("workers", outcome(place / "many"), *many, at=(FiniteUpdates, "step", 5), signals=[signal.SIGINT])
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
