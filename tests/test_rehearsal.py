"""What is found out about a training before it reads data: settings and machine that do not go together."""

import pytest
import torch

from re2tal_hf import Re2TALForTemporalActionLocalization, Re2TALForVideoClassification
from re2tal_hf.training import rehearsal
from re2tal_hf.training.arguments import load_recipe, recipe_names
from re2tal_hf.training.localization import LocalizationTrainer
from re2tal_hf.training.rehearsal import check_machine, rehearse


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.training
def test_packaged_recipes_go_through(name):
    recipe = load_recipe(name, ["training.pretrained_backbone=null"])
    classifies = recipe.model.get("head_config") is None
    before = torch.random.get_rng_state()
    rehearse(recipe, Re2TALForVideoClassification if classifies else Re2TALForTemporalActionLocalization)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.pretrained_backbone=absent.pth"], "neither a file of weights .*there is no such file"),
        (["training.pretrained_backbone=Swin3D_T_Weights.KINETICS"], "nor a name of torchvision weights"),
        (["training.shard_weights=true", "model.backprop=auto"], "shard_weights does not go with model.backprop=auto"),
        (["freeze.stages=3"], "freeze.stages is 3, but the backbone has 2 stages; give 0 to 2"),
        (["model.rewiring=dr2net", "model.coupling=[[1,0],[1,0],[1,0]]"], "3 couplings for 2 stages"),
        (
            [
                "model.backbone_config={model_type: timesformer, hidden_size: 24, num_attention_heads: 2}",
                "processor.size={height: 8, width: 8}",
            ],
            "takes no windows of processor.num_frames=128 frames of 8 x 8 pixels: .*at least 16x",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_data_are_read(overrides, message, tmp_path):
    recipe = load_recipe("quickstart", [*overrides, "data.annotations=absent.json", "data.videos=absent"])
    with pytest.raises(ValueError, match=message):
        LocalizationTrainer(recipe, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_what_the_machine_has_not_is_refused(monkeypatch):
    def refused(*overrides):
        with pytest.raises(ValueError) as raised:
            check_machine(load_recipe("quickstart", overrides).training)
        return str(raised.value)

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert "training.mixed_precision is 'fp16', and there is no GPU here" in refused("training.mixed_precision=fp16")
    check_machine(load_recipe("quickstart", ["training.mixed_precision=bf16"]).training)
    monkeypatch.setattr(rehearsal, "get_available_trackers", lambda: ["tensorboard"])
    assert "training.trackers: wandb is not installed" in refused("training.trackers=[tensorboard, wandb]")
    check_machine(load_recipe("quickstart", ["training.trackers=[all]"]).training)
    for way in ("FSDP", "DEEPSPEED"):
        with monkeypatch.context() as launched:
            launched.setenv(f"ACCELERATE_USE_{way}", "true")
            said = refused()
            assert f"(ACCELERATE_USE_{way})" in said and "training.shard_weights=true" in said
            assert "training.zero_stage=1 or 2" in said
    with monkeypatch.context() as bare:
        bare.setattr(rehearsal, "find_spec", lambda name: True)
        bare.setenv("CXX", "absent-compiler")
        assert "there is no C++ compiler here" in refused("training.zero_stage=1")
    monkeypatch.setattr(rehearsal, "find_spec", lambda name: None)
    assert "pip install 're2tal_hf[deepspeed]'" in refused("training.zero_stage=1")
    assert "that training.zero_stage does" in refused("training.zero_stage=1", "training.shard_weights=true")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(rehearsal, "is_bf16_available", lambda ignore_tpu: False)
    assert "training.mixed_precision is 'bf16', which this GPU has not" in refused("training.mixed_precision=bf16")
    check_machine(load_recipe("quickstart", ["training.mixed_precision=fp16"]).training)
    for shared in ("training.shard_weights=true", "training.zero_stage=2"):
        assert "and not 'fp16'" in refused(shared, "training.mixed_precision=fp16")


def test_a_model_larger_than_the_memory_is_refused(monkeypatch):
    recipe = load_recipe("quickstart")
    parameters = 4 * 1e6 * 5  # weights, their average, the gradient and two means of about a million
    monkeypatch.setattr(rehearsal, "whole_memory", lambda: parameters)
    rehearse(recipe, Re2TALForTemporalActionLocalization)
    monkeypatch.setattr(rehearsal, "whole_memory", lambda: parameters / 10)
    with pytest.raises(
        ValueError, match="model has .* million parameters, whose training takes .* GB before any frame"
    ):
        rehearse(recipe, Re2TALForTemporalActionLocalization)
