"""What `re2tal benchmark --output` writes: JSON of what was measured and counted, a page and a picture of it."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from ..data.whole_files import written_whole
from ..training.run_record import describe_device
from ..version import __version__

# Of the bars; the table of the JSON has all rows.
SHOWN = {"rewired, plain": "0.75", "rewired, checkpoint": "tab:blue", "rewired, reversible": "tab:orange"}
PLAIN, REVERSIBLE = "rewired, plain", "rewired, reversible"
INFERENCE = "inference, any mode"
ABOVE: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
AXES = ("depth", "frames", "size", "precision")
GROWTH = {
    ("depth", "deeper"): "deeper",
    ("frames", "x4"): "frames x4",
    ("size", "x2"): "size x2",
    ("precision", "bf16"): "bf16",
}


def write_report(name: str, entries: Sequence[dict[str, Any]], device: str) -> None:
    """Writes `name.json`, `name.md` and `name.png`.

    Args:
        name: A path without ending.
        entries: Of every backbone its `backbone`, `shape` and `precision`, `rows` of modes, and what is `counted`.
        device: On which it was measured.
    """
    report = {**_circumstances(device), "backbones": list(entries)}
    with written_whole(Path(f"{name}.json")) as partial:
        partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    with written_whole(Path(f"{name}.md")) as partial:
        partial.write_text(report_page(report, Path(name).name), encoding="utf-8")
    with written_whole(Path(f"{name}.png")) as partial:
        draw_report(report).savefig(partial, format="png", dpi=110)


def entries_before(name: str, device: str) -> list[dict[str, Any]]:
    """Returns the entries that `name.json` holds, if it is of this machine and these versions.

    Raises:
        ValueError: if the file is none that `write_report` wrote.
    """
    path = Path(f"{name}.json")
    if not path.exists():
        return []
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        entries = report.pop("backbones")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no report of this command: delete it, or give another --output.") from error
    return entries if report == _circumstances(device) else []


def _circumstances(device: str) -> dict[str, Any]:
    packages = ("torch", "torchvision", "transformers", "timm")
    versions = {package: version(package) for package in packages}
    return {
        "machine": describe_device(torch.device(device)),
        "versions": {"python": platform.python_version(), "re2tal_hf": __version__, **versions},
    }


def report_page(report: dict[str, Any], name: str) -> str:
    """Returns the page, in Markdown, of a report whose picture is `name.png`."""
    first = report["backbones"][0]
    versions = ", ".join(f"{package} {number}" for package, number in report["versions"].items())
    measured = [
        f"| {entry['name']} | {entry['shape']} | "
        + " | ".join(_measured_cells(entry["rows"]))
        + f" | {entry['rows'][INFERENCE]['peak_mib']:.0f} | {entry['rows'][INFERENCE]['forward_seconds']:.2f} |"
        for entry in report["backbones"]
    ]
    counted = [f"| {entry['name']} | " + " | ".join(_counted_cells(entry)) + " |" for entry in report["backbones"]]
    return "\n".join(
        [
            "# Memory and time of every backbone",
            "",
            f"{report['machine']}; {versions}; {first['precision']}.",
            "",
            f"![Kept bytes, times, and how the kept bytes grow]({name}.png)",
            "",
            "Kept between forward and backward, in MiB; in brackets the time of a step, the library's own being 1, the",
            "median of the rounds. Then a forward pass without gradients: MiB that it adds at its peak, and seconds.",
            "",
            "| backbone | input | library's own | plain | checkpoint | reversible | fewer | inference, MiB | s |",
            "| --- " * 9 + "|",
            *measured,
            "",
            "Counted without numbers: MiB kept with all stages plain / in the leanest modes.",
            "",
            f"| backbone | as above | {' | '.join(GROWTH.values())} |",
            "| --- " * (2 + len(GROWTH)) + "|",
            *counted,
            "",
        ]
    )


def _measured_cells(rows: dict[str, dict[str, float]]) -> list[str]:
    own = next(iter(rows.values()))
    modes = [f"{rows[mode]['kept_mib']:.1f} ({rows[mode]['ratio']:.2f})" for mode in SHOWN]
    return [f"{own['kept_mib']:.1f}", *modes, f"{own['kept_mib'] / rows[REVERSIBLE]['kept_mib']:.1f}x"]


def _counted_cells(entry: dict[str, Any]) -> list[str]:
    counted = {(c["axis"], c["factor"]): c for c in entry["counted"]}
    found = [counted.get(key) for key in [("", ""), *GROWTH]]
    return ["" if c is None else f"{c['plain_mib']:.0f} / {c['leanest_mib']:.1f}" for c in found]


def draw_report(report: dict[str, Any]) -> Figure:
    """Draws kept bytes and times of every backbone, and how the kept bytes grow."""
    entries = report["backbones"]
    names = [entry["name"] for entry in entries]
    figure = Figure(figsize=(13, 2 + 0.45 * len(entries)), layout="constrained")
    kept, times, growth = figure.subplots(1, 3, width_ratios=(3, 2, 3), sharey=True)
    thickness = 0.8 / len(SHOWN)
    for index, (mode, colour) in enumerate(SHOWN.items()):
        places = [row + (index - 1) * thickness for row in range(len(entries))]
        for axes, field in ((kept, "kept_mib"), (times, "ratio")):
            values = [entry["rows"][mode][field] for entry in entries]
            bars = axes.barh(places, values, thickness, color=colour, label=mode.removeprefix("rewired, "))
            axes.bar_label(bars, fmt="%.3g", fontsize=6, padding=2)
    for axes in (kept, times):
        axes.margins(x=0.12)  # for what stands beside the bars
    kept.set(xscale="log", xlabel="kept between forward and backward, MiB", yticks=range(len(names)), yticklabels=names)
    kept.invert_yaxis()
    kept.legend(fontsize=7, ncols=3, **ABOVE)
    times.axvline(1, color="0.3", linewidth=0.8)
    times.set(xlabel="time of a step, library's = 1")
    for name, label, marker in _growth_labels(entries):
        for row, entry in enumerate(entries):
            for mode, colour in (("plain", SHOWN[PLAIN]), ("leanest", SHOWN[REVERSIBLE])):
                if (factor := _factor(entry, name, label, mode)) is not None:
                    place = row + (0.2 if mode == "leanest" else -0.2)
                    growth.plot(factor, place, marker, color=colour, markersize=6, fillstyle="none")
        growth.plot([], [], marker, color="0.3", fillstyle="none", label=f"{name} {label}")
    growth.axvline(1, color="0.3", linewidth=0.8)
    growth.set(xscale="log", xlabel="kept, changed to unchanged (grey plain, orange leanest)")
    growth.set_xticks((0.5, 1, 2, 4), labels=("0.5", "1", "2", "4"))
    growth.minorticks_off()
    growth.legend(fontsize=7, ncols=5, **ABOVE)
    first = entries[0]
    figure.suptitle(
        f"input {first['shape']}, {first['precision']}; {report['machine']}; torch {report['versions']['torch']}",
        fontsize=9,
    )
    return figure


def _growth_labels(entries: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    found = {(c["axis"], c["factor"]): None for entry in entries for c in entry["counted"] if c["axis"] in AXES}
    markers = iter("os^Dvxp*")
    for axis, factor in found:
        yield axis, factor, next(markers)


def _factor(entry: dict[str, Any], axis: str, factor: str, mode: str) -> float | None:
    counted = {(c["axis"], c["factor"]): c for c in entry["counted"]}
    changed, base = counted.get((axis, factor)), counted[("", "")]
    return None if changed is None else changed[f"{mode}_mib"] / base[f"{mode}_mib"]
