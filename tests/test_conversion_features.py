"""Detectors on features, of actionformer_release and of OpenTAD, there and back.

That converted reference files compute what they hold is in the tests of the heads, which take them from the conversion.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conversion_cases import ACTIONFORMER, DETECTORS, VSGN, drawn, refusal, told, write
from golden_weights import read_golden
from head_cases import stored_detections
from tolerances import assert_same_detections

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization, Re2TALVideoProcessor
from re2tal_hf.commands.convert import main
from re2tal_hf.commands.evaluate import main as evaluate
from re2tal_hf.conversion.names import HEADS_BACK, renamed
from re2tal_hf.conversion.opentad_export import opentad_state
from re2tal_hf.training.recipe_yaml import write_yaml

FEATURES = {"model_type": "features", "size": 12, "stride": 1}
RELEASE = {**ACTIONFORMER, "padding": "actionformer", "norm_eps": 1e-5}
HEADS = {
    "full attention": RELEASE,
    "local attention": RELEASE | {"attention_window": 5, "use_position_embedding": True},
    "relative positions": RELEASE | {"attention_window": 5, "use_relative_position_bias": True},
    "pyramid neck": RELEASE | {"neck": "fpn", "num_levels": 4},
    "sizes": RELEASE
    | {"num_embedding_layers": 3, "num_stem_layers": 0, "num_head_layers": 1, "num_attention_heads": 4},
}


def detector(head: dict) -> Re2TALForTemporalActionLocalization:
    config = Re2TALConfig(backbone_config=FEATURES, head_config=head, rewiring="none", num_labels=3)
    return drawn(Re2TALForTemporalActionLocalization(config))


def release_state(model: Re2TALForTemporalActionLocalization) -> dict:
    """The tensors of a detector as actionformer_release has them."""
    state = {}
    for name, tensor in model.head.state_dict().items():
        new = renamed(name, HEADS_BACK["actionformer"])
        if new.endswith("rel_pe"):
            tensor = tensor[None, None]
        elif "norm" in new or ".ln" in new or "drop_path" in new:
            tensor = tensor.view(1, -1, 1)
        elif tensor.dim() == 2:
            tensor = tensor[..., None]
        state[new] = tensor
    return state


def assert_same(found: Re2TALForTemporalActionLocalization, expected: Re2TALForTemporalActionLocalization) -> None:
    ours, theirs = found.head.state_dict(), expected.head.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    features = torch.randn(2, 11, 12)
    mask = torch.arange(11) < torch.tensor([[11], [6]])
    with torch.no_grad():
        outputs = [model(temporal_features=features, feature_mask=mask) for model in (found, expected)]
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert torch.equal(outputs[0].pred_segments, outputs[1].pred_segments)


def options_of(head: dict, path: Path) -> Path:
    """Settings as actionformer_release's file has them; defaults of its code are left out of it."""
    window = head["attention_window"]
    model = {"n_head": head["num_attention_heads"], "fpn_type": head.get("neck", "identity")}
    model |= {"use_abs_pe": head["use_position_embedding"], "use_rel_pe": "use_relative_position_bias" in head}
    model |= {"n_mha_win_size": window} if window else {}
    values = {"dataset": {"max_seq_len": head["max_length"]}, "model": model, "test_cfg": {"max_seg_num": 77}}
    path.write_text(write_yaml(values))
    return path


@pytest.mark.parametrize("case", HEADS)
def test_a_detector_of_actionformer_release(case, tmp_path):
    model = detector(HEADS[case])
    source = write(tmp_path / "epoch_035.pth.tar", release_state(model))
    options = options_of(HEADS[case], tmp_path / "thumos.yaml")
    arguments = ["--from", "actionformer", "--output", str(tmp_path / "model"), "--options", str(options)]
    assert main([str(source), *arguments]) == 0
    back = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "model")
    assert_same(back, model)
    assert back.config.loss_config["initial_normalizer"] == float(back.criterion.normalizer) == 2000
    processor = Re2TALVideoProcessor.from_pretrained(tmp_path / "model")
    assert processor.max_detections == 77 and processor.voting_threshold is None and processor.nms_min_score == 0.01
    with pytest.raises(ValueError, match="give temporal_features"):
        back(torch.randn(1, 8, 3, 16, 16))


