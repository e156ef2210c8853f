"""The re-finetuning stage, in trainings of seconds."""

import json
import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from video_factory import write_video

from re2tal_hf import Re2TALForVideoClassification, Re2TALModel, dual_residual
from re2tal_hf.finite import NotFiniteError
from re2tal_hf.training.arguments import load_recipe
from re2tal_hf.training.classification import ClassificationTrainer
from re2tal_hf.training.coupling_schedule import CouplingArguments, coupling_at
from re2tal_hf.training.pretrained import load_backbone_weights

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("fresh_accelerator")]
ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "model.backbone_config.embed_dim=8",
    "model.backbone_config.depths=[2,2]",
    "model.backbone_config.num_heads=[1,2]",
    "model.backbone_config.stochastic_depth_prob=0.0",
    "processor.size={height: 32, width: 32}",
    "processor.num_frames=8",
    "processor.frame_rate=10.0",
    "augmentation={}",
    "model.classifier_norm=false",
    "data.windows_per_video=3",
    "data.num_workers=0",
    "training.batch_size=2",
    "training.epochs=2",
    "training.warmup_epochs=0",
    "training.backbone_learning_rate=1e-3",
    "evaluation.epochs=0",
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Bright and dark clips, two of each to train on and one to measure by."""
    folder = tmp_path_factory.mktemp("clips")
    for split, number in (("train", 2), ("validation", 1)):
        for label, level in (("bright", 190), ("dark", 10)):
            (folder / split / label).mkdir(parents=True)
            for index in range(number):
                pixels = torch.randint(level, level + 60, (12, 32, 32, 3), dtype=torch.uint8).numpy()
                write_video(folder / split / label / f"{index}.mp4", pixels, 10.0)
    return folder


def train(clips: Path, folder: Path, *overrides: str) -> tuple[dict, list[dict]]:
    recipe = load_recipe("ut_clips", [*TINY, f"data.annotations={clips}", *overrides])
    metrics = ClassificationTrainer(recipe, folder).run()
    return metrics, [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(clips, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "plain"
    AcceleratorState._reset_state(reset_partial_state=True)
    metrics, log = train(
        clips, folder, "model.rewiring=none", "model.backprop=plain", "training.epochs=12", "training.ema_decay=null",
        "training.learning_rate=1e-2",
    )  # fmt: skip
    assert metrics["top1"] == metrics["top5"] == 1.0 and metrics["clips"] == 2
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    return folder / "last"


def test_the_rewired_network_starts_from_the_plain_one(clips, plain, tmp_path):
    settings = [*TINY, f"data.annotations={clips}", f"training.pretrained_backbone={plain}"]
    found = ClassificationTrainer(load_recipe("ut_clips", settings), tmp_path / "run").plain_model
    source = Re2TALForVideoClassification.from_pretrained(plain)
    assert found.config.rewiring == "re2tal"
    assert all(torch.equal(found.state_dict()[name], value) for name, value in source.state_dict().items())


def test_the_original_network_teaches_without_labels(clips, plain, tmp_path):
    _, log = train(
        clips, tmp_path / "run", f"training.pretrained_backbone={plain}", "training.epochs=8",
        "distillation.weight=1", "distillation.label_weight=0",
    )  # fmt: skip
    assert log[-1]["distillation"] < 0.5 * log[0]["distillation"]
    assert log[0]["loss"] == pytest.approx(log[0]["distillation"])
    with pytest.raises(ValueError, match="pretrained_backbone"):
        train(clips, tmp_path / "none", "distillation.weight=1")
    with pytest.raises(ValueError, match="pretrained_partial"):
        train(
            clips, tmp_path / "part", "distillation.weight=1", f"training.pretrained_backbone={plain}",
            "training.pretrained_partial=true",
        )  # fmt: skip


def test_a_model_that_is_not_finite_is_not_measured(clips, tmp_path):
    trainer = ClassificationTrainer(load_recipe("ut_clips", [*TINY, f"data.annotations={clips}"]), tmp_path / "run")
    torch.nn.init.constant_(trainer.trained.evaluated.classifier.bias, float("nan"))
    with pytest.raises(NotFiniteError, match="logits are not finite"):
        trainer.evaluate()


def test_dr2net_moves_to_the_rewired_network(clips, plain, tmp_path, monkeypatch):
    monkeypatch.setattr(dual_residual, "PROBE_INTERVAL", 2)
    _, log = train(
        clips, tmp_path / "run", f"training.pretrained_backbone={plain}", "model.rewiring=dr2net", "training.epochs=4"
    )
    assert [(line["alpha"], line["beta"]) for line in log[2:]] == [(0.0, 1.0)] * 2
    assert 0 < log[0]["beta"] < 1
    assert log[-1]["inverted_stages"] == 2
    model = Re2TALForVideoClassification.from_pretrained(tmp_path / "run/last")
    assert model.model.backbone.couplings() == [(0.0, 1.0)] * 2
    assert model.config.coupling is None


def test_the_result_is_the_backbone_of_a_localizer(plain):
    config = Re2TALForVideoClassification.from_pretrained(plain).config
    localizer = Re2TALModel(config)
    load_backbone_weights(localizer.backbone, str(plain))
    source = Re2TALForVideoClassification.from_pretrained(plain).model.state_dict()
    assert all(torch.equal(localizer.state_dict()[name], value) for name, value in source.items())


def test_script(clips, tmp_path):
    command = [
        sys.executable, "-m", "re2tal_hf.commands.finetune", "--recipe", "ut_clips", "--output", tmp_path / "run",
        *TINY, f"data.annotations={clips}", "training.epochs=1",
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].endswith("of 2 clips")
    again = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 0 and "is finished" in again.stdout
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    other = subprocess.run([*map(str, command), "seed=1"], capture_output=True, text=True, cwd=ROOT)
    assert other.returncode == 1 and "seed is 1 here and 0 there" in other.stderr


def test_what_a_worker_of_any_start_method_is_given(clips, tmp_path):
    trainer = ClassificationTrainer(load_recipe("ut_clips", [*TINY, f"data.annotations={clips}"]), tmp_path / "run")
    windows, put_together = pickle.loads(ForkingPickler.dumps((trainer.windows, trainer.loader.collate_fn)))
    trainer.windows.set_epoch(3)
    batch, expected = (put_together([w[0], w[1]]) for w in (windows, trainer.windows))
    assert torch.equal(batch["labels"], expected["labels"])
    assert all(torch.equal(*frames) for frames in zip(batch["frames"], expected["frames"], strict=True))


@pytest.mark.parametrize(
    ("shape", "middle"), [("linear", (0.5, 0.5)), ("cosine", (0.5, 0.5)), ("step", (0.0, 1.0))]
)  # fmt: skip
def test_path_of_the_coefficients(shape, middle):
    path = CouplingArguments(shape=shape, start_epoch=2.0, end_epoch=6.0)
    assert coupling_at(path, 1.0, 10) == (1.0, 0.0)
    assert coupling_at(path, 4.0, 10) == pytest.approx(middle)
    assert coupling_at(path, 6.0, 10) == coupling_at(path, 9.0, 10) == (0.0, 1.0)
    assert coupling_at(CouplingArguments(), 5.0, 10) == (0.0, 1.0)
    with pytest.raises(ValueError, match="shape"):
        coupling_at(CouplingArguments(shape="cube"), 0.0, 10)
    with pytest.raises(ValueError, match="before"):
        coupling_at(CouplingArguments(start_epoch=8.0), 0.0, 10)
