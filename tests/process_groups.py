"""Trainings of two processes as if on two hosts without a shared folder; prints how each of them ended, as JSON.

python tests/process_groups.py FOLDER
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import forks
import torch
from killed_training import Writes, kill_at, make_recipe, outcome, same

from re2tal_hf.commands.__main__ import main as run
from re2tal_hf.training.localization import LocalizationTrainer

Group = list[tuple[int | None, str]]


def train(data: Path, folder: Path, *overrides: str, at: Callable[[str], None] | None = None) -> None:
    if at is not None:
        Writes(folder, at)
    trainer = LocalizationTrainer(make_recipe(data, "training.batch_size=1", "training.epochs=2", *overrides), folder)
    trainer.run()
    # Threads of its process group may abort a process that ends.
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in names if "gloo" in name], names


def in_shards(data: Path) -> str:
    """Puts the videos into shards; returns the setting that names them."""
    (data / "shards").mkdir()
    for number, video in enumerate(sorted((data / "videos").glob("*.mp4"))):
        with tarfile.open(data / "shards" / f"{number:05d}.tar", "w") as shard:
            shard.add(video, video.name)
    return f"data.videos={data / 'shards'}"


def train_with_a_wrong_loss(data: Path, folder: Path) -> None:
    """Its second process has a loss that is not finite in the first step."""
    losses, calls = LocalizationTrainer.losses, []

    def wrong(self: LocalizationTrainer, batch: dict[str, Any]) -> dict[str, Any]:
        calls.append(1)
        factor = torch.nan if len(calls) == 1 and os.environ["RANK"] == "1" else 1.0
        return {name: value * factor for name, value in losses(self, batch).items()}

    LocalizationTrainer.losses = wrong  # type: ignore[method-assign]
    train(data, folder)


def command(*arguments: object) -> None:
    """Runs one as its own process would; an exit code other than 0 is an error."""
    if code := run(list(map(str, arguments))):
        raise RuntimeError(f"exit code {code}")


def main() -> None:
    torch.set_num_threads(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    place = Path(sys.argv[1])
    data = place / "data"
    make_recipe(data)

    def group(name: str, *first: str, second: tuple[str, ...] | None = None, at: Any = None) -> Group:
        hosts = [(0, first, at), (1, first if second is None else second, None)]
        return forks.run_group(
            [partial(train, data, place / f"host{host}" / name, *rest, at=kill) for host, rest, kill in hosts], place
        )

    ends: dict[str, Any] = {"whole": group("whole")}
    ends["within a budget"] = group("budget", "model.backprop=auto", "training.memory_budget=3.6MB")
    model = place / "host0" / "whole" / "last"
    videos = sorted((data / "videos").glob("*.mp4"))
    truth = ["--annotations", data / "annotations.json", "--videos", data / "videos", "--subset", "training"]
    for count in (1, 2):
        measured = [*truth, "--detections", place / f"detections_{count}.json"]
        localized = ["--output", place / f"predictions_{count}", "--threshold", 0.001, "--format", "csv"]
        for name, options in {"evaluate": measured, "predict": [*localized, "--format", "vtt", *videos]}.items():
            job = partial(command, name, "--model", model, *options)
            ends[f"{name} on {count}"] = forks.run_group([job] * count, place)
        kept = ["--model", model, "--videos", data / "videos", "--output", place / f"features_{count}"]
        ends[f"features on {count}"] = forks.run_group([partial(command, "features", *kept)] * count, place)
    (place / "features_2" / f"{videos[1].stem}.npy").unlink()
    ends["features again"] = forks.run_group([partial(command, "features", *kept)] * 2, place)
    (place / "broken").mkdir()
    for name in ("a", "b"):
        (place / "broken" / f"{name}.mp4").write_bytes(b"not a video")
    shutil.copy(videos[0], place / "broken" / "c.mp4")
    kept = ["--model", model, "--videos", place / "broken", "--output", place / "features_3"]
    ends["features of broken"] = forks.run_group([partial(command, "features", *kept)] * 2, place)
    (place / "no.mp4").write_bytes(b"not a video")
    ends["unreadable"] = forks.run_group(
        [partial(command, "predict", "--model", model, "--output", place / "some", place / "no.mp4", *videos)] * 2,
        place,
    )
    ends["killed"] = group("run", at=kill_at("rename checkpoint.partial", 2))
    ends["again"] = group("run")
    expected, found = (outcome(place / "host0" / name) for name in ("whole", "run"))
    ends["different"] = [name for name in {*found, *expected} if not same(found.get(name), expected.get(name))]
    ends["on the second host"] = sorted(str(path) for path in (place / "host1").rglob("*"))
    ends["random states differ"] = not same(*(found[f"checkpoint/random_states_{rank}.pkl"] for rank in (0, 1)))
    ends["finished"] = group("run")
    sharded = in_shards(data), "data.cache=null"
    ends["killed on shards"] = group("shards", *sharded, at=kill_at("rename checkpoint.partial", 2))
    ends["again on shards"] = group("shards", *sharded)
    found = outcome(place / "host0" / "shards")
    ends["different on shards"] = [
        name for name in {*found, *expected} if not same(found.get(name), expected.get(name))
    ]
    wrong = [partial(train_with_a_wrong_loss, data, place / f"host{host}" / "wrong") for host in range(2)]
    ends["not finite on one"] = forks.run_group(wrong, place)
    shutil.copytree(place / "host0" / "run", place / "host1" / "moved")
    ends["on another host"] = group("moved")
    ends["other recipe"] = group("run", "seed=1")
    ends["other recipe on one"] = group("new", second=("training.save_epochs=2",))
    ends["no data on one"] = group("new", second=(f"data.annotations={place / 'none.json'}",))
    ends["too few windows"] = group("new", "training.batch_size=3")
    (place / "host0" / "file").write_text("")
    ends["not a folder"] = group("file/new")
    shutil.copytree(place / "host0" / "run", place / "host0" / "damaged")
    (place / "host0" / "damaged" / "checkpoint" / "random_states_1.pkl").unlink()
    ends["damaged"] = group("damaged")
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
