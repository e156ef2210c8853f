"""torchvision's video ResNets: their own forward, weights under their own names, and batch norms in training."""

import copy

import pytest
import torch
import torchvision
from tolerances import assert_close, assert_gradients_close, depth_of
from torch import Tensor, nn
from torchvision.models.video.resnet import BasicStem, Bottleneck, Conv3DNoTemporal, Conv3DSimple, VideoResNet

from re2tal_hf import rewire
from re2tal_hf.rewired_model import RewiredModel
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.memory import saved_for_backward


def small_model(layers=(2, 2, 2, 2), **settings) -> VideoResNet:
    """Convolutions in time in the first two stages only, where the channels are few."""
    convolutions = [Conv3DSimple, Conv3DSimple, Conv3DNoTemporal, Conv3DNoTemporal]
    block = settings.pop("block", torchvision.models.video.resnet.BasicBlock)
    return VideoResNet(block, convolutions, list(layers), BasicStem, num_classes=7, **settings)


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def gradients(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(inputs).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("variant", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_variants_have_torchvisions_keys(variant):
    with torch.device("meta"):
        model = build_backbone({"model_type": "video_resnet", "variant": variant})
        library = getattr(torchvision.models.video, variant)().state_dict()
    library = {name: tensor.shape for name, tensor in library.items() if not name.startswith("fc.")}
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == library
    assert model.architecture.feature_size(model) == 512
    assert model.architecture.feature_stride(model) == (1 if variant == "mc3_18" else 8)


@pytest.mark.parametrize("variant", ["r3d_18", "r2plus1d_18"])
def test_rewire_takes_the_users_model(variant):
    model = getattr(torchvision.models.video, variant)(num_classes=7).eval()
    keys, parameters = list(model.state_dict()), list(model.parameters())
    inputs = torch.randn(1, 3, 5, 33, 47)
    with torch.no_grad():
        expected = model(inputs)
        assert rewire(model, "none", "plain") is model
        assert_close(model(inputs), expected, depth=depth_of(model))
        assert rewire(model)(inputs).shape == (1, 7)
        assert (model(inputs) - expected).abs().max() > 1e-2
    assert isinstance(model, RewiredModel)
    assert isinstance(model, VideoResNet)
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


@pytest.mark.parametrize("layers", [(1, 2, 1, 1), (2, 1, 1, 2), (1, 1, 1, 1)])
@pytest.mark.parametrize("block", [torchvision.models.video.resnet.BasicBlock, Bottleneck])
@pytest.mark.training
def test_blocks_that_change_the_shape_begin_a_stage(layers, block):
    model = small_model(layers, block=block).double().eval()
    inputs = torch.randn(2, 3, 3, 17, 21, dtype=torch.float64)
    expected = model(inputs)
    rewire(model, "none", "plain")
    assert_close(model(inputs), expected)
    stages = model.architecture.stages(model)
    blocks = [b for i in range(1, 5) for b in getattr(model, f"layer{i}")]
    assert sum(len(stage.branches) for stage in stages) == sum(b.downsample is None for b in blocks)
    assert all(stage.branches for stage in stages[:-1])

    rewire(model)
    expected_gradients = {}
    for backprop in ("plain", "reversible"):
        model.backprop = backprop
        found = gradients(model, inputs)
        expected_gradients = expected_gradients or found
        assert_gradients_close(found, expected_gradients)


@pytest.mark.training
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("backprop", ["checkpoint", "reversible"])
def test_a_training_step_updates_the_running_statistics_once(backprop, momentum):
    model = rewire(small_model().double().train(), "re2tal", "plain")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = momentum
    other = copy.deepcopy(model)
    other.backprop = backprop
    for _ in range(2):
        inputs = torch.randn(2, 3, 4, 24, 24, dtype=torch.float64)
        assert_gradients_close(gradients(other, inputs), gradients(model, inputs))
    for name, buffer in statistics(other).items():
        assert_close(buffer.double(), statistics(model)[name].double(), what=name)
    assert int(other.layer4[1].conv1[1].num_batches_tracked) == 2


@pytest.mark.parametrize("backprop", ["checkpoint", "reversible"])
def test_a_second_backward_pass_updates_nothing(backprop):
    model = rewire(small_model().train(), "re2tal", backprop)
    loss = model(torch.randn(2, 3, 2, 16, 16)).square().sum()
    before = statistics(model)
    for _ in range(2):
        loss.backward(retain_graph=True)
    assert all(torch.equal(buffer, before[name]) for name, buffer in statistics(model).items())


def test_bytes_kept_for_backward():
    kept = {}
    for layers in ((2, 2, 2, 2), (3, 3, 3, 3)):
        for backprop in ("plain", "reversible"):
            model = rewire(small_model(layers).eval(), "re2tal", backprop)
            with saved_for_backward([*model.parameters(), *model.buffers()]) as saved:
                model.temporal_features(torch.randn(1, 3, 8, 32, 32))
            kept[layers[0], backprop] = saved.total()
    pixels = 3 * 8 * 32**2
    streams = 2 * (64 * 8 * 16**2 + 128 * 4 * 8**2 + 256 * 4 * 4**2 + 512 * 4 * 2**2)
    assert kept[2, "reversible"] == kept[3, "reversible"] == 4 * (pixels + streams)
    assert kept[3, "plain"] > 3 * kept[3, "reversible"]


@pytest.mark.parametrize(
    ("setting", "value"), [("variant", "r3d_34"), ("block", "big"), ("stem", "3d"), ("conv_makers", ["4d"] * 4)]
)
def test_wrong_settings_are_named(setting, value):
    with pytest.raises(ValueError, match=setting):
        build_backbone({"model_type": "video_resnet", setting: value})
