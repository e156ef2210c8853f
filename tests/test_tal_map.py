"""The metric `tal_map`: hand-computed cases, the ActivityNet rules, the reference numbers."""

import cProfile
import doctest
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "re2tal_hf" / "metrics" / "tal_map"


@pytest.fixture
def tal_map(tmp_path):
    return evaluate.load(str(FOLDER), cache_dir=str(tmp_path))


def predicted(video_id, *detections):
    """detections: (start, end, label, score)."""
    return {
        "video_id": video_id,
        "segments": [[start, end] for start, end, _, _ in detections],
        "labels": [label for _, _, label, _ in detections],
        "scores": [score for _, _, _, score in detections],
    }


def annotated(video_id, *actions):
    """actions: (start, end, label)."""
    return {
        "video_id": video_id,
        "segments": [[start, end] for start, end, _ in actions],
        "labels": [label for _, _, label in actions],
    }


def average_precisions(metric, predictions, references, thresholds, **arguments):
    """AP of each class at each threshold, and the mAP, by one call per threshold."""
    per_threshold = [
        metric.compute(predictions=predictions, references=references, tiou_thresholds=[t], **arguments)
        for t in thresholds
    ]
    classes = per_threshold[0]["per_class"]
    ap = {c: [result["per_class"][c] for result in per_threshold] for c in classes}
    return ap, [result["map"] for result in per_threshold]


# ---------------------------------------------------------------- hand-computed cases

# name, predictions, references, AP per class at tIoU 0.5
HAND_COMPUTED = [
    (
        # precision 1, 1/2, 2/3, 2/4, 2/5, 3/6: (1 + 2/3 + 1/2 + 0) / 4
        "interpolated",
        [
            predicted(
                "v",
                (0, 10, 0, 0.9),
                (80, 90, 0, 0.8),
                (20, 30, 0, 0.7),
                (81, 91, 0, 0.6),
                (82, 92, 0, 0.5),
                (40, 50, 0, 0.4),
            )
        ],
        [annotated("v", (0, 10, 0), (20, 30, 0), (40, 50, 0), (60, 70, 0))],
        {0: (1 + 2 / 3 + 1 / 2) / 4},
    ),
    (
        "a later rise of the precision counts for the earlier recall",
        [predicted("v", (80, 90, 0, 0.9), (0, 10, 0, 0.8), (20, 30, 0, 0.7))],
        [annotated("v", (0, 10, 0), (20, 30, 0))],
        {0: 2 / 3},
    ),
    (
        "a second hit on the same segment is false",
        [predicted("v", (0, 10, 0, 0.9), (0, 9, 0, 0.8), (20, 30, 0, 0.7))],
        [annotated("v", (0, 10, 0), (20, 30, 0))],
        {0: (1 + 2 / 3) / 2},
    ),
    (
        "falls through to the next best segment",
        [predicted("v", (0, 10, 0, 0.9), (1, 11, 0, 0.8))],
        [annotated("v", (0, 10, 0), (3, 13, 0))],
        {0: 1.0},
    ),
    (
        "tIoU equal to the threshold matches",
        [predicted("v", (0, 5, 0, 0.9))],
        [annotated("v", (0, 10, 0))],
        {0: 1.0},
    ),
    (
        "class without prediction",
        [predicted("v", (0, 10, 7, 0.9))],
        [annotated("v", (0, 10, 7), (20, 30, 9))],
        {7: 1.0, 9: 0.0},
    ),
    (
        "predicted class without ground truth",
        [predicted("v", (0, 10, 7, 0.5), (20, 30, 8, 0.9))],
        [annotated("v", (0, 10, 7))],
        {7: 1.0},
    ),
    (
        "unknown and unannotated videos",
        [
            predicted("unknown", (0, 10, 0, 0.9)),
            predicted("empty", (0, 10, 0, 0.8)),
            predicted("v", (0, 10, 0, 0.7)),
        ],
        [annotated("v", (0, 10, 0)), annotated("empty")],
        {0: 1 / 3},
    ),
    (
        "equal scores rank in the order given, across videos too",
        [predicted("w", (50, 60, 0, 0.5)), predicted("v", (0, 10, 0, 0.5), (20, 30, 0, 0.5))],
        [annotated("v", (0, 10, 0)), annotated("w")],
        {0: 1 / 2},
    ),
    (
        # 0-10 overlaps both by 0.9 and takes the first, leaving 1-10 to 4-10
        "ground truth overlapped equally",
        [predicted("v", (0, 10, 0, 0.9), (4, 10, 0, 0.8))],
        [annotated("v", (0, 9, 0), (1, 10, 0))],
        {0: 1.0},
    ),
    (
        "0/0 is no match",
        [predicted("v", (50, 50, 0, 0.9), (10, 5, 0, 0.8), (20, 25, 0, 0.7))],
        [annotated("v", (50, 50, 0), (20, 25, 0))],
        {0: (1 / 3) / 2},
    ),
    (
        "scores need not be probabilities",
        [predicted("v", (50, 60, 0, 12.0), (0, 10, 0, -3.0), (70, 80, 0, -math.inf))],
        [annotated("v", (0, 10, 0))],
        {0: 1 / 2},
    ),
]


