"""Action spotting from annotations to figures: trained, measured and used, on features and on videos made here."""

import json
from pathlib import Path

import numpy as np
import pytest
from video_factory import write_video

from re2tal_hf.commands import annotations, evaluate, stream, train
from re2tal_hf.pipeline_re2tal import load_pipeline

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("fresh_accelerator")]
CLASSES = ("goal", "foul")
STEPS, RATE = 160, 4.0


def write_match(folder: Path, name: str, draw: np.random.Generator) -> dict:
    """Features of 40 s, four a second: noise, and for a second from each action on the channels of its class."""
    features = draw.normal(0, 0.3, (STEPS, 8))
    times = np.sort(draw.choice(np.arange(4, 36, 5), 4, replace=False) + draw.random(4) * 2)
    labels = draw.integers(0, 2, 4)
    for time, label in zip(times, labels, strict=True):
        first = round(time * RATE)
        features[first : first + 4, 3 * label : 3 * label + 3] += 2
    np.save(folder / f"{name}.npy", features.astype(np.float32))
    actions = [
        {"label": CLASSES[label], "segment": [float(time), float(time)]}
        for time, label in zip(times, labels, strict=True)
    ]
    subset = "training" if int(name[1:]) < 12 else "validation"
    return {"subset": subset, "duration": STEPS / RATE, "annotations": actions}


@pytest.fixture
def data(tmp_path) -> list[str]:
    draw = np.random.default_rng(0)
    (tmp_path / "features").mkdir()
    database = {f"v{number}": write_match(tmp_path / "features", f"v{number}", draw) for number in range(18)}
    (tmp_path / "a.json").write_text(json.dumps({"database": database}), encoding="utf-8")
    return [f"data.annotations={tmp_path / 'a.json'}", f"data.features={tmp_path / 'features'}"]


SETTINGS = [
    "model.backbone_config={model_type: features, size: 8}", "processor.num_frames=160", "processor.feature_stride=1",
    "processor.feature_rate=4", "data.num_workers=0",
]  # fmt: skip


