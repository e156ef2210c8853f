"""Weights of a backbone from every kind of source: all of them are used, or they are refused with counts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import transformers
from architecture_cases import CASES, mvit_blocks
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEModel

from re2tal_hf import (
    Re2TALConfig,
    Re2TALForTemporalActionLocalization,
    Re2TALForVideoClassification,
    Re2TALModel,
    Re2TALVideoClassificationConfig,
    published_weights,
)
from re2tal_hf.licensing.origins import find_origin
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.pretrained import load_backbone_weights, load_classifier_weights

CONFIGS = {case.name: case.config for case in CASES}
SWIN = CONFIGS["video_swin"]
LIBRARY = {"videomae": "VideoMAE", "vivit": "Vivit", "timesformer": "Timesformer", "vjepa2": "VJEPA2"}
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_library_model = pytest.mark.parametrize("name", LIBRARY)


def backbone(config=SWIN):
    model = build_backbone(config)
    model.architecture.initialize(model)
    return model


def assert_loaded(model, expected):
    state = model.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_files(tmp_path, prefix):
    expected = backbone().state_dict()
    named = {prefix + name: tensor for name, tensor in expected.items()} | {"cls_head.weight": torch.ones(2)}
    torch.save({"state_dict": named}, tmp_path / "weights.pth")
    save_file(named, tmp_path / "weights.safetensors")
    for name in ("weights.pth", "weights.safetensors"):
        model = backbone()
        load_backbone_weights(model, str(tmp_path / name))
        assert_loaded(model, expected)


@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_the_result_of_the_classification_stage(tmp_path, max_shard_size):
    config = Re2TALVideoClassificationConfig(backbone_config=SWIN, rewiring="none", id2label={0: "jump", 1: "run"})
    config.origin = {"source": "user/weights", "kind": "hub", "license": "mit"}
    trained = Re2TALForVideoClassification(config)
    trained.save_pretrained(tmp_path / "run" / "best", max_shard_size=max_shard_size)
    tmp_path = tmp_path / "run"  # stands for the model in it
    assert find_origin(str(tmp_path)).source == "user/weights"
    model = backbone()
    load_backbone_weights(model, str(tmp_path))
    assert_loaded(model, trained.model.backbone.state_dict())
    other = Re2TALForVideoClassification(config)
    assert load_classifier_weights(other, ["jump", "run"], str(tmp_path))
    assert torch.equal(other.classifier.weight, trained.classifier.weight)
    assert not load_classifier_weights(other, ["run", "jump"], str(tmp_path))


def test_a_model_of_transformers_with_its_classifier(tmp_path):
    settings = {name: value for name, value in CONFIGS["videomae"].items() if name != "model_type"}
    library = VideoMAEForVideoClassification(VideoMAEConfig(**settings, num_labels=3))
    library.save_pretrained(tmp_path)
    model = backbone(CONFIGS["videomae"])
    load_backbone_weights(model, str(tmp_path))
    assert_loaded(model, library.videomae.state_dict())


def test_what_does_not_fit_is_named(tmp_path):
    save_file({name: tensor.clone() for name, tensor in backbone().state_dict().items()}, tmp_path / "w.safetensors")
    wider = backbone({**SWIN, "embed_dim": 16})
    with pytest.raises(ValueError, match="other shapes for"):
        load_backbone_weights(wider, str(tmp_path / "w.safetensors"))
    deeper = backbone({**SWIN, "depths": [2, 4]})
    with pytest.raises(ValueError, match=r"lacks .*features\.2"):
        load_backbone_weights(deeper, str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match="neither .* name of torchvision weights"):
        load_backbone_weights(wider, "Swin3D_T_Weights.NO_SUCH")


def save_library_model(name: str, folder: Path, kind: str = "Model", **settings: Any) -> dict[str, torch.Tensor]:
    """Saves a small model of transformers and returns the weights of its encoder."""
    config = {key: value for key, value in CONFIGS[name].items() if key != "model_type"} | settings
    config = getattr(transformers, f"{LIBRARY[name]}Config")(**config)
    model = getattr(transformers, f"{LIBRARY[name]}{kind}")(config)
    model.save_pretrained(folder)
    return model.base_model.state_dict()


def rename(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def shifted(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor + tensor.is_floating_point() for name, tensor in state.items()}


WRAPPINGS = {
    "plain": lambda state: state,
    "DDP": lambda state: {"state_dict": {f"module.{n}": t for n, t in state.items()}},
    "compiled": lambda state: {"model": {f"_orig_mod.{n}": t for n, t in state.items()}},
    "compiled blocks": lambda state: {n.replace(".0.", ".0._orig_mod.", 1): t for n, t in state.items()},
    "detector": lambda state: {
        "epoch": 3,
        "state_dict": {f"model.backbone.{n}": t for n, t in state.items()} | {"head.norm.weight": torch.ones(3)},
    },
    "two networks": lambda state: {"state_dict": state, "state_dict_ema": shifted(state)},
    "averaged": lambda state: {
        "model_ema": {"n_averaged": torch.tensor(7), **{f"module.{n}": t for n, t in state.items()}}
    },
}


@pytest.mark.training
@every_case
def test_what_training_programs_wrap_weights_in_is_taken_away(case, tmp_path):
    expected = backbone(case.config).state_dict()
    for name, wrap in WRAPPINGS.items():
        torch.save(wrap(expected), tmp_path / "weights.pt")
        model = backbone(case.config)
        said = load_backbone_weights(model, str(tmp_path / "weights.pt"))
        assert said.startswith(f"used {len(expected)} of {len(expected)} tensors of "), name
        assert_loaded(model, shifted(expected) if name == "two networks" else expected)


def test_torchs_own_average_is_unwrapped(tmp_path):
    model = Re2TALForVideoClassification(Re2TALVideoClassificationConfig(backbone_config=SWIN))
    torch.save(AveragedModel(model).state_dict(), tmp_path / "weights.pth")
    loaded = backbone()
    load_backbone_weights(loaded, str(tmp_path / "weights.pth"))
    assert_loaded(loaded, model.model.backbone.state_dict())


@pytest.mark.training
@every_case
@pytest.mark.parametrize("share", ["one", "half", "all"])
def test_other_names_are_refused_with_counts(case, share, tmp_path):
    state = backbone(case.config).state_dict()
    floats = sorted(name for name, tensor in state.items() if tensor.is_floating_point())
    renamed = {"one": floats[5:6], "half": floats[::2], "all": floats}[share]
    torch.save({f"other.{n}" if n in renamed else n: t for n, t in state.items()}, tmp_path / "weights.pth")
    model = backbone(case.config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    message = f"used {len(state) - len(renamed)} of {len(state)} tensors.* lacks {len(renamed)} .* no place for"
    with pytest.raises(ValueError, match=f"{message} {len(renamed)} .*pretrained_partial=true"):
        load_backbone_weights(model, str(tmp_path / "weights.pth"))
    assert_loaded(model, before)
    said = load_backbone_weights(model, str(tmp_path / "weights.pth"), partial=True)
    assert said.startswith(f"used {len(state) - len(renamed)} of {len(state)} ") and "begun anew" in said
    assert_loaded(model, {n: before[n] if n in renamed else t for n, t in state.items()})


@pytest.mark.training
@every_case
@pytest.mark.parametrize("as_file", [True, False])
def test_a_deeper_network_is_not_cut(case, as_file, tmp_path):
    deeper = {**case.config, **case.deeper}
    Re2TALModel(Re2TALConfig(backbone_config=deeper)).save_pretrained(tmp_path)
    if as_file:
        (tmp_path / "config.json").unlink()
    source = str(tmp_path / "model.safetensors" if as_file else tmp_path)
    with pytest.raises(ValueError, match=r"used \d+ of \d+ tensors.* no place for \d+"):
        load_backbone_weights(backbone(case.config), source)
    model = backbone(deeper)
    load_backbone_weights(model, source)


@pytest.mark.training
@every_case
def test_what_acts_in_training_only_may_differ(case, tmp_path):
    config = Re2TALConfig(backbone_config=case.config, head_config={"hidden_size": 16, "num_levels": 2})
    trained = Re2TALForTemporalActionLocalization(config)
    trained.save_pretrained(tmp_path)
    for source in (tmp_path, tmp_path / "model.safetensors"):
        model = backbone({**case.config, **case.stochastic})
        load_backbone_weights(model, str(source))
        assert_loaded(model, trained.model.backbone.state_dict())


@every_library_model
@pytest.mark.parametrize("kind", ["Model", "ForVideoClassification"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_folders_of_transformers(name, kind, wrapped, tmp_path):
    dropout = next(case for case in CASES if case.name == name).stochastic
    labels = {"id2label": {0: "a", 1: "b"}, "initializer_range": 0.5, "dtype": "float32", **dropout}
    expected = save_library_model(name, tmp_path, kind, **labels)
    if wrapped:
        rename(tmp_path, lambda n: f"module.{n}")
    model = backbone(CONFIGS[name])
    said = load_backbone_weights(model, str(tmp_path))
    assert said.startswith(f"used {len(model.state_dict())} of {len(model.state_dict())} ")
    assert_loaded(model, expected)


@every_library_model
@pytest.mark.parametrize(
    ("field", "value"),
    [("hidden_act", "relu"), ("num_attention_heads", 1), ("num_attention_heads", 4), ("layer_norm_eps", 0.25)],
)
def test_a_transformer_that_computes_something_else(name, field, value, tmp_path):
    save_library_model(name, tmp_path, **{field: value})
    own = getattr(build_backbone(CONFIGS[name]).config, field)
    for source in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(ValueError, match=f"{field} is {value!r} there and {own!r} here.*pretrained_partial"):
            load_backbone_weights(backbone(CONFIGS[name]), str(source))
    same = backbone({**CONFIGS[name], field: value})
    load_backbone_weights(same, str(tmp_path))
    said = load_backbone_weights(backbone(CONFIGS[name]), str(tmp_path), partial=True)
    assert f"{field} is {value!r} there" in said


@pytest.mark.parametrize(
    ("name", "there", "here", "message"),
    [
        ("videomae", {"hidden_act": "silu"}, {}, "hidden_act is 'silu' there and 'gelu' here"),
        ("slowfast", {"resample_rate": 8}, {}, "resample_rate is 8 there and 4 here"),
        ("slow_only", {"resample_rate": 1}, {}, "resample_rate is 1 there and 2 here"),
        ("video_swin", {"window_size": [2, 3, 3]}, {"window_size": [3, 2, 3]}, "window_size"),
        ("video_swin", {"depths": [4, 2]}, {}, "no place for"),
        (
            "mvit_v1",
            {"block_setting": [{**block, "stride_kv": [1, 1, 1]} for block in mvit_blocks([1], [0, 3], 1)]},
            {},
            r"stride is \(1, 1, 1\) there and \(1, 2, 2\) here",
        ),
        ("r3d", {}, {"conv_makers": ["3d", "3d", "3d", "3d"]}, "other shapes"),
        ("videomae", {"num_hidden_layers": 3}, {}, "no place for"),
    ],
)
def test_a_model_of_ours_that_computes_something_else(name, there, here, message, tmp_path):
    source = Re2TALForVideoClassification(
        Re2TALVideoClassificationConfig(backbone_config={**CONFIGS[name], **there}, num_labels=2)
    )
    source.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_backbone_weights(backbone({**CONFIGS[name], **here}), str(tmp_path))


def test_an_index_of_another_window_betrays_a_file_without_settings(tmp_path):
    torch.save(backbone({**SWIN, "window_size": [2, 3, 3]}).state_dict(), tmp_path / "weights.pth")
    other = backbone({**SWIN, "window_size": [3, 3, 2]})
    shapes = [{name: t.shape for name, t in model.state_dict().items()} for model in (backbone(), other)]
    assert shapes[0] == shapes[1]
    with pytest.raises(ValueError, match=r"values of .*relative_position_index.* differ"):
        load_backbone_weights(other, str(tmp_path / "weights.pth"))


def test_an_index_that_was_not_saved_is_computed(tmp_path):
    expected = backbone().state_dict()
    torch.save({n: t for n, t in expected.items() if t.is_floating_point()}, tmp_path / "weights.pth")
    model = backbone()
    load_backbone_weights(model, str(tmp_path / "weights.pth"))
    assert_loaded(model, expected)


def test_folders_of_other_models_are_refused_by_name(tmp_path):
    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    transformers.BertModel(transformers.BertConfig(**size)).save_pretrained(tmp_path / "bert")
    Re2TALModel(Re2TALConfig(backbone_config=CONFIGS["vivit"])).save_pretrained(tmp_path / "ours")
    for name in ("videomae", "video_swin"):
        for folder, model_type in (("bert", "bert"), ("ours", "vivit")):
            with pytest.raises(ValueError, match=f"type '{model_type}', but the backbone is of type '{name}'"):
                load_backbone_weights(backbone(CONFIGS[name]), str(tmp_path / folder))


def test_a_model_for_pretraining_and_names_of_older_versions(tmp_path):
    expected = save_library_model("videomae", tmp_path, "ForPreTraining", use_mean_pooling=False)
    assert any(name.endswith("attention.q_bias") for name in load_file(tmp_path / "model.safetensors"))
    with pytest.raises(ValueError, match=r"no place for 2 \(layernorm"):
        load_backbone_weights(backbone(CONFIGS["videomae"]), str(tmp_path))
    model = backbone({**CONFIGS["videomae"], "use_mean_pooling": False})
    load_backbone_weights(model, str(tmp_path))
    assert_loaded(model, expected)


@pytest.mark.parametrize(
    ("name", "builder", "config", "message"),
    [
        ("Swin3D_T_Weights.KINETICS400_V1", "swin3d_t", {"model_type": "video_swin", "variant": "tiny"}, None),
        (
            "Swin3D_S_Weights.KINETICS400_V1",
            "swin3d_s",
            {"model_type": "video_swin", "variant": "tiny"},
            "no place for",
        ),
        ("R3D_18_Weights.KINETICS400_V1", "r3d_18", {"model_type": "video_resnet"}, None),
        (
            "MViT_V1_B_Weights.KINETICS400_V1",
            "mvit_v1_b",
            {"model_type": "mvit", "variant": "v1_b", "residual_pool": True},
            "residual_pool is False there and True here",
        ),
        ("MViT_V2_S_Weights.KINETICS400_V1", "mvit_v2_s", {"model_type": "mvit", "variant": "v2_s"}, None),
    ],
)
@pytest.mark.training
def test_names_of_torchvision(name, builder, config, message, monkeypatch):
    library = torchvision.models.get_model(builder)
    weights = type(torchvision.models.get_weight(name))
    monkeypatch.setattr(weights, "get_state_dict", lambda self, **settings: library.state_dict())
    model = build_backbone(config)
    if message:
        with pytest.raises(ValueError, match=message):
            load_backbone_weights(model, name)
        return
    load_backbone_weights(model, name)
    assert_loaded(model, library.state_dict())


def test_a_model_of_ours_on_the_hub(tmp_path, monkeypatch):
    trained = Re2TALModel(Re2TALConfig(backbone_config=SWIN))
    trained.save_pretrained(tmp_path)
    monkeypatch.setattr(published_weights, "snapshot_download", lambda repository, **settings: str(tmp_path))
    model = backbone()
    load_backbone_weights(model, "user/model")
    assert_loaded(model, trained.backbone.state_dict())


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: (folder / "config.json").write_text('{"model_type": "re2tal"}'), "holds no weights"),
        (lambda folder: (folder / "best").mkdir(), "holds no weights"),
        (
            lambda folder: (folder / "model.safetensors").write_text("no weights"),
            "is no safetensors file; download it again",
        ),
        (lambda folder: torch.save({"epoch": 3}, folder / "pytorch_model.bin"), "holds no weights"),
        (
            lambda folder: torch.save(torch.nn.Linear(1, 1), folder / "pytorch_model.bin"),
            "objects .torch.nn.modules.linear.Linear.* Save the weights alone",
        ),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "b.safetensors"}}'
            ),
            "lacks b.safetensors",
        ),
    ],
)
def test_folders_without_weights_are_named(write, message, tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_backbone_weights(backbone(), str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "24"}, "config.json: hidden_size is '24'; it must be int"),
        ({"num_attention_heads": 5}, "config.json: num_attention_heads is 5, which does not divide hidden_size=24"),
        ({"num_frames": 10**400}, "config.json.num_frames is a number of 1329 bits"),
        ({"hidden_act": "gellu"}, "config.json: hidden_act is 'gellu'; it must be one of"),
        ({"to_dict": 3, "self": 1}, None),
    ],
)
def test_the_configuration_of_a_librarys_model_is_checked(change, message, tmp_path):
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    sizes |= {"image_size": 32, "patch_size": 8, "num_frames": 4}
    VideoMAEModel(VideoMAEConfig(**sizes)).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    network = build_backbone({"model_type": "videomae", **sizes})
    if message is None:
        assert "used" in load_backbone_weights(network, str(tmp_path))
        return
    with pytest.raises(ValueError, match=message):
        load_backbone_weights(network, str(tmp_path))
