"""Checkpoints of other projects: converted ones compute what theirs do, of any size; what does not fit is refused."""

import json
from pathlib import Path

import pytest
import torch
from conversion_cases import DETECTORS, PYRAMID, SLOWFAST, SWIN, converted, detector, drawn, refusal, told, write
from golden_weights import read_golden
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from tolerances import assert_close, depth_of

from re2tal_hf import (
    Re2TALConfig,
    Re2TALForTemporalActionLocalization,
    Re2TALModel,
    Re2TALVideoProcessor,
)
from re2tal_hf.commands.convert import main
from re2tal_hf.conversion.backbones import find_window, relative_positions
from re2tal_hf.conversion.names import HEADS_BACK, head_name, renamed
from re2tal_hf.conversion.opentad_export import opentad_state
from re2tal_hf.reversible import run_stages
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.arguments import load_recipe
from re2tal_hf.training.pretrained import load_backbone_weights


@pytest.mark.parametrize("case", DETECTORS)
@pytest.mark.training
def test_a_detector_of_any_size_comes_back_from_opentads_form(case, tmp_path):
    model = detector(case)
    source = write(tmp_path / "epoch_9.pth", opentad_state(model))
    folder = converted(source, tmp_path / "model", *told(model))
    back = Re2TALForTemporalActionLocalization.from_pretrained(folder)
    expected = model.state_dict()
    assert back.state_dict().keys() == expected.keys()
    running = ("criterion.regression_normalizer", "criterion.refinement_normalizer")  # VSGN's are not kept there
    assert all(torch.equal(value, expected[name]) for name, value in back.state_dict().items() if name not in running)
    assert back.config.rewiring == model.config.rewiring
    videos = torch.randn(1, 16, 3, 24, 32)
    with torch.no_grad():
        found, outputs = back(videos), model(videos)
    assert torch.equal(found.logits, outputs.logits) and torch.equal(found.pred_segments, outputs.pred_segments)
    report = json.loads((folder / "conversion.json").read_text())
    assert len(report["used"]) == len(opentad_state(model)) and not report["dropped"]
    assert str(tmp_path) not in json.dumps(report)


def test_a_converted_model_is_whole(tmp_path):
    model = detector("swin")
    labels = tmp_path / "labels.txt"
    labels.write_text("run\njump\nthrow\n")
    arguments = ["--labels", str(labels), "--license", "apache-2.0", "processor.frame_rate=10"]
    folder = converted(write(tmp_path / "a.pth", opentad_state(model)), tmp_path / "m", *told(model), *arguments)
    back = Re2TALForTemporalActionLocalization.from_pretrained(folder)
    assert list(back.config.id2label.values()) == ["run", "jump", "throw"]
    assert back.config.origin == {"source": "a.pth", "kind": "file", "license": "apache-2.0", "stated": True}
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0" and "`a.pth`" in card.text
    processor = Re2TALVideoProcessor.from_pretrained(folder)
    assert processor.frame_rate == 10 and processor.num_frames == 8 * 2
    recipe = load_recipe(str(folder / "recipe.yaml"))
    assert recipe.model["head_config"]["hidden_size"] == 16 and recipe.freeze.norms


def test_weights_that_are_chosen(tmp_path):
    states = {name: opentad_state(detector("swin")) for name in ("state_dict", "state_dict_ema")}
    torch.save({"epoch": 1, **states}, source := tmp_path / "a.pth")
    settings = told(detector("swin"))
    for chosen, arguments in (("state_dict_ema", []), ("state_dict", ["--weights", "state_dict"])):
        folder = converted(source, tmp_path / chosen, *settings, *arguments)
        back = opentad_state(Re2TALForTemporalActionLocalization.from_pretrained(folder))
        assert all(torch.equal(back[name], tensor) for name, tensor in states[chosen].items())


