import pytest
import torch

from re2tal_hf.data import augmentation as augmentation_room
from re2tal_hf.data.augmentation import Augmentation

SIZE = (12, 10)
CROP = Augmentation(crop_scale=(0.2, 0.6))
FLIP = Augmentation(flip_probability=1.0, unflippable_labels=(3,))
COLOUR = Augmentation(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)
OPERATED = Augmentation(random_operations=2)
ALL = Augmentation((0.2, 0.6), flip_probability=0.5, brightness=0.5, saturation=0.5, hue=0.2)


def clip(num_frames=4, height=20, width=16):
    return torch.randint(256, (num_frames, 3, height, width), dtype=torch.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("augmentation", [CROP, FLIP, COLOUR, OPERATED, ALL])
def test_one_draw_for_all_frames(augmentation):
    frame = clip(1)
    for seed in range(5):
        augmented = augmentation(frame.expand(6, -1, -1, -1), SIZE, generator=generator(seed))
        assert augmented.dtype == torch.uint8
        assert (augmented == augmented[:1]).all()


@pytest.mark.parametrize("augmentation", [CROP, COLOUR, OPERATED, ALL])
def test_draws_follow_the_generator(augmentation):
    frames = clip()
    first = augmentation(frames, SIZE, generator=generator(1))
    torch.rand(7)
    assert torch.equal(first, augmentation(frames, SIZE, generator=generator(1)))
    assert not torch.equal(first, augmentation(frames, SIZE, generator=generator(2)))
    shared = generator(1)
    draws = [augmentation(frames, SIZE, generator=shared) for _ in range(2)]
    assert torch.equal(first, draws[0])
    assert not torch.equal(draws[0], draws[1])


@pytest.mark.parametrize("augmentation", [CROP, FLIP, COLOUR, OPERATED, ALL])
def test_long_videos_go_some_frames_at_a_time(augmentation, monkeypatch):
    frames, whole = clip(7), []
    for seed in range(5):
        whole.append(augmentation(frames, SIZE, generator=generator(seed)))
    monkeypatch.setattr(augmentation_room, "FRAMES_TOGETHER", 3)
    for seed, expected in enumerate(whole):
        assert torch.equal(augmentation(frames, SIZE, generator=generator(seed)), expected)
    assert Augmentation()(frames) is frames


def test_global_generator_is_untouched_by_an_explicit_one():
    frames = clip()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ALL(frames, SIZE, generator=generator())
    assert torch.equal(torch.rand(3), expected)


def test_without_a_generator_the_global_one_is_used():
    frames = clip()
    torch.manual_seed(5)
    first, second = ALL(frames, SIZE), ALL(frames, SIZE)
    torch.manual_seed(5)
    assert torch.equal(first, ALL(frames, SIZE))
    assert not torch.equal(first, second)


def test_neutral_settings_change_nothing():
    frames = clip()
    assert torch.equal(Augmentation()(frames, SIZE), frames)


def test_crop_gives_the_size_and_a_part_of_the_frame():
    ramp = torch.arange(20, dtype=torch.uint8)[None, None, :, None].expand(2, 3, 20, 16)
    augmented = CROP(ramp, SIZE, generator=generator())
    assert augmented.shape == (2, 3, *SIZE)
    rows = augmented[0, 0].float().mean(1)
    assert (rows.diff() >= 0).all()
    assert rows[-1] - rows[0] < 17


def test_flip_mirrors_columns_except_where_a_label_forbids():
    frames = clip()
    assert torch.equal(FLIP(frames, SIZE, labels=[1, 2]), frames.flip(-1))
    assert torch.equal(FLIP(frames, SIZE, labels=[1, 3]), frames)


@pytest.mark.parametrize(
    "settings",
    [{"flip_probability": 1.5}, {"brightness": -1.0}, {"hue": 0.7}],
)
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(ValueError):
        Augmentation(**settings)


NAMES = ["Sway", "Circle", "3"]


@pytest.mark.parametrize(
    ("labels", "ids"),
    [(["Sway"], (0,)), ([1], (1,)), (["3", 0], (2, 0)), ("Circle", (1,)), (2, (2,)), (None, ()), ([3], (2,))],
)
def test_unflippable_labels_are_names_or_ids(labels, ids):
    augmentation = Augmentation(flip_probability=1.0, unflippable_labels=labels).with_labels(NAMES)
    assert augmentation.unflippable_labels == ids
    frames = clip()
    for label in range(3):
        expected = frames if label in ids else frames.flip(-1)
        assert torch.equal(augmentation(frames, SIZE, labels=[label]), expected)


@pytest.mark.parametrize("label", ["sway", 4, -1, "0"])
def test_unknown_unflippable_labels_are_refused(label):
    with pytest.raises(ValueError, match=f"no class {label!r}; the classes are 0 'Sway', 1 'Circle', 2 '3'"):
        Augmentation(unflippable_labels=[label]).with_labels(NAMES)


def test_a_number_that_is_an_id_and_another_name_is_refused():
    names = ["1", "2", "3"]
    with pytest.raises(ValueError, match="1 is the id of class '2' and the name of class 0"):
        Augmentation(unflippable_labels=[1]).with_labels(names)
    assert Augmentation(unflippable_labels=["1"]).with_labels(names).unflippable_labels == (0,)


def test_names_must_be_resolved_before_use():
    with pytest.raises(ValueError, match="with_labels"):
        Augmentation(flip_probability=1.0, unflippable_labels=["Sway"])(clip(), SIZE, labels=[0])
