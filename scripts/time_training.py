"""Times the training of a recipe from real files: decoding, augmentation, preparation for the model, step.

python scripts/time_training.py --recipe image_lite0 data.annotations=annotations.json data.videos=videos

With no worker all is done in turn, and the shares are of processor time where PyTorch has one thread; with workers the
training waits only for what they have not done yet, and the shares are of the time that passes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from re2tal_hf.training.arguments import load_recipe
from re2tal_hf.training.localization import LocalizationTrainer


class Stopwatch:
    """Seconds by what they were spent on."""

    def __init__(self, now: Callable[[], float]):
        self.now = now
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            result = function(*args, **kwargs)
            self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - start
            return result

        return run


def batches_of(loader: Any) -> Iterator[dict[str, Any]]:
    while True:
        yield from loader


def measure(trainer: LocalizationTrainer, workers: int, steps: int) -> tuple[float, dict[str, float]]:
    """Returns the seconds of a step, the first left out, and the share of each part."""
    alone = workers == 0 and torch.get_num_threads() == 1
    watch = Stopwatch(time.process_time if alone else time.perf_counter)
    windows: Any = trainer.windows
    if workers == 0:
        windows.frames.at = watch.timed("decoding", windows.frames.at)
        windows.augmentation = watch.timed("augmentation", windows.augmentation)
    trainer.processor.prepare = watch.timed("preparation", trainer.processor.prepare)  # type: ignore[method-assign]
    trainer.trained.prepared.train()
    batches = batches_of(trainer.loader)
    trainer._step(next(batches))
    watch.seconds.clear()
    start = watch.now()
    for _ in range(steps):
        batch = watch.timed("waiting", next)(batches)
        watch.timed("step", trainer._step)(batch)
    total = watch.now() - start
    found = watch.seconds
    found["step"] -= found["preparation"]
    if workers == 0:
        found["other loading"] = found.pop("waiting") - found["decoding"] - found["augmentation"]
    return total / steps, {name: seconds / total for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    arguments = parser.parse_intermixed_args()
    for workers in arguments.workers:
        with tempfile.TemporaryDirectory() as folder:
            recipe = load_recipe(arguments.recipe, [*arguments.overrides, f"data.num_workers={workers}"])
            trainer = LocalizationTrainer(recipe, Path(folder) / "run")
            seconds, shares = measure(trainer, workers, arguments.steps)
            parts = ", ".join(f"{name} {share:.1%}" for name, share in sorted(shares.items(), key=lambda s: -s[1]))
            print(
                f"{workers} workers: {recipe.training.batch_size / seconds:.2f} windows a second; {parts}", flush=True
            )


if __name__ == "__main__":
    main()
