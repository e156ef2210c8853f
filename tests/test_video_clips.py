"""Cutting videos into clips, joining their features, and positions for other frame sizes."""

import pytest
import torch
from tolerances import assert_close

from re2tal_hf.video_clips import check_clip, cut_into_clips, join_clips, resize_positions


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
    assert join_clips(features, 2, 4).squeeze(-1).tolist() == [[0, 2, 4, 6], [100, 102, 104, 106]]
    assert join_clips(features, 2, 3).shape == (2, 3, 1)


def test_positions_are_interpolated_over_space_only():
    grid = (2, 4, 4)
    positions = torch.randn(32, 5, dtype=torch.float64)
    assert resize_positions(positions, grid, grid) is positions
    resized = resize_positions(positions, grid, (2, 8, 3))
    assert resized.shape == (48, 5)
    alone = resize_positions(positions[16:], (1, 4, 4), (1, 8, 3))
    assert_close(resized[24:], alone)
    constant = torch.ones(32, 1, dtype=torch.float64)
    assert_close(resize_positions(constant, grid, (2, 7, 9)), torch.ones(126, 1, dtype=torch.float64))


@pytest.mark.parametrize("size", [(1, 15, 3, 32, 32), (1, 17, 3, 32, 32), (1, 16, 3, 7, 32), (1, 16, 3, 32, 7)])
def test_what_does_not_fit_is_named(size):
    check_clip((1, 16, 3, 8, 8), 16, (8, 8))
    with pytest.raises(ValueError, match=f"{size[1]} frames of {size[3]}x{size[4]}.*16 frames of at least 8x8"):
        check_clip(size, 16, (8, 8))