@pytest.mark.parametrize(
    ("predictions", "references", "expected"),
    [case[1:] for case in HAND_COMPUTED],
    ids=[case[0] for case in HAND_COMPUTED],
)
def test_hand_computed(tal_map, predictions, references, expected):
    results = tal_map.compute(predictions=predictions, references=references, tiou_thresholds=[0.5])
    assert results["per_class"] == pytest.approx(expected, abs=1e-12)
    mean = sum(expected.values()) / len(expected)
    assert results["map"] == results["map@0.5"] == pytest.approx(mean, abs=1e-12)


def test_mean_over_thresholds_and_their_names(tal_map):
    predictions = [predicted("v", (0, 6, 3, 0.9), (0, 10, 3, 0.8))]
    references = [annotated("v", (0, 10, 3))]
    results = tal_map.compute(predictions=predictions, references=references, tiou_thresholds=np.linspace(0.3, 0.7, 5))
    assert results == {
        "map": pytest.approx(0.9),
        "map@0.3": 1.0,
        "map@0.4": 1.0,
        "map@0.5": 1.0,
        "map@0.6": 1.0,
        "map@0.7": 0.5,
        "per_class": {3: pytest.approx(0.9)},
    }
    default = tal_map.compute(predictions=predictions, references=references)
    assert list(default)[1:11] == [f"map@{t:g}" for t in np.linspace(0.5, 0.95, 10)]
    close = tal_map.compute(
        predictions=[predicted("v", (0, 6, 3, 0.9))],
        references=references,
        tiou_thresholds=[0.6, 0.6000000000000001],
    )
    assert (close["map@0.6"], close["map@0.6000000000000001"]) == (1.0, 0.0)


def test_clean_references(tal_map):
    predictions = [predicted("v", (0, 10, 0, 0.9), (0, 10, 1, 0.8))]
    references = [
        annotated(
            "v",
            *[(0, 10, 0), (0.0008, 9.9992, 0), (50, 50, 0), (60, 50, 0)],
            *[(0, 10, 1), (0.002, 9.998, 1), (90, 90, 2)],
        )
    ]
    data = {"predictions": predictions, "references": references, "tiou_thresholds": [0.5]}
    assert tal_map.compute(**data)["per_class"] == {0: 1 / 4, 1: 1 / 2, 2: 0.0}
    assert tal_map.compute(**data, clean_references=True)["per_class"] == {0: 1.0, 1: 1 / 2}


def test_recall(tal_map):
    predictions = [
        predicted("v", (0, 10, 0, 0.9), (0, 9, 0, 0.8), (20, 30, 0, 0.7), (0, 5, 1, 0.6)),
        predicted("w", (50, 60, 0, 0.95), (0, 10, 0, 0.6)),
    ]
    references = [annotated("v", (0, 10, 0), (20, 30, 0)), annotated("w", (0, 10, 0))]
    results = tal_map.compute(
        predictions=predictions,
        references=references,
        tiou_thresholds=[0.5],
        top_k=[1, 2],
        max_proposals=3,
    )
    assert results["recall@0.5@1x"] == pytest.approx(1 / 3)  # best two of v, best one of w
    assert results["recall@0.5@2x"] == 1.0
    # 6 proposals, 2 videos. AN 1, 2, 3 = a third, two thirds, all: 1 + 0, 2 + 1, 4 + 2 of them
    assert results["ar"] == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1.0})
    assert results["ar_auc"] == pytest.approx((1 / 3 + 2 / 3) / 3)


# ---------------------------------------------------------------- against a plain evaluator


