"""The figures of a diagnosis as one picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MAX_CLASSES = 30
MISSED = "missed"
CHARACTERISTICS = {
    "length": "length of the action, s",
    "coverage": "share of the video",
    "instances": "actions of the class in the video",
}
MAX_ROWS = 20


def draw_diagnosis(figures: Mapping[str, Any], title: str = "") -> Figure:
    """Draws what `diagnose` returns: kinds of detections, their cost, groups of actions, confused classes, calibration.

    Returns:
        A figure of its own, not registered with pyplot; `.savefig(path)` writes it.
    """
    figure = Figure(figsize=(20, 9), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4)
    colors = {name: colormaps["tab10"](number) for number, name in enumerate(figures["kinds"])}
    _draw_kinds(axes[0, 0], figures["kinds"], colors)
    draw_costs(axes[0, 1], figures["cost"], colors)
    draw_confusion(axes[0, 2], figures["confusion_matrix"], f"tIoU {figures['tiou_thresholds'][0]:g}")
    _draw_calibration(axes[0, 3], figures["calibration"])
    for place, (name, label) in zip(axes[1], CHARACTERISTICS.items(), strict=False):
        _draw_groups(place, figures["sensitivity"].get(name, []), label)
    _draw_classes(axes[1, 3], figures["per_class"])
    first, last = figures["tiou_thresholds"][0], figures["tiou_thresholds"][-1]
    figure.suptitle(f"{title + ': ' if title else ''}mAP@{first:g}:{last:g} {figures['map']:.3f}".replace("$", r"\$"))
    return figure


def _draw_kinds(axes: Axes, kinds: Mapping[str, list[float]], colors: Mapping[str, Any]) -> None:
    bottom = np.zeros(max(map(len, kinds.values())))
    places = np.arange(1, len(bottom) + 1)
    for name, shares in kinds.items():
        axes.bar(places, shares, bottom=bottom, color=colors[name], label=name, width=0.85)
        bottom += shares
    axes.set(
        title="Kinds of the best detections", xlabel="times as many as there are actions", ylabel="share", ylim=(0, 1)
    )
    axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.15))


def draw_costs(axes: Axes, costs: Mapping[str, float], colors: Mapping[str, Any]) -> None:
    """Draws what each kind of error costs."""
    names = list(costs)
    bars = axes.barh(names, [costs[name] for name in names], color=[colors.get(name, "0.5") for name in names])
    axes.bar_label(bars, fmt="%+.3f", padding=3)
    axes.invert_yaxis()
    axes.set(title="What each kind costs", xlabel="rise of the mAP without it")
    axes.margins(x=0.2)


def draw_confusion(axes: Axes, matrix: Mapping[str, Mapping[str, int]], criterion: str) -> None:
    """Draws as what actions are seen, and which are missed; `criterion`, such as "tIoU 0.3", says what is near."""
    rows = list(matrix)[:MAX_CLASSES]
    columns = [*rows, ""]
    counts = np.array([[matrix[row].get(column, 0) for column in columns] for row in rows], float)
    totals = np.array([[max(sum(matrix[row].values()), 1)] for row in rows])
    axes.imshow(counts / totals, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    names = [_short(name) for name in columns[:-1]] + [MISSED]
    axes.set_xticks(range(len(columns)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(rows)), names[:-1], fontsize=8)
    if len(rows) <= 12:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = count / totals[row, 0] > 0.5
                axes.text(column, row, f"{count:g}", ha="center", va="center", color="white" if dark else "black")
    axes.set(title=f"As what actions are seen, {criterion}", ylabel="true class")


def _draw_groups(axes: Axes, groups: list[dict[str, float]], label: str) -> None:
    if not groups:
        unknown = "durations of the videos are not known"
        axes.text(0.5, 0.5, unknown, ha="center", va="center", transform=axes.transAxes)
    names = []
    for group in groups:
        low, high = f"{group['low']:.3g}", f"{group['high']:.3g}"
        names.append("\n".join([low if low == high else f"{low}\nto {high}", f"({group['actions']})"]))
    places = np.arange(len(groups))
    for offset, name in ((-0.2, "map"), (0.2, MISSED)):
        bars = axes.bar(places + offset, [group[name] for group in groups], width=0.4, label=name.replace("map", "mAP"))
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set_xticks(places, names, fontsize=8)
    axes.set(title=f"By {label}", xlabel="(number of actions)", ylim=(0, 1.2))
    if groups:
        axes.legend(fontsize=8, ncols=2, loc="upper right")


def _draw_classes(axes: Axes, by_class: Mapping[str, Mapping[str, Any]]) -> None:
    """Of many classes the worst."""
    worst = sorted(by_class.items(), key=lambda item: item[1]["ap"])[:MAX_ROWS]
    places = np.arange(len(worst))
    for offset, name in ((-0.2, "ap"), (0.2, MISSED)):
        label = name.replace("ap", "AP")
        axes.barh(places + offset, [row[name] for _, row in worst], height=0.4, label=label)
    axes.set_yticks(places, [f"{_short(name)} ({row['actions']})" for name, row in worst], fontsize=8)
    axes.invert_yaxis()
    title = "Classes" if len(worst) == len(by_class) else f"The worst {MAX_ROWS} of {len(by_class)}"
    axes.set(title=f"{title} (and actions)", xlim=(0, 1))
    axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.06))


def _draw_calibration(axes: Axes, calibration: Mapping[str, Any]) -> None:
    bins = calibration["bins"]
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--")
    if bins:  # of an empty line that is not clipped, matplotlib takes the extent for the whole page
        axes.plot([entry["score"] for entry in bins], [entry["precision"] for entry in bins], marker="o", clip_on=False)
    axes.set(
        title=f"Calibration: off by {calibration['error']:.3f}",
        xlabel="score",
        ylabel="share that is right",
        xlim=(0, 1),
        ylim=(0, 1),
    )


def _short(name: str) -> str:
    return (name if len(name) <= 18 else f"{name[:17]}…").replace("$", r"\$")
