"""Annotations of every form that is read, detections, video scores and files of names, each with something wrong."""

from __future__ import annotations

import functools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from mutations import Case

from re2tal_hf.commands.evaluate import read_video_scores
from re2tal_hf.data.annotation_set import AnnotationSet
from re2tal_hf.data.annotations import read_annotations, read_label_names
from re2tal_hf.data.subsets import check_actions

LABELS = ["kick", "high jump", "Föhn", "漢字"]
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 3.5, -0.0, 1e300, -1e300, 10**40, math.nan, math.inf, 1.7e9, 1e-320),
    *(
        "",
        " ",
        "\n",
        "kick ",
        "Kick",
        "k\u200bick",
        "kick\xa0",
        "\ud800",
        "x" * 5000,
        "a\nb\nc",
        "1",
        "-1",
        "nan",
        "true",
    ),
    *("1:02:03.5", "02:03", "62.5s", "1:75", "12,5", "0:0:0:0", "9" * 50, "../../x", "/etc/passwd", "a\0b", "v0.mp4"),
    *([], {}, [None], [[]], [0], [0, 1], ["0", "1"], [1, 0], [2, 2], {"a": 1}, {"0": {"start": 0}}, [[0, 1], [2, 3]]),
    *("training", "validation", "train/v0", "[v0]", "*", "."),
]
ODD_KEYS = [
    "",
    "Label",
    "lable",
    "segments",
    "label ",
    "database",
    "results",
    "annotations",
    "v0",
    "V0",
    "v0.mp4",
    "x" * 400,
    "x" * 4000,
    "a\nb",
]
ODD_BYTES = [
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"{",
    b"]",
    b'"',
    b",",
    b"\r\n\r\n",
    b"NaN",
    b"1e999",
    b"\\ud800",
    b"<",
    b"#",
]
OTHER_FILES = [
    b"",
    b" \n",
    b"video,start,end,label\nv0,1,2,kick\n",
    b"<?xml version='1.0'?><a/>",
    b"database:\n  v0: {}\n",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    b"PK\x03\x04" + bytes(40),
    b"[" * 200_000,
    b'{"a":' * 50_000,
    b"9" * 6000,
    b"null",
    b"3.5",
    b'"text"',
    b"true",
    bytes(range(256)),
    "\ufeff{}".encode("utf-16"),
]
CARDS = [
    "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '**'\n",
    "configs:\n- config_name: a\n  data_files: '*/*'\n- config_name: b\n  data_dir: train\n",
    "configs:\n- config_name: default\n  data_files:\n    train: x/*\n",
    "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '**'\ndataset_info:\n  features: 3\n",
    "configs:\n- data_files: 3\n",
    "configs:\n- 3\n",
    "configs: {}\n",
    "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: ../../*\n",
]
ENDINGS = [".json", ".jsonl", ".csv", ".txt", ".xml", ".eaf", ".yaml", ".srt", ".zip", "", ".JSON", ".parquet"]


def mutate(draw: random.Random, folder: Path) -> Case:
    """Draws a form, and something that is wrong with it."""
    forms = [activitynet, activitynet, multithumos, table, table, detections, submission, label_names, video_scores]
    return draw.choice(forms)(draw, folder)


def activitynet(draw: random.Random, folder: Path) -> Case:
    entries = {
        f"v{number}": {
            "subset": draw.choice(["training", "validation"]),
            "duration": 60.0,
            "annotations": [
                {"segment": _segment(draw), "label": (label := draw.choice(LABELS)), "label_id": LABELS.index(label)}
                for _ in range(draw.randint(0, 4))
            ],
        }
        for number in range(draw.randint(1, 5))
    }
    content = {"version": "1.3", "taxonomy": [], "database": entries} if draw.random() < 0.8 else entries
    return _file_case(draw, folder, "annotations.json", content)


def multithumos(draw: random.Random, folder: Path) -> Case:
    entries = {
        f"v{number}": {
            "subset": draw.choice(["training", "testing"]),
            "duration": 60.0,
            "actions": [[draw.randint(1, 4), *_segment(draw)] for _ in range(draw.randint(0, 4))],
        }
        for number in range(draw.randint(1, 5))
    }
    return _file_case(draw, folder, "multithumos.json", entries)


def detections(draw: random.Random, folder: Path) -> Case:
    return _file_case(draw, folder, "match.json", _detected(draw, ("start", "end")))


def submission(draw: random.Random, folder: Path) -> Case:
    results = {f"v{number}": _detected(draw, None) for number in range(draw.randint(1, 4))}
    return _file_case(
        draw, folder, "detections.json", {"version": "VERSION 1.3", "external_data": {}, "results": results}
    )


