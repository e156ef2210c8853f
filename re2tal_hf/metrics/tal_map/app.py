"""The page of the metric's Space: two JSON files in; mAP table, precision-recall curves and diagnosis out.

`tal_map.py` and `diagnosis.py` beside this file do all the measuring; here their input is read and their result shown.
"""

import functools
import html
import io
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import pandas as pd
from diagnosis import KINDS, by_video, diagnose, match
from diagnosis_figure import MISSED, draw_diagnosis
from gradio.helpers import Examples
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from json_files import MAX_FILE_BYTES, InputError, Label, Row, read_annotations, read_detections
from tal_map import TalMap, checked_rows, segment_tables
from uploads_only import UploadsOnly

FOLDER = Path(__file__).resolve().parent
MAX_THRESHOLDS = 50
# Precision-recall curves, one for each class and threshold: what a page can hold and draw.
MAX_CURVES = 20_000
ALL_SUBSETS = "all"
MEAN = "mean over the classes"
THRESHOLD_PRESETS = [("ActivityNet: 0.5:0.05:0.95", "0.5:0.05:0.95"), ("THUMOS-14: 0.3:0.1:0.7", "0.3:0.1:0.7")]
PLOTTED_RECALLS = np.linspace(0, 1, 101)
# From low to high thresholds; each is legible on white and on near-black.
CURVE_COLORS = (
    *("#3b82f6", "#6d6bf0", "#8b5cf6", "#a855d8", "#c04fc0"),
    *("#d946a0", "#e8477e", "#f0555a", "#f07238", "#f59e0b"),
)
INTRODUCTION = """\
# tal_map: mAP of temporal action localization

Drop an annotation file and a detection file and read the mean average precision under the ActivityNet rules: per
temporal IoU (tIoU) threshold, per class, and as precision-recall curves.
"""
FORMS = """\
Times are in seconds; labels are names, or integers in both files. Either file may have either form.

Annotations, as in ActivityNet or as `evaluate` takes them:

```json
{"database": {"v1": {"subset": "validation", "annotations": [{"segment": [10, 20], "label": "run"}]}}}
```
```json
[{"video_id": "v1", "segments": [[10, 20]], "labels": ["run"]}]
```

Detections, likewise:

```json
{"results": {"v1": [{"segment": [11, 20], "label": "run", "score": 0.9}]}}
```
```json
[{"video_id": "v1", "segments": [[11, 20]], "labels": ["run"], "scores": [0.9]}]
```

Every annotated video of the chosen subset counts; a detection in any other video is a false positive. Thresholds are
a range `first:step:last` or a list `0.5, 0.75`. The numbers are fractions: 0.5 is 50 %.
"""


KINDS_OF_ERRORS = """\
The first that fits, as in DETAD (ECCV 2018): a **double detection** overlaps an action of its class that a better one
finds; a **wrong label** overlaps one of another class enough; of a **localization** error an action of its class is
near (tIoU of 0.1 and more), of a **confusion** one of another class; **background** has nothing near. A kind costs what
the mAP would rise by without its detections; missed actions, what it would rise by without them.
"""


class Measurement(NamedTuple):
    """What the metric says of two files.

    Attributes:
        results: The metric's own result, curves included, by class id.
        class_names: Label of class 0, 1, ...
        num_segments: Ground-truth segments by class id.
        summary: What was measured, one line of Markdown.
    """

    results: dict[str, Any]
    class_names: list[Label]
    num_segments: Counter[int]
    summary: str


class Inputs(NamedTuple):
    """What is measured.

    Attributes:
        references: Annotated videos of the subset, labels as class ids.
        predictions: The detections, likewise.
        class_names: Label of class 0, 1, ...; those that are annotated first.
        thresholds: Temporal IoU.
        summary: One line of Markdown.
    """

    references: list[Row]
    predictions: list[Row]
    class_names: list[Label]
    thresholds: list[float]
    summary: str


