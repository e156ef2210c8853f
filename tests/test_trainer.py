"""Training runs of seconds on generated videos: what a run leaves behind, resuming, several processes, scripts."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from re2tal_hf import Re2TALForTemporalActionLocalization
from re2tal_hf.data.synthetic import generate
from re2tal_hf.data.windows import TrainingWindows, collate
from re2tal_hf.finite import NotFiniteError
from re2tal_hf.training.arguments import OptimizationArguments, load_recipe
from re2tal_hf.training.localization import LocalizationTrainer
from re2tal_hf.training.optimization import (
    build_optimizer,
    learning_rate_factor,
    parameter_groups,
    set_learning_rates,
)
from re2tal_hf.video_reader import VideoReadError

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("fresh_accelerator")]
ROOT = Path(__file__).resolve().parents[1]
BENCHMARK_MODES = ("not rewired, plain", "rewired, plain", "rewired, checkpoint", "rewired, reversible")
TINY = [
    "model.backbone_config.embed_dim=8",
    "model.backbone_config.depths=[1,1]",
    "model.backbone_config.num_heads=[1,2]",
    "model.head_config.hidden_size=16",
    "model.head_config.num_levels=3",
    "processor.size={height: 32, width: 32}",
    "processor.num_frames=64",
    "data.windows_per_video=2",
    "data.num_workers=0",
    "training.batch_size=2",
    "training.epochs=2",
    "evaluation.epochs=0",
    "evaluation.batch_size=4",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    generate(folder, num_training=3, num_validation=2, num_test=1, durations=(20, 22))
    return folder


@pytest.fixture(scope="module")
def places(data) -> list[str]:
    return [f"data.annotations={data / 'annotations.json'}", f"data.videos={data / 'videos'}"]


@pytest.fixture(scope="module")
def finished(places, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    LocalizationTrainer(load_recipe("quickstart", [*TINY, *places]), folder).run()
    return folder


def run_command(name: str, *arguments, launcher=(sys.executable,), check: bool = True):
    command = [*launcher, "-m", f"re2tal_hf.commands.{name}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def test_a_run_leaves_model_metrics_and_log(finished):
    for name in ("best", "last"):
        model = Re2TALForTemporalActionLocalization.from_pretrained(finished / name)
        assert "Sway" in model.config.label2id
        metrics = json.loads((finished / name / "metrics.json").read_text())
        assert {"map", "map@0.3", "map@0.7", "per_class", "epoch"} <= metrics.keys()
        detections = json.loads((finished / name / "detections.json").read_text())
        assert set(detections["results"]) == {"validation_000", "validation_001"}
        assert (finished / name / "timeline.png").read_bytes().startswith(b"\x89PNG")
    run = json.loads((finished / "run.json").read_text())
    assert run["training"]["videos"] == 3 and 60 <= run["training"]["seconds"] <= 66
    assert run["validation"]["segments"] > 0
    assert 0 < run["backbone_parameters"] < run["num_parameters"]
    assert run["training_seconds"] > 0 and run["device"]
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert 0 < lines[0]["reconstruction_error"] < 1e-4
    assert lines[1]["loss"] > 0
    again = load_recipe(str(finished / "recipe.yaml"))
    assert (again.training.epochs, again.name) == (2, "quickstart")
    assert list(finished.glob("tracking/**/*tfevents*")) or list(finished.glob("**/*tfevents*"))
    assert not list(finished.glob("*.partial"))


def test_a_second_start_opens_no_video(finished, places, tmp_path, monkeypatch):
    monkeypatch.setattr(av, "open", lambda file, **_: pytest.fail(f"{file} is opened"))
    trainer = LocalizationTrainer(load_recipe("quickstart", [*TINY, *places]), tmp_path / "again")
    assert [round(video.duration) >= 20 for video in trainer.windows.videos] == [True] * 3


def test_the_same_numbers_on_a_second_run(finished, places, tmp_path):
    LocalizationTrainer(load_recipe("quickstart", [*TINY, *places, "data.num_workers=1"]), tmp_path / "again").run()
    first, second = (load_file(f / "last/model.safetensors") for f in (finished, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_frames_as_bytes_train_to_the_weights_of_normalised_ones(finished, places, tmp_path, monkeypatch):
    trainer = LocalizationTrainer(load_recipe("quickstart", [*TINY, *places]), tmp_path / "floats")
    assert trainer._keeps_pixels
    monkeypatch.setattr(LocalizationTrainer, "_keeps_pixels", False)
    trainer.run()
    first, second = (load_file(f / "last/model.safetensors") for f in (finished, tmp_path / "floats"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_workers_need_no_fork(finished, places, tmp_path, monkeypatch):
    context = multiprocessing.context._default_context
    monkeypatch.setattr(context, "_actual_context", multiprocessing.get_context("spawn"))
    trainer = LocalizationTrainer(load_recipe("quickstart", [*TINY, *places, "data.num_workers=1"]), tmp_path / "run")
    trainer.run()
    first, second = (load_file(f / "last/model.safetensors") for f in (finished, tmp_path / "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_worker_tells_of_an_unreadable_video(data, places, tmp_path):
    places = [places[0], f"data.videos={shutil.copytree(data / 'videos', tmp_path / 'videos')}"]
    recipe = load_recipe("quickstart", [*TINY, *places, "data.max_unreadable=0.5"])
    windows = LocalizationTrainer(recipe, tmp_path / "run").windows
    windows.videos[1].path.unlink()
    loader = DataLoader(windows, num_workers=1, collate_fn=collate, multiprocessing_context="forkserver")
    windows.set_epoch(7)
    batches = list(loader)
    assert windows.num_unreadable == 1
    for index, batch in enumerate(batches):
        assert torch.equal(batch["frames"][0], windows[index]["frames"])


WAYS_TO_STOP = {
    # While it decodes; and before what it has decoded is taken from it, which PyTorch waits for without a limit.
    "hangs": (signal.SIGSTOP, 0.0, r"in 3 s \(data.timeout\)"),
    "hangs late": (signal.SIGSTOP, 2.0, r"in 3 s \(data.timeout\)"),
    "dies": (signal.SIGKILL, 0.0, "decode worker has ended"),
    "dies late": (signal.SIGKILL, 2.0, "decode worker has ended"),
}


@pytest.mark.parametrize("way", WAYS_TO_STOP)
def test_a_worker_that_hangs_or_dies_is_named_with_its_videos(way, places, tmp_path, monkeypatch, capsys):
    signal_number, seconds, why = WAYS_TO_STOP[way]
    # PyTorch looks after its workers every 5 s.
    limit = 3 if signal_number == signal.SIGSTOP else 60
    settings = [*TINY, *places, "data.num_workers=1", f"data.timeout={limit}"]
    trainer = LocalizationTrainer(load_recipe("quickstart", settings), tmp_path / "run")
    item, take = TrainingWindows.__getitem__, _MultiProcessingDataLoaderIter._try_get_data

    def stop(self, index):
        if index == 1:
            os.kill(os.getpid(), signal_number)
        return item(self, index)

    def take_late(self, *arguments, **settings):
        time.sleep(seconds)
        return take(self, *arguments, **settings)

    monkeypatch.setattr(TrainingWindows, "__getitem__", stop)
    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_try_get_data", take_late)
    with pytest.raises(VideoReadError, match=why) as raised:
        trainer.run()
    assert "windows of training_00" in str(raised.value)
    assert "the same command" in capsys.readouterr().out
    for worker in multiprocessing.active_children():
        worker.join(10)
    assert not multiprocessing.active_children()


def test_a_variant_of_training(places, tmp_path):
    changes = [
        "data.class_agnostic=true", "training.gradient_accumulation=2", "training.mixed_precision=bf16",
        "training.ema_decay=null", "training.epochs=1", "model.rewiring=none", "training.trackers=[]",
        "freeze.norms=true", "augmentation.crop_scale=[0.6,1.0]", "augmentation.brightness=0.3",
    ]  # fmt: skip
    metrics = LocalizationTrainer(load_recipe("quickstart", [*TINY, *places, *changes]), tmp_path / "a").run()
    assert set(metrics["per_class"]) == {"action"}


def test_a_frozen_backbone_and_whole_videos(places, tmp_path):
    changes = ["freeze.backbone=true", "training.epochs=1", "processor.sampling=resized"]
    trainer = LocalizationTrainer(load_recipe("quickstart", [*TINY, *places, *changes]), tmp_path / "a")
    before = {n: p.clone() for n, p in trainer.plain_model.named_parameters()}
    trainer.run()
    changed = {n for n, p in trainer.plain_model.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all(name.startswith("head.") for name in changed)


def nan_average(trainer):
    trainer.trained.average.n_averaged += 1  # the first update would copy the model
    trainer.trained.average.module.head.boundary.predictor.bias.data.fill_(torch.nan)


def test_a_model_that_is_not_finite_stops_the_run(places, tmp_path):
    trainer = LocalizationTrainer(load_recipe("quickstart", [*TINY, *places, "training.epochs=1"]), tmp_path / "a")
    nan_average(trainer)
    with pytest.raises(NotFiniteError, match="validation_000.*segments are not finite"):
        trainer.run()
    assert not (tmp_path / "a/best").exists() and not (tmp_path / "a/last").exists()


def test_two_processes(places, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run_command(
        "train", "--recipe", "quickstart", "--output", tmp_path / "run", *TINY, *places,
        "training.epochs=1", "training.batch_size=1", launcher=launcher,
    )  # fmt: skip
    assert json.loads((tmp_path / "run/run.json").read_text())["num_processes"] == 2
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 1
    metrics = json.loads((tmp_path / "run/last/metrics.json").read_text())
    assert 0 <= metrics["map"] <= 1
    detections = json.loads((tmp_path / "run/last/detections.json").read_text())
    assert set(detections["results"]) == {"validation_000", "validation_001"}


def test_evaluate_and_predict(finished, data, tmp_path):
    done = run_command(
        "evaluate", "--model", finished / "last", "--annotations", data / "annotations.json",
        "--videos", data / "videos", "--detections", tmp_path / "d.json", "--batch-size", 4, "--diagnose",
    )  # fmt: skip
    expected = json.loads((finished / "last/metrics.json").read_text())["map"]
    assert f"average mAP@0.3:0.7 = {expected:.2f}" in done.stdout.splitlines()
    diagnosis = json.loads((tmp_path / "diagnosis.json").read_text())
    assert diagnosis["map"] == pytest.approx(expected, abs=1e-6) and (tmp_path / "diagnosis.png").exists()
    assert set(json.loads((tmp_path / "d.json").read_text())["results"]) == {"validation_000", "validation_001"}

    video = data / "videos/testing_000.mp4"
    (tmp_path / "no.mp4").write_bytes(b"not a video")
    others = [tmp_path / folder / "same.mp4" for folder in ("a", "b")]
    for other, source in zip(others, ("testing_000.mp4", "training_000.mp4"), strict=True):
        other.parent.mkdir()
        shutil.copy(data / "videos" / source, other)
    done = run_command(
        "predict", "--model", finished / "last", "--output", tmp_path / "out", "--threshold", 0.001,
        video, tmp_path / "no.mp4", video, *others, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no.mp4" in done.stderr
    rows = json.loads((tmp_path / "out/testing_000.json").read_text())
    assert rows
    with (tmp_path / "out/testing_000.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert (tmp_path / "out/testing_000.png").stat().st_size > 5000
    assert not list((tmp_path / "out").glob("no.*"))
    assert json.loads((tmp_path / "out/a_same.json").read_text()) == rows
    assert json.loads((tmp_path / "out/b_same.json").read_text()) != rows
    assert len(list((tmp_path / "out").glob("*.json"))) == 3


def test_benchmark_script():
    done = run_command("benchmark", "--frames", 4, "--size", 32, "--rounds", 1)
    rows = [line.partition("  ") for line in done.stdout.splitlines()]
    saved = {mode: [float(rest.split()[0]) for name, _, rest in rows if name == mode] for mode in BENCHMARK_MODES}
    assert [len(values) for values in saved.values()] == [2] * len(BENCHMARK_MODES)
    reversible = saved["rewired, reversible"]
    assert reversible[0] == reversible[1] < min(saved["not rewired, plain"]) / 10


def test_benchmark_of_budgets():
    backbone = "{model_type: video_swin, embed_dim: 8, depths: [2, 2], num_heads: [1, 2], window_size: [2, 3, 3]}"
    done = run_command("benchmark", "--budgets", "--backbone", backbone, "--frames", 8, "--size", 64, "--rounds", 1)
    lines = done.stdout.splitlines()
    plain, *rows = lines[lines.index("modes by stage: p plain, c checkpoint, r reversible") + 2 :]
    kept = [(float(row.split()[1]), float(row.split()[4])) for row in rows]  # what it may, what it does
    assert len(kept) == 6 and all(0 < found <= budget for budget, found in kept)
    assert plain.startswith("rewired, plain") and " pp " in rows[-1] and " pp " not in rows[0]
    assert "nan" not in done.stdout and all(float(row.split()[-4]) > 0 for row in rows)  # peaks


def test_class_agnostic_evaluation_with_video_scores(places, data, tmp_path):
    LocalizationTrainer(
        load_recipe("quickstart", [*TINY, *places, "data.class_agnostic=true", "training.epochs=1"]), tmp_path / "a"
    ).run()
    database = json.loads((data / "annotations.json").read_text())["database"]
    scores = {video: {a["label"]: 1.0 for a in entry["annotations"]} for video, entry in database.items()}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    arguments = [
        "--model", tmp_path / "a/last", "--annotations", data / "annotations.json", "--videos", data / "videos",
        "--detections", tmp_path / "d.json",
    ]  # fmt: skip
    run_command("evaluate", *arguments, "--video-scores", tmp_path / "scores.json")
    results = json.loads((tmp_path / "d.json").read_text())["results"]
    assert {row["label"] for rows in results.values() for row in rows} <= {
        "Sway",
        "Slant",
        "Bounce",
        "Circle",
    }
    (tmp_path / "scores.json").write_text(json.dumps({"validation_000": {"Jump": 1.0}}))
    done = run_command("evaluate", *arguments, "--video-scores", tmp_path / "scores.json", check=False)
    assert done.returncode != 0
    assert "Jump" in done.stderr


def test_a_saved_run_needs_no_package(finished, data, tmp_path):
    code = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "re2tal_hf":
            raise ImportError(name)
sys.meta_path.insert(0, Hidden())
from transformers import AutoConfig, AutoModel, AutoVideoProcessor, pipeline
folder = {str(finished / "last")!r}
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(model).__name__ == "Re2TALForTemporalActionLocalization"
pipe = pipeline("temporal-action-localization", model=folder, trust_remote_code=True)
rows = pipe({str(data / "videos/testing_000.mp4")!r}, threshold=0.0)
assert rows and set(rows[0]) == {{"label", "score", "start", "end"}}, rows
assert "re2tal_hf" not in sys.modules
print("loaded", len(rows))
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "loaded" in done.stdout


def test_pretrained_backbone(places, finished, tmp_path):
    backbone = Re2TALForTemporalActionLocalization.from_pretrained(finished / "last").model.backbone
    path = tmp_path / "weights.pth"
    torch.save({**backbone.state_dict(), "head.weight": torch.ones(2, 2)}, path)
    overrides = [*TINY, *places, f"training.pretrained_backbone={path}"]
    trainer = LocalizationTrainer(load_recipe("quickstart", overrides), tmp_path / "a")
    state = trainer.plain_model.model.backbone.state_dict()
    assert all(torch.equal(state[name], value) for name, value in backbone.state_dict().items())
    with pytest.raises(ValueError, match="does not fit"):
        LocalizationTrainer(
            load_recipe("quickstart", [*overrides, "model.backbone_config.embed_dim=16"]), tmp_path / "b"
        )
    with pytest.raises(ValueError, match="pretrained_backbone"):
        LocalizationTrainer(
            load_recipe("quickstart", [*TINY, *places, "training.pretrained_backbone=x"]), tmp_path / "c"
        )
    shutil.rmtree(tmp_path / "a", ignore_errors=True)


def test_parameter_groups_and_schedule():
    recipe = load_recipe("quickstart", TINY)
    from re2tal_hf import Re2TALConfig

    model = Re2TALForTemporalActionLocalization(Re2TALConfig(**recipe.model, num_labels=3))
    model.freeze(stages=1)
    arguments = OptimizationArguments(
        learning_rate=1e-3, backbone_learning_rate=1e-5, weight_decay=0.1, epochs=10, warmup_epochs=2
    )
    groups = parameter_groups(model, arguments)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert found["model.backbone.features.2.0.mlp.0.weight"] == (1e-5, 0.1)
    assert found["model.backbone.features.2.0.norm1.weight"] == (1e-5, 0.0)
    assert found["model.backbone.features.2.0.attn.relative_position_bias_table"] == (1e-5, 0.0)
    assert found["head.classification.predictor.bias"] == (1e-3, 0.0)
    assert found["head.embedding.0.conv.weight"] == (1e-3, 0.1)
    assert all(decay == 0 for name, (_, decay) in found.items() if "scale" in name or "norm" in name)
    optimizer = build_optimizer(model, arguments)
    rates = []
    for update in range(50):
        set_learning_rates(optimizer, learning_rate_factor(arguments, update, updates_per_epoch=5))
        rates.append(optimizer.param_groups[0]["lr"] / groups[0]["lr"])
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(1.0)
    assert rates[30] == pytest.approx(0.5)
    assert rates[-1] < 0.01
    assert learning_rate_factor(arguments, 50, updates_per_epoch=5) == 0
    # As torch's own, of which the shares are of the rates of the head.
    arguments.final_learning_rate = 4e-4
    weight = torch.nn.Parameter(torch.zeros(()))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([weight], lr=1e-3), 40, eta_min=4e-4)
    for update in range(10, 51):
        assert 1e-3 * learning_rate_factor(arguments, update, 5) == pytest.approx(cosine.get_last_lr()[0])
        cosine.optimizer.step()
        cosine.step()
    assert learning_rate_factor(arguments, 0, 5) == pytest.approx(0.1)
    # With more processes an epoch has fewer updates; the rates at its end are the same.
    for epoch in range(2, 11):
        same = [learning_rate_factor(arguments, epoch * count, count) for count in (1, 3, 5, 20)]
        assert same == pytest.approx([same[0]] * 4, abs=1e-15)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        build_optimizer(model, arguments)
