"""Dividing annotated videos: groups together, classes evenly, the same for the same seed."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from re2tal_hf.commands.__main__ import main
from re2tal_hf.data.annotation_records import Record
from re2tal_hf.data.annotation_set import AnnotationError
from re2tal_hf.data.annotations import read_annotations
from re2tal_hf.data.stratified_split import split_records


def records_of(counts: list[dict[str, int]]) -> list[Record]:
    """Videos with so many actions of each class."""
    records = []
    for number, of_video in enumerate(counts):
        labels: list[str | int] = [label for label, count in of_video.items() for _ in range(count)]
        segments = [(float(second), second + 0.5) for second in range(len(labels))]
        records.append(Record(f"p{number % 5}_v{number}", "", 99.0, segments, labels, [None] * len(labels)))
    return records


def drawn(videos: int, classes: int, seed: int) -> list[Record]:
    random = np.random.default_rng(seed)
    rates = random.gamma(0.5, 2, classes)
    return records_of([{f"c{k}": int(n) for k, n in enumerate(random.poisson(rates)) if n} for _ in range(videos)])


def shares(records: list[Record], subsets: list[str]) -> dict[str, float]:
    """Of the videos and of the actions of each class, what the validation has."""
    total, inside = Counter[str](), Counter[str]()
    for record, subset in zip(records, subsets, strict=True):
        counts = Counter(["videos", *map(str, record.labels)])
        total += counts
        inside += counts if subset == "validation" else Counter()
    return {name: inside[name] / count for name, count in total.items()}


def test_equal_videos_are_divided_exactly() -> None:
    records = records_of([{"a": 2, "b": 1}] * 8)
    subsets = split_records(records, {"training": 0.75, "validation": 0.25}, [r.video_id for r in records])
    assert shares(records, subsets) == {"videos": 0.25, "a": 0.25, "b": 0.25}


@pytest.mark.parametrize("seed", range(3))
def test_shares_of_uneven_classes_are_nearer_than_a_random_division_s(seed: int) -> None:
    records = drawn(60, 8, seed)
    ids = [record.video_id for record in records]
    subsets = split_records(records, {"training": 0.75, "validation": 0.25}, ids, seed)
    ours = max(abs(share - 0.25) for share in shares(records, subsets).values())
    random = np.random.default_rng(seed)
    others = []
    for _ in range(200):
        drawn_subsets = np.where(random.permutation(60) < 15, "validation", "training").tolist()
        others.append(max(abs(share - 0.25) for share in shares(records, drawn_subsets).values()))
    assert ours <= min(others)
    assert subsets == split_records(records, {"training": 0.75, "validation": 0.25}, ids, seed)


def test_a_rare_class_comes_into_every_subset() -> None:
    records = records_of([{"common": 3}] * 27 + [{"rare": 1, "common": 3}] * 3)
    three = {"training": 0.8, "validation": 0.1, "test": 0.1}
    subsets = split_records(records, three, [record.video_id for record in records])
    assert {subset for record, subset in zip(records, subsets, strict=True) if "rare" in record.labels} == set(three)
    assert Counter(subsets) == {"training": 24, "validation": 3, "test": 3}


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(AnnotationError, match="1 groups cannot be divided among 2 subsets"):
        split_records(records_of([{"a": 1}] * 4), {"training": 0.5, "validation": 0.5}, ["x"] * 4)


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    rows = [
        f"p{number % 5}_v{number}.mp4,{start},{start + 1},{label},room{number % 4}"
        for number in range(20)
        for start, label in enumerate(("kick", "punch"))
    ]
    path = tmp_path / "all.csv"
    path.write_text("\n".join(["file,start,end,label,place", *rows]) + "\n", encoding="utf-8")
    return path


def groups_by_subset(path: Path, place: str) -> dict[str, set[str]]:
    found = {}
    for subset in ("training", "validation"):
        names = [video.video_id for video in read_annotations(path, subset=subset).videos]
        numbers = [int(name.split("_v")[1].removesuffix(".mp4")) for name in names]
        found[subset] = {f"p{number % 5}" if place == "person" else f"room{number % 4}" for number in numbers}
    return found


@pytest.mark.parametrize("by", ["pattern", "column", "table", "json", "json field"])
def test_a_group_stays_together(by: str, annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, mapping, source = tmp_path / "split.json", tmp_path / "groups", annotations
    rooms = {f"p{number % 5}_v{number}": f"room{number % 4}" for number in range(20)}
    if by == "pattern":
        options = ["--group-pattern", "^(p[0-9])_"]
    elif by == "column":
        options = ["--group-column", "place"]
    elif by == "json field":
        source = tmp_path / "ours.json"
        entries = {k: {"annotations": [{"segment": [0, 1], "label": "kick"}], "place": v} for k, v in rooms.items()}
        source.write_text(json.dumps({"database": entries}))
        options = ["--group-column", "place"]
    else:
        table = "".join(f"{video};{room}\n" for video, room in rooms.items())
        mapping.write_text(json.dumps(rooms) if by == "json" else table, encoding="utf-8")
        options = ["--group-file", str(mapping)]
    assert main(["annotations", "split", str(source), "--output", str(output), *options]) == 0
    groups = groups_by_subset(output, "person" if by == "pattern" else "room")
    assert not groups["training"] & groups["validation"] and groups["validation"]
    printed = capsys.readouterr().out
    assert "groups" in printed and "  kick" in printed and "training" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--group-pattern", "("], "is no regular expression"),
        (["--group-pattern", "^q"], "finds nothing in the names 'p0_v0.mp4'"),
        (["--group-column", "room"], "there is no column 'room'; the first line has 'file'"),
        (["--group-column", "label"], "video 'p0_v0.mp4' is in the groups 'kick' and 'punch'"),
        (["--group-file", "none.csv"], "none.csv: this file of groups does not exist"),
        (["--validation", "0.6", "--test", "0.4"], "must leave some for training"),
        (["--validation", "0"], "--validation must be above 0"),
    ],
)
def test_a_mistake_is_said_and_leaves_nothing(
    options: list[str], message: str, annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "split.json"
    assert main(["annotations", "split", str(annotations), "--output", str(output), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not output.parent.exists()


def test_training_reads_files_of_other_tools_by_their_subsets(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("file,start,end,label,split\na.mp4,1,2,kick,train\nb.mp4,3,4.5,kick,val\n", encoding="utf-8")
    [video] = read_annotations(path, subset="validation").videos
    assert video.video_id == "b.mp4" and video.segments.tolist() == [[3.0, 4.5]]
    (tmp_path / "a.srt").write_text("1\n00:00:01,500 --> 00:00:03,000\nkick\n", encoding="utf-8")
    with pytest.raises(AnnotationError, match="as re2tal annotations split does"):
        read_annotations(tmp_path / "a.srt", subset="training")
