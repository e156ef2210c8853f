"""Files whose names come from data: nothing outside, nothing overwritten, on every command that writes them."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_names import FIT_NAMES, HOSTILE_NAMES
from run_factory import small_pipeline
from video_factory import numbered_frames, write_video

from re2tal_hf.commands.__main__ import main
from re2tal_hf.data.file_names import distinct_names, safe_name
from re2tal_hf.data.frame_store import FrameCache
from re2tal_hf.video_reader import VideoReader

# What a file system takes may still be hostile to those who read it.
FILES = [
    *(
        "a\nb",
        "\x1b[31m",
        "\u202egnp",
        "CON",
        "nul.x",
        "x ",
        " x",
        "x.",
        "-rf",
        "~",
        "=1+1",
        "'",
        'a"<b>|*?',
        "\\..\\x",
    ),
    *("x" * 240, "case", "CASE", "cafe\u0301", "$HOME", "%s", "{0}", "a;b"),
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: repr(name)[:20])
def test_any_text_becomes_one_part_of_a_path(name: str, tmp_path: Path) -> None:
    made = safe_name(name)
    (tmp_path / f"{made}.json").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [f"{made}.json"]
    assert len(made.encode()) <= 133 and made == safe_name(name)
    assert not set(made) & set('/\\:*?"<>|') and made.isprintable() and made == made.strip(" .")
    assert not made.startswith(("-", "~")) and made.split(".")[0].upper() not in ("CON", "NUL", "COM1", "LPT9")


@pytest.mark.parametrize("name", FIT_NAMES)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert safe_name(name) == name


def test_different_names_stay_different() -> None:
    names = [
        *HOSTILE_NAMES,
        *FIT_NAMES,
        "a_b",
        "Match",
        "match",
        "MATCH",
        "match-2",
        "x",
        "x",
        "caf\u00e9",
        "cafe\u0301",
    ]
    made = distinct_names(names)
    assert len({name.casefold() for name in made}) == len(made) == len(names)
    assert distinct_names(["b/x", "x", "X", "x"]) == [safe_name("b/x"), "x", "X-2", "x-3"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    video = write_video(folder / "x.mp4", numbered_frames(20, 32, 32), 10)
    names = [*FILES, os.fsdecode(b"\xff\xfe")]
    made = [folder / f"{name}.mp4" for name in names] + [folder / part / "same.mp4" for part in ("a", "b")]
    for path in made:
        path.parent.mkdir(exist_ok=True)
        os.link(video, path)
    return made


def files_of(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def run(command: str, *arguments: Any) -> None:
    assert main([command, *map(str, arguments)]) == 0


def test_predict_writes_into_its_folder_and_overwrites_nothing(videos: list[Path], tmp_path: Path) -> None:
    small_pipeline().save_pretrained(tmp_path / "model")
    several = [path for path in videos if path.stem in ("same", "case", "CASE", "$HOME")]
    videos = list(dict.fromkeys(videos[::4] + several))  # each takes a second
    before = files_of(tmp_path)
    run("predict", "--model", tmp_path / "model", "--output", tmp_path / "out", "--", *videos)
    made = files_of(tmp_path) - before
    assert {path.parts[0] for path in made} == {"out"} and all(len(path.parts) == 2 for path in made)
    assert len({path.name.casefold() for path in made}) == 3 * len(videos)
    assert {Path("out", name) for name in ("a_same.csv", "b_same.csv", "$HOME.png")} <= made


def test_cache_of_frames_holds_every_video(videos: list[Path], tmp_path: Path) -> None:
    cache = FrameCache(tmp_path / "cache")
    for path in videos:
        frames = cache.frames(
            path, np.array([0.0, 0.5]), lambda frames: frames, "as they are", partial(VideoReader, path)
        )
        assert len(frames) == 2
    assert len(files_of(tmp_path)) == len(list((tmp_path / "cache").glob("*.npy"))) == len(videos)


def test_datasets_hold_every_video_by_its_true_id(videos: list[Path], tmp_path: Path) -> None:
    named = [path for path in videos if path.stem != "same" and str(path).isprintable()]
    entry = {"subset": "training", "annotations": [{"segment": [0, 1], "label": "=run\n../../x"}]}
    ids = [path.stem for path in named] + ["../../x", "/etc/passwd", "y" * 300]
    (tmp_path / "a.json").write_text(json.dumps({"database": dict.fromkeys(ids, entry)}))
    before = files_of(tmp_path)
    arguments = ["--annotations", tmp_path / "a.json", "--videos", videos[0].parent, "--output", tmp_path / "set"]
    run("make_dataset", *arguments)
    made = files_of(tmp_path) - before
    assert {path.parts[:2] for path in made} == {("set", "README.md"), ("set", "train")}
    [table] = (tmp_path / "set" / "train").glob("metadata.*")
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert {row["video_id"] for row in rows} <= set(ids) and len(rows) == len(named)
    assert {Path("set", "train", row["file_name"]) for row in rows} | {Path("set/README.md")} == made - {
        table.relative_to(tmp_path)
    }


SMALL = [
    *("model.backbone_config.embed_dim=8", "model.backbone_config.depths=[1,1]", "model.head_config.hidden_size=16"),
    *("model.head_config.num_levels=3", "processor.size={height: 32, width: 32}", "processor.num_frames=16"),
    *("data.num_workers=0", "training.batch_size=1", "training.epochs=1", "evaluation.epochs=0"),
]


def test_training_and_evaluation_write_into_their_folders_by_the_true_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {"train": "../../x", "validation": "=cmd|' /C calc'!A0\n"}
    for split, video_id in ids.items():
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        write_video(folder / f"{split}.mp4", numbered_frames(20 + len(split), 32, 32), 10)
        annotation = {"segment": [0.2, 1.5], "label": "../jump"}
        row = {"file_name": f"{split}.mp4", "video_id": video_id, "annotations": [annotation]}
        (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hub"))
    before = files_of(tmp_path)
    places = [f"data.annotations={tmp_path / 'data'}", "data.videos=null", f"data.cache={tmp_path / 'cache'}"]
    run("train", "--recipe", "quickstart", "--output", tmp_path / "run", *SMALL, *places)
    model = ["--model", tmp_path / "run" / "last", "--annotations", tmp_path / "data"]
    run("evaluate", *model, "--detections", tmp_path / "found.json")
    made = {path.parts[0] for path in files_of(tmp_path) - before}
    assert {"run", "cache", "found.json"} <= made <= {"run", "cache", "found.json", "hub"}
    for file in (tmp_path / "found.json", tmp_path / "run" / "last" / "detections.json"):
        assert set(json.loads(file.read_text())["results"]) == {ids["validation"]}
