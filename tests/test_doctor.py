"""Faults that are planted in good recipes and runs, each named; and no alarm on the good ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from re2tal_hf.commands import doctor
from re2tal_hf.data.synthetic import generate
from re2tal_hf.doctor.examination import findings
from re2tal_hf.doctor.settings import of_settings
from re2tal_hf.training.arguments import load_recipe, recipe_names

SMALL = [
    "model.backbone_config.embed_dim=8",
    "model.backbone_config.depths=[1,1]",
    "model.head_config.hidden_size=16",
    "processor.size={height: 32, width: 32}",
    "data.num_workers=0",
]
Database = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of a quarter of a minute to train on, and four to measure by."""
    folder = tmp_path_factory.mktemp("data")
    generate(folder, num_training=8, num_validation=4, num_test=0, durations=(14.0, 18.0), seed=5)
    return folder


def kinds(
    data: Path, tmp_path: Path, *overrides: str, change: Callable[[Database], None] | None = None, steps: int = 0
) -> list[str]:
    """The kinds of what is found of a small recipe whose annotations were changed."""
    content = json.loads((data / "annotations.json").read_text())
    if change is not None:
        change(content["database"])
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(content))
    places = [f"data.annotations={file}", f"data.videos={data / 'videos'}"]
    return [found.kind for found in findings(load_recipe("quickstart", [*SMALL, *places, *overrides]), steps=steps)]


def times(change: Callable[[float, float], tuple[float, float]]) -> Callable[[Database], None]:
    """Changes start and end of all actions."""

    def changed(database: Database) -> None:
        for entry in database.values():
            for action in entry["annotations"]:
                action["segment"] = list(change(*action["segment"]))

    return changed


def subset(name: str, to: str) -> Callable[[Database], None]:
    def changed(database: Database) -> None:
        for entry in database.values():
            if entry["subset"] == name:
                entry["subset"] = to

    return changed


def renamed(database: Database) -> None:
    for entry in database.values():
        if entry["subset"] == "validation":
            for action in entry["annotations"]:
                action["label"] = f"{action['label']} (class)"


def misspelled(database: Database) -> None:
    first = next(entry for entry in database.values() if entry["annotations"])
    first["annotations"][0]["label"] = first["annotations"][0]["label"] + "-"


def other_durations(factor: float) -> Callable[[Database], None]:
    def changed(database: Database) -> None:
        for entry in database.values():
            entry["duration"] *= factor

    return changed


def hardly_annotated(database: Database) -> None:
    for video_id, entry in database.items():
        if entry["subset"] == "training" and video_id != "training_000":
            entry["annotations"] = []


def half_missing(database: Database) -> None:
    for video_id in [name for name in database if name.endswith(("1", "3", "5"))]:
        database[f"{video_id}_hd"] = database.pop(video_id)


DATA_FAULTS: dict[str, tuple[str, Callable[[Database], None]]] = {
    "frames for seconds": ("time_units", times(lambda start, end: (12 * start, 12 * end))),
    "milliseconds": ("time_units", times(lambda start, end: (1000 * start, 1000 * end))),
    "minutes": ("time_units", times(lambda start, end: (start / 60, end / 60))),
    "frames over another rate": ("time_rate", times(lambda start, end: (start / 2, end / 2))),
    "start and length": ("start_length", times(lambda start, end: (start, end - start))),
    "points": ("points", times(lambda start, end: (start, start))),
    "outside": ("outside_videos", times(lambda start, end: (start + 9, end + 9))),
    "files at another rate": ("time_rate", other_durations(1.2)),
    "subset called otherwise": ("subset", subset("validation", "holdout")),
    "nothing annotated": ("subset", lambda database: [e.update(annotations=[]) for e in database.values()]),
    "other names": ("untrained_classes", renamed),
    "a name misspelled": ("labels", misspelled),
    "most videos not annotated": ("background", hardly_annotated),
    "files missing": ("missing_videos", half_missing),
}


@pytest.mark.training
@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_a_fault_of_the_annotations_is_named(fault: str, data: Path, tmp_path: Path) -> None:
    kind, change = DATA_FAULTS[fault]
    assert kind in kinds(data, tmp_path, change=change)


SETTING_FAULTS = {
    "processor.num_frames=32": "short_window",
    "processor.num_frames=1024": "long_window",
    "processor.frame_rate=0.4": "low_rate",
    "processor.frame_rate=60 processor.num_frames=512": "high_rate",
    "model.head_config.regression_ranges=[[0,1],[1,2],[2,3],[3,4]]": "no_point",
    "processor.window_overlap=0.0": "overlap",
    "training.backbone_learning_rate=1e-5": "random_backbone",
    "training.learning_rate=1.0": "high_learning_rate",
    "training.learning_rate=1e-9 training.backbone_learning_rate=1e-9": "low_learning_rate",
    "training.warmup_epochs=40": "warm_up",
    "training.schedule_epochs=5": "schedule",
    "training.weight_decay=100": "weight_decay",
    "training.ema_decay=0.9999": "average",
    "training.epochs=2": "few_updates",
    "freeze.backbone=true": "frozen",
    "training.backbone_learning_rate=0": "frozen",
    "freeze.stages=2": "frozen",
    "processor.nms_min_score=0.5": "cut_scores",
    "processor.max_detections=1": "cut_scores",
    "data.allow_shared_videos=false data.validation_subset=training": "shared_videos",
    "training.mixed_precision=fp16": "refused",
}


@pytest.mark.training
def test_nothing_is_found_in_a_good_recipe_and_nothing_is_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = [f"data.annotations={data / 'annotations.json'}", f"data.videos={data / 'videos'}"]
    assert doctor.main(["quickstart", *SMALL, *places]) == 0
    assert capsys.readouterr().out == "Nothing was found.\n" and not list(tmp_path.iterdir())


@pytest.mark.training
def test_findings_are_text_and_json(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [f"data.annotations={data / 'annotations.json'}", f"data.videos={data / 'videos'}"]
    options = ["--json", str(tmp_path / "found.json"), "--steps", "0", "training.warmup_epochs=40"]
    assert doctor.main(["quickstart", *SMALL, *places, *options]) == 1
    [found] = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["kind"] == "warm_up" and found["seen"] == "training.warmup_epochs is 40 of 28 epochs"
    assert found["fix"] == "training.warmup_epochs=2.8"
    said = capsys.readouterr().out
    assert all(found[name] in said for name in found) and said.endswith("1 finding.\n")


@pytest.mark.parametrize("name", [name for name in recipe_names() if "finetune" not in name and "clips" not in name])
def test_no_recipe_of_ours_has_a_fault_by_itself(name: str) -> None:
    assert of_settings(load_recipe(name)) == []


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("quikstart", "'quikstart' is neither a run nor a recipe; did you mean 'quickstart'?"),
        ("tests", "tests holds no recipe.yaml: name the folder of a run"),
    ],
)
def test_what_is_no_recipe_is_refused(
    target: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    assert doctor.main([target]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.training
@pytest.mark.parametrize("overrides", SETTING_FAULTS)
def test_a_fault_of_the_settings_is_named(overrides: str, data: Path, tmp_path: Path) -> None:
    assert SETTING_FAULTS[overrides] in kinds(data, tmp_path, *overrides.split())
