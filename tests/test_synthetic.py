import json
from typing import Any

import av
import numpy as np
import pytest
import torch

from re2tal_hf.data.synthetic import ACTION_LENGTH, MOTIONS, Scene, generate, make_scene

FRAME_RATE = 12.0
SIZE = (64, 64)
SMALL: dict[str, Any] = {"num_training": 2, "num_validation": 1, "num_test": 1, "durations": (20.0, 24.0)}


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def scenes(count: int, first_seed: int = 0) -> list[Scene]:
    return [
        make_scene(np.random.default_rng([first_seed, i]), 480, frame_rate=FRAME_RATE, size=SIZE) for i in range(count)
    ]


def actions(scene: Scene):
    """(label, state [n, 3], look) of each action, over the frames inside it."""
    times = np.arange(len(scene.background.pan)) / FRAME_RATE
    for action in scene.actions:
        inside = (times >= action.start) & (times < action.end)
        # One object performs at a time, and it is opaque all through its action.
        (track,) = [track for track in scene.performers if track.opacity[inside].all()]
        yield action.motion, track.state[inside], track.look


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    generate(folder, **SMALL)
    return folder


def test_annotations_describe_the_videos(folder):
    database = json.loads((folder / "annotations.json").read_text())["database"]
    assert sorted(database) == ["testing_000", "training_000", "training_001", "validation_000"]
    for video_id, video in database.items():
        assert video["subset"] == video_id.split("_")[0]
        assert 20.0 <= video["duration"] <= 24.0
        with av.open(str(folder / "videos" / f"{video_id}.mp4")) as container:
            stream = container.streams.video[0]
            frames = list(container.decode(stream))
        assert (frames[0].height, frames[0].width) == SIZE
        assert float(stream.average_rate) == FRAME_RATE == video["fps"]
        assert len(frames) == video["frame"]
        assert video["duration"] == pytest.approx(len(frames) / FRAME_RATE, abs=1e-4)


def test_segments_lie_apart_inside_the_video(folder):
    database = json.loads((folder / "annotations.json").read_text())["database"]
    for video in database.values():
        assert video["annotations"]
        end_before = 0.0
        for annotation in video["annotations"]:
            start, end = annotation["segment"]
            assert annotation["label"] in MOTIONS
            assert start >= end_before + 0.9
            assert ACTION_LENGTH[0] - 0.01 <= end - start <= ACTION_LENGTH[1] + 0.01
            end_before = end
        assert end_before < video["duration"]


def test_same_seed_same_bytes_whatever_else_is_made(folder, tmp_path):
    generate(tmp_path, **{**SMALL, "num_training": 1, "num_test": 0})
    again, before = contents(tmp_path), contents(folder)
    assert again["training_000.mp4"] == before["training_000.mp4"]
    assert again["validation_000.mp4"] == before["validation_000.mp4"]
    assert before["training_000.mp4"] != before["training_001.mp4"]
    generate(tmp_path, **{**SMALL, "num_training": 1, "num_test": 0}, seed=1)
    assert contents(tmp_path)["training_000.mp4"] != before["training_000.mp4"]


def test_size_and_rate_can_be_chosen(tmp_path):
    generate(
        tmp_path,
        num_training=1,
        num_validation=0,
        num_test=0,
        size=(72, 96),
        frame_rate=15.0,
        durations=(20.0, 20.0),
    )
    with av.open(str(tmp_path / "videos" / "training_000.mp4")) as container:
        frames = list(container.decode(video=0))
    assert (frames[0].height, frames[0].width, len(frames)) == (72, 96, 300)


def test_motion_is_that_of_the_class():
    seen = set()
    for scene in scenes(20):
        for label, state, _ in actions(scene):
            seen.add(label)
            x, y = (state[:, :2] - state[:, :2].mean(axis=0)).T
            turned = abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / np.sum(x**2 + y**2)
            ratio = x.std() / y.std()
            assert (turned > 0.1) == (label == "Circle")
            if label in ("Circle", "Slant"):
                assert 0.5 < ratio < 2
            else:
                assert ratio > 1.5 if label == "Sway" else ratio < 1 / 1.5
    assert seen == set(MOTIONS)


def test_objects_never_jump():
    longest_step = 0.0
    for scene in scenes(10):
        for track in scene.passers + scene.performers:
            visible = track.opacity > 0
            both = visible[1:] & visible[:-1]
            assert np.abs(np.diff(track.opacity))[both].max(initial=0) < 0.4
            steps = np.diff(track.state[:, :2], axis=0)[both]
            longest_step = max(longest_step, np.hypot(*steps.T).max(initial=0))
    # The longest dash crosses half the frame's diagonal in 0.3 s.
    assert 3.0 < longest_step < 1.5 * (0.5 * np.hypot(*SIZE)) / 0.3 / FRAME_RATE


def test_single_frame_does_not_tell_the_class():
    """Regresses the class on all that a frame shows of the object; chance is 0.25."""

    def features_and_labels(first_seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        features, labels = [], []
        for scene in scenes(count, first_seed):
            for label, state, look in actions(scene):
                colors = np.tile(look.colors.ravel() / 255, (len(state), 1))
                shape = np.full((len(state), 1), look.exponent / 6)
                place = state / (64, 64, 3)
                features.append(np.hstack([place, place**2, colors, shape]))
                labels += [list(MOTIONS).index(label)] * len(state)
        table = torch.tensor(np.vstack(features))
        return (table - table.mean(0)) / table.std(0), torch.tensor(labels)

    inputs, labels = features_and_labels(1, 60)
    model = torch.nn.Linear(inputs.shape[1], len(MOTIONS), dtype=torch.float64)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    unseen_inputs, unseen_labels = features_and_labels(2, 60)
    accuracy = (model(unseen_inputs).argmax(1) == unseen_labels).double().mean()
    assert accuracy < 0.35


def test_something_moves_outside_the_actions():
    """The performing object moves between its actions too, and its fastest dash is as fast."""
    speeds_inside, speeds_outside = [], []
    for scene in scenes(20):
        times = np.arange(1, 480) / FRAME_RATE
        acting = np.any([(times >= a.start) & (times < a.end) for a in scene.actions], axis=0)
        for track in scene.performers:
            speed = FRAME_RATE * np.hypot(*np.diff(track.state[:, :2], axis=0).T)
            whole = (track.opacity[1:] == 1) & (track.opacity[:-1] == 1)
            speeds_inside.append(speed[whole & acting])
            speeds_outside.append(speed[whole & ~acting])
    inside, outside = np.concatenate(speeds_inside), np.concatenate(speeds_outside)
    assert np.mean(outside > 5.0) > 0.3
    assert np.max(outside) > np.median(inside)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (63, 64)}, "even"),
        ({"size": (16, 64)}, "at least 32"),
        ({"frame_rate": 5.0}, "frame_rate"),
        ({"durations": (5.0, 20.0)}, "durations"),
        ({"durations": (30.0, 20.0)}, "durations"),
        ({"num_training": -1}, "numbers of videos"),
        ({"num_training": 0, "num_validation": 0, "num_test": 0}, "numbers of videos"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()
