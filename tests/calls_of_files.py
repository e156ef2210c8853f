"""Wrong calls: the reader, the metric, and files of detections."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from wrong_arguments import INF, NAN, Arguments, Call, anything, values, video_bytes

from re2tal_hf.data.detection_files import FORMATS, write_detections, write_submission
from re2tal_hf.metrics.tal_map.tal_map import TalMap
from re2tal_hf.video_reader import VideoReader

# The reader.


def read_frames(source: Any, times: Any, resize: Any = None, **options: Any) -> Any:
    with VideoReader(source, **options) as reader:
        return reader.frames_at(times, resize=resize)


def check_frames(found: Any, arguments: Arguments) -> None:
    assert found.dtype == torch.uint8 and found.dim() == 4 and found.shape[1] == 3
    assert len(found) == len(arguments["times"])


# Metric and files.


def rows(**change: Any) -> list[Arguments]:
    right = {"video_id": "a", "segments": [[0, 8], [9, 12]], "labels": [3, 1], "scores": [0.9, 0.7]}
    return [{name: value for name, value in (right | change).items() if value is not ...}]


COLUMNS = {
    "video_id": (..., None, "", 5, "b", b"a", ["a"], "x" * 5000, "a\nb"),
    "segments": (..., None, "0-8", [["0", "8"], ["9", "12"]], [[0, 8]], [[8, 0], [9, 12]], [[0, NAN], [1, 2]], [[0,
      None], [1, 2]],
                 [0, 8], [[0, 1, 2], [1, 2, 3]], np.array([[0, 8], [9, 12]]), [[0, 8], [9]], {"start": 0}, [[True,
                   False]] * 2,
                 [[0, 10**30], [1, 2]], [[0, 1e300], [1, 2]], [["\ud800", 1], [1, 2]], torch.zeros(2, 2)),
    "labels": (..., None, ["run", "jump"], [3], [3.0, 1.0], [None, 1], "ab", [10**30, 1], [-1, 1], [True, False],
      [[3], [1]],
               np.array([3, 1], np.uint8), np.array([2**64 - 1, 1], np.uint64), {3: 1}, [2**62, 0]),
    "scores": (..., None, [0.9], [None, 0.5], ["0.9", "0.7"], [NAN, 0.5], [INF, 0.5], 0.9, [[0.9, 0.7]], {}, [2j, 1],
      [True, False]),
}  # fmt: skip
PREDICTIONS = [
    *[
        functools.partial(lambda name, value: rows(**{name: value}), name, value)
        for name, options in COLUMNS.items()
        for value in options
    ],
    list,
    lambda: rows() + rows(),
    lambda: rows()[0],
    lambda: [None],
    lambda: {"a": rows()[0]},
    lambda: [[0, 8, 3, 0.9]],
    lambda: (row for row in rows()),
]
THRESHOLDS = values([0.5], [], [0], [50], [0.5, 0.5], 0.5, "0.5", ["0.5"], [None], [NAN], [[0.5]], {0.5}, (0.3, 0.5),
                    np.linspace(0.3, 0.7, 5), list(np.linspace(0.001, 1, 5000)), torch.tensor([0.5]))  # fmt: skip


def compute(**arguments: Any) -> Any:
    return TalMap(keep_in_memory=True, cache_dir="cache").compute(**arguments)


def check_results(results: Any, arguments: Arguments) -> None:
    assert isinstance(results["per_class"], dict)
    numbers = [value for name, value in results.items() if name.startswith(("map", "recall@", "ar_auc"))]
    assert all(isinstance(value, float) and not value > 1 + 1e-9 and not value < 0 for value in numbers), results


def detection(**change: Any) -> list[Arguments]:
    right = {"label": "jump", "score": 0.9, "start": 1.0, "end": 2.0}
    return [{name: value for name, value in (right | change).items() if value is not ...}]


DETECTIONS = [
    *[
        functools.partial(lambda name, value: detection(**{name: value}), name, value)
        for name in ("label", "score", "start", "end")
        for value in (
            ...,
            None,
            "abc",
            "",
            5,
            NAN,
            INF,
            -1,
            [1],
            "a\nb\x00",
            "\ud800",
            np.float32(1.5),
            1e300,
            b"x",
            True,
        )
    ],
    lambda: detection() + [None],
    lambda: detection()[0],
    lambda: [[1, 2]],
    list,
]


def write_and_read(detections: Any, kind: str) -> str:
    path = Path(f"found.{kind}")
    try:
        write_detections(path, detections)
    except Exception:
        assert not path.exists(), "half-written"
        raise
    return path.read_text(encoding="utf-8")


def check_file(text: str, arguments: Arguments) -> None:
    lines = text.splitlines()
    assert "NaN" not in text and "nan" not in text and "Infinity" not in text, text[:200]
    assert arguments["kind"] not in ("csv", "json") or lines


def write_all(detections: Any) -> Any:
    write_submission(Path("all.json"), detections)
    return Path("all.json").read_text(encoding="utf-8")


CALLS = {
    "reader": Call(
        read_frames,
        lambda: {"source": video_bytes(), "times": [0.0, 0.5]},
        {"source": values("no.mp4", Path("."), b"", b"no video", 5, "x\x00y"),
         "times": values([0.1], [], [NAN], [INF], "abc", ["0.5"], [[0.5]], 0.5, np.array([0.5]), [None], [1e300], [-5]),
         "size": values((16, 16), [16, 16], (16,), (0, 16), (16, -1), ("16", "16"), (1.5, 2), 16, (10**7, 10**7)),
         "backend": values("pyav", "auto", "opencv"), "num_threads": values(1, 0, -1, 2.5, 10**9, "2"),
           "name": values("a video", 5),
         "timeline": values(5), "resize": values(5, lambda frames: frames[:, :, ::2], lambda frames: None,
           lambda frames: frames[:1])},
        check_frames,
        {"source": ("video", "no.mp4", "file")},
    ),
    "metric": Call(
        compute,
        lambda: {"predictions": rows(), "references": rows(scores=...), "tiou_thresholds": [0.5]},
        {"predictions": PREDICTIONS, "references": PREDICTIONS, "tiou_thresholds": THRESHOLDS,
         "top_k": values([1, 5], 5, [0], [1.5], ["1"], [10**30], list(range(1, 10**5))),
         "max_proposals": values(10, 0, 1e9, 10**9, 10**6, 2.5, "10", np.int64(5)),
         "clean_references": values(True, "yes"), "precision_recall": values(True, "yes")},
        check_results,
        {"references": ("video",), "predictions": ("video",)},
    ),
    "file": Call(
        write_and_read,
        lambda: {"detections": detection(), "kind": "json"},
        {"detections": DETECTIONS, "kind": values(*FORMATS, "abc")},
        check_file,
        {"detections": ("label", "score", "start", "end"), "kind": ("found.abc",)},
        fixed=("kind",),
    ),
    "submission": Call(
        write_all,
        lambda: {"detections": {"v": detection()}},
        {"detections": [functools.partial(lambda rows: {"v": rows()}, rows) for rows in DETECTIONS]},
        anything,
        {"detections": ("label", "score", "start", "end")},
    ),
}  # fmt: skip