def read_inputs(annotation_path: str, detection_path: str, subset: str, thresholds: str) -> Inputs:
    """Reads two files.

    Args:
        annotation_path: JSON file of the ground truth.
        detection_path: JSON file of the detections.
        subset: One of the file's subsets, or "all".
        thresholds: As `parse_thresholds` reads them.

    Raises:
        InputError: If one of them cannot be used.
    """
    tiou_thresholds = parse_thresholds(thresholds)
    annotations, detections = read_annotations(annotation_path), read_detections(detection_path)
    references = _subset(annotations, subset, Path(annotation_path).name)
    if not any(row["labels"] for row in references):
        raise InputError(f"{Path(annotation_path).name}: subset {subset!r} has no annotated segment; choose another")
    class_ids = _class_ids(sorted(_labels(annotations)), detections, Path(detection_path).name)
    if (curves := len(class_ids) * len(tiou_thresholds)) > MAX_CURVES:
        raise InputError(
            f"{len(class_ids):,} classes at {len(tiou_thresholds)} tIoU thresholds make {curves:,} curves, and the "
            f"page takes {MAX_CURVES:,}; choose fewer thresholds, or measure in Python with evaluate.load"
        )
    sides: dict[str, list[Row]] = {}
    for path, name, rows in (
        (annotation_path, "references", references),
        (detection_path, "predictions", detections),
    ):
        numbered = [row | {"labels": [class_ids[label] for label in row["labels"]]} for row in rows]
        try:
            checked = checked_rows(numbered, name)
        except ValueError as error:  # the metric names the video and the field
            raise InputError(f"{Path(path).name}: {error}") from error
        sides[name] = [row | fields for row, fields in zip(numbered, checked, strict=True)]
    summary = _summary(references, detections)
    return Inputs(**sides, class_names=list(class_ids), thresholds=tiou_thresholds, summary=summary)


def measure(inputs: Inputs) -> Measurement:
    """Runs the metric."""
    metric = TalMap(keep_in_memory=True)
    results = metric.compute(
        predictions=inputs.predictions,
        references=inputs.references,
        tiou_thresholds=inputs.thresholds,
        precision_recall=True,
    )
    num_segments = Counter(int(label) for row in inputs.references for label in row["labels"])
    summary = inputs.summary
    if "map_range" in results:
        low, high = results["map_range"]
        summary += f" **Equal scores leave the mAP to the order of the detections: {low:.4f} to {high:.4f}.**"
    return Measurement(results, inputs.class_names, num_segments, summary)


def diagnosed(inputs: Inputs) -> dict[str, Any]:
    """What is wrong with the detections: the figures of `diagnose`, and those of each annotated video."""
    tables = segment_tables(inputs.predictions, inputs.references)
    matching = match(tables.predictions, tables.scores, tables.references, np.array(inputs.thresholds))
    durations = {row["video_id"]: row.get("duration") for row in inputs.references}
    names = [str(label) for label in inputs.class_names]
    figures = diagnose(matching, names, [durations.get(video_id) for video_id in tables.video_ids])
    return figures | {"per_video": by_video(matching, tables.video_ids)}


def kind_table(figures: dict[str, Any]) -> pd.DataFrame:
    """What each kind of errors costs in mAP, and its share of as many of the best detections as there are actions."""
    shares = {name: figures["kinds"][name][0] for name in KINDS[1:]}
    rows = [(name, figures["cost"][name], share) for name, share in shares.items()]
    missed = (f"{MISSED} (share of the actions)", figures["cost"][MISSED], figures["missed"])
    return pd.DataFrame([*rows, missed], columns=["kind", "costs mAP", "share of the best"]).round(4)


def parse_thresholds(text: str) -> list[float]:
    """Reads tIoU thresholds: a range `first:step:last`, both ends included, or a list with commas.

    Raises:
        InputError: If the text is neither, or a threshold lies outside (0, 1].
    """
    fix = f'write "0.3:0.1:0.7" or "0.5, 0.75": at most {MAX_THRESHOLDS} different numbers above 0 and up to 1'
    try:
        parts = [float(part) for part in text.replace(":", ",").split(",")]
        thresholds = _range(*parts) if ":" in text else parts
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"tIoU thresholds {text!r}: {fix}") from error
    in_range = all(0 < threshold <= 1 for threshold in thresholds)
    if not in_range or not 0 < len(set(thresholds)) == len(thresholds) <= MAX_THRESHOLDS:
        raise InputError(f"tIoU thresholds {text!r}: {fix}")
    return thresholds


def _range(first: float, step: float, last: float) -> list[float]:
    count = round((last - first) / step) + 1
    if not 0 < count <= MAX_THRESHOLDS or not math.isclose(first + (count - 1) * step, last, abs_tol=1e-6):
        raise ValueError(f"{first} to {last} is not 1 to {MAX_THRESHOLDS} whole steps of {step}")
    return np.linspace(first, last, count).tolist()


def subset_choices(annotations: list[Row], detections: list[Row]) -> tuple[list[str], str]:
    """The subsets of a file, and the one that most detected videos are of ("all" if there are none)."""
    detected = {row["video_id"] for row in detections}
    subsets = sorted({row["subset"] for row in annotations} - {""})
    counts = Counter(row["subset"] for row in annotations if row["subset"] and row["video_id"] in detected)
    return [ALL_SUBSETS, *subsets], counts.most_common(1)[0][0] if counts else ALL_SUBSETS


