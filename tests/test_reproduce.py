"""From a checkpoint of another project, videos and annotations to the published table beside ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conversion_cases import ACTIONFORMER, SWIN, detector, write
from golden_weights import read_golden
from video_factory import numbered_frames, write_video

from re2tal_hf.commands import reproduce
from re2tal_hf.commands.evaluate import main as evaluate
from re2tal_hf.conversion.opentad_export import opentad_state
from re2tal_hf.conversion.recipe_weights import convert_for_recipe
from re2tal_hf.data.annotations import read_annotations
from re2tal_hf.metrics.measurement import measure
from re2tal_hf.metrics.published_figures import PUBLISHED, PublishedFigures
from re2tal_hf.training.arguments import load_recipe
from re2tal_hf.training.recipe_yaml import write_yaml

RECIPES = Path(__file__).resolve().parents[1] / "re2tal_hf/recipes"
LABELS = ["jump", "run", "throw"]
TINY = {
    "model": {
        "backbone_config": SWIN,
        "head_config": {"model_type": "actionformer", **ACTIONFORMER},
        "rewiring": "re2tal",
    },
    "processor": {"size": {"height": 24, "width": 32}, "num_frames": 16, "frame_rate": 10.0, "nms_min_score": 0.01},
    "evaluation": {"tiou_thresholds": [0.1, 0.3]},
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A checkpoint of OpenTAD's form, a recipe, two videos of three, and their annotations."""
    monkeypatch.setitem(PUBLISHED, "tiny", PublishedFigures("a table", {0.1: 50.0, None: 40.0}))
    (tmp_path / "videos").mkdir()
    for name in ("a", "b"):
        write_video(tmp_path / f"videos/{name}.mp4", numbered_frames(40, 24, 32), 10)
    action = [{"segment": [start, start + 1], "label": label} for label in LABELS for start in range(3)]
    entry = {"subset": "validation", "duration": 4.0, "annotations": action}
    (tmp_path / "a.json").write_text(json.dumps({"database": dict.fromkeys(("a", "b", "gone"), entry)}))
    (tmp_path / "tiny.yaml").write_text(write_yaml(TINY))
    torch.manual_seed(0)
    model = detector("swin")
    torch.nn.init.constant_(model.head.boundary.predictor.bias, 2.5)  # about as long as what is annotated
    for scale in model.head.level_scales.parameters():
        torch.nn.init.ones_(scale)
    write(tmp_path / "epoch.pth", opentad_state(model))
    places = {"weights": "epoch.pth", "annotations": "a.json", "videos": "videos", "output": "out"}
    return {"recipe": tmp_path / "tiny.yaml"} | {name: tmp_path / place for name, place in places.items()}


def command(files: dict[str, Path], *more: str) -> list[str]:
    options = [f"--{name}={path}" for name, path in files.items() if name != "recipe"]
    return [str(files["recipe"]), *options, "--device=cpu", *more]