def table(draw: random.Random, folder: Path) -> Case:
    """A folder of videos with metadata."""
    root = folder / draw.choice(["set", "set [1]", "s*t", "té", "train"])
    notes = []
    for split in draw.choice([[""], ["train", "validation"], ["[a]", "b"], ["train/x", "test"]]):
        (root / split).mkdir(parents=True, exist_ok=True)
        rows = []
        for number in range(draw.randint(1, 4)):
            (root / split / f"v{number}.mp4").touch()
            actions = [{"segment": _segment(draw), "label": draw.choice(LABELS)} for _ in range(draw.randint(1, 3))]
            rows.append({"file_name": f"v{number}.mp4", "duration": 60.0, "annotations": actions})
        if draw.random() < 0.1:
            for action in (action for row in rows for action in row["annotations"]):
                action["segment"] = [str(time) for time in action["segment"]]
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), root / split / "metadata.parquet")
            notes.append(_spoil_file(draw, root / split / "metadata.parquet"))
            continue
        notes.append(_change(draw, rows))
        text = "\n".join(_dumps(draw, row) for row in rows)
        (root / split / "metadata.jsonl").write_bytes(text.encode("utf-8", "surrogatepass"))
        notes.append(_spoil_file(draw, root / split / "metadata.jsonl"))
    if draw.random() < 0.08:
        card = draw.choice(CARDS)
        notes.append(card)
        (root / "README.md").write_text(f"---\n{card}---\n")
    for name, content in {
        "metadata.csv": "file_name\n",
        "metadata.parquet": "PAR1",
        "README.md": draw.choice(
            ["---\nconfigs: [\n---\n", "---\nconfigs: 3\n---\n", "---\n- a\n---\n", "\udcff", "# x"]
        ),
        ".cache/metadata.jsonl": "{",
    }.items():
        if draw.random() < 0.06 and not (root / name).is_dir():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(content.encode("utf-8", "surrogateescape"))
            notes.append(name)
    return _read_case(draw, root, notes, {})


def label_names(draw: random.Random, folder: Path) -> Case:
    names = draw.sample(
        [*LABELS, "kick ", "Kick", "", "\ufeffkick", "[", '{"a": 1}', "\0", "x" * 3000], draw.randint(0, 6)
    )
    path = folder / "classes.txt"
    path.write_text("\n".join(names), encoding=draw.choice(["utf-8", "utf-8-sig", "utf-16", "utf-8"]))
    note = _spoil_file(draw, path) if draw.random() < 0.5 else ""

    def check(found: Any) -> None:
        assert found and all(isinstance(name, str) and name == name.strip() and name for name in found), found
        assert len(set(found)) == len(found), found

    return Case(f"names {names!r} {note}", lambda: read_label_names(path), ("classes.txt",), check)


def video_scores(draw: random.Random, folder: Path) -> Case:
    content = {f"v{number}": {label: draw.random() for label in LABELS} for number in range(3)}
    path = folder / "scores.json"
    note = _write(draw, path, content)

    def check(found: Any) -> None:
        assert found and isinstance(found, dict), found
        for by_label in found.values():
            assert by_label and set(by_label) <= set(LABELS), by_label
            assert all(isinstance(score, float) and 0 <= score < math.inf for score in by_label.values()), by_label

    return Case(f"scores {note}", lambda: read_video_scores(str(path), LABELS), ("scores.json",), check)


def _file_case(draw: random.Random, folder: Path, name: str, content: Any) -> Case:
    path = folder / name
    notes = [_write(draw, path, content)]
    settings: dict[str, Any] = {}
    if draw.random() < 0.3:
        videos = folder / "videos"
        for place in draw.sample(
            [
                "v0.mp4",
                "v_v1.mkv",
                "a/v2.mp4",
                "b/v2.mp4",
                ".git/v3.mp4",
                "x.mp4/y.mp4",
                "match.mp4",
                "v0.avi",
                "[v1].mp4",
            ],
            5,
        ):
            if not (videos / place).parent.is_file():
                (videos / place).parent.mkdir(parents=True, exist_ok=True)
                (videos / place).touch()
        settings["video_folder"] = videos
    return _read_case(draw, path, notes, settings)


def _read_case(draw: random.Random, source: Path, notes: list[str], settings: dict[str, Any]) -> Case:
    """Reads annotations, with one or two settings, most of them right."""
    some = {
        "subset": ["training", "train", "validation", "Test", "none", "", " training ", "x" * 2000, 3, ["training"]],
        "repair": [False],
        "point_width": [1, 0.5, 0, -1, math.nan, "1", 1e9],
        "points": ["middle", "start", "end", 1, True],
        "label_names": [
            LABELS,
            ["kick"],
            [*LABELS, "kick"],
            [str(number) for number in range(1, 5)],
            "kick",
            [1],
            3,
            [],
        ],
        "first_label_id": [1, 0, -1, "1", 1.5],
        "max_lost": [1.0, 0.0, math.nan, -1, "all", 2],
    }
    for name in draw.sample(sorted(some), draw.randint(0, 2)):
        settings[name] = draw.choice(some[name])

    def run() -> Any:
        found = read_annotations(source, **settings)
        if draw.random() < 0.3:
            check_actions(found, f"{settings.get('subset')} of {source}")
        return found

    description = f"{source.name}, {settings}, {'; '.join(filter(None, notes))}"
    names = (source.name, "metadata", *settings, *(["videos"] if "video_folder" in settings else []))
    return Case(description[:2000], run, names, functools.partial(_check_set, repaired=settings.get("repair", True)))