def map_table(measurement: Measurement) -> pd.DataFrame:
    """The mAP by threshold, their mean last."""
    results = measurement.results
    rows = [(name, results[f"map@{name}"]) for name in results["precision_recall"]]
    return pd.DataFrame([*rows, ("average", results["map"])], columns=["tIoU", "mAP"]).round(4)


def class_table(measurement: Measurement) -> pd.DataFrame:
    """AP by class and threshold, and its mean over the thresholds."""
    curves = measurement.results["precision_recall"]
    rows = [
        [
            str(measurement.class_names[c]),
            measurement.num_segments[c],
            *(by_class[c]["ap"] for by_class in curves.values()),
            ap,
        ]
        for c, ap in measurement.results["per_class"].items()
    ]
    return pd.DataFrame(rows, columns=["class", "segments", *curves, "average"]).round(4)


def csv_table(measurement: Measurement) -> str:
    """Both tables as one: the classes, then the mAP."""
    classes = class_table(measurement)
    means = map_table(measurement)["mAP"].tolist()
    classes["class"] = [spreadsheet_cell(name) for name in classes["class"]]
    classes.loc[len(classes)] = ["mAP", sum(measurement.num_segments.values()), *means]
    # With the other line ending a carriage return in a label would begin a new row.
    return classes.to_csv(index=False, lineterminator="\r\n")


def spreadsheet_cell(text: str) -> str:
    """A text that spreadsheets show and do not run: what would begin a formula, seen or not, gets an apostrophe."""
    seen = (c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c)[0] not in "CZ")
    starts = ("=", "+", "-", "@", "\N{MINUS SIGN}")
    return f"'{text}" if next(seen, "") in starts or text.startswith(("\t", "\r", "\n")) else text


def plotted_curves(measurement: Measurement) -> dict[str, dict[str, list[float]]]:
    """Interpolated precision at 101 recalls: class -> threshold -> precision, the mean over the classes first.

    Interpolated precision exists at every recall (0 beyond the last one reached), so the classes can be averaged.
    """
    curves = measurement.results["precision_recall"]
    sampled = {
        str(measurement.class_names[c]): {
            name: _precision_at(PLOTTED_RECALLS, by_class[c]).tolist() for name, by_class in curves.items()
        }
        for c in measurement.results["per_class"]
    }
    mean = {name: np.mean([by_name[name] for by_name in sampled.values()], axis=0).tolist() for name in curves}
    # A class may have that name too.
    return {MEAN: mean} | {f"{name} (class)" if name == MEAN else name: curve for name, curve in sampled.items()}


def curve_plot(curves: dict[str, dict[str, list[float]]], class_name: str) -> tuple[gr.LinePlot, str]:
    """The curves of one class, a line per threshold, and their legend as HTML."""
    names = list(curves[class_name])
    frames = [
        pd.DataFrame(
            {
                "recall": np.repeat(PLOTTED_RECALLS, 2)[1:-1].round(2),  # steps: two points where one ends
                "precision": np.repeat(precision[1:], 2).round(4),
                "tIoU": f"tIoU {name}",
            }
        )
        for name, precision in curves[class_name].items()
    ]
    spread = np.linspace(0, len(CURVE_COLORS) - 1, len(names)).round().astype(int)
    colors = [CURVE_COLORS[position] for position in spread]
    keys = "&ensp; ".join(
        f'<span style="white-space: nowrap"><span style="color: {color}">&#9632;</span> {name}</span>'
        for name, color in zip(names, colors, strict=True)
    )
    color_map = {f"tIoU {name}": color for name, color in zip(names, colors, strict=True)}
    return gr.LinePlot(pd.concat(frames), color_map=color_map), f"tIoU&ensp; {keys}"


def _precision_at(recalls: np.ndarray, curve: dict[str, list[float]]) -> np.ndarray:
    steps = np.array([*curve["precision"], 0.0])
    return steps[np.searchsorted(curve["recall"], recalls - 1e-9)]


def _labels(rows: Iterable[Row]) -> set[Label]:
    return {label for row in rows for label in row["labels"]}


