"""Which architecture and which backpropagation a rewired model has; cutting videos into clips and joining features."""

from collections.abc import Callable

import pytest
import torch
from own_files import examples, own_registrations
from tolerances import assert_close, assert_gradients_close, depth_of
from torchvision.models.video import r3d_18
from torchvision.ops import MLP

from re2tal_hf.architecture import BACKBONES, Architecture, register_backbone
from re2tal_hf.rewired_model import cut_into_clips, join_clips
from re2tal_hf.rewiring import build_backbone, rewire


def test_a_network_that_is_not_rewired_needs_no_further_argument():
    network, videos = r3d_18(num_classes=3).eval(), torch.randn(1, 3, 4, 16, 16)
    expected = network(videos)
    rewired = rewire(network, "none")
    assert rewired.backprop == "checkpoint"
    assert_close(rewired(videos), expected)
    assert rewire(rewired).backprop == "reversible"
    assert build_backbone({"model_type": "video_resnet", "variant": "r3d_18"}, "none").backprop == "checkpoint"
    with pytest.raises(ValueError, match="cannot be inverted"):
        rewire(rewired, "none", "reversible")


def test_a_model_is_rewired_by_the_architecture_that_built_it():
    _, family = examples()
    with own_registrations():
        for name in ("residual_video", "other_video"):
            exec(compile(family.replace('"residual_video"', f'"{name}"'), name, "exec"), {"__name__": name})
        # The second describes models of the same class, under another name.
        BACKBONES["other_video"].model_class = BACKBONES["residual_video"].model_class
        for name in ("residual_video", "other_video"):
            assert build_backbone({"model_type": name}).architecture is BACKBONES[name]


@pytest.mark.training
@pytest.mark.parametrize("parts", ["whole", "branches"])
def test_compilers_take_the_modules_of_a_recomputed_network_and_leave_the_rest(parts):
    torch.compiler.reset()
    torch.manual_seed(0)
    sizes = {
        "embed_dim": 8,
        "depths": [2, 2],
        "num_heads": [1, 2],
        "window_size": [2, 3, 3],
        "stochastic_depth_prob": 0.0,
    }
    model = build_backbone({"model_type": "video_swin", **sizes}).double()
    videos = torch.randn(1, 3, 4, 24, 24, dtype=torch.float64)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    def gradients(forward: Callable) -> dict[str, torch.Tensor | None]:
        model.zero_grad()
        forward(videos).square().mean().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    expected = gradients(model.forward_features)
    forward = model.forward_features
    if parts == "whole":
        forward = torch.compile(forward, backend=backend)
    else:
        for module in model.modules():
            if isinstance(module, MLP):
                module.compile(backend=backend)
    for _ in range(2):
        assert_gradients_close(gradients(forward), expected, depth=depth_of(model))
    assert bool(graphs) == (parts == "branches")


def frames(num_videos: int, num_frames: int) -> torch.Tensor:
    """Videos of one pixel that tells video and frame."""
    video, frame = torch.arange(num_videos), torch.arange(num_frames)
    return (100 * video[:, None] + frame).float()[:, :, None, None, None]


@pytest.mark.parametrize(
    ("num_frames", "clips"),
    [
        (8, [[0, 1, 2, 3], [4, 5, 6, 7], [100, 101, 102, 103], [104, 105, 106, 107]]),
        (5, [[0, 1, 2, 3], [4, 4, 4, 4], [100, 101, 102, 103], [104, 104, 104, 104]]),
        (1, [[0, 0, 0, 0], [100, 100, 100, 100]]),
    ],
)
def test_clips_follow_each_other_and_repeat_the_last_frame(num_frames, clips):
    assert cut_into_clips(frames(2, num_frames), 4).flatten(1).tolist() == clips


def test_no_copy_where_nothing_is_missing():
    videos = frames(1, 8)
    assert cut_into_clips(videos, 4).data_ptr() == videos.data_ptr()


def test_features_come_back_in_order_without_the_surplus():
    features = cut_into_clips(frames(2, 7), 4).flatten(2)[:, ::2]
    assert join_clips(features, 2).squeeze(-1).tolist() == [[0, 2, 4, 6], [100, 102, 104, 106]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": r3d_18}, "model is .*; it must be a network"),
        ({"model": torch.nn.Linear(2, 2)}, "Linear is not a registered architecture"),
        ({"rewiring": ["re2tal"]}, r"rewiring is \['re2tal'\]"),
        ({"backprop": ""}, "backprop is ''"),
        ({"rewiring": "dr2net", "coupling": "ab"}, "coupling is 'ab'"),
        ({"rewiring": "dr2net", "coupling": [0.5, float("nan")]}, "coupling .* between 0 and 1"),
        ({"rewiring": "dr2net", "coupling": {"alpha": 1}}, "coupling is {'alpha': 1}"),
        ({"rewirings": "none"}, "no argument 'rewirings'; did you mean 'rewiring'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with torch.device("meta"):
        model = r3d_18()
    with pytest.raises((TypeError, ValueError), match=message):
        rewire(**{"model": model, **arguments})


@pytest.mark.parametrize("coupling", [(0.5, 0.5), [[0.5, 0.5]] * 4, torch.tensor([0.5, 0.5]), torch.full((4, 2), 0.5)])
def test_coefficients_may_come_in_any_list(coupling):
    with torch.device("meta"):
        model = r3d_18()
    assert rewire(model, "dr2net", coupling=coupling).couplings() == [(0.5, 0.5)] * 4


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("swin", "architecture is 'swin'; it must be a subclass of Architecture"),
        (torch.nn.Linear, "it must be a subclass of Architecture"),
        (type("Unfinished", (Architecture,), {"model_type": "unfinished"}), r"Unfinished has no build\(\)"),
    ],
)
def test_what_is_no_architecture_is_not_registered(architecture, message):
    with pytest.raises(TypeError, match=message):
        register_backbone(architecture)
