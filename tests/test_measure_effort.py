"""How the effort of annotating is counted, and that a measurement goes on where it was stopped."""

import argparse
import itertools
import json
import random
import runpy
from pathlib import Path
from typing import Any

import pytest

from re2tal_hf.training.arguments import load_recipe

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "measure_effort.py"


with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPT.parent)
    made = runpy.run_path(str(SCRIPT))


def segment(start: float, end: float, label: str = "kick", score: float = 0.9) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label, "segment": [start, end], "score": score}


def counted(truth: list, proposals: list, add: int = 3) -> dict[str, int]:
    return {name: count for name, count in made["effort"](truth, proposals, add).items() if count}


@pytest.mark.parametrize(
    ("proposals", "marks", "edits"),
    [
        ([], {"added": 1}, {"added": 1}),
        ([segment(0.5, 10)], {}, {}),
        ([segment(2, 10)], {"moved": 1}, {"moved": 1}),
        ([segment(2, 8)], {"moved": 2}, {"added": 1, "deleted": 1}),
        ([segment(0.5, 10, "hug")], {"named": 1}, {"named": 1}),
        ([segment(2, 8, "hug")], {"moved": 2, "named": 1}, {"added": 1, "deleted": 1}),
        ([segment(20, 30)], {"added": 1, "deleted": 1}, {"added": 1, "deleted": 1}),
        ([segment(2, 10), segment(0.2, 10)], {"deleted": 1}, {"deleted": 1}),
    ],
)
def test_one_segment(proposals: list, marks: dict, edits: dict):
    truth = [segment(0, 10)]
    assert counted(truth, proposals) == marks
    found = counted(truth, proposals, add=1)
    assert found == edits or sum(found.values()) == sum(edits.values())


def test_of_proposals_at_one_place_the_best_is_accepted():
    rows = [segment(0, 10, "hug", 0.8), segment(0, 9, "kick", 0.9), segment(5, 15, "hug", 0.4), segment(20, 30)]
    assert made["shown"](rows, 0.3) == [rows[1], rows[3], rows[2]]
    assert made["shown"](rows, 0.5) == [rows[1], rows[3]]


def test_the_matching_is_the_one_with_least_effort():
    draw = random.Random(0)

    def drawn(count: int) -> list:
        starts = [draw.uniform(0, 10) for _ in range(count)]
        return [segment(start, start + draw.uniform(1, 6), draw.choice(["hug", "kick"])) for start in starts]

    def cost(true: dict, proposal: dict) -> int:
        return made["moves"](proposal, true) + (true["label"] != proposal["label"])

    for _ in range(40):
        truth, proposals = drawn(3), drawn(3)
        # Each segment becomes one of the proposals or, from the third place on, is added.
        least = min(
            sum(3 if j > 2 else cost(true, proposals[j]) for true, j in zip(truth, chosen, strict=True))
            + sum(j not in chosen for j in range(3))
            for chosen in itertools.permutations(range(6), 3)
            if all(j > 2 or made["tiou"](true, proposals[j]) > 0 for true, j in zip(truth, chosen, strict=True))
        )
        assert made["total"](made["effort"](truth, proposals, 3), 3) == least


def test_the_score_comes_from_what_was_corrected_before():
    database = {"a": {"annotations": [segment(0, 4)]}}
    assert made["best_score"](database, ["a"], {"a": [segment(0, 4, score=0.9), segment(5, 9, score=0.42)]}) == 0.45
    assert made["best_score"](database, ["a"], {"a": [segment(0, 4, score=0.1)]}) == 0.1


def test_a_measurement_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entry = {"duration": 6.0, "annotations": [{"segment": [0, 4], "label": "kick"}]}
    names = {f"v{n}": {**entry, "subset": "validation" if n == 5 else "training"} for n in range(6)}
    (tmp_path / "annotations.json").write_text(json.dumps({"database": names}))
    trained: list[tuple[str, ...]] = []

    def proposed(database: dict, marked: list, *_: Any) -> dict:
        trained.append(tuple(marked))
        # Of the third video the model is least sure.
        return {name: [segment(0.1, 4, score=0.5 if name == "v2" else 0.95)] for name in database}

    monkeypatch.setitem(made["go_through"].__globals__, "proposed", proposed)
    places = {"annotations": tmp_path / "annotations.json", "results": tmp_path / "lines.jsonl", "output": tmp_path}
    options = argparse.Namespace(**places, every=2)
    made["go_through"]("uncertain", 1, options)
    assert [len(marked) for marked in trained] == [2, 4, 5]
    assert "v2" in trained[0] or trained[1][2] == "v2"
    lines = (tmp_path / "lines.jsonl").read_text().splitlines()
    (tmp_path / "lines.jsonl").write_text(lines[0] + "\n")
    before = list(trained)
    trained.clear()
    made["go_through"]("uncertain", 1, options)
    assert trained == before[1:] and (tmp_path / "lines.jsonl").read_text().splitlines() == lines
    assert json.loads(lines[0])["fixed"] == {"marks": {}, "edits": {}}
    table = made["table"]([json.loads(line) for line in lines])
    assert len(table) == 2 + 2 * 3 and "| uncertain | 0.3 | 2 | 1 | 0.00 |" in table[2]


def test_detections_that_are_stored_are_measured(tmp_path: Path):
    entry = {"subset": "validation", "annotations": [segment(0, 4), segment(5, 9, "hug")]}
    (tmp_path / "annotations.json").write_text(json.dumps({"database": {"a": entry}}))
    found = [segment(1, 4), segment(5, 9), segment(20, 22, score=0.2)]
    (tmp_path / "found.json").write_text(json.dumps({"results": {"a": found}}))
    *_, row = made["stored"]([tmp_path / "found.json"], tmp_path / "annotations.json")
    assert row.endswith("/found.json | 2 | 3.00 | 2 | 1.00 | 1 | 1 | 0 | 0 |")


def test_the_head_is_a_recipe():
    load_recipe(made["RECIPE"][1], made["RECIPE"][2:])