@pytest.mark.parametrize("head", [DETECTORS["swin"][2], DETECTORS["tridet windows"][2], VSGN])
def test_a_detector_of_opentad_on_features(head, tmp_path):
    model = detector(head)
    source = write(tmp_path / "a.pth", opentad_state(model))
    assert main([str(source), "--from", "opentad", "--output", str(tmp_path / "model"), *told(model)]) == 0
    assert_same(Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "model"), model)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"backbone_type": "conv"}}, "model.backbone_type is 'conv'; ours is 'convTransformer'"),
        ({"model": {"n_head": "two"}}, "model.n_head is 'two'"),
        ({"model": {"n_mha_win_size": [5, 9]}}, "ours is one number for all levels"),
        ({"model": {"fpn_type": "fpn"}}, "head_config.neck is 'fpn' by a.yaml, and 'identity' by the weights"),
        ({"dataset": {"max_seq_len": -3}}, "max_length is -3"),
    ],
)
def test_settings_that_do_not_fit(values, message, tmp_path, capsys):
    source = write(tmp_path / "a.pth", release_state(detector(RELEASE)))
    (options := tmp_path / "a.yaml").write_text(write_yaml(values))
    assert message in refusal(capsys, source, "--options", str(options), kind="actionformer")


def test_other_checkpoints_are_refused(tmp_path, capsys):
    state = release_state(detector(RELEASE))
    source = write(tmp_path / "a.pth", state | {"backbone.stem.0.psi.weight": torch.ones(3)})
    assert "TriDet's own code" in refusal(capsys, source, kind="actionformer")
    source = write(tmp_path / "a.pth", {"layer.weight": torch.ones(3)})
    assert "looks like actionformer, but is not complete" in refusal(capsys, source, kind="actionformer")
    source = write(tmp_path / "a.pth", state | {"backbone.proj.0.conv.weight": torch.ones(3)})
    lines = refusal(capsys, source, *told(detector(RELEASE)), kind="actionformer")
    assert "no place for 1 tensors (backbone.proj.0.conv.weight)" in lines


def test_a_reference_by_the_command(model_goldens, tmp_path):
    tensors, metadata = read_golden(model_goldens / "a5_actionformer_release_full.safetensors")
    state = {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}
    (options := tmp_path / "a.yaml").write_text(write_yaml(json.loads(metadata["config"])))
    arguments = ["--from", "actionformer", "--output", str(tmp_path / "model"), "--options", str(options)]
    assert main([str(write(tmp_path / "a.pth", state)), *arguments]) == 0
    model = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "model")
    assert all(torch.equal(tensor, state[name]) for name, tensor in release_state(model).items())


@pytest.mark.training
def test_detections_of_a_reference_by_the_command(model_goldens, tmp_path):
    tensors, metadata = read_golden(model_goldens / "a5_actionformer_release_full.safetensors")
    state = {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}
    (options := tmp_path / "a.yaml").write_text(write_yaml(json.loads(metadata["config"])), encoding="utf-8")
    arguments = ["--from", "actionformer", "--output", str(tmp_path / "model"), "--options", str(options)]
    assert main([str(write(tmp_path / "a.pth", state)), *arguments]) == 0
    (tmp_path / "features").mkdir()
    database = {}
    for index in range(4):
        np.save(tmp_path / "features" / f"v{index}.npy", tensors[f"feats.{index}"].numpy().T)
        rate, duration = (25, 8) if index == 3 else (30, 10 + index)  # as in the reference
        actions = [{"segment": [1, 2], "label": f"LABEL_{index}"}]
        database[f"v{index}"] = {"subset": "test", "fps": rate, "duration": duration, "annotations": actions}
    (annotations := tmp_path / "a.json").write_text(json.dumps({"database": database}), encoding="utf-8")
    places = ["--model", str(tmp_path / "model"), "--features", str(tmp_path / "features"), "--subset", "test"]
    target = tmp_path / "detections.json"
    assert evaluate([*places, "--annotations", str(annotations), "--detections", str(target)]) == 0
    results = json.loads(target.read_text(encoding="utf-8"))["results"]
    for index in range(4):
        expected = stored_detections(tensors, f"det.{index}")
        inside = expected[0][:, 1] - expected[0][:, 0] > 1e-4  # what lies behind the video is dropped here
        rows = [row for row in results[f"v{index}"] if row["segment"][1] - row["segment"][0] > 1e-4]
        segments, scores = (torch.tensor([row[name] for row in rows]) for name in ("segment", "score"))
        labels = torch.tensor([int(row["label"].removeprefix("LABEL_")) for row in rows])
        assert_same_detections((segments, scores, labels), [value[inside] for value in expected], 2e-4, 1e-5)
