"""The curves of a run, as pictures for its page."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..data.html_page import data_address
from ..metrics.tal_map.diagnosis import Matching
from ..metrics.tal_map.diagnosis_figure import draw_confusion, draw_costs
from ..metrics.tal_map.tal_map import precision_recall_curves

# More lines cannot be told apart.
MAX_LINES = 10
# At which curves of precision and recall are drawn, or at the nearest.
USUAL_TIOU = 0.5


def pictures(
    log: Sequence[Mapping[str, Any]],
    matching: Matching,
    figures: Mapping[str, Any],
    label_names: Sequence[str],
    criteria: Sequence[str],
) -> list[tuple[str, str]]:
    """Returns the pictures of a run, each with what it shows.

    Args:
        log: An entry for each epoch.
        matching: Of the detections of its model.
        figures: Of their diagnosis.
        label_names: By class id.
        criteria: Names of the thresholds of the matching.
    """
    place = int(abs(matching.thresholds - USUAL_TIOU).argmin())
    return [
        ("Loss by epoch", _drawn(lambda axes: _draw_log(axes, log, _losses(log)))),
        ("mAP by epoch", _drawn(lambda axes: _draw_log(axes, log, ["map"]))),
        (
            "Precision and recall",
            _drawn(lambda axes: _draw_precision(axes, matching, place, label_names, criteria[place])),
        ),
        (
            "Confusion matrix",
            _drawn(lambda axes: draw_confusion(axes, figures["confusion_matrix"], criteria[0])),
        ),
        ("What errors cost", _drawn(lambda axes: _draw_costs(axes, figures["cost"]))),
    ]


def _losses(log: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in ("loss", "classification", "regression", "distillation") if any(name in e for e in log)]


def _drawn(draw: Callable[[Axes], None]) -> str:
    figure = Figure(figsize=(5.2, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.add_subplot())
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return data_address(content.getvalue(), "png")


def _draw_costs(axes: Axes, costs: Mapping[str, float]) -> None:
    draw_costs(axes, costs, {})
    axes.locator_params(axis="x", nbins=5)


def _draw_log(axes: Axes, log: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    for name in names:
        found = [(entry["epoch"], entry[name]) for entry in log if name in entry]
        marker = "o" if len(found) < 30 else None
        axes.plot([x for x, _ in found], [y for _, y in found], marker=marker, label=name.replace("map", "mAP"))
    axes.set(xlabel="epoch")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_precision(axes: Axes, matching: Matching, place: int, label_names: Sequence[str], criterion: str) -> None:
    """Of many classes the most frequent."""
    labels, truth = matching.predictions.labels, matching.references.labels
    curves = precision_recall_curves(matching.matched[place : place + 1] >= 0, labels, truth)
    frequent = sorted(curves, key=lambda label: -(truth == label).sum())[:MAX_LINES]
    for label in frequent:
        [curve] = curves[label]
        name = label_names[label] if len(label_names[label]) <= 18 else f"{label_names[label][:17]}…"
        name = f"{name} {curve.average_precision:.2f}".replace("$", r"\$")
        # Of a class of which nothing is found only the name is there.
        first = [0.0][: len(curve.recall)]
        axes.step([*first, *curve.recall], [*curve.precision[:1], *curve.precision], where="pre", label=name)
    more = f", {MAX_LINES} of {len(curves)} classes" if len(curves) > MAX_LINES else ""
    axes.set(
        xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02),
        title=f"{criterion}{more}",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
