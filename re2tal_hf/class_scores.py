"""Scores that an external classifier gives to a whole video; they name the segments of a class-agnostic model."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .value_checks import shown

ClassScores = Mapping[int, float] | Mapping[str, float] | Sequence[float] | Tensor
"""Scores by class id or by label name, or one for each class id in order."""


def checked_class_scores(scores: Any, video: str) -> dict[Any, float]:
    """Returns the scores of one video by class id or by label name.

    Args:
        scores: a mapping, or a list, array or tensor `[num_classes]`.
        video: what error messages call the video.

    Raises:
        ValueError: if there are none, a key is neither an id from 0 on nor a name, ids and names are mixed, or a
            score is not a finite number from 0 on.
    """
    if not isinstance(scores, Mapping):
        try:
            if isinstance(scores, (bytes, set, frozenset)):
                raise TypeError("their numbers are of no classes")
            scores = dict(enumerate(scores.tolist() if hasattr(scores, "tolist") else scores))
        except TypeError as error:
            raise ValueError(
                f"video_scores of {shown(video)} are {shown(scores)}; give {{label: score}}, or a score for each class."
            ) from error
    if not scores:
        raise ValueError(f"video_scores of {shown(video)} are empty; give the score of one class at least.")
    checked: dict[Any, float] = {}
    where = f"video_scores of {shown(video)}"
    for key, score in ((_plain(key), _plain(score)) for key, score in scores.items()):
        if not (isinstance(key, str) or (_is_number(key, numbers.Integral) and key >= 0)):
            raise ValueError(f"{where}: {shown(key)} is neither a label nor a class id (0, 1, ...).")
        if not (_is_number(score, numbers.Real) and math.isfinite(score) and score >= 0):
            raise ValueError(f"{where}: the score of {shown(key)} is {shown(score)}; it must be 0 or more.")
        checked[key] = float(score)
    if len({type(key) for key in checked}) > 1:
        raise ValueError(f"{where} mix labels with class ids; give one of the two.")
    return checked


def class_scores_by_video(video_scores: Any, video_ids: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Class ids, ascending (long `[K]`), and their scores (float64 `[K]`) by video.

    Args:
        video_scores: by video id what `checked_class_scores` takes; for one video also without its id.
        video_ids: of the videos.

    Raises:
        ValueError: if a video has none, or they are of names; and what `checked_class_scores` raises.
    """
    by_video = isinstance(video_scores, Mapping) and all(isinstance(key, str) for key in video_scores)
    if not by_video:
        if len(video_ids) > 1:
            raise ValueError(f"video_scores are needed for each of {len(video_ids)} videos, by id.")
        video_scores = {video_ids[0]: video_scores}
    if missing := [name for name in video_ids if name not in video_scores]:
        raise ValueError(f"video_scores lack {len(missing)} videos, such as {missing[0]!r}.")
    found = {}
    for video_id in video_ids:
        scores = checked_class_scores(video_scores[video_id], video_id)
        if names := [key for key in scores if isinstance(key, str)]:
            raise ValueError(f"video_scores of {video_id!r}: {names[0]!r} is no class id; names are for the pipeline.")
        ids = sorted(scores)
        values = torch.tensor([scores[index] for index in ids], dtype=torch.float64)
        found[video_id] = torch.tensor(ids), values
    return found


def _plain(value: Any) -> Any:
    """The number in a scalar of NumPy or PyTorch."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