def _class_ids(class_names: list[Label], detections: list[Row], name: str) -> dict[Label, int]:
    """Class ids of all labels; integers without ground truth get new ones, names must be annotated."""
    unknown = sorted(_labels(detections) - set(class_names), key=str)
    refused = unknown if any(isinstance(label, str) for label in [*class_names, *unknown]) else []
    if refused:
        row = next(row for row in detections if refused[0] in row["labels"])
        known = ", ".join(repr(label) for label in class_names[:8]) + (", ..." if len(class_names) > 8 else "")
        raise InputError(
            f"{name}, video {row['video_id']!r}: label {refused[0]!r} is none of the annotation file's ({known}); "
            f"rename it or leave it out{f'; so are {len(refused) - 1} others' if len(refused) > 1 else ''}"
        )
    return {label: class_id for class_id, label in enumerate([*class_names, *unknown])}


def _subset(annotations: list[Row], subset: str, name: str) -> list[Row]:
    if subset == ALL_SUBSETS:
        return annotations
    rows = [row for row in annotations if row["subset"] == subset]
    if not rows:
        known, _ = subset_choices(annotations, [])
        raise InputError(f"{name}: no video of subset {subset!r}; it has {', '.join(map(repr, known))}")
    return rows


def _summary(references: list[Row], detections: list[Row]) -> str:
    annotated = {row["video_id"] for row in references}
    outside = sum(len(row["labels"]) for row in detections if row["video_id"] not in annotated)
    text = (
        f"{sum(len(row['labels']) for row in references):,} segments of {len(_labels(references))} classes in "
        f"{len(references):,} videos; {sum(len(row['labels']) for row in detections):,} detections"
    )
    if outside:
        text += f", **{outside:,} of them in videos that are not of this subset** (they count as false positives)"
    return f"{text}."


