"""A picture of detected actions along the time of a video, beside the true ones where known."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ..data.detection_files import one_line

Segment = Mapping[str, Any]

_TRUTH_COLOR = "0.35"
_WEAKEST_SHADE = 0.12


def draw_timeline(
    detections: Sequence[Segment],
    *,
    duration: float,
    ground_truth: Sequence[Segment] | None = None,
    title: str = "",
    max_classes: int = 20,
) -> Figure:
    """Draws a lane per class with a bar per detection; the stronger the bar, the higher its score.

    A lane holds the detections, the strongest on top of those it overlaps, and below them, as thin
    grey bars, the true actions. Lanes are ordered by true actions first, then by their best score.

    Args:
        detections: mappings with "label" (a name), "score" (0 to 1), "start" and "end" (seconds),
            as the pipeline gives them.
        duration: of the video in seconds; the right end of the axis.
        ground_truth: mappings with "label", "start" and "end"; None where it is not known.
        title: above the picture.
        max_classes: number of lanes; the classes that come last are left out and counted below.

    Returns:
        A figure of its own, not registered with pyplot; `.savefig(path)` writes it.

    Raises:
        ValueError: for a duration that is not positive or a segment that ends before it starts,
            lacks a field or has a score outside 0 to 1.
    """
    if not duration > 0:
        raise ValueError(f"duration is {duration}: must be a positive number of seconds")
    _check(detections, "detections", scored=True)
    _check(ground_truth or (), "ground_truth", scored=False)
    labels = _order_labels(detections, ground_truth or ())
    lanes = {label: lane for lane, label in enumerate(labels[:max_classes])}

    figure = Figure(figsize=(10, 1.3 + 0.42 * max(len(lanes), 1)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    palette = colormaps["tab10"]
    for detection in sorted(detections, key=lambda detection: detection["score"]):
        lane = lanes.get(detection["label"])
        if lane is not None:
            color = _shade(to_rgb(palette(lane % 10)), detection["score"])
            _draw_bar(axes, detection, lane - 0.4, 0.55, color)
    for action in ground_truth or ():
        if action["label"] in lanes:
            _draw_bar(axes, action, lanes[action["label"]] + 0.2, 0.2, _TRUTH_COLOR)
    _finish_axes(axes, list(lanes), duration)
    axes.set_title(one_line(title), loc="left", parse_math=False)
    axes.set_xlabel(_caption(ground_truth is not None, len(labels) - len(lanes)))
    return figure


def _check(segments: Sequence[Segment], name: str, *, scored: bool) -> None:
    fields = ("label", "start", "end", "score") if scored else ("label", "start", "end")
    for index, segment in enumerate(segments):
        missing = [field for field in fields if field not in segment]
        if missing:
            raise ValueError(f"{name}[{index}] lacks {', '.join(missing)}: {dict(segment)}")
        if not segment["start"] <= segment["end"]:
            raise ValueError(f"{name}[{index}] ends before it starts: {dict(segment)}")
        if scored and not 0 <= segment["score"] <= 1:
            raise ValueError(f"{name}[{index}] has a score outside 0 to 1: {dict(segment)}")


def _order_labels(detections: Sequence[Segment], ground_truth: Sequence[Segment]) -> list[str]:
    """Labels with true actions first, then by falling best score, then by name."""
    true_labels = {action["label"] for action in ground_truth}
    best_scores = dict.fromkeys(true_labels, 0.0)
    for detection in detections:
        label = detection["label"]
        best_scores[label] = max(detection["score"], best_scores.get(label, 0.0))
    return sorted(best_scores, key=lambda label: (label not in true_labels, -best_scores[label], label))


def _shade(color: tuple[float, float, float], score: float) -> tuple[float, ...]:
    """Mixes with white instead of being transparent, so that overlapping bars do not add up."""
    strength = _WEAKEST_SHADE + (1 - _WEAKEST_SHADE) * score
    return tuple(1 - strength * (1 - channel) for channel in color)


def _draw_bar(axes: Axes, segment: Segment, bottom: float, height: float, color: str | tuple[float, ...]) -> None:
    length = segment["end"] - segment["start"]
    # A point in time is a line.
    edge = "none" if length else color
    axes.broken_barh([(segment["start"], length)], (bottom, height), facecolors=color, edgecolors=edge)


def _finish_axes(axes: Axes, labels: list[str], duration: float) -> None:
    axes.set_xlim(0, duration)
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), [one_line(label) for label in labels], parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if not labels:
        axes.text(0.5, 0.5, "no actions", transform=axes.transAxes, ha="center", va="center")


def _caption(with_truth: bool, num_left_out: int) -> str:
    parts = ["seconds; the stronger the colour, the higher the score"]
    if with_truth:
        parts.append("grey: true actions")
    if num_left_out:
        parts.append(f"{num_left_out} more classes not shown")
    return " · ".join(parts)