def test_what_has_no_place_is_dropped_with_the_reason(tmp_path, capsys):
    model = detector("swin")
    state = opentad_state(model)
    state |= {
        "backbone.model.cls_head.fc_cls.weight": torch.randn(7, 16),
        "projection.pos_embed": torch.randn(1, 16, 8),
    }
    state["backbone.model.data_preprocessor.mean"] = torch.randn(3, 1, 1, 1)
    scales = [name for name in state if name.endswith(".scale") and "drop_path" in name]
    for name in scales:
        del state[name]
    # OpenTAD averages this as a whole number.
    state["rpn_head.loss_normalizer"] = torch.tensor(97)
    folder = converted(write(tmp_path / "a.pth", state), tmp_path / "model", *told(model))
    report, printed = json.loads((folder / "conversion.json").read_text()), capsys.readouterr().out
    assert len(report["dropped"]) == 3 and len(report["filled"]) == len(scales)
    assert "a classifier" in printed and "without drop path" in printed
    back = Re2TALForTemporalActionLocalization.from_pretrained(folder)
    assert float(back.criterion.normalizer) == 97
    assert all((block.mlp_scale == 1).all() for block in (*back.head.stem, *back.head.pyramid))


@pytest.mark.parametrize("case", ["swin", "slowfast", "slowfast plain"])
def test_a_backbone_alone_begins_a_training(case, tmp_path):
    backbone, rewiring, _ = DETECTORS[case]
    model = drawn(Re2TALModel(Re2TALConfig(backbone_config=backbone, rewiring=rewiring)))
    # As in the published ones, with the classifier of Kinetics.
    state = opentad_state(model) | {
        "cls_head.fc_cls.weight": torch.randn(400, 8),
        "cls_head.fc_cls.bias": torch.randn(400),
    }
    torch.save({"meta": {"epoch": 30}, "state_dict": state}, source := tmp_path / "inv_k400.pth")
    rates = [f"backbone_config.{n}={SLOWFAST[n]}" for n in ("resample_rate", "speed_ratio", "feature_stride")]
    folder = converted(source, tmp_path / "k400", *(rates if "slowfast" in case else []))
    back = Re2TALModel.from_pretrained(folder)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in back.state_dict().items())
    fresh = build_backbone(backbone, rewiring)
    load_backbone_weights(fresh, str(folder))
    assert all(torch.equal(value, model.backbone.state_dict()[name]) for name, value in fresh.state_dict().items())
    defaults = json.loads((folder / "conversion.json").read_text())["defaults"]
    assert not [name for name in defaults if not name.startswith("backbone_config.")]
    # And back, without the classifier.
    assert main([str(folder), "--to", "opentad", "--output", str(tmp_path / "back.pth")]) == 0
    again = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert again.keys() == {name for name in state if "cls_head" not in name}
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.items())


def test_there_and_back_by_the_command(tmp_path):
    model = detector("swin")
    model.save_pretrained(tmp_path / "model")
    assert main([str(tmp_path / "model"), "--to", "opentad", "--output", str(tmp_path / "a.pth")]) == 0
    folder = converted(tmp_path / "a.pth", tmp_path / "back", *told(model))
    back = Re2TALForTemporalActionLocalization.from_pretrained(folder).state_dict()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("window", [[8, 7, 7], [2, 3, 3], [3, 2, 3], [1, 7, 7], [4, 4, 4], [5, 1, 1], [16, 7, 7]])
def test_windows_by_their_index(window):
    entries = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
    assert find_window(entries, relative_positions(window)) == window


def test_windows_without_index():
    assert find_window(15 * 13 * 13, None) == [8, 7, 7]
    assert find_window(27 * 9 * 9, None) is None  # 14x5x5 or 2x14x14, with others of that product
    assert find_window(7, None) is None


# What is refused