def _shown(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, its `InputError` a message on the page."""

    @functools.wraps(function)
    def showing(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except InputError as error:
            message = html.escape(str(error), quote=False)  # the page shows messages as HTML
            raise gr.Error(message, duration=None, print_exception=False) from error

    return showing


@_shown
def show_measurement(annotation_path: str | None, detection_path: str | None, subset: str, thresholds: str) -> tuple:
    """What the page shows of two files; see `measure`."""
    measurement = measure(_given(annotation_path, detection_path, subset, thresholds))
    csv_path = save_bytes_to_cache(csv_table(measurement).encode("utf-8-sig"), "tal_map.csv", get_upload_folder())
    tables = [table.style.format(precision=4) for table in (map_table(measurement), class_table(measurement))]
    return measurement.summary, *tables, csv_path, plotted_curves(measurement)


@_shown
def show_diagnosis(annotation_path: str | None, detection_path: str | None, subset: str, thresholds: str) -> tuple:
    """A picture, a table and all figures as JSON; see `diagnosed`."""
    figures = diagnosed(_given(annotation_path, detection_path, subset, thresholds))
    picture = io.BytesIO()
    draw_diagnosis(figures).savefig(picture, format="png")
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    files = [("diagnosis.png", picture.getvalue()), ("diagnosis.json", text.encode("utf-8"))]
    paths = [save_bytes_to_cache(content, name, get_upload_folder()) for name, content in files]
    return paths[0], kind_table(figures).style.format(precision=4), paths[1]


def _given(annotation_path: str | None, detection_path: str | None, subset: str, thresholds: str) -> Inputs:
    if annotation_path is None or detection_path is None:
        kind = "annotation" if annotation_path is None else "detection"
        raise InputError(f"There is no {kind} file yet; drop one, or click an example.")
    return read_inputs(annotation_path, detection_path, subset or ALL_SUBSETS, thresholds or "")


@_shown
def show_subsets(annotation_path: str | None, detection_path: str | None) -> gr.Dropdown:
    """The choice of subsets, as soon as there are annotations."""
    if annotation_path is None:
        return gr.Dropdown(choices=[ALL_SUBSETS], value=ALL_SUBSETS)
    annotations = read_annotations(annotation_path)
    choices, value = subset_choices(annotations, read_detections(detection_path) if detection_path else [])
    return gr.Dropdown(choices=choices, value=value)


def show_curves(curves: dict[str, dict[str, list[float]]]) -> tuple:
    """Everything measured, with the mean curve first; the diagnosis of what was there before goes."""
    return (
        gr.Column(visible=True),
        gr.Column(visible=False),
        gr.Dropdown(choices=list(curves), value=MEAN),
        *curve_plot(curves, MEAN),
    )


class Report(NamedTuple):
    """The components of the result, hidden until there is one."""

    column: gr.Column
    summary: gr.Markdown
    maps: gr.Dataframe
    class_name: gr.Dropdown
    plot: gr.LinePlot
    legend: gr.HTML
    classes: gr.Dataframe
    csv_file: gr.DownloadButton
    diagnose: gr.Button
    diagnosis: gr.Column
    picture: gr.Image
    kinds: gr.Dataframe
    json_file: gr.DownloadButton


def _report() -> Report:
    with gr.Column(visible=False) as column:
        summary = gr.Markdown(label="Summary")
        with gr.Row():
            with gr.Column(scale=1, min_width=240):
                maps = gr.Dataframe(label="mAP", interactive=False)
            with gr.Column(scale=3, min_width=320):
                class_name = gr.Dropdown(label="Precision-recall curves of")
                plot = gr.LinePlot(
                    x="recall",
                    y="precision",
                    color="tIoU",
                    y_title="interpolated precision",
                    x_lim=[0, 1],
                    y_lim=[0, 1],
                    x_axis_format=".2~f",
                    colors_in_legend=[],  # the plot's own legend is cut off where it does not fit
                    height=320,
                    show_label=False,
                )
                legend = gr.HTML()
        classes = gr.Dataframe(label="AP by class and tIoU threshold", interactive=False, pinned_columns=1)
        csv_file = gr.DownloadButton("Download the table (CSV)", size="md")
        button = gr.Button("What is wrong with the detections?")
        with gr.Column(visible=False) as diagnosis:
            picture = gr.Image(label="Diagnosis", show_label=False, type="filepath", format="png", interactive=False)
            kinds = gr.Dataframe(label="What each kind of errors costs", interactive=False)
            gr.Markdown(KINDS_OF_ERRORS)
            json_file = gr.DownloadButton("Download all figures (JSON)", size="md")
    measured = (column, summary, maps, class_name, plot, legend, classes, csv_file)
    return Report(*measured, button, diagnosis, picture, kinds, json_file)


def _file_inputs() -> list[gr.File]:
    with gr.Row():
        return [
            gr.File(label=f"{kind} (JSON)", file_types=[".json"], height=140) for kind in ("Annotations", "Detections")
        ]


def _setting_inputs() -> list[gr.Dropdown]:
    typed: dict[str, Any] = {"allow_custom_value": True, "min_width": 280}
    with gr.Row():
        return [
            gr.Dropdown([ALL_SUBSETS], value=ALL_SUBSETS, label="Subset", info="Of the annotations", **typed),
            gr.Dropdown(
                THRESHOLD_PRESETS,
                value=THRESHOLD_PRESETS[0][1],
                label="tIoU thresholds",
                info="Pick, or type 0.3:0.1:0.7 or 0.5, 0.75",
                **typed,
            ),
        ]


def _examples(inputs: list[Any]) -> Examples:
    files = [str(FOLDER / f"example_{kind}.json") for kind in ("annotations", "detections")]
    return gr.Examples(
        [[*files, "validation", preset] for _, preset in THRESHOLD_PRESETS],
        inputs,
        label="Examples: one click measures them",
        example_labels=[f"kitchen, thresholds of {name.partition(':')[0]}" for name, _ in THRESHOLD_PRESETS],
        api_visibility="private",
    )


def build_page() -> UploadsOnly:
    """The page with its two public endpoints, `/measure` and `/diagnose`."""
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    with UploadsOnly(title="tal_map", delete_cache=(600, 3600)) as page:
        gr.Markdown(INTRODUCTION)
        files = _file_inputs()
        subset, thresholds = _setting_inputs()
        inputs = [*files, subset, thresholds]
        button = gr.Button("Measure", variant="primary")
        examples = _examples(inputs)
        report = _report()
        with gr.Accordion("What the files look like", open=False):
            gr.Markdown(FORMS)

        curves = gr.State(time_to_live=3600)
        plotted = [report.plot, report.legend]
        outputs = [report.summary, report.maps, report.classes, report.csv_file, curves]
        shown = [report.column, report.diagnosis, report.class_name, *plotted]
        for file in files:
            gr.on([file.upload, file.clear], show_subsets, files, subset, **private)
        report.class_name.input(curve_plot, [curves, report.class_name], plotted, **private)
        for event in (
            button.click(show_measurement, inputs, outputs, api_name="measure"),
            examples.load_input_event.success(show_measurement, inputs, outputs, api_visibility="private"),
        ):
            event.success(show_curves, curves, shown, **private)
            event.failure(lambda: gr.Column(visible=False), None, report.column, **private)
        report.diagnose.click(
            show_diagnosis, inputs, [report.picture, report.kinds, report.json_file], api_name="diagnose"
        ).success(lambda: gr.Column(visible=True), None, report.diagnosis, **private)
    page.queue(default_concurrency_limit=2, max_size=32)
    return page


if __name__ == "__main__":
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    build_page().serve(max_file_size=2 * MAX_FILE_BYTES, ssr_mode=False, theme=theme)
