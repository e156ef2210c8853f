"""Makes long videos of labelled clips in which no cut marks where an action begins or ends.

python scripts/make_border_data.py --clips clips --output borders

Each clip is slowed down or sped up. Before it its first frames, and after it its last, are played to and fro for some
seconds, so that people stand in their places and the picture moves as little as a recording does; its speed rises from
and falls to nothing. One clip is cross-faded into the next while both stand still. The camera sways and its picture is
noisy all the time. Only the motion of the people tells the borders.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from re2tal_hf.data.labelled_clips import read_clips
from re2tal_hf.data.synthetic import write_video
from re2tal_hf.video_reader import VideoReader

SUBSETS = {"train": "training", "validation": "validation"}
# Of a clip, at either end, what is played to and fro.
STILL_FRAMES = 4
CLIPS = (4, 7)
SPEEDS = (0.6, 1.6)
STILL_SECONDS = (1.5, 4.0)
FADE_SECONDS = 0.6
# In which the speed rises from nothing.
START_SECONDS = 0.3
# Shares of the picture that the camera sways by and comes nearer to leave the edges out, and standard deviation of the
# noise, of 255.
SWAY, ZOOM, NOISE = 0.02, 1.06, 2.0


def to_and_fro(number: int) -> np.ndarray:
    """Positions 0, 1, 2, 3, 2, 1, 0, ... within `STILL_FRAMES`."""
    cycle = [*range(STILL_FRAMES), *range(STILL_FRAMES - 2, 0, -1)]
    return np.resize(cycle, number)


def positions(
    random: np.random.Generator, num_frames: int, clip_rate: float, rate: float
) -> tuple[np.ndarray, int, int]:
    """Which frame of a clip is shown when.

    Returns:
        Positions among the clip's frames, and where among these the action begins and ends.
    """
    before, after = (round(random.uniform(*STILL_SECONDS) * rate) for _ in range(2))
    first, last = STILL_FRAMES - 1, num_frames - STILL_FRAMES
    per_frame = random.uniform(*SPEEDS) * clip_rate / rate
    ramp = round(START_SECONDS * rate)
    # Both ramps together move as far as half of their frames at full speed.
    speeds = np.ones(max(round((last - first) / per_frame) + ramp, 2 * ramp + 1))
    speeds[:ramp] = (np.arange(ramp) + 0.5) / ramp
    speeds[-ramp:] = speeds[:ramp][::-1]
    moved = np.cumsum(speeds)
    action = first + moved / moved[-1] * (last - first)
    still_before = first - to_and_fro(before)[::-1]  # ends where the action goes on
    still_after = last + to_and_fro(after)
    return np.concatenate([still_before, action, still_after]), before, before + len(action)


def show(frames: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Frames at places between the clip's own, mixed from the two beside: float32 `[T, H, W, 3]`."""
    low = np.floor(places).astype(int).clip(0, len(frames) - 1)
    share = (places - low)[:, None, None, None].astype(np.float32)
    return frames[low] * (1 - share) + frames[(low + 1).clip(max=len(frames) - 1)] * share


def read_frames(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Returns all frames of a clip in a size, float32 `[T, H, W, 3]`, and its frame rate."""
    with VideoReader(path) as reader:
        seconds = reader.timeline.seconds
        frames = torch.as_tensor(reader.frames_at(seconds.tolist())).float()
        rate = len(seconds) / reader.duration
    resized = F.interpolate(frames, size, mode="bilinear", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1).numpy(), rate


def make_sequence(
    random: np.random.Generator, clips: list[tuple[Path, str]], size: tuple[int, int], rate: float
) -> tuple[np.ndarray, list[dict]]:
    """Returns the frames of a sequence, float32 `[T, H, W, 3]`, and its annotations."""
    fade = round(FADE_SECONDS * rate)
    weights = ((np.arange(fade) + 1) / (fade + 1)).astype(np.float32)[:, None, None, None]
    sequence, annotations = np.zeros((0, *size, 3), np.float32), []
    for path, label in clips:
        frames, clip_rate = read_frames(path, size)
        places, start, end = positions(random, len(frames), clip_rate, rate)
        shown = show(frames, places)
        begin = len(sequence)
        if begin:
            begin -= fade
            mixed = sequence[begin:] * (1 - weights) + shown[:fade] * weights
            sequence, shown = np.concatenate([sequence[:begin], mixed]), shown[fade:]
        sequence = np.concatenate([sequence, shown])
        segment = [round((begin + frame) / rate, 4) for frame in (start, end)]
        annotations.append({"segment": segment, "label": label})
    return sequence, annotations


def filmed(random: np.random.Generator, frames: np.ndarray, rate: float) -> Iterator[np.ndarray]:
    """Yields frames as a hand-held camera takes them, uint8 `[H, W, 3]`."""
    periods, phases = random.uniform(1.5, 6.0, (2, 3)), random.uniform(0, 2 * np.pi, (2, 3))
    seconds = np.arange(len(frames))[:, None, None] / rate
    offsets = SWAY * np.sin(2 * np.pi * seconds / periods + phases).mean(-1) * 2
    for frame, (x, y) in zip(frames, offsets, strict=True):
        theta = torch.tensor([[1 / ZOOM, 0, x], [0, 1 / ZOOM, y]], dtype=torch.float32)[None]
        picture = torch.from_numpy(frame).permute(2, 0, 1)[None]
        grid = F.affine_grid(theta, list(picture.shape), align_corners=False)
        seen = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)[0].permute(1, 2, 0).numpy()
        yield (seen + random.normal(0, NOISE, seen.shape)).round().clip(0, 255).astype(np.uint8)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", required=True, help="a folder <clips>/train/<class>/<clip> and validation/...")
    parser.add_argument("--output", required=True, type=Path, help="where videos/ and annotations.json go")
    parser.add_argument("--num-training", type=int, default=28, help="videos; default %(default)s")
    parser.add_argument("--num-validation", type=int, default=13, help="videos; default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--height", type=int, default=120)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--frame-rate", type=float, default=15.0)
    options = parser.parse_args()
    size, rate = (options.height, options.width), options.frame_rate
    (options.output / "videos").mkdir(parents=True, exist_ok=True)
    database = {}
    for index, (split, subset) in enumerate(SUBSETS.items()):
        found = read_clips(options.clips, split)
        clips = [(Path(str(clip.path)), found.label_names[clip.labels[0]]) for clip in found.videos]
        for number in range(options.num_training if split == "train" else options.num_validation):
            random = np.random.default_rng([options.seed, index, number])
            chosen = random.permutation(len(clips))[: random.integers(CLIPS[0], CLIPS[1] + 1)]
            frames, annotations = make_sequence(random, [clips[i] for i in chosen], size, rate)
            video_id = f"{subset}_{number:03d}"
            write_video(
                options.output / "videos" / f"{video_id}.mp4", filmed(random, frames, rate), frame_rate=rate, size=size
            )
            duration = round(len(frames) / rate, 4)
            database[video_id] = {"subset": subset, "duration": duration, "annotations": annotations}
    text = json.dumps({"version": "borders-1", "database": database}, indent=1)
    (options.output / "annotations.json").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
