"""Faults that are planted in good recipes and runs, each named; and no alarm on the good ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doctor_cases import good_recipe
from safetensors.torch import load_file, save_file

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization, Re2TALModel, Re2TALVideoProcessor
from re2tal_hf.commands import doctor
from re2tal_hf.data.annotation_set import AnnotationSet
from re2tal_hf.data.annotations import read_annotations
from re2tal_hf.data.synthetic import generate, write_video
from re2tal_hf.doctor.examination import findings
from re2tal_hf.doctor.finding import KINDS
from re2tal_hf.doctor.run import of_detections, of_run
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


def odd_durations(database: Database) -> None:
    for number, entry in enumerate(database.values()):
        entry["duration"] *= 0.7 + 0.2 * (number % 4)


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
    "other videos": ("wrong_durations", odd_durations),
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
    "processor.window_overlap=0.0 processor.num_frames=96": "overlap",
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
@pytest.mark.parametrize("number", [1, 2])
def test_nothing_is_found_in_good_recipes_of_other_kinds(number: int, tmp_path: Path) -> None:
    assert findings(good_recipe(number, tmp_path), steps=2) == []


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


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("", "annotations"),
        ({"subset_a": {"subset": "training", "annotations": [{"segment": ["x", 1], "label": "a"}]}}, "annotations"),
        ({"a": {"subset": "subset", "annotations": [{"segment": [0, 1], "label": "a"}]}}, "subset"),
        (
            {
                "a": {
                    "subset": "training",
                    "annotations": [{"segment": [i, i + 1], "label": n} for i, n in enumerate("aA")],
                }
            },
            "labels",
        ),
        (None, "annotations"),
    ],
)
def test_annotations_that_cannot_be_read_are_named(content: Any, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "labels of a subset.json"
    if content is not None:
        file.write_text(json.dumps({"database": content}) if content else "")
    recipe = load_recipe("quickstart", [*SMALL, f"data.annotations={file}"])
    found = findings(recipe)
    assert {finding.kind for finding in found} == {kind} and str(file) in found[0].seen


@pytest.mark.parametrize("name", [name for name in recipe_names() if "finetune" not in name and "clips" not in name])
def test_no_recipe_of_ours_has_a_fault_by_itself(name: str) -> None:
    assert of_settings(load_recipe(name)) == []


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("quikstart", "'quikstart' is neither a run nor a recipe; did you mean 'quickstart'?"),
        ("other", "other holds no recipe.yaml: name the folder of a run"),
    ],
)
def test_what_is_no_recipe_is_refused(
    target: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    assert doctor.main([target]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.training
@pytest.mark.parametrize("overrides", SETTING_FAULTS)
def test_a_fault_of_the_settings_is_named(overrides: str, data: Path, tmp_path: Path) -> None:
    assert SETTING_FAULTS[overrides] in kinds(data, tmp_path, *overrides.split())


SLOWFAST = "{model_type: slowfast, stage_blocks: [1, 1], base_channels: 8, channel_ratio: 4, norm_eval: false}"
NUMBER_FAULTS = {
    f"model.backbone_config={SLOWFAST} training.batch_size=1": "batch_norm",
    f"model.backbone_config={SLOWFAST} freeze.norms=true": "random_norms",
    "processor.do_rescale=false": "normalization",
    "processor.rescale_factor=1.5e-5": "normalization",
    "model.head_config.class_prior=1.0e-9": "silent_head",
    "training.learning_rate=0.5 training.backbone_learning_rate=0.5": "high_learning_rate",
    "processor.image_std=[1e-6,1e-6,1e-6] processor.rescale_factor=1e6": "normalization",
}


@pytest.mark.training
@pytest.mark.parametrize("overrides", NUMBER_FAULTS)
def test_a_fault_of_numbers_and_weights_is_named(overrides: str, data: Path, tmp_path: Path) -> None:
    given = overrides.replace(": ", ":").replace(", ", ",").split()
    given = [override.replace(":", ": ").replace(",", ", ") for override in given]
    assert NUMBER_FAULTS[overrides] in kinds(data, tmp_path, *given, steps=2)


@pytest.mark.training
def test_damaged_videos_are_named(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "videos", tmp_path / "videos")
    for path in sorted((tmp_path / "videos").glob("*.mp4"))[::3]:
        path.write_bytes(path.read_bytes()[:500])
    assert "unreadable_videos" in kinds(data, tmp_path, f"data.videos={tmp_path / 'videos'}")


@pytest.mark.training
def test_copies_of_training_videos_are_named(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "videos", tmp_path / "videos")
    shutil.copyfile(data / "videos" / "training_000.mp4", tmp_path / "videos" / "validation_000.mp4")
    assert "shared_videos" in kinds(data, tmp_path, f"data.videos={tmp_path / 'videos'}")


@pytest.mark.training
def test_weights_that_hardly_fit_are_named(data: Path, tmp_path: Path) -> None:
    other = saved_model(tmp_path / "other", backbone_config={"model_type": "video_swin", **WIDER})
    source = [f"training.pretrained_backbone={other}", "training.pretrained_partial=true"]
    assert "few_weights" in kinds(data, tmp_path, *source)


@pytest.mark.training
def test_a_backbone_that_no_gradient_reaches_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Re2TALModel.forward

    def detached(*given: Any, **settings: Any) -> Any:
        output = forward(*given, **settings)
        output.last_hidden_state = output.last_hidden_state.detach()
        return output

    monkeypatch.setattr(Re2TALModel, "forward", detached)
    assert kinds(data, tmp_path, steps=1) == ["no_gradient"]


@pytest.mark.training
def test_black_videos_are_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    black = np.zeros((32, 32, 3), np.uint8)
    for path in sorted((data / "videos").glob("*.mp4")):
        frames = (black for _ in range(4 * 18))
        write_video(tmp_path / "videos" / path.name, frames, frame_rate=4.0, size=(32, 32))
    given = [f"data.videos={tmp_path / 'videos'}", "processor.frame_rate=4"]
    assert "dark_videos" in kinds(data, tmp_path, *given, steps=1)


def saved_model(folder: Path, **settings: Any) -> Path:
    """A small localizer of three classes and its processor."""
    recipe = load_recipe("quickstart", SMALL)
    config = Re2TALConfig(**{**recipe.model, **settings}, id2label=dict(enumerate(NAMES)))
    Re2TALForTemporalActionLocalization(config).save_pretrained(folder)
    Re2TALVideoProcessor(**recipe.processor).save_pretrained(folder)
    return folder


WIDER = {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "patch_size": [2, 8, 8], "window_size": [8, 4, 4]}
KINETICS = "Swin3D_T_Weights.KINETICS400_V1"
NAMES = ["hug", "kick", "push"]
ACTIONS = [
    (start, start + 3.0, NAMES[(video + number) % 3])
    for video in range(2)
    for number, start in enumerate(range(1, 40, 8))
]


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (["training.pretrained_model={folder}", "model.rewiring=none", "model.backprop=plain"], "another_rewiring"),
        (["training.pretrained_backbone={folder}", "processor.image_mean=[0, 0, 0]"], "normalization"),
        (["training.pretrained_backbone={folder}", "processor.image_std=[1, 1, 1]"], "normalization"),
        (["training.pretrained_backbone=Swin3D_T_Weights.KINETICS400_V1", "freeze.backbone=true"], "frozen_rewired"),
        (
            ["training.pretrained_backbone=Swin3D_T_Weights.KINETICS400_V1", "processor.image_std=[1, 1, 1]"],
            "normalization",
        ),
    ],
)
def test_weights_that_know_other_inputs_are_named(overrides: list[str], kind: str, tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "old")
    assert of_settings(load_recipe("quickstart", [*SMALL, f"training.pretrained_model={folder}"])) == []
    given = [override.format(folder=folder) for override in overrides]
    assert [found.kind for found in of_settings(load_recipe("quickstart", [*SMALL, *given]))] == [kind]


def write_run(folder: Path) -> tuple[Path, AnnotationSet]:
    """A run that went well, and what it was measured by."""
    model = saved_model(folder / "best")
    database = {
        f"video_{video}": {
            "subset": "validation",
            "duration": 45.0,
            "annotations": [{"segment": [s, e], "label": label} for s, e, label in ACTIONS[5 * video : 5 * video + 5]],
        }
        for video in range(2)
    }
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    write_detections(folder, lambda start, end, label: (start + 0.2, end - 0.3, label))
    (model / "metrics.json").write_text(json.dumps({"map": 0.8, "epoch": 6}))
    write_log(folder, [1.2, 0.9, 0.7, 0.6, 0.5, 0.4])
    return folder, read_annotations(folder / "annotations.json", subset="validation", repair=False)


def write_log(folder: Path, losses: list[float], **entry: Any) -> None:
    rows = [{"epoch": i + 1, "loss": loss, "skipped_steps": 0, **entry} for i, loss in enumerate(losses)]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_detections(
    folder: Path, change: Callable[[float, float, str], tuple[float, float, str]], score: float = 0.9
) -> None:
    results: dict[str, list[dict[str, Any]]] = {}
    for number, action in enumerate(ACTIONS):
        start, end, label = change(*action)
        row = {"label": label, "score": score * 0.95**number, "segment": [start, end]}
        results.setdefault(f"video_{number // 5}", []).append(row)
    (folder / "best" / "detections.json").write_text(json.dumps({"results": results}))


def spoil_weights(folder: Path) -> None:
    path = folder / "best" / "model.safetensors"
    state = load_file(path)
    next(tensor for tensor in state.values() if tensor.is_floating_point())[...] = float("nan")
    save_file(state, path, {"format": "pt"})


def rewrite(name: str, **values: Any) -> Callable[[Path], None]:
    def written(folder: Path) -> None:
        path = folder / "best" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return written


def not_learned(folder: Path) -> None:
    write_detections(folder, lambda start, end, label: (44.0, 44.9, label))
    rewrite("metrics.json", map=0.0)(folder)


RUN_FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "NaN in the weights": ("not_finite_weights", spoil_weights),
    "skipped steps": ("not_finite", lambda folder: write_log(folder, [1.0, 0.8], skipped_steps=7)),
    "a loss that is NaN": ("not_finite", lambda folder: write_log(folder, [1.0, float("nan")])),
    "a loss that rises": ("diverged", lambda folder: write_log(folder, [1.0, 0.7, 0.6, 1.4, 1.9])),
    "a loss that stays": ("not_learning", lambda folder: write_log(folder, [1.0, 1.0, 1.01, 0.995, 1.0])),
    "no epoch": ("unfinished", lambda folder: (folder / "log.jsonl").unlink()),
    "an inexact inversion": ("inversion", lambda folder: write_log(folder, [1.0], reconstruction_error=0.3)),
    "another rewiring": ("changed_model", rewrite("config.json", rewiring="none", backprop="plain")),
    "another frame rate": ("changed_model", rewrite("video_preprocessor_config.json", frame_rate=30.0)),
    "classes exchanged": (
        "shuffled_classes",
        lambda folder: write_detections(folder, lambda s, e, label: (s, e, NAMES[NAMES.index(label) - 1])),
    ),
    "times twice as long": ("scaled_times", lambda folder: write_detections(folder, lambda s, e, n: (2 * s, 2 * e, n))),
    "a head that is silent": ("silent_head", lambda folder: write_detections(folder, lambda *a: a, score=0.01)),
    "nothing found": ("zero_map", not_learned),
}


def run_findings(folder: Path, validation: AnnotationSet) -> list[str]:
    found = [*of_run(load_recipe("quickstart", SMALL), folder), *of_detections(folder, validation)]
    return [finding.kind for finding in found]


def test_nothing_is_found_in_a_good_run(tmp_path: Path) -> None:
    assert run_findings(*write_run(tmp_path)) == []


@pytest.mark.parametrize("fault", RUN_FAULTS)
def test_a_fault_of_a_run_is_named(fault: str, tmp_path: Path) -> None:
    kind, plant = RUN_FAULTS[fault]
    folder, validation = write_run(tmp_path)
    plant(folder)
    assert run_findings(folder, validation) == [kind]


def test_faults_of_points_are_named(tmp_path: Path) -> None:
    folder, _ = write_run(tmp_path)
    validation = read_annotations(folder / "annotations.json", subset="validation", repair=False, points="start")
    for found, kinds in (
        (lambda start, _, label: (start + 0.4, start + 0.4, label), []),
        (lambda start, _, label: (start, start, NAMES[NAMES.index(label) - 1]), ["shuffled_classes"]),
        (lambda start, _, label: (12 * start, 12 * start, label), ["scaled_times"]),
    ):
        write_detections(folder, found)
        assert run_findings(folder, validation) == kinds


def test_faults_of_every_room_are_planted() -> None:
    planted = {kind for faults in (DATA_FAULTS, RUN_FAULTS) for kind, _ in faults.values()}
    planted |= {*SETTING_FAULTS.values(), *NUMBER_FAULTS.values()}
    assert len(planted) > 40 and planted <= KINDS.keys()
