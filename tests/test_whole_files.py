"""Writing where it is not possible: one line that names the file, nothing half-written, nothing lost."""

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from re2tal_hf.commands import predict
from re2tal_hf.commands.__main__ import main
from re2tal_hf.data import frame_store, synthetic
from re2tal_hf.data.annotation_set import AnnotatedVideo, AnnotationSet
from re2tal_hf.data.detection_files import write_detections, write_submission
from re2tal_hf.data.timeline_index import TimelineIndex
from re2tal_hf.data.whole_files import check_room, check_writable, naming, written_whole
from re2tal_hf.publishing.dataset import read_dataset, write_dataset
from re2tal_hf.publishing.graph import save_graph
from re2tal_hf.training.evaluation import mean_average_precision
from re2tal_hf.training.run_folder import CHECKPOINT, LAST, RunFolder
from re2tal_hf.video_reader import VideoReader

ROWS = [{"label": "run" * 20, "score": 0.5, "start": 1.0, "end": 2.0}] * 400


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Lets the system refuse longer files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    synthetic.generate(folder, num_training=1, num_validation=0, num_test=0, durations=(20, 20))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_cache(folder: Path, videos: Path) -> None:
    [path] = (videos / "videos").glob("*.mp4")
    with VideoReader(path) as reader:
        times = np.arange(0, 10, 0.1)
        frame_store.FrameCache(folder).frames(path, times, lambda frames: frames, "", lambda: reader)


def write_hub_dataset(folder: Path, videos: Path) -> None:
    dataset = read_dataset(videos / "annotations.json", videos / "videos")
    link, os.link = os.link, lambda *_: (_ for _ in ()).throw(OSError("another disk"))
    try:
        write_dataset(dataset, folder / "dataset", name="name")
    finally:
        os.link = link


def save_small_graph(folder: Path, videos: Path) -> None:
    linear = torch.export.export(torch.nn.Linear(100, 100), (torch.zeros(1, 100),))
    save_graph(linear, folder / "model.pt2")


WRITERS = {
    "recipe.yaml": lambda folder, _: RunFolder(folder).write_text("recipe.yaml", "a" * 20000),
    CHECKPOINT: lambda folder, _: RunFolder(folder).write_checkpoint({"model.pkl": torch.zeros(20000)}),
    "checkpoint/progress.pkl": lambda folder, _: RunFolder(folder).replace_in_checkpoint(
        "progress.pkl", torch.zeros(20000)
    ),
    LAST: lambda folder, _: RunFolder(folder).write_model(
        LAST, lambda to: save_file({"weight": torch.zeros(20000)}, to / "model.safetensors"), {}
    ),
    "detections.json": lambda folder, _: write_submission(folder / "detections.json", {"a": ROWS}),
    "rows.csv": lambda folder, _: write_detections(folder / "rows.csv", ROWS),
    "rows.png": lambda folder, _: predict.write_results(folder / "rows", ROWS[:20], 10.0, ["png"]),
    "training_000": write_cache,
    "dataset": write_hub_dataset,
    "model.pt2": save_small_graph,
    "videos/training_000.mp4": lambda folder, _: synthetic.generate(
        folder, num_training=1, num_validation=1, num_test=1
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_cannot_be_written_whole_is_named_and_leaves_nothing(name, videos, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    for kept in ("recipe.yaml", "detections.json", "rows.csv", "rows.png", "checkpoint/progress.pkl"):
        (tmp_path / kept).write_text("as before")
    before = contents(tmp_path)
    with files_of_at_most(9000), pytest.raises(OSError, match=f"{name}.* cannot be written "):
        WRITERS[name](tmp_path, videos)
    assert contents(tmp_path) == before
    WRITERS[name](tmp_path, videos)
    assert contents(tmp_path) != before and not list(tmp_path.rglob("*.partial"))


def test_an_index_that_cannot_be_kept_stops_nothing(videos, tmp_path, caplog):
    index = TimelineIndex(tmp_path / "index")
    [path] = (videos / "videos").glob("*.mp4")
    with files_of_at_most(10):
        assert index.duration(path) == pytest.approx(20, abs=0.1)
        index.save()
    assert "cannot be kept" in caplog.text and not contents(tmp_path)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "choose a folder that you may write to"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), "unexpected pos"),
        (RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed"), "failed writing"),
    ],
)
def test_every_librarys_words_become_one(error, shown, tmp_path):
    with pytest.raises(OSError, match=shown) as raised, written_whole(tmp_path / "file") as partial:
        partial.write_text("half")
        raise error
    assert str(tmp_path / "file") in str(raised.value) and len(str(raised.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("no"), OSError("in its own words")])
def test_other_errors_are_left_as_they_are(error, tmp_path):
    with pytest.raises(type(error)) as raised, naming(tmp_path / "file"):
        raise error
    assert raised.value is error


def test_a_folder_is_checked_without_a_trace(tmp_path, monkeypatch):
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(NotADirectoryError, match="file is no folder: choose another"):
            check_writable(folder)
    with files_of_at_most(10), pytest.raises(OSError, match="run cannot be written"):
        check_writable(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    check_room(tmp_path, 1000)
    with pytest.raises(OSError, match="needs 1099511627776 MiB and its disk has .*make room"):
        check_room(tmp_path, 2**60)


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--recipe=quickstart", "data.annotations=a.json", "--output"],
        ["predict", "--model=m", "a.mp4", "--output"],
        ["export", "m", "--output"],
        ["make_dataset", "--annotations=a.json", "--output"],
        ["make_demo_data"],
    ],
)
def test_an_output_that_cannot_be_is_refused_first(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main([*command, "file/out/x"]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and "file is no folder" in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_metric_needs_no_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "file" / "metrics"))
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "file" / "modules"))
    video = AnnotatedVideo("a", "", None, None, np.array([[1.0, 2.0]]), [0])
    found = {"a": [{"label": "run", "score": 0.5, "start": 1.0, "end": 2.0}]}
    assert mean_average_precision(found, AnnotationSet([video], ["run"], {}), [0.5])["map"] == 1.0