def _check_set(found: AnnotationSet, repaired: bool) -> None:
    names = found.label_names
    assert len(set(names)) == len(names) and all(isinstance(name, str) and name.strip() == name for name in names), (
        names
    )
    assert found.videos and len({video.video_id for video in found.videos}) == len(found.videos)
    for video in found.videos:
        assert isinstance(video.video_id, str) and video.video_id.strip() and isinstance(video.subset, str), video
        assert video.duration is None or 0 < video.duration < math.inf, video
        assert video.segments.dtype == np.float64 and video.segments.shape == (len(video.labels), 2), video
        assert np.isfinite(video.segments).all() and all(0 <= label < len(names) for label in video.labels), video
        if repaired:
            assert (video.segments[:, 0] < video.segments[:, 1]).all() and (video.segments >= 0).all(), video
            assert video.duration is None or (video.segments <= video.duration).all(), video


def _segment(draw: random.Random) -> list[Any]:
    start = round(draw.uniform(0, 50), 2)
    end = round(start + draw.uniform(0.1, 9), 2)
    return [start, end] if draw.random() < 0.9 else [str(start), f"0:00:{end:05.2f}"]


def _detected(draw: random.Random, keys: tuple[str, str] | None) -> list[dict[str, Any]]:
    rows = []
    for _ in range(draw.randint(1, 5)):
        segment = _segment(draw)
        times = dict(zip(keys, segment, strict=True)) if keys else {"segment": segment}
        rows.append({"label": draw.choice(LABELS), "score": draw.random(), **times})
    return rows


def _write(draw: random.Random, path: Path, content: Any) -> str:
    """Writes a value as JSON, changed in itself or as a file; says how."""
    holder = [content]
    note = _change(draw, holder)
    text = _dumps(draw, holder[0]) if len(holder) == 1 else _dumps(draw, holder)
    encoding = draw.choice(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "utf-16-be", "latin-1", "utf-32"])
    path.write_bytes(text.encode(encoding, "backslashreplace" if encoding == "latin-1" else "surrogatepass"))
    return f"{note} {encoding if encoding != 'utf-8' else ''} {_spoil_file(draw, path) if draw.random() < 0.4 else ''}"


def _dumps(draw: random.Random, value: Any) -> str:
    return json.dumps(value, ensure_ascii=draw.random() < 0.5)


def _change(draw: random.Random, value: list[Any]) -> str:
    """Changes a value one or more times, however deep; says how."""
    return "; ".join(_change_once(draw, value) for _ in range(draw.choice([0, 1, 1, 1, 2, 3])))


def _change_once(draw: random.Random, value: list[Any]) -> str:
    place: Any = value
    path: list[Any] = []
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return ""
        key = draw.choice(keys)
        if not (isinstance(place[key], dict | list) and place[key]) or draw.random() < 0.15:
            break
        place, path = place[key], [*path, key]
    changes: list[Callable[[], str]] = [
        lambda: _put(place, key, draw.choice(ODD_VALUES)),
        lambda: _put(place, key, draw.choice(ODD_VALUES)),
        lambda: _put(place, key, [place[key]]),
        lambda: _put(place, key, {"x": place[key]}),
        lambda: _put(place, key, str(place[key])),
        lambda: f"without {place.pop(key)!r:.40}",
    ]
    if isinstance(place, dict):
        changes.append(lambda: _put(place, draw.choice(ODD_KEYS), place.pop(key)))
        changes.append(lambda: _put(place, draw.choice(ODD_KEYS), place[key]))
    elif isinstance(place[key], int | float):
        changes += [lambda: _put(place, key, place[key] * draw.choice([-1, 0, 30, 1000, 1e6]))] * 2
    return f"{path}: {draw.choice(changes)()}"


def _put(place: Any, key: Any, value: Any) -> str:
    place[key] = value
    return f"{key!r:.40} = {value!r:.60}"


def _spoil_file(draw: random.Random, path: Path) -> str:
    """Changes a file as such, or leaves it; says how."""
    content = path.read_bytes()
    at = draw.randrange(len(content) + 1)
    kind = draw.choice(["none", "none", "none", "cut", "insert", "flip", "twice", "other", "folder", "gone"])
    if kind == "cut":
        content = content[:at]
    elif kind == "insert":
        content = content[:at] + draw.choice(ODD_BYTES) + content[at:]
    elif kind == "flip" and content:
        content = content[: at - 1] + bytes([draw.randrange(256)]) + content[at:]
    elif kind == "twice":
        content += content
    elif kind == "other":
        content = draw.choice(OTHER_FILES)
    if kind in ("folder", "gone"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
    else:
        path.write_bytes(content)
    return kind if kind != "none" else ""
