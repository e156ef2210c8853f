"""A localizer begins with the weights of another: what carries over, what begins anew, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from head_cases import BACKBONE
from head_cases import HEAD_CASES as BY_NAME
from safetensors.torch import load_file, save_file

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization, Re2TALModel, Re2TALVideoProcessor
from re2tal_hf.training.arguments import load_recipe
from re2tal_hf.training.pretrained_model import find_localizer, load_localizer_weights, other_frames
from re2tal_hf.training.rehearsal import rehearse

ROOT = Path(__file__).resolve().parents[1]
HEAD_CASES = list(BY_NAME.values())
FRAMES = Re2TALVideoProcessor(frame_rate=5.0)
OLD = ["kick", "punch", "push"]


def localizer(names: list[str], case, seed: int, **settings) -> Re2TALForTemporalActionLocalization:
    torch.manual_seed(seed)
    head = {"model_type": case.name, **case.settings}
    labels = dict(enumerate(names))
    model = Re2TALForTemporalActionLocalization(
        Re2TALConfig(**{"backbone_config": BACKBONE, "head_config": head, "id2label": labels, **settings})
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model.eval()


def saved(model: Re2TALForTemporalActionLocalization, folder: Path) -> Path:
    model.save_pretrained(folder)
    Re2TALVideoProcessor(frame_rate=5.0).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", HEAD_CASES, ids=lambda case: case.name)
def test_the_same_classes_give_the_same_model(case, tmp_path):
    old, new = localizer(OLD, case, 0), localizer(OLD, case, 1)
    message = load_localizer_weights(new, str(saved(old, tmp_path / "old")), FRAMES)
    assert "classes that carry over: 3 (kick, punch, push)" in message and "anew" not in message
    assert all(torch.equal(new.head.state_dict()[name], tensor) for name, tensor in old.head.state_dict().items())
    video = torch.randn(1, 16, 3, 24, 24)
    with torch.no_grad():
        assert torch.equal(new(video).logits, old(video).logits)


@pytest.mark.parametrize("case", HEAD_CASES, ids=lambda case: case.name)
def test_classes_carry_over_by_their_names(case, tmp_path):
    names = ["wave", "push", "kick", "hug"]
    old, new = localizer(OLD, case, 0), localizer(names, case, 1)
    before = {name: tensor.clone() for name, tensor in new.head.state_dict().items()}
    message = load_localizer_weights(new, str(saved(old, tmp_path / "old")), FRAMES)
    there, here = old.head.state_dict(), new.head.state_dict()
    changed = {name for name, tensor in there.items() if tensor.shape != here[name].shape}
    assert changed and all(torch.equal(here[name], tensor) for name, tensor in there.items() if name not in changed)
    if case.name == "vsgn":  # scores of every class at every anchor
        assert "begun anew: 4" in message
        assert all(torch.equal(here[name], before[name]) for name in changed)
        return
    assert "carry over: 2 (kick, push)" in message and "begun anew: 2 (hug, wave)" in message
    for name in changed:
        for index, label in enumerate(names):
            expected = there[name][OLD.index(label)] if label in OLD else before[name][index]
            assert torch.equal(here[name][index], expected), (name, label)


def test_other_classes_only(tmp_path):
    old, new = localizer(OLD, HEAD_CASES[0], 0), localizer(["wave"], HEAD_CASES[0], 1)
    message = load_localizer_weights(new, str(saved(old, tmp_path / "old")), FRAMES)
    assert message.endswith("begun anew: 1 (wave)") and "carry over" not in message


def test_what_does_not_fit_is_refused(tmp_path):
    case = HEAD_CASES[0]
    old = saved(localizer(OLD, case, 0), tmp_path / "old")
    wider = localizer(OLD, case, 1, head_config={"model_type": case.name, **case.settings, "hidden_size": 32})
    with pytest.raises(ValueError, match="head is another: hidden_size is 16 there and 32 here. Set model.head_config"):
        load_localizer_weights(wider, str(old), FRAMES)
    other = localizer(OLD, HEAD_CASES[-1], 1)
    with pytest.raises(ValueError, match="another: model_type is 'actionformer' there and 'vsgn' here"):
        load_localizer_weights(other, str(old), FRAMES)
    deeper = localizer(OLD, case, 1, backbone_config={**BACKBONE, "depths": [3]})
    with pytest.raises(ValueError, match="does not fit the backbone"):
        load_localizer_weights(deeper, str(old), FRAMES)
    new = localizer(OLD, case, 1)
    for source in ("absent", str(tmp_path), str(old / "model.safetensors")):
        with pytest.raises(ValueError, match="training.pretrained_model is "):
            find_localizer(new, source)
    head = {"model_type": case.name, **case.settings}
    Re2TALModel(Re2TALConfig(backbone_config=BACKBONE, head_config=head)).save_pretrained(tmp_path / "backbone")
    with pytest.raises(ValueError, match="does not fit the head"):
        load_localizer_weights(new, str(tmp_path / "backbone"), FRAMES)
    weights = load_file(old / "model.safetensors")
    [name] = [name for name in weights if name.endswith("classification.predictor.bias")]
    save_file(weights | {name: weights[name] * torch.nan}, old / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="NaN or infinite"):
        load_localizer_weights(new, str(old), FRAMES)


def test_frames_of_another_kind_are_named(tmp_path):
    old = saved(localizer(OLD, HEAD_CASES[0], 0), tmp_path / "old")
    assert other_frames(old, Re2TALVideoProcessor(frame_rate=5.0)) == []
    [line] = other_frames(old, Re2TALVideoProcessor(frame_rate=7.5))
    assert line == "processor.frame_rate was 5.0 there and is 7.5 here"
    new = localizer(OLD, HEAD_CASES[0], 1)
    message = load_localizer_weights(new, str(old), Re2TALVideoProcessor(frame_rate=7.5))
    assert message.endswith(f"; {line}")


def test_a_recipe_is_held_against_the_model_before_anything_is_read():
    source = f"training.pretrained_model={ROOT / 'app/model'}"
    rehearse(load_recipe("quickstart", [source]), Re2TALForTemporalActionLocalization)
    recipe = load_recipe("quickstart", [source, "model.head_config.num_levels=3"])
    with pytest.raises(ValueError, match="training.pretrained_model is .*app/model.*whose head is another"):
        rehearse(recipe, Re2TALForTemporalActionLocalization)
    assert json.loads((ROOT / "app/model/config.json").read_text(encoding="utf-8"))["head_config"]["num_levels"] == 4