def change(state, name, tensor=None):
    return {key: value for key, value in state.items() if key != name} | ({} if tensor is None else {name: tensor})


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("projection.stem.0.gate.weight", torch.ones(3), "no place for 1 tensors (projection.stem.0.gate.weight)"),
        ("backbone.model.backbone.norm1.bias", None, "it lacks 1 (model.backbone.norm.bias)"),
        ("neck.fpn_norms.1.weight", torch.ones(3), "has the shape [3]; ours is [16]"),
        ("neck.fpn_norms.0.weight", torch.full((16,), torch.nan), "holds NaN"),
        ("rpn_head.cls_head.weight", None, "head looks like actionformer, but is not complete"),
        ("backbone.model.backbone.layers.0.blocks.0.inv_block.Gm.mlp.fc1.weight", None, "not complete"),
        ("projection.branch.0.ln1.weight", None, "it lacks 1 (head.pyramid.0.attention_norm.weight)"),
        ("backbone.model.backbone.patch_embed.proj.weight", None, "none of OpenTAD's backbones"),
        ("backbone.model.backbone.layers.99999999.blocks.0.x", torch.ones(1), "1 to 8 stages"),
        ("projection.embed.0.conv.weight", torch.ones(16, 24, 3), "makes 16 channels, and the head takes 24"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name, tensor, message, tmp_path, capsys):
    model = detector("swin")
    source = write(tmp_path / "a.pth", change(opentad_state(model), name, tensor))
    assert message in refusal(capsys, source, *told(model))


def test_a_head_of_another_kind_is_refused(tmp_path, capsys):
    state = {name: t for name, t in opentad_state(detector("swin")).items() if not name.startswith("projection.")}
    source = write(tmp_path / "a.pth", state | {"projection.layers.0.weight": torch.ones(3)})
    assert "none of ActionFormer, TriDet and VSGN" in refusal(capsys, source)


def test_an_index_of_another_window_is_refused(tmp_path, capsys):
    model = detector("swin")
    state = opentad_state(model)
    name = "backbone.model.backbone.layers.1.blocks.0.inv_block.Fm.attn.relative_position_index"
    state[name] = state[name].flip(0)
    assert "computes something else" in refusal(capsys, write(tmp_path / "a.pth", state), *told(model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "does not say head_config.num_attention_heads, head_config.attention_window"),
        (["head_config.num_attention_heads=2"], "does not say head_config.attention_window"),
        (["head_config.hidden_size=32"], "head_config.hidden_size is 32 by the settings given, and 16 by the weights"),
        (["rewiring=none"], "'none' by the settings given, and 're2tal' by the weights"),
        (["hidden_size=32"], "'hidden_size=32' is no setting"),
        (["head_config.max_length=["], "head_config.max_length=["),
    ],
)
def test_settings_that_are_lacking_or_contradict_are_refused(settings, message, tmp_path, capsys):
    source = write(tmp_path / "a.pth", opentad_state(detector("swin")))
    assert message in refusal(capsys, source, *settings)


def test_the_rate_of_slowfasts_features_is_asked_for(tmp_path, capsys):
    model = detector("slowfast")
    settings = [text for text in told(model) if "feature_stride" not in text]
    source = write(tmp_path / "a.pth", opentad_state(model))
    assert "does not say backbone_config.feature_stride" in refusal(capsys, source, *settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (b"PK\x03\x04 and no more", "damaged archive"),
        (b"nothing of the kind", "no file of torch.save"),
    ],
)
def test_files_that_are_no_checkpoints_are_refused(content, message, tmp_path, capsys):
    (source := tmp_path / "a.pth").write_bytes(content)
    assert message in refusal(capsys, source)


def test_objects_are_not_loaded(tmp_path, capsys):
    torch.save({"state_dict": {"a": torch.ones(1)}, "config": Path("x")}, source := tmp_path / "a.pth")
    assert "could run code" in refusal(capsys, source)


