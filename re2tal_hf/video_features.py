"""Features of a video that were computed before: in memory, or one file a video; read as a video is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from .value_checks import COUNT, POSITIVE, check_value, shown
from .video_container import describe
from .video_reader import VideoReadError
from .video_windows import Window

FEATURE_EXTENSIONS = frozenset([".npy", ".npz", ".safetensors"])
# What the array is called in a file that may hold several.
NAMES = ("features", "feats")
Resizing = Literal["interpolated", "averaged"]


class FeatureTimes(Protocol):
    """When features stand, as a video processor says it."""

    @property
    def sampling(self) -> str: ...  # noqa: D102

    @property
    def num_frames(self) -> int: ...  # noqa: D102

    @property
    def feature_stride(self) -> float | None: ...  # noqa: D102

    @property
    def feature_offset(self) -> float: ...  # noqa: D102

    @property
    def feature_rate(self) -> float | None: ...  # noqa: D102


class FeaturesInMemory:
    """Features of one video, in place of its frames.

    Args:
        features: an array or a tensor `[N, D]`, or the path of a file with one (see `read_features`).
        duration: of the video in seconds; None: as long as the features say, by their stride.
        frame_rate: frames per second of the video from which they were computed; None: as the processor says.
        name: what error messages call the video.

    Raises:
        VideoReadError: if the file cannot be read; names it.
        ValueError, TypeError: if this is no array `[N, D]`, or a number is not above 0.
    """

    def __init__(
        self, features: Any, duration: float | None = None, frame_rate: float | None = None, name: str | None = None
    ):
        if isinstance(features, (str, Path)):
            name, features = name or str(features), read_features(Path(features))
        self.name = name or "features"
        if not isinstance(features, (np.ndarray, Tensor)):
            raise TypeError(f"{self.name}: features is {shown(features)}; give an array [N, D], or a file of one.")
        check_shape(self.name, tuple(features.shape))
        self.features = torch.as_tensor(features).float()
        self.duration = check_value(f"{self.name}: duration", duration, Annotated[float | None, POSITIVE])
        self.frame_rate = check_value(f"{self.name}: frame_rate", frame_rate, Annotated[float | None, POSITIVE])

    def __len__(self) -> int:
        return len(self.features)

    def close(self) -> None:
        """Does nothing: the features are in memory."""

    def whole(self, times: FeatureTimes) -> Window:
        """All of them as one window; see `whole_features`."""
        return whole_features(self.name, len(self), times, duration=self.duration, frame_rate=self.frame_rate)


def whole_features(
    video_id: str,
    num_features: int,
    times: FeatureTimes,
    *,
    duration: float | None = None,
    frame_rate: float | None = None,
) -> Window:
    """All stored features of a video as one window, whose frames are the features.

    Feature `k` stands at the frame `k * feature_stride + feature_offset` of the video, as in ActionFormer. With
    `sampling="resized"`, or without a stride, features are spread evenly over the video.

    Args:
        video_id: carried along.
        num_features: how many are stored.
        times: the processor of the model.
        duration: of the video in seconds; None: as long as the features say.
        frame_rate: frames per second of the video, where `feature_rate` is None.

    Raises:
        ValueError: if it takes the duration or the frame rate, and there is none.
    """
    where = describe(check_value("video_id", video_id, str))
    num_features = check_value("num_features", num_features, Annotated[int, COUNT])
    resized, stride = times.sampling == "resized", times.feature_stride
    steps = times.num_frames if resized else num_features
    if stride is not None and (duration is None or not resized):
        rate = times.feature_rate or check_value("frame_rate", frame_rate, Annotated[float | None, POSITIVE])
        if rate is None:
            raise ValueError(
                f"{where}: at how many frames per second its features were computed is not known: set "
                'processor.feature_rate, or give the frame_rate of each video ("fps" in its annotations, '
                "--frame-rate of re2tal predict)."
            )
        if duration is None:
            duration = (num_features - 1) * stride / rate + max(2 * times.feature_offset, stride) / rate
    if duration is None:
        raise ValueError(f"{where}: its duration is needed, since its features have no stride.")
    seconds = steps / duration if resized or stride is None else rate / stride
    return Window(video_id, times.feature_offset / (stride or 1) / seconds, seconds, steps, duration)


def features_at(features: Tensor, whole: Window, window: Window, resizing: Resizing = "interpolated") -> Tensor:
    """The features of a window of a video.

    Args:
        features: of the whole video, `[N, D]`.
        whole: all of the video as one window; where it has more or fewer steps than there are features, these are
            resized.
        window: a piece of it.
        resizing: by linear interpolation, as ActionFormer does, or, of more features than steps, by means of what is
            interpolated at several places of each step (`torchvision_align` of OpenTAD).

    Returns:
        `[window.num_frames, D]`.
    """
    if len(features) != whole.num_frames:
        places = 1 if resizing == "interpolated" else math.ceil(len(features) / whole.num_frames)
        size = whole.num_frames * places
        features = F.interpolate(features.T[None], size=size, mode="linear", align_corners=False)[0].T
        features = features.unflatten(0, (whole.num_frames, places)).mean(dim=1)
    first = round((window.start - whole.start) * whole.frame_rate)
    return features[first : first + window.num_frames]


def read_features(path: Path) -> Tensor:
    """Reads the features of a video from a `.npy`, `.npz` or `.safetensors` file.

    Returns:
        float32 `[N, D]`.

    Raises:
        VideoReadError: if there is no such file, or it holds no such features; names it.
    """
    features = torch.from_numpy(np.array(_array(path), dtype=np.float32))
    if not features.isfinite().all():
        raise VideoReadError(f"{path}: holds NaN or infinite features; compute them again.")
    return features


def feature_shape(path: Path) -> tuple[int, int]:
    """Returns the number of features in a file and their size, of most files without reading the rest.

    Raises:
        VideoReadError: see `read_features`.
    """
    return tuple(_array(path).shape)


def is_feature_file(path: Any) -> bool:
    """Whether this is the path of a file of features, by its name."""
    return isinstance(path, (str, Path)) and Path(path).suffix.lower() in FEATURE_EXTENSIONS


def check_shape(name: str, shape: Sequence[int]) -> None:
    """Raises a `ValueError` unless this is the shape of features, `[N, D]`, and not empty."""
    if len(shape) != 2 or math.prod(shape) == 0:
        raise ValueError(f"{name}: features of the shape {list(shape)}; give [N, D], a row for each step in time.")


def check_size(name: str, features: FeaturesInMemory, backbone_config: Mapping[str, Any]) -> None:
    """Raises a `VideoReadError` unless features have the size that a model of this configuration takes."""
    size = backbone_config.get("size", 2048)
    if features.features.shape[1] != size:
        raise VideoReadError(f"{name}: features of the size {features.features.shape[1]}; the model takes {size}.")


def _array(path: Path) -> Any:
    """The array of a file, of a large one no more than what is asked of it."""
    try:
        kind = path.suffix.lower()
        if kind == ".safetensors":
            with safe_open(path, "np") as file:
                array: Any = file.get_tensor(_name(path, list(file.keys())))
        elif kind == ".npz":
            with np.load(path, allow_pickle=False) as file:
                array = file[_name(path, list(file.keys()))]
        else:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        check_shape(str(path), array.shape)
        if array.dtype.kind != "f":
            raise ValueError(f"{path}: its features are {array.dtype}; they must be floating-point numbers.")
    except VideoReadError:
        raise
    except FileNotFoundError as error:
        raise VideoReadError(f"{path}: there is no such file; check the path.") from error
    except (OSError, ValueError, EOFError, TypeError, KeyError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        reason = reason if str(path) in reason else f"{path}: no readable features ({reason[:200]})."
        raise VideoReadError(reason) from error
    return array


def _name(path: Path, names: Sequence[str]) -> str:
    known = [name for name in NAMES if name in names] or list(names)
    if len(known) != 1:
        raise ValueError(f"{path}: holds {sorted(names)[:5]}; call the array of the features 'features'.")
    return known[0]


def from_mapping(video: Mapping[str, Any]) -> FeaturesInMemory:
    """Reads `{"features", "duration", "frame_rate", "name"}`, of which the first must be there.

    Raises:
        ValueError: if it has other keys; see also `FeaturesInMemory`.
    """
    if unknown := sorted(video.keys() - {"features", "duration", "frame_rate", "name"}):
        raise ValueError(f"A video of features has no {unknown[0]!r}; give 'features', 'duration' and 'frame_rate'.")
    return FeaturesInMemory(**video)