def plain_average_precision(predictions, references, class_id, threshold):
    """The rules as loops over single segments, with Python's stable sort."""
    detections = [
        (score, p["video_id"], segment)
        for p in predictions
        for segment, label, score in zip(p["segments"], p["labels"], p["scores"], strict=True)
        if label == class_id
    ]
    free = {
        r["video_id"]: [s for s, n in zip(r["segments"], r["labels"], strict=True) if n == class_id] for r in references
    }
    num_references = sum(len(segments) for segments in free.values())
    precisions, hits = [], 0
    is_hit = []
    for rank, (_, video_id, (start, end)) in enumerate(sorted(detections, key=lambda d: -d[0]), 1):
        candidates = free.get(video_id, [])
        overlaps = []
        for other_start, other_end in candidates:
            inter = max(0.0, min(end, other_end) - max(start, other_start))
            overlaps.append(inter / ((end - start) + (other_end - other_start) - inter))
        is_hit.append(bool(overlaps) and max(overlaps) >= threshold)
        if is_hit[-1]:
            hits += 1
            candidates.pop(overlaps.index(max(overlaps)))
        precisions.append(hits / rank)
    total = sum(max(precisions[i:]) for i, hit in enumerate(is_hit) if hit)
    return total / num_references


@pytest.mark.parametrize("seed", range(6))
def test_equals_a_plain_evaluator(tal_map, seed):
    rng = np.random.default_rng(seed)
    predictions, references = [], []
    for video in range(8):
        starts = rng.integers(0, 20, 6)  # small integers: ties of overlaps and of scores
        actions = zip(starts, starts + rng.integers(1, 8, 6), rng.integers(0, 3, 6), strict=True)
        references.append(annotated(f"v{video}", *[tuple(map(int, a)) for a in actions]))
        starts = rng.integers(0, 20, 40)
        columns = (starts, starts + rng.integers(1, 8, 40), rng.integers(0, 3, 40))
        scores = rng.integers(0, 15, 40)
        detections = [tuple(map(int, d)) for d in zip(*columns, scores, strict=True)]
        predictions.append(predicted(f"v{video + 1}", *detections))
    thresholds = [0.25, 0.5, 0.75]
    ap, _ = average_precisions(tal_map, predictions, references, thresholds)
    jointly = tal_map.compute(predictions=predictions, references=references, tiou_thresholds=thresholds)
    for class_id in range(3):
        expected = [plain_average_precision(predictions, references, class_id, t) for t in thresholds]
        assert 0 < expected[0] < 1
        assert ap[class_id] == pytest.approx(expected, abs=1e-12)
        assert jointly["per_class"][class_id] == pytest.approx(np.mean(expected), abs=1e-12)


def test_ties_that_move_the_figure_are_said(tal_map, recwarn):
    references = [annotated("a", (0, 10, 0)), annotated("b", (0, 10, 0))]
    settings = {"references": references, "tiou_thresholds": [0.5]}
    tied = [predicted("a", (20, 30, 0, 0.5)), predicted("b", (0, 10, 0, 0.5)), predicted("c", (0, 9, 0, 0.1))]
    # The right one is first or second of its equals, and finds one of two actions.
    with pytest.warns(UserWarning, match=r"may be anything from 0.2500 to 0.5000\. Give scores with more digits"):
        found = tal_map.compute(predictions=tied, **settings)
        assert found["map"] == 0.25 and found["map_range"] == [0.25, 0.5]
    with pytest.warns(UserWarning, match="from 0.2500 to 0.5000"):
        assert tal_map.compute(predictions=tied[1::-1], **settings)["map"] == 0.5
    recwarn.clear()
    # Of other classes, both right or both wrong: no order matters.
    harmless = [
        predicted("a", (0, 10, 0, 0.5), (20, 30, 1, 0.5)),
        predicted("b", (0, 10, 0, 0.5), (50, 60, 0, 0.1), (70, 80, 0, 0.1)),
    ]
    assert tal_map.compute(predictions=harmless, **settings)["map"] == 1
    assert not [warning for warning in recwarn if "equal scores" in str(warning.message)]


# ---------------------------------------------------------------- evaluate's call forms

PREDICTIONS = [
    predicted("w", (0, 10, 0, 0.6)),
    predicted("v", (0, 8, 0, 0.9), (30, 40, 1, 0.3)),
    predicted("unknown", (0, 1, 0, 0.7)),
]
REFERENCES = [annotated("v", (0, 10, 0), (30, 41, 1)), annotated("w", (0, 10, 0))]