def test_other_networks_weights_and_places_are_refused(tmp_path, capsys):
    torch.save({"state_dict": {"conv1.weight": torch.ones(3)}}, source := tmp_path / "a.pth")
    assert "none of OpenTAD's backbones" in refusal(capsys, source)
    assert "no weights as 'ema'; it has ['state_dict']" in refusal(capsys, source, "--weights", "ema")
    assert "there is no such file (did you mean" in refusal(capsys, tmp_path / "b.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert "name a new folder" in refusal(capsys, source)


@pytest.mark.parametrize("head", [{"neck": "fpn"}, {"model_type": "vsgn", "hidden_size": 32, "num_levels": 2}])
def test_what_opentad_does_not_have_is_not_exported(head, tmp_path, capsys):
    config = Re2TALConfig(backbone_config=SWIN, head_config={**PYRAMID, **head} if "neck" in head else head)
    Re2TALForTemporalActionLocalization(config).save_pretrained(tmp_path / "model")
    assert main([str(tmp_path / "model"), "--to", "opentad", "--output", str(tmp_path / "a.pth")]) == 1
    assert "OpenTAD" in capsys.readouterr().err and not (tmp_path / "a.pth").exists()


# The reference files; the whole detector is in test_modeling_re2tal.py


@pytest.mark.parametrize("weights", ["state_dict", "state_dict_ema"])
def test_the_reference_detector_goes_there_and_back(weights, model_goldens, tmp_path):
    name = "a7_re2swin_actionformer_thumos"
    source = model_goldens / f"{name}.opentad_checkpoint.pth"
    _, metadata = read_golden(model_goldens / f"{name}.safetensors")
    (options := tmp_path / "config.py").write_text(f"model = {json.loads(metadata['config'])!r}\n")
    folder = converted(source, tmp_path / "model", "--options", str(options), "--weights", weights)
    model = Re2TALForTemporalActionLocalization.from_pretrained(folder)
    theirs = {key.removeprefix("module."): t for key, t in torch.load(source, weights_only=True)[weights].items()}
    back = opentad_state(model)
    assert back.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert back[key].shape == tensor.shape and torch.equal(back[key], tensor.to(back[key].dtype)), key


@pytest.mark.parametrize("case", ["case0", "case1"])
@pytest.mark.parametrize(
    ("reference", "settings"),
    [
        ("a1_swin_inv_w277", []),
        ("a3_swin_w277", []),
        ("a2_slowfast_inv_r50a", ["backbone_config.resample_rate=4", "backbone_config.speed_ratio=4"]),
        ("a3_slowfast_r50a", ["backbone_config.resample_rate=4", "backbone_config.speed_ratio=4"]),
    ],
)
def test_reference_backbones(reference, settings, case, model_goldens, tmp_path):
    tensors, metadata = read_golden(model_goldens / f"{reference}.state.safetensors")
    save_file(tensors, source := tmp_path / "a.safetensors")
    backbone = Re2TALModel.from_pretrained(converted(source, tmp_path / "model", *settings)).backbone.double().eval()
    golden, _ = read_golden(model_goldens / f"{reference}.{case}.safetensors")
    with torch.no_grad():
        stages = backbone.architecture.stages(backbone, golden["input"].shape)
        outputs = run_stages(stages, golden["input"].double(), backbone.couplings()[0], "plain")
        if "swin" in reference:
            outputs = [backbone.norm(outputs[0]).permute(0, 4, 1, 2, 3)]
    for number, output in enumerate(outputs):
        assert_close(output, golden[f"f64.out.{number}"], depth=depth_of(backbone))


@pytest.mark.parametrize(
    ("reference", "project"),
    [
        ("a4_actionformer_opentad_full", "opentad"),
        ("a5_actionformer_release_full", "actionformer"),
        ("a6_tridet_opentad", "tridet"),
        ("a6_vsgn_opentad", "vsgn"),
    ],
)
def test_names_of_reference_heads_in_both_directions(reference, project, model_goldens):
    _, metadata = read_golden(model_goldens / f"{reference}.safetensors")
    theirs = [name for name in json.loads(metadata["state_keys"]) if not name.endswith("loss_normalizer")]
    ours = [head_name(project, name) for name in theirs]
    assert len(set(ours)) == len(theirs) and [renamed(name, HEADS_BACK[project]) for name in ours] == theirs
