"""Models that are saved without the weights of their backbone that are published, and have them back when loaded."""

import json

import pytest
import timm
import torch
import torchvision
from local_hub import LocalHub
from safetensors.torch import load_file, save_file
from tolerances import assert_close, depth_of
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

import re2tal_hf.published_weights
from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization, Re2TALModel
from re2tal_hf.data.synthetic import generate
from re2tal_hf.lora import is_lora
from re2tal_hf.training.pretrained import load_backbone_weights

SIZES = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "image_size": 32, "patch_size": 8, "num_frames": 4,
}  # fmt: skip
VIDEOMAE = {"model_type": "videomae", **SIZES}
RESNET = {"model_type": "image", "variant": "resnet10t"}
HEAD = {"model_type": "actionformer", "hidden_size": 16, "num_levels": 2}


def write_videomae(folder):
    torch.manual_seed(5)
    VideoMAEForVideoClassification(VideoMAEConfig(**SIZES)).save_pretrained(folder)


def write_resnet(folder):
    torch.manual_seed(5)
    folder.mkdir()
    save_file(timm.create_model("resnet10t", num_classes=5).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text('{"architecture": "resnet10t", "num_classes": 5}')


def write_ours(folder):
    torch.manual_seed(5)
    Re2TALForTemporalActionLocalization(Re2TALConfig(backbone_config=VIDEOMAE, head_config=HEAD)).save_pretrained(
        folder
    )


SOURCES = {"transformers": (VIDEOMAE, write_videomae), "timm": (RESNET, write_resnet), "ours": (VIDEOMAE, write_ours)}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Writes weights to a folder and has it taken for the repository `user/published`."""
    folder = tmp_path / "0123456789abcdef"

    def write(kind):
        SOURCES[kind][1](folder)
        monkeypatch.setattr(re2tal_hf.published_weights, "snapshot_download", lambda *_, **__: str(folder))
        return folder

    return write


def localizer(kind, folder, **settings):
    side = {"adapter_side": True} if settings.get("side") else {}
    backbone = SOURCES[kind][0] | ({"adapter_width": 4} | side if "lora" not in settings else {})
    config = Re2TALConfig(backbone_config=backbone, head_config=HEAD, num_labels=2)
    model = Re2TALForTemporalActionLocalization(config)
    load_backbone_weights(model.model.backbone, str(folder))
    if lora := settings.get("lora"):
        model.model.add_lora(lora)
    for name, parameter in model.named_parameters():
        if "adapters." in name or is_lora(name):
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, settings) for kind in SOURCES for settings in ({}, {"lora": {"r": 2}})),
        ("transformers", {"side": True}),
    ],
)
@pytest.mark.training
def test_what_is_published_is_not_saved(kind, settings, published, tmp_path):
    model = localizer(kind, published(kind), **settings)
    model.leave_out_published("user/published")
    model.save_pretrained(tmp_path / "small")
    saved = load_file(tmp_path / "small/model.safetensors")
    ours = {name for name in model.state_dict() if not name.startswith("model.backbone.")}
    ours |= {name for name in model.state_dict() if ".adapters." in name or is_lora(name)}
    assert saved.keys() == ours
    loaded, info = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(info.values()), info
    assert model.config.backbone_weights["revision"] == "0123456789abcdef"
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    loaded.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again/model.safetensors").keys() == ours
    # As the start of another training.
    other = Re2TALModel(Re2TALConfig(backbone_config=model.config.backbone_config))
    load_backbone_weights(other.backbone, str(tmp_path / "small"))
    videos = torch.randn(1, 8, 3, 32, 32)
    with torch.no_grad():
        assert_close(other.eval()(videos)[0], model.model(videos)[0], depth=depth_of(model))


def test_what_was_trained_is_saved(published, tmp_path):
    model = localizer("timm", published("timm"))
    model.leave_out_published("user/published")
    with torch.no_grad():
        model.model.backbone.layer4[0].conv1.weight += 1
        model.model.backbone.bn1.running_mean += 1
    model.save_pretrained(tmp_path / "small")
    kept = [
        n
        for n in load_file(tmp_path / "small/model.safetensors")
        if n.startswith("model.backbone.") and "adapters" not in n
    ]
    assert sorted(kept) == ["model.backbone.bn1.running_mean", "model.backbone.layer4.0.conv1.weight"]
    loaded = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "small")
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_other_weights_are_refused(published, tmp_path):
    folder = published("transformers")
    model = localizer("transformers", folder)
    with torch.no_grad():
        model.model.backbone.encoder.layer[0].layernorm_before.weight += 1
    with pytest.raises(ValueError, match="not the weights of user/published: 1 .*layernorm_before"):
        model.leave_out_published("user/published")
    assert model.config.backbone_weights is None
    with pytest.raises(ValueError, match="could not be had"):
        model.leave_out_published("Swin3D_T_Weights.NO_SUCH")
    model = localizer("transformers", folder)
    model.leave_out_published("user/published")
    model.save_pretrained(tmp_path / "small")
    torch.manual_seed(6)
    VideoMAEForVideoClassification(VideoMAEConfig(**SIZES)).save_pretrained(folder)
    with pytest.raises(ValueError, match="those of user/published; these have changed"):
        Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "small")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        ValueError, match="weights of the backbone are those of 'user/published', which could not be had"
    ):
        Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "small")


@pytest.mark.training
def test_a_name_of_torchvision(monkeypatch, tmp_path):
    settings = {"model_type": "video_resnet", "variant": "r3d_18"}
    torch.manual_seed(5)
    weights = torchvision.models.video.r3d_18().state_dict()
    monkeypatch.setattr(torchvision.models.video.R3D_18_Weights, "get_state_dict", lambda *_, **__: weights)
    model = Re2TALModel(Re2TALConfig(backbone_config=settings))
    load_backbone_weights(model.backbone, "R3D_18_Weights.KINETICS400_V1")
    model.add_lora({"r": 1})
    model.leave_out_published("R3D_18_Weights.KINETICS400_V1")
    model.save_pretrained(tmp_path)
    assert all(map(is_lora, load_file(tmp_path / "model.safetensors")))
    loaded = Re2TALModel.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_that_lacks_nothing_asks_for_nothing(tmp_path, monkeypatch):
    write_ours(tmp_path / "whole")
    config = json.loads((tmp_path / "whole/config.json").read_text(encoding="utf-8"))
    config["backbone_weights"] = {"source": "user/gone", "revision": None, "digest": ""}
    (tmp_path / "whole/config.json").write_text(json.dumps(config), encoding="utf-8")
    asked: list[str] = []
    monkeypatch.setattr(re2tal_hf.published_weights, "snapshot_download", lambda *_, **__: asked.append("asked"))
    Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "whole")
    assert not asked


WITHOUT_PACKAGE = """
import json, sys
sys.modules["re2tal_hf"] = None  # an import of it fails as if it were not installed
import torch
from transformers import AutoModel

model, report = AutoModel.from_pretrained("user/detector", trust_remote_code=True, output_loading_info=True)
weight = model.model.backbone.encoder.layer[0].attention.attention.query
weight = getattr(weight, "base_layer", weight).weight
print(json.dumps([[str(key) for kind in report.values() for key in kind], weight.sum().item()]))
"""


@pytest.mark.training
@pytest.mark.parametrize(
    "overrides",
    [["model.backbone_config.adapter_width=4", "freeze.backbone=true"], ["model.lora={r: 2}"]],
    ids=["adapters", "lora"],
)
def test_a_recipe_trains_adapters_and_the_hub_gets_no_more(overrides, local_hub: LocalHub, tmp_path):
    generate(tmp_path / "data", num_training=2, num_validation=1, num_test=0, durations=(20, 22))
    write_videomae(tmp_path / "videomae")
    upload = (
        "import sys; from huggingface_hub import HfApi; api = HfApi(); api.create_repo('user/library', exist_ok=True);"
    )
    upload += "api.upload_folder(repo_id='user/library', folder_path=sys.argv[1])"
    local_hub.run("-c", upload, tmp_path / "videomae", home=tmp_path / "home", cwd=tmp_path)
    settings = [
        f"model.backbone_config={json.dumps(VIDEOMAE)}", "model.head_config.hidden_size=16",
        "model.head_config.num_levels=3", "processor.size={height: 32, width: 32}", "processor.num_frames=64",
        "data.num_workers=0", "training.epochs=1", f"data.annotations={tmp_path}/data/annotations.json",
        f"data.videos={tmp_path}/data/videos", "training.pretrained_backbone=user/library",
        "training.pretrained_license=mit", *overrides,
    ]  # fmt: skip
    arguments = ["--recipe", "quickstart", "--output", tmp_path / "run", *settings]
    local_hub.run("-m", "re2tal_hf.commands.train", *arguments, home=tmp_path / "home", cwd=tmp_path)
    saved = load_file(tmp_path / "run/best/model.safetensors")
    assert not [n for n in saved if n.startswith("model.backbone.") and ".adapters." not in n and not is_lora(n)]
    push = "import sys; from re2tal_hf import Re2TALForTemporalActionLocalization as M;"
    push += "M.from_pretrained(sys.argv[1]).push_to_hub('user/detector')"
    before = len(local_hub.uploads())
    local_hub.run("-c", push, tmp_path / "run/best", home=tmp_path / "home", cwd=tmp_path)
    [sent] = local_hub.uploads()[before:]
    assert sent < (tmp_path / "run/best/model.safetensors").stat().st_size + 1000
    done = local_hub.run("-c", WITHOUT_PACKAGE, home=tmp_path / "elsewhere", cwd=tmp_path)
    report, found = json.loads(done.stdout.splitlines()[-1])
    state = load_file(tmp_path / "videomae/model.safetensors")
    assert report == []
    query = state["videomae.encoder.layer.0.attention.attention.query.weight"]
    assert found == pytest.approx(query.sum().item(), rel=1e-5)