def test_call_forms_agree(tal_map, tmp_path):
    expected = tal_map.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert expected["map@0.5"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)

    for prediction, reference in itertools.zip_longest(PREDICTIONS, REFERENCES):
        tal_map.add(prediction=prediction, reference=reference)
    assert tal_map.compute() == expected

    tal_map.add_batch(predictions=PREDICTIONS[:1], references=REFERENCES)
    tal_map.add_batch(predictions=PREDICTIONS[1:])
    assert tal_map.compute() == expected

    tal_map.add_batch(predictions=PREDICTIONS)
    assert tal_map.compute(references=REFERENCES[::-1]) == expected

    in_memory = evaluate.load(str(FOLDER), keep_in_memory=True, cache_dir=str(tmp_path))
    assert in_memory.compute(predictions=PREDICTIONS, references=REFERENCES) == expected


def test_one_process_needs_no_table(tal_map):
    expected = tal_map.compute(predictions=PREDICTIONS, references=REFERENCES)
    arrays = [dict(row, segments=np.array(row["segments"])) for row in PREDICTIONS]
    tal_map.add_batch(predictions=arrays, references=REFERENCES)
    for row in arrays:
        row["segments"] += 100  # whose arrays they are may go on with them
    assert tal_map.compute() == expected
    assert tal_map.writer is None and tal_map.data is None
    # Nothing of it is left: neither after figures nor after an error.
    tal_map.add_batch(predictions=PREDICTIONS)
    with pytest.raises(ValueError, match="tiou_thresholds"):
        tal_map.compute(references=REFERENCES, tiou_thresholds=[2.0])
    assert tal_map.compute(references=REFERENCES)["map"] == 0.0
    with pytest.raises(ValueError, match="Bad inputs"):
        tal_map.add_batch(predictions=PREDICTIONS, sources=[])


def test_several_processes_share_evaluates_table(tal_map, tmp_path):
    expected = tal_map.compute(predictions=PREDICTIONS, references=REFERENCES)
    settings = {"num_process": 2, "experiment_id": "shared", "cache_dir": str(tmp_path)}

    def measure(number):
        metric = evaluate.load(str(FOLDER), process_id=number, **settings)
        metric.add_batch(predictions=PREDICTIONS[number::2], references=REFERENCES[number::2])
        return metric.compute()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(measure, range(2))) == [expected, None]


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_arrays_are_accepted(tal_map, convert):
    def converted(rows):
        return [{name: value if name == "video_id" else convert(value) for name, value in row.items()} for row in rows]

    results = tal_map.compute(
        predictions=[*converted(PREDICTIONS), predicted("none")],
        references=converted(REFERENCES),
    )
    assert results == tal_map.compute(predictions=PREDICTIONS, references=REFERENCES)


def test_nothing_to_measure(tal_map):
    arguments = {"tiou_thresholds": [0.5], "top_k": [1], "max_proposals": 2}
    zero = {"map": 0.0, "map@0.5": 0.0, "recall@0.5@1x": 0.0, "ar": {1: 0.0, 2: 0.0}, "ar_auc": 0.0}
    for none in ([], [predicted("v")]):
        results = tal_map.compute(predictions=none, references=REFERENCES, **arguments)
        assert results == {**zero, "per_class": {0: 0.0, 1: 0.0}}
    for predictions, references in (
        (PREDICTIONS, []),
        (PREDICTIONS, [annotated("v")]),
        ([], []),
    ):
        results = tal_map.compute(predictions=predictions, references=references, **arguments)
        assert results.pop("per_class") == {}
        assert all(math.isnan(value) for value in results.pop("ar").values())
        assert results.keys() == {"map", "map@0.5", "recall@0.5@1x", "ar_auc"}
        assert all(math.isnan(value) for value in results.values())


def test_nan_score_ranks_first_with_a_warning(tal_map):
    predictions = [
        predicted("v", (0, 10, 0, 0.9)),
        predicted("diverged", (50, 60, 0, math.nan)),
    ]
    with pytest.warns(UserWarning, match="1 predictions .* NaN .* video 'diverged'"):
        results = tal_map.compute(
            predictions=predictions, references=[annotated("v", (0, 10, 0))], tiou_thresholds=[0.5]
        )
    assert results["map"] == 0.5


