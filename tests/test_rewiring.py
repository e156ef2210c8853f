"""Cutting videos into clips and joining their features."""

import pytest
import torch

from re2tal_hf.rewiring import cut_into_clips, join_clips


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
