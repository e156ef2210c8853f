"""A video with its actions burnt in: their names, their scores and how far each has come."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.detection_files import one_line, shown_until
from .videos import Progress, write_copy

MAX_CAPTIONS = 3
BACKGROUND = (0, 0, 0, 170)
FOREGROUND = (255, 255, 255, 255)
BAR = (255, 176, 0, 255)


def write_annotated_video(
    source: str | Path, target: str | Path, detections: Sequence[dict[str, Any]], *, progress: Progress | None = None
) -> None:
    """Writes a copy of a video in which the actions are named while they happen.

    Args:
        source: any video.
        target: `.mp4`.
        detections: mappings with `label`, `score`, `start` and `end` (seconds). Where more than three happen
            at once, the best are shown; points in time are for a second.
        progress: called with the number of frames written and of all.

    Raises:
        VideoReadError: if a frame of `source` does not decode.
    """

    def paint(frame: np.ndarray, time: float) -> np.ndarray:
        current = [row for row in detections if row["start"] <= time < shown_until(row)]
        current = sorted(current, key=lambda row: -row["score"])[:MAX_CAPTIONS]
        return draw_captions(frame, current, time) if current else frame

    write_copy(source, target, paint=paint, progress=progress)


def draw_captions(frame: np.ndarray, detections: Sequence[dict[str, Any]], time: float) -> np.ndarray:
    """Draws a box per action at the foot of a frame: name, score, and a bar that fills while it lasts.

    Args:
        frame: uint8 `[H, W, 3]`.
        detections: those that happen at `time`, the topmost first.
        time: seconds of the video.

    Returns:
        A new frame, uint8 `[H, W, 3]`.
    """
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image, "RGBA")
    text_height = max(9, round(min(frame.shape[:2]) / 18))
    font = ImageFont.load_default(text_height)
    margin, bar = text_height // 2, max(2, text_height // 5)
    box_height = text_height + 2 * margin + bar
    top = frame.shape[0] - len(detections) * (box_height + bar) - margin
    for row in detections:
        text = f"{one_line(row['label'])}  {row['score']:.2f}"
        right = min(frame.shape[1] - margin, 3 * margin + draw.textlength(text, font=font))
        draw.rectangle((margin, top, right, top + box_height), fill=BACKGROUND)
        draw.text((2 * margin, top + margin // 2), text, font=font, fill=FOREGROUND)
        share = (time - row["start"]) / (shown_until(row) - row["start"])
        foot = top + box_height
        draw.rectangle((margin, foot - bar, margin + share * (right - margin), foot), fill=BAR)
        top += box_height + bar
    return np.asarray(image)