GOOD = {"video_id": "v1", "segments": [[0, 1], [2, 3]], "labels": [0, 1], "scores": [0.1, 0.2]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_id": 3}, r"predictions\[0\]: video_id must be a non-empty str, got 3"),
        ({"video_id": ""}, r"predictions\[0\]: video_id must be a non-empty str"),
        ({"scores": [0.1]}, "predictions of video 'v1': 2 segments but 1 scores"),
        ({"labels": [0, 1, 2]}, "predictions of video 'v1': 2 segments but 3 labels"),
        ({"labels": [0.0, 1.0]}, "predictions of video 'v1': labels must be integers"),
        ({"labels": ["run", "jump"]}, "predictions of video 'v1': labels must be integers"),
        ({"segments": [0, 1]}, r"'v1': segments must be numbers of shape \[N, 2\], got .* \[2\]"),
        ({"segments": [[0, 1, 2]]}, r"'v1': segments must be numbers of shape \[N, 2\]"),
        ({"segments": [[0, 1], [2]]}, "'v1': segments must be a list or a CPU array"),
        ({"segments": [[0, 1], [2, math.nan]]}, r"segments must be finite seconds, got \[2.0, nan"),
        ({"segments": None}, "'v1': segments must be numbers"),
        ({"scores": [[0.1, 0.2]]}, r"'v1': scores must be numbers of shape \[N\]"),
        ({"scores": None}, r"'v1': scores must be numbers of shape \[N\], got None"),
        ({"segments": [["0", "1"], ["2", "3"]]}, "'v1': segments must be numbers"),
        ({"segments": [[0, 1], [2, 1e300]]}, "segments must be finite seconds, got .*1e.300"),
        ({"labels": np.array([2**64 - 1, 0], np.uint64)}, r"labels must be below 2\*\*63"),
        ({"video_id": "a\ud800"}, "no text that can be stored"),
    ],
)
def test_bad_predictions_are_named(tal_map, change, message):
    with pytest.raises(ValueError, match=message):
        tal_map.compute(predictions=[GOOD | change], references=REFERENCES)
    # nothing of the refused batch is kept
    assert tal_map.compute(predictions=[], references=REFERENCES)["map"] == 0.0


def test_bad_rows_are_named(tal_map):
    incomplete = {name: GOOD[name] for name in ("video_id", "segments")}
    with pytest.raises(ValueError, match="references of video 'v1': field 'labels' is missing"):
        tal_map.add_batch(references=[incomplete])
    with pytest.raises(ValueError, match=r"predictions\[1\] must be a dict, got list"):
        tal_map.add_batch(predictions=[GOOD, [0, 1]])
    with pytest.raises(ValueError, match="references hold video 'v' twice"):
        tal_map.compute(predictions=PREDICTIONS, references=[*REFERENCES, annotated("v")])
    tal_map.add_batch(predictions=PREDICTIONS)
    with pytest.raises(ValueError, match="predictions hold video 'w' twice"):
        tal_map.compute(predictions=PREDICTIONS[:1], references=REFERENCES)
    assert tal_map.compute(predictions=PREDICTIONS, references=REFERENCES)["map"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tiou_thresholds": []}, "tiou_thresholds"),
        ({"tiou_thresholds": 0.5}, "tiou_thresholds"),
        ({"tiou_thresholds": [0.0, 0.5]}, "tiou_thresholds"),
        ({"tiou_thresholds": [0.5, 30]}, "tiou_thresholds"),
        ({"tiou_thresholds": [0.5, 0.5]}, "tiou_thresholds"),
        ({"top_k": [1, 0]}, "top_k"),
        ({"max_proposals": 0}, "max_proposals"),
        ({"max_proposals": 1.5}, "max_proposals"),
        ({"max_proposals": 10**9}, "max_proposals must be integers from 1 to 100000, got 1000000000"),
        ({"max_proposals": "10"}, "max_proposals"),
        ({"top_k": 5}, "top_k"),
        ({"top_k": [10**30]}, "top_k"),
        ({"tiou_thresholds": ["0.5"]}, "tiou_thresholds"),
        ({"tiou_thresholds": None}, "tiou_thresholds"),
        ({"tiou_thresholds": np.linspace(0.001, 1, 5000)}, "tiou_thresholds .* up to 1000, got float64 of shape"),
        ({"clean_references": "yes"}, "clean_references must be True or False, got 'yes'"),
    ],
)
def test_bad_arguments_are_named(tal_map, arguments, message):
    with pytest.raises(ValueError, match=message):
        tal_map.compute(predictions=PREDICTIONS, references=REFERENCES, **arguments)


@pytest.mark.parametrize("rows", ["rows", {"v": 1}, 5, np.zeros((2, 2))])
def test_what_is_no_list_is_named(tal_map, rows):
    with pytest.raises(ValueError, match="predictions must be a list of one dict per video"):
        tal_map.compute(predictions=rows, references=REFERENCES)


def test_lists_without_a_common_video_are_told(tal_map):
    predictions = [GOOD | {"video_id": "videos/v.mp4"}]
    with pytest.warns(UserWarning, match="No video is in both lists.*'videos/v.mp4'.*'v'"):
        assert tal_map.compute(predictions=predictions, references=[annotated("v", (0, 1, 0))])["map"] == 0.0


