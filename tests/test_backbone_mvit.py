"""MViT against torchvision's own forward."""

import pytest
import torch
import torchvision
from architecture_cases import CASES
from tolerances import assert_close
from torchvision.models.video.mvit import MSBlockConfig, MViT

from re2tal_hf import rewire
from re2tal_hf.backbone_mvit import convolved, published_blocks
from re2tal_hf.rewiring import build_backbone

CONFIGS = {case.name: case.config for case in CASES if case.config["model_type"] == "mvit"}


def torchvision_model(name: str, **settings) -> MViT:
    config = {key: value for key, value in CONFIGS[name].items() if key != "model_type"}
    config["block_setting"] = [MSBlockConfig(**block) for block in config["block_setting"]]
    config["spatial_size"] = tuple(config["spatial_size"])
    torch.manual_seed(0)
    return MViT(**{**config, "num_classes": 3, "residual_with_cls_embed": False, **settings})


@pytest.mark.parametrize("variant", ["v1_b", "v2_s"])
def test_variants_are_torchvisions(variant):
    with torch.device("meta"):
        library = getattr(torchvision.models.video, f"mvit_{variant}")()
        own = build_backbone({"model_type": "mvit", "variant": variant})
    shapes = {name: tensor.shape for name, tensor in library.state_dict().items() if not name.startswith("head.")}
    assert {name: tensor.shape for name, tensor in own.state_dict().items()} == shapes
    for block, other in zip(own.blocks, library.blocks, strict=True):
        assert repr(block) == repr(other)
        assert block.attn.residual_pool == other.attn.residual_pool
        assert block.attn.residual_with_cls_embed == other.attn.residual_with_cls_embed
        assert block.proj_after_attn == other.proj_after_attn
        assert block.attn.num_heads == other.attn.num_heads
    assert len(published_blocks(variant)) == 16


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("residual_with_cls_embed", [True, False])
def test_classifier_without_rewiring_is_torchvisions(name, residual_with_cls_embed):
    model = torchvision_model(name, residual_with_cls_embed=residual_with_cls_embed).double().eval()
    inputs = torch.randn(2, 3, model.pos_encoding.temporal_size * 2, 32, 32, dtype=torch.float64)
    inputs = inputs[:, :, : CONFIGS[name]["temporal_size"]]
    expected = model(inputs)
    assert_close(rewire(model, "none", "plain")(x=inputs), expected)


def test_blocks_that_change_the_shape_are_entries():
    with torch.device("meta"):
        models = [build_backbone({"model_type": "mvit", "variant": variant}) for variant in ("v1_b", "v2_s")]
    first, second = ([len(stage.branches) for stage in model.architecture.stages(model)] for model in models)
    assert second == [2, 2, 20, 2]
    assert first == [0, 0, 0, 0, 18, 0, 2]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (20, 64), (3, 5)])
def test_grids_of_any_frame_size(name, size):
    """Every block gets the grid that its input has; the class token comes on top."""
    model = build_backbone(CONFIGS[name], "re2tal", "plain").eval()
    inputs = torch.randn(1, 3, CONFIGS[name]["temporal_size"], *size)
    seen = []
    for block in model.blocks:
        block.norm1.register_forward_hook(lambda module, args, output: seen.append(output.shape[1] - 1))
    with torch.no_grad():
        features = model.forward_features(inputs)
    grid = convolved(inputs.shape[2:], model.conv_proj)
    expected = []
    for block in model.blocks:
        expected.append(grid[0] * grid[1] * grid[2])
        if block.pool_skip is not None:
            grid = convolved(grid, block.attn.pool_q.pool)
    assert seen == expected
    assert features.shape[1] == 1 + grid[0] * grid[1] * grid[2]
    assert features.isfinite().all()


def test_features_are_the_frames_tokens():
    model = build_backbone(CONFIGS["mvit_v2"], "re2tal", "plain").eval()
    tokens = torch.zeros(1, 1 + 4 * 6, 32)
    tokens[:, 0] = 100.0  # the class token does not count
    tokens[:, 1:] = torch.arange(4.0).repeat_interleave(6)[:, None]
    assert model.architecture.temporal_features(model, tokens)[0, :, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_setting": None}, "give either this or a variant"),
        ({"variant": "v2_s"}, "give either this or a variant"),
        ({"variant": "v3"}, "it must be one of"),
        ({"depth": 3}, "depth"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        build_backbone({**CONFIGS["mvit_v2"], **change})


def test_another_number_of_frames_is_an_error():
    model = build_backbone(CONFIGS["mvit_v2"])
    with pytest.raises(ValueError, match="6 frames of 32x32; this model takes clips of 8 frames"):
        model(torch.randn(1, 3, 6, 32, 32))
