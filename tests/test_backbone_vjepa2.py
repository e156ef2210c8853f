"""V-JEPA 2's positions in frames of other sizes."""

import copy

import pytest
import torch
from tolerances import assert_close

from re2tal_hf.rewiring import build_backbone, rewire

CONFIG = {
    "model_type": "vjepa2",
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
    "frames_per_clip": 4,
}


def models(*crop_sizes: int):
    """The same weights, configured for frames of different sizes."""
    first = build_backbone({**CONFIG, "crop_size": crop_sizes[0]}, "re2tal", "plain").double().eval()
    yield first
    for crop_size in crop_sizes[1:]:
        other = build_backbone({**CONFIG, "crop_size": crop_size}, "re2tal", "plain").double().eval()
        other.load_state_dict(copy.deepcopy(first.state_dict()))
        yield other


def test_smaller_frames_have_their_own_positions():
    small, large = models(24, 40)
    videos = torch.randn(2, 4, 3, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        assert_close(large.video_features(videos), small.video_features(videos))


def test_positions_are_relative():
    """Oblong frames agree between models of any larger size, which number the patches differently."""
    one, other = models(40, 64)
    videos = torch.randn(2, 4, 3, 24, 37, dtype=torch.float64)
    with torch.no_grad():
        assert_close(one.video_features(videos), other.video_features(videos))


@pytest.mark.parametrize("num_frames", [2, 3, 6])
def test_clips_of_another_length_are_the_librarys(num_frames):
    [model] = models(24)
    videos = torch.randn(1, num_frames, 3, 24, 24, dtype=torch.float64)
    rewire(model, "none", "plain")
    expected = type(model).original_class.forward(model, videos, skip_predictor=True).last_hidden_state
    assert_close(model(videos).last_hidden_state, expected)
    assert model.temporal_features(videos).shape == (1, num_frames // 2, 48)


@pytest.mark.parametrize("size", [(48, 24), (24, 48), (7, 24)])
def test_frames_that_do_not_fit_are_named(size):
    [model] = models(24)
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}; this model takes 8x8 to 24x24"):
        model.video_features(torch.randn(1, 4, 3, *size, dtype=torch.float64))