def test_what_would_take_all_memory_is_refused(tal_map):
    many = 15_000
    row = {"video_id": "v", "segments": np.tile([0.0, 1.0], (many, 1)), "labels": np.zeros(many, int)}
    with pytest.raises(ValueError, match="of one video are 15000 and 15000; .*keep the best predictions"):
        tal_map.compute(predictions=[row | {"scores": np.ones(many)}], references=[row])
    with pytest.raises(ValueError, match="max_proposals must be at most 8947 with 15000 segments annotated"):
        tal_map.compute(predictions=[GOOD], references=[row, annotated("v1")], max_proposals=10_000)


# ---------------------------------------------------------------- the module on its own

WITHOUT_THE_PACKAGE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "re2tal_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
try:
    import re2tal_hf
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the package is not hidden")

import evaluate

metric = evaluate.load(sys.argv[1])
results = metric.compute(
    predictions=[{"video_id": "v", "segments": [[0, 8]], "labels": [2], "scores": [0.5]}],
    references=[{"video_id": "v", "segments": [[0, 10]], "labels": [2]}],
    tiou_thresholds=[0.5, 0.9],
)
assert results == {"map": 0.5, "map@0.5": 1.0, "map@0.9": 0.0, "per_class": {2: 0.5}}, results
"""


@pytest.mark.training
def test_loads_by_path_where_the_package_is_absent(tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "tal_map", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, str(folder)],
        cwd=tmp_path,
        env=environment | {"HF_HOME": str(tmp_path / "home"), "HF_EVALUATE_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_documented_examples(tal_map, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {"evaluate": evaluate}
    for title, text in (
        ("README", (FOLDER / "README.md").read_text(encoding="utf-8")),
        ("inputs", tal_map.inputs_description),
    ):
        examples = doctest.DocTestParser().get_doctest(text.replace("```", ""), dict(names), title, title, 0)
        assert len(examples.examples) >= 4
        report = []
        outcome = doctest.DocTestRunner(verbose=False).run(examples, out=report.append)
        assert outcome.failed == 0, "".join(report)


def test_the_work_grows_with_the_predictions_alone(tal_map):
    rng = np.random.default_rng(0)
    predictions, references = [], []
    for video in range(42):
        starts = rng.uniform(0, 180, 15)
        segments = np.stack([starts, starts + rng.uniform(1, 6, 15)], axis=1)
        labels = rng.integers(0, 20, 2)[rng.integers(0, 2, 15)]
        references.append({"video_id": f"v{video}", "segments": segments, "labels": labels})
        source = rng.integers(0, 15, 2000)
        predictions.append(
            {
                "video_id": f"v{video}",
                "segments": segments[source] + rng.normal(0, 0.5, (2000, 2)),
                "labels": np.where(rng.random(2000) < 0.6, labels[source], rng.integers(20)),
                "scores": rng.random(2000),
            }
        )
    with cProfile.Profile() as profile:
        results = tal_map.compute(
            predictions=predictions, references=references, tiou_thresholds=[0.3, 0.4, 0.5, 0.6, 0.7]
        )
    calls = sum(function.callcount for function in profile.getstats())
    assert calls < 3 * 42 * 2000  # a loop over segments or thresholds, too, would make fifteen or five times as many
    assert 0 < results["map"] < 1


# ---------------------------------------------------------------- the reference numbers


def from_activitynet(case, blocked=()):
    """A case in the ActivityNet form as predictions, references and the class ids by name."""
    database = case["ground_truth"]["database"]
    class_ids = {name: number for number, name in enumerate("abcdef")}
    references = [
        annotated(
            video_id,
            *[(*map(float, a["segment"]), class_ids[a["label"]]) for a in video["annotations"]],
        )
        for video_id, video in database.items()
        if video["subset"] == "validation" and video_id not in blocked
    ]
    predictions = [
        predicted(
            video_id,
            *[(*map(float, d["segment"]), class_ids[d["label"]], d["score"]) for d in detections],
        )
        for video_id, detections in case["predictions"]["results"].items()
        if video_id not in blocked
    ]
    return predictions, references, class_ids


def expected_of(case, reference):
    """We follow `first in file first`: detections come best first, so among equals the order
    given carries the information; the toolkit's `last` is only what an unstable sort happens to
    do on short lists."""
    key = "expected_first_in_file_first" if case["tie_dependent"] else "expected"
    return case[key][reference]


NO_CLASS = "the toolkit stops with KeyError at a predicted class without ground truth"
ZERO_BY_ZERO = "the toolkit takes the NaN of 0/0 for a match"
# Where the default does not give the toolkit's number: what it gives, and why.
PARTS_FROM_TOOLKIT = {
    "prediction_class_without_gt_high_id": ("opentad", NO_CLASS),
    "prediction_class_without_gt_collides": ("opentad", NO_CLASS),
    "no_gt_in_subset": ("opentad", NO_CLASS),
    "pred_reversed_union_zero": ("opentad", ZERO_BY_ZERO),
    # both segments count, the one of no length is never found: precision 1/2 at recall 1/2
    "gt_zero_length_hit_by_zero_length_pred": ({"a": [0.25]}, ZERO_BY_ZERO),
    "gt_zero_length_elsewhere_hit_by_zero_length_pred": ({"a": [0.25]}, ZERO_BY_ZERO),
}


@pytest.fixture(scope="module")
def micro_map(metric_goldens):
    cases = json.loads((metric_goldens / "micro_map.json").read_text())
    assert len(cases) == 42
    return cases


def assert_case(case, ap, mean, expected_ap, class_ids):
    assert set(ap) == {class_ids[name] for name in expected_ap}, case["name"]
    for name, values in expected_ap.items():
        assert ap[class_ids[name]] == pytest.approx(values, abs=1e-12), case["name"]
    if expected_ap:
        expected_mean = np.mean(list(expected_ap.values()), axis=0)
        assert mean == pytest.approx(expected_mean, abs=1e-12), case["name"]
    else:
        assert all(math.isnan(value) for value in mean), case["name"]


@pytest.mark.filterwarnings("ignore:1 predictions have the score NaN")
def test_micro_map_by_default_is_the_toolkit(tal_map, micro_map):
    for case in micro_map:
        follow, _ = PARTS_FROM_TOOLKIT.get(case["name"], ("official", ""))
        expected_ap = follow if isinstance(follow, dict) else expected_of(case, follow)["ap"]
        predictions, references, class_ids = from_activitynet(case)
        ap, mean = average_precisions(tal_map, predictions, references, case["tiou_thresholds"])
        assert_case(case, ap, mean, expected_ap, class_ids)


@pytest.mark.filterwarnings("ignore:1 predictions have the score NaN")
def test_micro_map_cleaned_is_opentad(tal_map, micro_map):
    for case in micro_map:
        expected = expected_of(case, "opentad")
        # leaving out blocked videos is the caller's part
        data = from_activitynet(case, blocked=case.get("blocked_videos", ()))
        predictions, references, class_ids = data
        arguments = {"clean_references": True}
        ap, mean = average_precisions(tal_map, predictions, references, case["tiou_thresholds"], **arguments)
        assert_case(case, ap, mean, expected["ap"], class_ids)
        for t, row in zip(case["tiou_thresholds"], expected["mRecall_topk"], strict=True):
            results = tal_map.compute(
                predictions=predictions,
                references=references,
                tiou_thresholds=[t],
                top_k=case["top_k"],
                **arguments,
            )
            recall = [results[f"recall@{t:g}@{k}x"] for k in case["top_k"]]
            row = [math.nan if value is None else value for value in row]
            assert recall == pytest.approx(row, abs=1e-12, nan_ok=True), case["name"]


def test_micro_recall(tal_map, metric_goldens):
    cases = json.loads((metric_goldens / "micro_recall.json").read_text())
    assert len(cases) == 11
    for case in cases:
        predictions, references, _ = from_activitynet(case)
        thresholds, most = case["tiou_thresholds"], case["max_avg_nr_proposals"]
        data = {"predictions": predictions, "references": references, "max_proposals": most}

        opentad = expected_of(case, "opentad")
        results = tal_map.compute(**data, tiou_thresholds=thresholds, clean_references=True)
        assert list(results["ar"]) == list(range(1, most + 1))
        curve = list(results["ar"].values())
        assert curve == pytest.approx(opentad["avg_recall"], abs=1e-12), case["name"]
        assert results["ar_auc"] == pytest.approx(opentad["metrics"]["AUC"], abs=1e-12)
        for k in case["topk"]:
            assert results["ar"][k] == pytest.approx(opentad["metrics"][f"AR@{k}"], abs=1e-12)
        for t, row in zip(thresholds, opentad["recall"], strict=True):
            one = tal_map.compute(**data, tiou_thresholds=[t], clean_references=True)
            assert list(one["ar"].values()) == pytest.approx(row, abs=1e-12), case["name"]

        # The toolkit always draws 100 points; ours has one per whole AN, as OpenTAD's. The last
        # point is common to both, the whole curve where there are 100.
        official = expected_of(case, "official")
        results = tal_map.compute(**data, tiou_thresholds=thresholds)
        assert results["ar"][most] == pytest.approx(official["avg_recall_last"], abs=1e-12)
        if most == official["n_points"]:
            assert results["ar_auc"] == pytest.approx(official["AUC"], abs=1e-12)


@pytest.fixture(scope="module")
def thumos_style(metric_goldens):
    return dict(np.load(metric_goldens / "thumos_style_clean.npz"))


def rows_of(data, side, videos):
    """Rows of one side ("gt" or "pred") by video, in file order."""
    rows = []
    for number, video_id in enumerate(data[f"{side}_video_names"]):
        own = np.flatnonzero(data[f"{side}_video"] == number)
        row = {
            "video_id": str(video_id),
            "segments": np.stack([data[f"{side}_start"][own], data[f"{side}_end"][own]], axis=1),
            "labels": data[f"{side}_class"][own],
        }
        if side == "pred":
            row["scores"] = data["pred_score"][own]
        if videos[number]:
            rows.append(row)
    return rows


@pytest.fixture(scope="module")
def thumos_style_rows(thumos_style):
    data = thumos_style
    references = rows_of(data, "gt", data["gt_video_subset"] == "validation")
    predictions = rows_of(data, "pred", np.ones(len(data["pred_video_names"]), bool))
    return {"predictions": predictions, "references": references}


@pytest.mark.parametrize("clean_references", [False, True])
def test_thumos_style(tal_map, thumos_style, thumos_style_rows, clean_references):
    thresholds, top_k = thumos_style["tiou_thresholds"], thumos_style["top_k"].tolist()
    arguments = {"clean_references": clean_references, "top_k": top_k}
    per_threshold = [tal_map.compute(**thumos_style_rows, tiou_thresholds=[t], **arguments) for t in thresholds]
    jointly = tal_map.compute(**thumos_style_rows, tiou_thresholds=thresholds, **arguments)
    ap = np.array([list(results["per_class"].values()) for results in per_threshold])
    mean = [jointly[f"map@{t:g}"] for t in thresholds]
    recall = [[jointly[f"recall@{t:g}@{k}x"] for k in top_k] for t in thresholds]
    for reference in ("official", "opentad", "actionformer"):
        class_ids = thumos_style[f"{reference}/class_ids"]
        order = np.argsort(class_ids)
        assert list(jointly["per_class"]) == class_ids[order].tolist()
        expected = {name: thumos_style[f"{reference}/{name}"] for name in ("ap", "mAP", "avg_mAP")}
        np.testing.assert_allclose(ap, expected["ap"][:, order], atol=1e-9, rtol=0)
        np.testing.assert_allclose(mean, expected["mAP"], atol=1e-9, rtol=0)
        assert jointly["map"] == pytest.approx(float(expected["avg_mAP"]), abs=1e-9)
        if reference != "official":
            expected_recall = thumos_style[f"{reference}/topk_mRecall"]
            np.testing.assert_allclose(recall, expected_recall, atol=1e-9, rtol=0)


@pytest.mark.parametrize("max_proposals", [50, 100])
@pytest.mark.parametrize(
    ("name", "thresholds"), [("a10", np.linspace(0.5, 0.95, 10)), ("a11", np.linspace(0.5, 1, 11))]
)
def test_thumos_style_average_recall(tal_map, thumos_style, thumos_style_rows, name, thresholds, max_proposals):
    results = tal_map.compute(**thumos_style_rows, tiou_thresholds=thresholds, max_proposals=max_proposals)
    expected = {
        key.rsplit("/", 1)[1]: value
        for key, value in thumos_style.items()
        if key.startswith(f"ar/{name}/max{max_proposals}/opentad/")
    }
    np.testing.assert_allclose(list(results["ar"]), expected["proposals_per_video"], atol=1e-9)
    np.testing.assert_allclose(list(results["ar"].values()), expected["avg_recall"], atol=1e-9, rtol=0)
    assert results["ar_auc"] == pytest.approx(float(expected["auc"]), abs=1e-9)
    for row in (0, len(thresholds) - 1):
        one = tal_map.compute(**thumos_style_rows, tiou_thresholds=[thresholds[row]], max_proposals=max_proposals)
        np.testing.assert_allclose(list(one["ar"].values()), expected["recall"][row], atol=1e-9, rtol=0)
