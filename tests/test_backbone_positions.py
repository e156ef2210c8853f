"""Positions for other frame sizes."""

import pytest
import torch
from tolerances import assert_close

from re2tal_hf.backbone_positions import check_clip, resize_positions


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
