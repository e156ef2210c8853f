"""A small generated data set of untrimmed videos whose classes differ in motion alone.

In every video one object at a time fades in, wanders, performs and fades out, over a drifting
textured background and among smaller objects that cross. An action is an oscillation of the
object's centre about its path:

    x(t) = path_x(t) + e(t) * A * a_x * cos(p(t))
    y(t) = path_y(t) + e(t) * A * a_y * d * cos(p(t) - lag)

with (a_x, a_y, lag) from `MOTIONS`, p(t) a phase of constant speed and random start, d = 1 or -1 at
random, and e(t) an envelope that rises from 0 at the start of the action and is back at
0 at its end. Shape, colours, place, size, amplitude, speed and the direction of the first movement
are drawn independently of the class, and between the actions the object drifts, dashes, waits,
trembles or changes its size: no single frame, and no measure of how much moves, tells the classes
apart.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from .whole_files import check_writable, written_whole

# Class name -> (a_x, a_y, lag).
MOTIONS: dict[str, tuple[float, float, float]] = {
    "Circle": (1, 1, np.pi / 2),
    "Slant": (1, 1, 0),
    "Sway": (1, 0, 0),
    "Bounce": (0, 1, 0),
}
IDLE_MOTIONS = ("drift", "dash", "pause", "tremble", "resize")

# Lengths in seconds.
ACTION_LENGTH = (2.0, 6.0)
IDLE_LENGTH = (1.0, 3.0)
PERIOD = (1.0, 1.4)
DASH_LENGTH = (0.3, 0.6)
PASSER_INTERVAL = 4.0
RAMP = 0.2
FADE = 0.5
SHORTEST_VIDEO = FADE + 2 * IDLE_LENGTH[1] + ACTION_LENGTH[1]

# Lengths in pixels, and speeds in pixels per second, of a frame whose shorter side has 64.
REFERENCE_SIDE = 64
AMPLITUDE = (13.0, 16.0)
RADIUS = (6.0, 8.0)
TREMBLE = 0.6
PASSER_RADIUS = (3.0, 5.0)
PASSER_SPEED = (8.0, 30.0)
BACKGROUND_SPEED = 3.0

# Brightness, 0 to 255. Objects are lighter than what is behind them, in any hue.
LIGHT_COLOR = (150, 255)
SHADED_COLOR = (110, 220)
BACKGROUND_COLOR = (40, 90)
BACKGROUND_CONTRAST = (8.0, 16.0)
NOISE = 1.0
FLICKER = 0.04

_FRAMES_AT_ONCE = 64
_SUBSETS = ("training", "validation", "testing")


@dataclass(frozen=True)
class Episode:
    """One stretch of an object's life: an action of `MOTIONS` or one of `IDLE_MOTIONS`.

    Attributes:
        start: second of the video at which it begins.
        end: second of the video at which it ends.
        motion: key of `MOTIONS` or member of `IDLE_MOTIONS`.
    """

    start: float
    end: float
    motion: str


@dataclass(frozen=True)
class Look:
    """What does not change about an object.

    Attributes:
        exponent: of the superellipse |x|^n + |y|^n <= r^n: 1 diamond, 2 disc, 6 near square.
        colors: float [2, 3], a light and a shaded one, 0 to 255.
        wave: (cycles per radius, direction in radians, phase in radians) of the pattern of both.
    """

    exponent: float
    colors: np.ndarray
    wave: tuple[float, float, float]


@dataclass(frozen=True)
class Track:
    """An object over all frames of a video.

    Attributes:
        look: the object.
        state: float [T, 3], x and y of the centre in pixels and the logarithm of the radius.
        opacity: float [T], 0 where the object is absent.
    """

    look: Look
    state: np.ndarray
    opacity: np.ndarray


@dataclass(frozen=True)
class Background:
    """A texture without seams that pans and flickers.

    Attributes:
        spectrum: complex [3, H, W // 2 + 1], Fourier transform of the texture.
        pan: float [T, 2], offset (y, x) in pixels.
        brightness: float [T], factor around 1.
    """

    spectrum: np.ndarray
    pan: np.ndarray
    brightness: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Everything a video shows.

    Attributes:
        background: behind all objects.
        passers: smaller objects that only cross.
        performers: the objects that perform, drawn last, one at a time.
        actions: what they perform, in order of time.
    """

    background: Background
    passers: list[Track]
    performers: list[Track]
    actions: list[Episode]


def generate(
    folder: str | Path,
    *,
    num_training: int = 40,
    num_validation: int = 16,
    num_test: int = 1,
    seed: int = 0,
    size: tuple[int, int] = (64, 64),
    frame_rate: float = 12.0,
    durations: tuple[float, float] = (20.0, 60.0),
) -> Path:
    """Writes `videos/<subset>_<number>.mp4` (H.264) and `annotations.json` into a folder.

    The same arguments give the same bytes on the same machine. A video depends on the seed, its
    subset and its number, not on how many others there are. Files of the same name are replaced.

    Args:
        folder: made where it does not exist.
        num_training: number of videos of subset "training".
        num_validation: of subset "validation".
        num_test: of subset "testing", held out.
        seed: of all random choices.
        size: (height, width) in pixels, even.
        frame_rate: frames per second.
        durations: shortest and longest video in seconds.

    Returns:
        The path of the annotation file (ActivityNet `database` form, times in seconds).

    Raises:
        ValueError: for a size, frame rate, duration or number of videos that cannot be.
        OSError: if the folder cannot be written to.
    """
    _check(size, frame_rate, durations, (num_training, num_validation, num_test))
    folder = Path(folder)
    check_writable(folder, "folder")
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    database = {}
    for subset_index, count in enumerate((num_training, num_validation, num_test)):
        subset = _SUBSETS[subset_index]
        for number in range(count):
            random = np.random.default_rng([seed, subset_index, number])
            num_frames = round(random.uniform(*durations) * frame_rate)
            scene = make_scene(random, num_frames, frame_rate=frame_rate, size=size)
            video_id = f"{subset}_{number:03d}"
            write_video(
                folder / "videos" / f"{video_id}.mp4",
                render(random, scene, size=size),
                frame_rate=frame_rate,
                size=size,
            )
            database[video_id] = _annotate(scene, subset, num_frames, frame_rate)
    annotation_file = folder / "annotations.json"
    text = json.dumps({"version": "synthetic-1", "database": database}, indent=1, allow_nan=False)
    with written_whole(annotation_file) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    return annotation_file


def make_scene(random: np.random.Generator, num_frames: int, *, frame_rate: float, size: tuple[int, int]) -> Scene:
    """Draws what happens in one video.

    Args:
        random: source of all choices.
        num_frames: T, long enough for one action (`SHORTEST_VIDEO`).
        frame_rate: frames per second.
        size: (height, width) in pixels.
    """
    times = np.arange(num_frames) / frame_rate
    duration = num_frames / frame_rate
    visits = _schedule(random, duration)
    return Scene(
        background=_make_background(random, times, size),
        passers=_make_passers(random, times, duration, size),
        performers=[_perform(random, visit, times, size) for visit in visits],
        actions=[episode for visit in visits for episode in visit if episode.motion in MOTIONS],
    )


def render(random: np.random.Generator, scene: Scene, *, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yields the frames of a scene, uint8 [H, W, 3] each; `random` gives the pixel noise."""
    num_frames = len(scene.background.pan)
    for first in range(0, num_frames, _FRAMES_AT_ONCE):
        frames = slice(first, min(first + _FRAMES_AT_ONCE, num_frames))
        image = _paint_background(random, scene.background, frames, size)
        for track in scene.passers + scene.performers:
            _paint(image, track, frames)
        yield from np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _check(
    size: tuple[int, int],
    frame_rate: float,
    durations: tuple[float, float],
    counts: tuple[int, int, int],
) -> None:
    if min(size) < 32 or size[0] % 2 or size[1] % 2:
        raise ValueError(f"size is {size}: height and width must be even and at least 32")
    if frame_rate < 8:
        raise ValueError(f"frame_rate is {frame_rate}: the fastest motion needs at least 8")
    if not SHORTEST_VIDEO <= durations[0] <= durations[1]:
        raise ValueError(f"durations is {durations}: must be (shortest, longest) with {SHORTEST_VIDEO} s or more")
    if min(counts) < 0 or sum(counts) == 0:
        raise ValueError(f"numbers of videos are {counts}: none may be negative, nor all zero")


def _annotate(scene: Scene, subset: str, num_frames: int, frame_rate: float) -> dict:
    return {
        "subset": subset,
        "duration": round(num_frames / frame_rate, 4),
        "fps": frame_rate,
        "frame": num_frames,
        "annotations": [
            {"segment": [round(action.start, 3), round(action.end, 3)], "label": action.motion}
            for action in scene.actions
        ],
    }


def _schedule(random: np.random.Generator, duration: float) -> list[list[Episode]]:
    """Splits a video into visits of one object each: idle, then one to three of (action, idle)."""
    visits: list[list[Episode]] = []
    time = random.uniform(0.0, FADE)
    while True:
        visit = []
        num_actions = random.integers(1, 4)
        idle_end = time + random.uniform(*IDLE_LENGTH)
        visit.append(Episode(time, idle_end, _choose(random, IDLE_MOTIONS)))
        for _ in range(num_actions):
            action_end = idle_end + random.uniform(*ACTION_LENGTH)
            next_idle_end = action_end + random.uniform(*IDLE_LENGTH)
            if next_idle_end > duration:
                break
            visit.append(Episode(idle_end, action_end, _choose(random, tuple(MOTIONS))))
            visit.append(Episode(action_end, next_idle_end, _choose(random, IDLE_MOTIONS)))
            idle_end = next_idle_end
        if len(visit) == 1:
            return visits
        visits.append(visit)
        time = idle_end


def _perform(random: np.random.Generator, visit: list[Episode], times: np.ndarray, size: tuple[int, int]) -> Track:
    """Lets a new object live through a visit, each episode starting where the last one ended."""
    state = np.zeros((len(times), 3))
    place = _draw_place(random, size)
    for episode in visit:
        inside = (times >= episode.start) & (times < episode.end)
        elapsed = times[inside] - episode.start
        length = episode.end - episode.start
        target, travel_time = _choose_target(random, episode.motion, place, length, size)
        progress = _smooth_step(elapsed / travel_time)[:, None]
        envelope = _smooth_step(np.minimum(elapsed, length - elapsed) / RAMP)[:, None]
        wobble = _wobble(random, episode.motion, elapsed, size)
        state[inside] = place + (target - place) * progress + envelope * wobble
        place = target
    start, end = visit[0].start, visit[-1].end
    opacity = _smooth_step(np.minimum(times - start, end - times) / FADE)
    return Track(_draw_look(random), state, opacity)


def _choose_target(
    random: np.random.Generator,
    motion: str,
    place: np.ndarray,
    length: float,
    size: tuple[int, int],
) -> tuple[np.ndarray, float]:
    """Where the path of an episode leads, as a state, and in how many seconds it is there."""
    elsewhere = _draw_place(random, size)
    if motion in ("pause", "tremble"):
        return place, length
    if motion == "resize":
        return np.array([*place[:2], elsewhere[2]]), random.uniform(*DASH_LENGTH)
    target = np.array([*elsewhere[:2], place[2]])
    if motion == "drift":
        return target, length
    if motion == "dash":
        return target, random.uniform(*DASH_LENGTH)
    return place + 0.25 * (target - place), length


def _wobble(random: np.random.Generator, motion: str, elapsed: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What an episode adds to the path before its envelope: float [n, 3]."""
    unit = _pixels_per_unit(size)
    if motion == "tremble":
        return random.normal(size=(len(elapsed), 3)) * (TREMBLE * unit, TREMBLE * unit, 0.0)
    if motion not in MOTIONS:
        return np.zeros((len(elapsed), 3))
    phase = random.uniform(0, 2 * np.pi) + 2 * np.pi * elapsed / random.uniform(*PERIOD)
    amplitude = unit * random.uniform(*AMPLITUDE)
    share_x, share_y, lag = MOTIONS[motion]
    x = share_x * np.cos(phase)
    y = share_y * random.choice((-1, 1)) * np.cos(phase - lag)
    return amplitude * np.stack([x, y, np.zeros_like(phase)], axis=1)


def _make_passers(
    random: np.random.Generator, times: np.ndarray, duration: float, size: tuple[int, int]
) -> list[Track]:
    """Smaller objects that cross the frame in a straight line, behind the performing one."""
    unit = _pixels_per_unit(size)
    height, width = size
    tracks = []
    for _ in range(random.poisson(duration / PASSER_INTERVAL)):
        radius = unit * random.uniform(*PASSER_RADIUS)
        direction = random.uniform(0, 2 * np.pi)
        speed = unit * random.uniform(*PASSER_SPEED)
        middle = random.uniform((0.1 * width, 0.1 * height), (0.9 * width, 0.9 * height))
        since = (times - random.uniform(0, duration))[:, None]
        center = middle + speed * since * (np.cos(direction), np.sin(direction))
        seen = np.all((center > -radius) & (center < (width + radius, height + radius)), axis=1)
        state = np.column_stack([center, np.full(len(times), np.log(radius))])
        tracks.append(Track(_draw_look(random), state, seen.astype(float)))
    return tracks


def _make_background(random: np.random.Generator, times: np.ndarray, size: tuple[int, int]) -> Background:
    unit = _pixels_per_unit(size)
    height, width = size
    frequency = unit * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    falloff = np.where(frequency < 0.2, 1 / (0.03 + frequency), 0.0)
    spectrum = np.fft.rfft2(random.normal(size=(3, height, width))) * falloff
    spectrum[:, 0, 0] = 0.0
    texture = np.fft.irfft2(spectrum, s=size)
    spectrum *= random.uniform(*BACKGROUND_CONTRAST) / texture.std()
    spectrum[:, 0, 0] = random.uniform(*BACKGROUND_COLOR, size=3) * height * width

    heading = random.uniform(0, 2 * np.pi)
    turn = random.uniform(-0.2, 0.2)
    angle = heading + turn * times
    velocity = unit * random.uniform(0, BACKGROUND_SPEED) * np.stack([np.sin(angle), np.cos(angle)])
    pan = np.cumsum(velocity, axis=1).T * (times[1] - times[0])
    flicker = np.sin(2 * np.pi * (times / random.uniform(2.0, 8.0) + random.uniform()))
    return Background(spectrum, pan, 1 + FLICKER * flicker)


def _paint_background(
    random: np.random.Generator, background: Background, frames: slice, size: tuple[int, int]
) -> np.ndarray:
    """Float [n, H, W, 3]; the texture is moved by fractions of a pixel in the Fourier domain."""
    height, width = size
    pan = background.pan[frames]
    cycles_y = pan[:, :1] * np.fft.fftfreq(height)
    cycles_x = pan[:, 1:] * np.fft.rfftfreq(width)
    shift = np.exp(-2j * np.pi * (cycles_y[:, :, None] + cycles_x[:, None, :]))
    texture = np.fft.irfft2(background.spectrum * shift[:, None], s=size)
    texture *= background.brightness[frames, None, None, None]
    image = np.moveaxis(texture, 1, -1).astype(np.float32)
    noise = random.standard_normal(image.shape, dtype=np.float32)
    return image + np.float32(NOISE) * noise


def _paint(image: np.ndarray, track: Track, frames: slice) -> None:
    """Draws an object into float frames [n, H, W, 3], in place."""
    visible = np.flatnonzero(track.opacity[frames])
    if len(visible) == 0:
        return
    look = track.look
    state = track.state[frames][visible].astype(np.float32)[:, :, None, None]
    opacity = track.opacity[frames][visible].astype(np.float32)[:, None, None]
    center_x, center_y, radius = state[:, 0], state[:, 1], np.exp(state[:, 2])
    x = (np.arange(image.shape[2], dtype=np.float32) - center_x) / radius
    y = (np.arange(image.shape[1], dtype=np.float32)[:, None] - center_y) / radius
    distance = (np.abs(x) ** look.exponent + np.abs(y) ** look.exponent) ** (1 / look.exponent)
    cover = opacity * np.clip((1 - distance) * radius + 0.5, 0, 1)
    cycles, direction, phase = look.wave
    along = np.float32(np.cos(direction)) * x + np.float32(np.sin(direction)) * y
    share = 0.5 + 0.5 * np.sin(np.float32(2 * np.pi * cycles) * along + np.float32(phase))
    light, shaded = look.colors.astype(np.float32)
    color = shaded + (light - shaded) * share[..., None]
    image[visible] += cover[..., None] * (color - image[visible])


def write_video(path: Path, frames: Iterator[np.ndarray], *, frame_rate: float, size: tuple[int, int]) -> None:
    """Writes uint8 frames `[H, W, 3]` as H.264, with the same bytes each time on the same machine."""
    # The same bytes each time: one thread, and no "crf", whose macroblock tree differs from run to
    # run in frames as small as these.
    with written_whole(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(frame_rate).limit_denominator(1001))
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        stream.options = {"qp": "18", "preset": "veryfast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _draw_look(random: np.random.Generator) -> Look:
    return Look(
        exponent=_choose(random, (1.0, 2.0, 6.0)),
        colors=np.stack([random.uniform(*LIGHT_COLOR, size=3), random.uniform(*SHADED_COLOR, size=3)]),
        wave=(random.uniform(0.2, 0.4), random.uniform(0, 2 * np.pi), random.uniform(0, 2 * np.pi)),
    )


def _draw_place(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A state in the middle half of the frame."""
    x, y = random.uniform(0.25, 0.75, size=2) * (size[1], size[0])
    low, high = np.log(RADIUS)
    return np.array([x, y, np.log(_pixels_per_unit(size)) + random.uniform(low, high)])


def _pixels_per_unit(size: tuple[int, int]) -> float:
    return min(size) / REFERENCE_SIDE


def _smooth_step(share: np.ndarray) -> np.ndarray:
    """From 0 at 0 to 1 at 1 with no speed at either end, constant beyond."""
    share = np.clip(share, 0.0, 1.0)
    return share**2 * (3 - 2 * share)


def _choose(random: np.random.Generator, options: tuple):
    return options[random.integers(len(options))]