def test_points_are_learned_measured_and_found(data, tmp_path, capsys):
    run = tmp_path / "run"
    settings = [
        *SETTINGS, "model.head_config={model_type: spotting, hidden_size: 16, num_levels: 3, drop_path: 0}",
        "training.epochs=25", "training.learning_rate=5.0e-3", "training.ema_decay=0.9", "evaluation.epochs=0",
    ]  # fmt: skip
    assert train.main(["--recipe", "features_spotting", "--output", str(run), *data, *settings]) == 0
    metrics = json.loads((run / "best" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["map"] > 0.9 and metrics["loose_map"] > 0.9 and set(metrics["per_class"]) == set(CLASSES)
    assert (run / "report.html").exists()

    capsys.readouterr()
    places = ["--annotations", str(tmp_path / "a.json"), "--features", str(tmp_path / "features")]
    detections = tmp_path / "detections.json"
    options = ["--model", str(run), *places, "--points", "middle", "--detections", str(detections)]
    assert evaluate.main(options) == 0
    assert f"tight average mAP = {metrics['map']:.4f}" in capsys.readouterr().out
    found = json.loads(detections.read_text(encoding="utf-8"))["results"]["v12"]
    assert found and all(row["segment"][0] == row["segment"][1] for row in found)
    assert evaluate.main(["--model", str(run), *places, "--point-width", "1"]) == 1
    assert "finds points in time, which no segment overlaps: give --points" in capsys.readouterr().err
    assert evaluate.main([*options, "--diagnose"]) == 0
    assert "(points as segments of 7.5 s)" in capsys.readouterr().out
    assert json.loads((tmp_path / "diagnosis.json").read_text(encoding="utf-8"))["point_length"] == 7.5

    # The four best of a video are its actions, to a third of a second.
    pipe = load_pipeline(str(run / "best"))
    rows = pipe({"features": np.load(tmp_path / "features" / "v13.npy"), "frame_rate": RATE}, top_k=4)
    truth = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["database"]["v13"]["annotations"]
    found = sorted((row["start"], row["label"]) for row in rows)
    expected = sorted((row["segment"][0], row["label"]) for row in truth)
    assert [label for _, label in found] == [label for _, label in expected]
    assert np.abs(np.array([time for time, _ in found]) - [time for time, _ in expected]).max() < 0.35


def test_without_points_they_are_no_actions(data, tmp_path, capsys):
    settings = [*SETTINGS, "model.head_config={model_type: actionformer, hidden_size: 16, num_levels: 3}"]
    settings += ["data.points=null", "processor.point_window=null"]
    options = ["--recipe", "features_spotting", "--output", str(tmp_path / "run"), *data, *settings]
    assert train.main(options) == 1
    assert "data.points=middle or --points middle" in capsys.readouterr().err


def write_sweeps(folder: Path, name: str, draw: np.random.Generator) -> dict:
    """A video of 12 s in which a square crosses the noise four times, and its item in OpenSportsLib's JSON.

    An action is the middle of a crossing, its class the direction, which no single frame shows.
    """
    frames = draw.normal(90, 12, (120, 32, 32, 3))
    events = []
    for start in np.arange(4, 108, 26) + draw.integers(0, 14, 4):
        to_left, top = int(draw.integers(0, 2)), int(draw.integers(4, 22))
        for step in range(9):
            left = 24 - 3 * step if to_left else 3 * step
            frames[start + step, top : top + 8, left : left + 8] += 110
        events.append({"label": ("right", "left")[to_left], "position_ms": int(100 * (start + 4.5))})
    write_video(folder / f"{name}.mp4", frames.clip(0, 255).astype(np.uint8), 10)
    return {"id": name, "inputs": [{"type": "video", "path": f"{name}.mp4"}], "events": events}


def test_points_are_learned_from_pixels(tmp_path, capsys):
    draw, videos, run = np.random.default_rng(0), tmp_path / "videos", tmp_path / "run"
    videos.mkdir()
    items = [write_sweeps(videos, f"v{number}", draw) for number in range(32)]
    paths = {name: str(tmp_path / f"{name}.json") for name in ("osl", "read", "split")}
    Path(paths["osl"]).write_text(json.dumps({"version": "2.0", "data": items}), encoding="utf-8")
    assert annotations.main(["convert", paths["osl"], "--output", paths["read"]]) == 0
    assert annotations.main(["split", paths["read"], "--output", paths["split"]]) == 0

    settings = [
        "data.points=middle", "data.num_workers=0", "model.backbone_config.embed_dim=24",
        "model.head_config.hidden_size=32", "model.head_config.num_levels=3",
        "processor.size={height: 32, width: 32}", "processor.frame_rate=10",
        "processor.num_frames=64", "augmentation.flip_probability=0", "training.epochs=10", "training.batch_size=4",
        "training.learning_rate=2.0e-3", "training.backbone_learning_rate=2.0e-3", "evaluation.epochs=0",
    ]  # fmt: skip
    data = [f"data.annotations={paths['split']}", f"data.videos={videos}"]
    assert train.main(["--recipe", "quickstart_spotting", "--output", str(run), *data, *settings]) == 0
    metrics = json.loads((run / "best" / "metrics.json").read_text(encoding="utf-8"))
    # 1.000 and 0.996 they were.
    assert metrics["map"] > 0.9 and metrics["loose_map"] > 0.9
    assert "tolerance 5 s" in (run / "report.html").read_text(encoding="utf-8")

    # What is said of a stream is what is found in the file, to the bit.
    capsys.readouterr()
    assert stream.main(["--model", str(run), "--threshold", "0.2", "--exact", str(videos / "v0.mp4")]) == 0
    printed = capsys.readouterr()
    said = [json.loads(line) for line in printed.out.splitlines()]
    expected = load_pipeline(str(run / "best"))(str(videos / "v0.mp4"), threshold=0.2, exact=True)
    assert sorted(said, key=lambda row: -row["score"]) == expected
    assert len(expected) >= 4 and all(row["start"] == row["end"] for row in expected)
    assert "re2tal predict finds the same in the file." in printed.err
