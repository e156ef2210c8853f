"""Detections as files, whatever their labels are."""

import codecs
import csv
import io
import json
import re
import unicodedata
from pathlib import Path

import pytest
from hostile_names import HOSTILE_LABELS

from re2tal_hf.data.detection_files import FORMATS, spreadsheet_cell, to_csv, to_json, to_srt, to_vtt, write_detections
from re2tal_hf.training.timeline import draw_timeline

BOUNCE = {"label": "Bounce", "score": 0.75, "start": 1.5, "end": 3.25}
SWAY = {"label": "Sway <b>&\n-->", "score": 0.5, "start": 0.25, "end": 3661.0}


def test_json_keeps_the_order_and_csv_is_in_order_of_time() -> None:
    assert json.loads(to_json([BOUNCE, SWAY])) == [BOUNCE, SWAY]
    rows = list(csv.DictReader(io.StringIO(to_csv([BOUNCE, {**SWAY, "start": 0.25000000001}]))))
    assert rows[0] == {"start": "0.25", "end": "3661.0", "label": SWAY["label"], "score": "0.5"}
    assert [row["label"] for row in rows] == [SWAY["label"], "Bounce"]
    with pytest.raises(ValueError, match=r"detections\[0\].score is nan; it must be finite"):
        to_json([{**BOUNCE, "score": float("nan")}])


def test_subtitles_survive_any_label() -> None:
    srt, vtt = to_srt([BOUNCE, SWAY]), to_vtt([BOUNCE, SWAY])
    assert srt.split("\n\n")[0] == "1\n00:00:00,250 --> 01:01:01,000\nSway <b>& -> (0.50)"
    assert srt.split("\n\n")[1].startswith("2\n00:00:01,500 --> 00:00:03,250\nBounce (0.75)")
    assert vtt.startswith("WEBVTT\n\n00:00:00.250 --> 01:01:01.000\nSway &lt;b&gt;&amp; -&gt; (0.50)\n\n")
    assert vtt.count("-->") == srt.count("-->") == 2


def test_points_are_written_as_they_are_and_seen_for_a_second() -> None:
    point = {"label": "Goal", "score": 0.75, "start": 2.5, "end": 2.5}
    assert json.loads(to_json([point])) == [point] and "2.5,2.5,Goal" in to_csv([point])
    assert "00:00:02,500 --> 00:00:03,500" in to_srt([point]) and "00:00:02.500 --> 00:00:03.500" in to_vtt([point])


@pytest.mark.parametrize("label", HOSTILE_LABELS, ids=lambda label: repr(label)[:20])
def test_every_label_is_written_and_none_is_a_formula(tmp_path: Path, label: str) -> None:
    rows = [{**BOUNCE, "label": label}, SWAY]
    for kind in FORMATS:
        write_detections(tmp_path / f"x.{kind}", rows)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))[0]["label"] == label
    assert (tmp_path / "x.csv").read_bytes().startswith(codecs.BOM_UTF8)
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8-sig") as file:
        cell = list(csv.DictReader(file))[1]["label"]
    if label != "\ud800":
        assert cell.removeprefix("'") == label
    shown = unicodedata.normalize("NFKC", cell)
    assert not re.match(r"[\s\0-\x1f\u200b\ufeff]*[-=+@\u2212]", shown)
    assert (tmp_path / "x.srt").read_text(encoding="utf-8").count("\n\n") == 1
    assert (tmp_path / "x.vtt").read_text(encoding="utf-8").count("\n\n") == 2


@pytest.mark.parametrize(
    "label", ["CliffDiving", "high jump", "a=b", "a-b", "3+4", "caf\u00e9", "it's", "a@b.c", "_x", "#1"]
)
def test_ordinary_labels_stay_as_they_are(label: str) -> None:
    assert spreadsheet_cell(label) == label


def test_every_label_and_title_is_drawn(tmp_path: Path) -> None:
    rows = [{**BOUNCE, "label": label} for label in ["\ud800", "a\nb", "\0", "$x_{$"]]
    draw_timeline(rows, duration=4, title="\udcff\n\u202e").savefig(tmp_path / "x.png", dpi=20)