@pytest.mark.training
def test_the_published_table_beside_ours(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(command(files)) == 0
    said = capsys.readouterr().out
    assert "missing: 1 of 3 videos" in said and "classes in the order of the checkpoint: 'jump', 'run', 'throw'" in said
    output = files["output"]
    record = json.loads((output / "reproduction.json").read_text())
    assert record["here"]["0.1"] > 1
    assert record["published"] == {"0.1": 50.0, "average": 40.0} and record["recipe"] == "tiny"
    assert record["videos"] == 3 and record["actions"] == 27 and record["device"].startswith("CPU")
    assert record["weights"].startswith("epoch.pth, SHA-256 ") and {"torch", "re2tal_hf"} <= record["versions"].keys()
    table = (output / "reproduction.md").read_text()
    row = f"| 0.1 | 50.00 | {record['here']['0.1']:.2f} | {record['here']['0.1'] - 50:+.2f} |"
    assert row in table and table in said and "1 of 3 videos have no readable file" in table
    # The model that it leaves has the recipe's settings: measured by itself it gives the same.
    again = output.parent / "again.json"
    places = [f"--annotations={files['annotations']}", f"--videos={files['videos']}", f"--detections={again}"]
    assert evaluate([f"--model={output / 'model'}", "--device=cpu", "--tiou", "0.1", "0.3", *places]) == 0
    assert f"{record['here']['0.1'] / 100:.4f}" in capsys.readouterr().out
    assert again.read_bytes() == (output / "detections.json").read_bytes()
    # A model of ours is taken as it is, with the processor of the recipe.
    files |= {"weights": output / "model", "output": output.parent / "second"}
    assert reproduce.main(command(files)) == 0
    assert (files["output"] / "detections.json").read_bytes() == again.read_bytes()
    assert not (files["output"] / "model").exists()


@pytest.mark.training
def test_several_processes_share_the_videos_and_write_once(files: dict[str, Path]) -> None:
    # A name of the package's own table, since other processes know no other; the tIoUs are that table's.
    recipe = TINY | {"evaluation": {"tiou_thresholds": [0.3, 0.4, 0.5, 0.6, 0.7]}}
    files["recipe"] = files["output"].parent / "thumos14_swin_tiny.yaml"
    files["recipe"].write_text(write_yaml(recipe), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    made = []
    for count in (1, 2):
        output = files["output"].parent / f"processes_{count}"
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(count), "-m", "re2tal_hf.commands.reproduce"]
        job = [sys.executable, *launcher, *command(files | {"output": output})]
        done = subprocess.run(job, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("| tIoU |") == done.stdout.count("used 161 of 161 tensors") == 1
        record = json.loads((output / "reproduction.json").read_text(encoding="utf-8"))
        assert record.pop("num_processes") == count and record.pop("seconds") >= 0
        tensors = (output / "model/model.safetensors").read_bytes()
        made.append((record, tensors, (output / "detections.json").read_bytes()))
        names = {path.name for path in output.iterdir()}
        assert names == {"model", "detections.json", "reproduction.json", "reproduction.md"}
    assert made[0] == made[1] and b'"b"' in made[0][2]
    again = subprocess.run(job, capture_output=True, text=True, env=environment)
    assert again.returncode and again.stderr.count("name a new folder") == 1


@pytest.mark.parametrize(
    ("change", "overrides", "message"),
    [
        (
            {"recipe": "quickstart"},
            [],
            "No figures are published with the recipe quickstart; they are with activitynet_",
        ),
        ({}, ["evaluation.tiou_thresholds=[0.5]"], "the published table has a tIoU of 0.1; put it into evaluation."),
        ({}, ["data.class_agnostic=true"], "takes the classes from a classifier of whole videos: give its scores"),
        ({}, ["model.head_config.hidden_size=8"], "tensors differ in shape, such as "),
        ({}, ["model.rewiring=none"], "its rewiring is 're2tal', and the recipe's 'none'"),
        ({}, ["data.validation_subset=test"], "no videos in subset 'test'"),
        ({"weights": "none.pth"}, [], "none.pth: neither a folder nor a Hub id"),
        ({}, ["model.backbone_config={model_type: features}"], "is on stored features: give --features"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(files, change, overrides, message, capsys) -> None:
    assert reproduce.main(command(files | change, *overrides)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not files["output"].exists()


def test_a_model_that_was_made_for_nothing_goes(files, capsys, monkeypatch) -> None:
    def stopped(*_):
        assert (files["output"] / "model/config.json").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "localize", stopped)
    assert reproduce.main(command(files)) == 130
    assert "used 161 of 161 tensors" in capsys.readouterr().out and not files["output"].exists()


def test_other_classes_than_the_weights_have_are_refused(files, capsys) -> None:
    files["annotations"].write_text(files["annotations"].read_text().replace("throw", "run"))
    assert reproduce.main(command(files)) == 1
    assert "it tells 3 classes apart, and there are 2 in the annotations" in capsys.readouterr().err


def test_the_reference_detector_by_its_recipe(model_goldens, tmp_path) -> None:
    name = "a7_re2swin_actionformer_thumos"
    _, metadata = read_golden(model_goldens / f"{name}.safetensors")
    config = json.loads(metadata["config"])
    backbone = config["backbone"]["backbone"]
    recipe = tmp_path / "golden.yaml"
    swin = {field: backbone[field] for field in ("embed_dim", "depths", "num_heads", "window_size")}
    head = {"hidden_size": 16, "num_levels": 3, "max_length": 16, "num_attention_heads": 4}
    recipe.write_text(
        write_yaml(
            {
                "model": {
                    "backbone_config": {"model_type": "video_swin", **swin},
                    "head_config": {
                        "model_type": "actionformer",
                        "regression_ranges": [[0, 4], [4, 8], [8, 10000]],
                        **head,
                    },
                    "rewiring": "re2tal",
                },
                "processor": {"num_frames": 32, "frame_rate": 15.0},
            }
        )
    )
    labels = [f"c{number}" for number in range(5)]
    checkpoint = model_goldens / f"{name}.opentad_checkpoint.pth"
    converted = convert_for_recipe(checkpoint, "opentad", load_recipe(str(recipe)), labels)
    assert len(converted.plan.names) == len(converted.plan.state) - len(converted.plan.dropped)
    assert converted.model.config.id2label == dict(enumerate(labels))
    with pytest.raises(ValueError, match="it tells 5 classes apart, and there are 4"):
        convert_for_recipe(checkpoint, "opentad", load_recipe(str(recipe)), labels[:4])


def test_what_is_published_can_be_compared_with_what_its_recipe_measures() -> None:
    for name, row in PUBLISHED.items():
        measured = load_recipe(name).evaluation.tiou_thresholds
        assert set(row.figures) - {None} <= set(measured), name
        # The average is over those that the recipe measures.
        full = {None: sum(value for limit, value in row.figures.items() if limit) / (len(row.figures) - 1)}
        if len(measured) == len(row.figures) - 1:
            assert full[None] == pytest.approx(row.figures[None], abs=0.02), name


def test_the_page_shows_the_figures_that_are_compared_with() -> None:
    page = (RECIPES / "benchmarks.md").read_text(encoding="utf-8")
    for name, row in PUBLISHED.items():
        figures = " | ".join(f"{figure:.2f}" for figure in row.figures.values())
        assert f"| `{name}` | {figures} |" in page
        assert f"{row.figures[None]:.2f}" in (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")


SLIPS = {
    "none": lambda start, end: (start, end),
    "videos of 30 frames a second taken for 25": lambda start, end: (start * 25 / 30, end * 25 / 30),
    "29.97 taken for 30": lambda start, end: (start * 29.97 / 30, end * 29.97 / 30),
    "all half a second late": lambda start, end: (start + 0.5, end + 0.5),
    "all a second late": lambda start, end: (start + 1, end + 1),
    "frames in place of seconds": lambda start, end: (start * 30, end * 30),
}


@pytest.mark.training
def test_the_page_says_what_slips_cost(public_annotations: Path) -> None:
    found = read_annotations(public_annotations / "thumos14_opentad_style.json", subset="validation", repair=False)
    random, names = np.random.default_rng(0), found.label_names
    page = (RECIPES / "benchmarks.md").read_text(encoding="utf-8")
    slips = {**SLIPS, "classes in another order": SLIPS["none"]}
    for slip, change in slips.items():
        predictions, truth = [], []
        for video in found.videos:
            row = {"video_id": video.video_id, "segments": video.segments.tolist(), "labels": list(video.labels)}
            shift = int(slip.startswith("classes"))
            changed = {
                "segments": [list(change(*segment)) for segment in row["segments"]],
                "labels": [(label + shift) % len(names) for label in row["labels"]],
                "scores": random.random(len(row["labels"])).tolist(),
            }
            truth.append(row)
            predictions.append(row | changed)
        metrics = measure(predictions, truth, names, [0.3, 0.4, 0.5, 0.6, 0.7])
        [row] = [line for line in page.splitlines() if line.startswith(f"| {slip} |")]
        figures = [100 * metrics[f"map@{threshold}"] for threshold in (0.3, 0.4, 0.5, 0.6, 0.7)] + [
            100 * metrics["map"]
        ]
        # To what another draw of the scores moves them by.
        assert [float(cell) for cell in row.split("|")[2:-1]] == pytest.approx(figures, abs=1.5)
