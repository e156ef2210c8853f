"""RandAugment of clips: each operation by what it must do to known pixels."""

import pytest
import torch

from re2tal_hf.data import random_operations
from re2tal_hf.data.random_operations import OPERATIONS, RandomOperations

NAMES = (
    *("shear_x", "shear_y", "shift_x", "shift_y", "rotate", "posterize", "solarize"),
    *("saturation", "contrast", "brightness", "sharpness", "autocontrast", "equalize", "invert", "erase"),
)
STRENGTH = 0.9


def changed(name: str, frames: torch.Tensor, strength: float = STRENGTH) -> torch.Tensor:
    return OPERATIONS[NAMES.index(name)](frames, strength)


@pytest.fixture
def frames():
    return torch.randint(20, 250, (3, 3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_changes_pixels_and_keeps_the_form(name, frames):
    result = changed(name, frames)
    assert result.dtype == torch.uint8 and result.shape == frames.shape and not torch.equal(result, frames)


def test_pixels_after_an_operation(frames):
    assert torch.equal(changed("invert", frames), 255 - frames)
    assert torch.equal(changed("posterize", frames), frames & 0b11100000)  # int(4 * 0.9) bits
    assert torch.equal(changed("solarize", frames, 0.5), torch.where(frames >= 128, 255 - frames, frames))
    assert torch.equal(changed("brightness", frames, 0.5), frames)  # 1.8 * 0.5 + 0.1
    brighter = (frames * 1.72).clamp(max=255)
    assert (changed("brightness", frames).float() - brighter).abs().max() <= 1
    stretched = changed("autocontrast", frames)
    assert stretched.amin() == 0 and stretched.amax() >= 254


@pytest.mark.parametrize(("name", "axis", "pixels"), [("shift_x", 3, 9), ("shift_y", 2, 7)])
def test_a_shift_leaves_black_behind(name, axis, pixels, frames):
    result = changed(name, frames)  # 0.2 * 0.9 of 50, of 40
    length = frames.shape[axis]
    kept = [result.narrow(axis, start, length - pixels) for start in (pixels, 0)]
    there = [frames.narrow(axis, start, length - pixels) for start in (0, pixels)]
    side = next(i for i in range(2) if torch.equal(kept[i], there[i]))
    assert not result.narrow(axis, (0, length - pixels)[side], pixels).any()


def test_both_directions_are_drawn(frames):
    assert len({changed("rotate", frames).sum().item() for _ in range(20)}) == 2


def test_a_square_is_erased(frames):
    gone = changed("erase", frames) != frames
    side = 8  # 0.2 * 0.9 of 40, rounded up; a pixel that has the value already does not count
    rows, columns = (gone.any(1).any(0).any(axis).nonzero() for axis in (1, 0))
    assert all(places.max() - places.min() == side - 1 for places in (rows, columns))


def test_a_number_of_different_operations(monkeypatch, frames):
    called = []
    monkeypatch.setattr(
        random_operations, "OPERATIONS", tuple(lambda f, _, i=i: called.append(i) or f for i in range(len(OPERATIONS)))
    )
    draws = []
    for _ in range(200):
        called.clear()
        RandomOperations(2, STRENGTH)(frames)
        draws.append(tuple(called))
    assert all(len(draw) == 2 and draw[0] < draw[1] for draw in draws)
    assert {index for draw in draws for index in draw} == set(range(len(OPERATIONS)))
