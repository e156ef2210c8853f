"""Mean average precision of temporal action localization, as a Hugging Face `evaluate` module.

`evaluate.load` copies this one file, so it imports nothing of the package around it. The rules are
those of the ActivityNet evaluation toolkit (github.com/activitynet/ActivityNet, `Evaluation`); the
README beside this file states them, with the places where we part from it.
"""

import reprlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import datasets
import evaluate
import numpy as np

ACTIVITYNET_TIOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
DUPLICATE_TOLERANCE = 1e-3  # seconds
TIE_TOLERANCE = 1e-3  # of an mAP; what rounding of many scores moves is less
# What is asked for beyond these takes memory and time without an end; published settings are far below.
MAX_SETTINGS = 1000  # thresholds, or multiples of top_k
MAX_PROPOSALS = 100_000
MAX_SECONDS = 1e12
MAX_PAIRS = 2**20  # overlaps computed at once
MAX_OVERLAPS = 2**27  # 1 GiB: predictions times ground truth of one video, or max_proposals times all ground truth

_DESCRIPTION = """\
Mean average precision (mAP) of temporal action localization under the rules of the ActivityNet
evaluation toolkit: per temporal IoU threshold, averaged over the thresholds, and per class.
Optionally recall@kx per class and class-agnostic average recall (AR@AN).
"""

_CITATION = """\
@inproceedings{caba2015activitynet,
  title     = {{ActivityNet}: A Large-Scale Video Benchmark for Human Activity Understanding},
  author    = {Caba Heilbron, Fabian and Escorcia, Victor and Ghanem, Bernard and
               Niebles, Juan Carlos},
  booktitle = {CVPR},
  year      = {2015}
}
"""

_INPUTS = """
Args:
    predictions (`list` of `dict`): one per video, in any order and number: `video_id` (`str`),
        `segments` ([N, 2] start and end in seconds), `labels` ([N] integer class ids) and
        `scores` ([N]).
    references (`list` of `dict`): one per video, those without any action included: `video_id`,
        `segments`, `labels`.
    tiou_thresholds (`list` of `float`, *optional*): in (0, 1], compared as given, by `>=`.
        Default: `numpy.linspace(0.5, 0.95, 10)`.
    clean_references (`bool`, *optional*): leave out ground truth without a positive length and
        repetitions of a segment within 1 ms in the same class. Default: `False`.
    top_k (`list` of `int`, *optional*): also return recall@kx for each k.
    max_proposals (`int`, *optional*): also return AR@AN for AN = 1 ... max_proposals, at most 100000.
    precision_recall (`bool`, *optional*): also return the curves. Default: `False`.

Returns:
    `dict`: `map` (mean over the thresholds), `map@<threshold>` each, `per_class` (class id -> mean
    AP over the thresholds); where equal scores leave the mAP to the order of the lists, `map_range`, its
    smallest and its largest value; with `top_k` `recall@<threshold>@<k>x`; with `max_proposals` `ar`
    (AN -> average recall) and `ar_auc` (the area under it, divided by max_proposals); with
    `precision_recall` `precision_recall`: threshold name -> class id -> `recall`, `precision` (a
    point per true positive, best first; precision interpolated) and `ap`, the area under them.

Example:
    >>> import evaluate
    >>> tal_map = evaluate.load("re2tal_hf/metrics/tal_map")
    >>> segments = [[0, 8], [20, 30]]
    >>> predictions = [
    ...     {"video_id": "a", "segments": segments, "labels": [3, 3], "scores": [0.9, 0.7]}
    ... ]
    >>> references = [{"video_id": "a", "segments": [[0, 10]], "labels": [3]}]
    >>> tal_map.compute(
    ...     predictions=predictions, references=references, tiou_thresholds=[0.5, 0.9]
    ... )
    {'map': 0.5, 'map@0.5': 1.0, 'map@0.9': 0.0, 'per_class': {3: 0.5}}
"""
__test__ = {"example": _INPUTS}  # for doctest, which reads no other strings

_FEATURES = datasets.Features(
    {
        "predictions": {
            "video_id": datasets.Value("string"),
            "segments": datasets.List(datasets.List(datasets.Value("float64"))),
            "labels": datasets.List(datasets.Value("int64")),
            "scores": datasets.List(datasets.Value("float64")),
        },
        "references": {
            "video_id": datasets.Value("string"),
            "segments": datasets.List(datasets.List(datasets.Value("float64"))),
            "labels": datasets.List(datasets.Value("int64")),
        },
    }
)
# A row of evaluate's table holds one prediction and one reference. The two lists are joined by
# video_id and not by position, so the shorter one is filled up with rows that name no video.
_FILLER = {"video_id": "", "segments": [], "labels": [], "scores": []}


class TalMap(evaluate.Metric):
    """Mean average precision over temporal IoU thresholds; see the README beside this file."""

    # What one process has added. evaluate's table takes longer to write and to read than all of it to measure.
    _added: dict[str, list[dict[str, Any]]] | None = None

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=_FEATURES,
            license="Apache-2.0",
            reference_urls=["https://github.com/activitynet/ActivityNet/tree/master/Evaluation"],
        )

    def compute(self, *, predictions=None, references=None, **kwargs):
        """Measures what is given together with what was added.

        Args:
            predictions: As in the class's inputs, or None for what was added.
            references: The same.
            **kwargs: The settings.

        Returns:
            The figures; None on all but the first of several processes.

        Raises:
            ValueError: If a field is missing or malformed; names the video and the field.
        """
        added, self._added = self._added, None
        nothing = added is None and predictions is None and references is None
        if nothing or self.num_process > 1:
            return super().compute(predictions=predictions, references=references, **kwargs)
        rows = added or {"predictions": [], "references": []}
        return self._compute(
            predictions=rows["predictions"] + checked_rows(predictions, "predictions"),
            references=rows["references"] + checked_rows(references, "references"),
            **kwargs,
        )

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Adds one video's predictions, its ground truth, or both.

        Args:
            prediction: A dict as in `predictions`, or None.
            reference: A dict as in `references`, or None.
            **kwargs: None are known; the base class names those it refuses.

        Raises:
            ValueError: If a field is missing or malformed; names the video and the field.
        """
        self.add_batch(
            predictions=None if prediction is None else [prediction],
            references=None if reference is None else [reference],
            **kwargs,
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Adds the predictions of some videos and the ground truth of the same or of other videos.

        Args:
            predictions: A list of dicts, or None for none in this batch.
            references: A list of dicts, of any length, or None for none in this batch.
            **kwargs: None are known; the base class names those it refuses.

        Raises:
            ValueError: If a field is missing or malformed; names the video and the field.
        """
        checked = {
            "predictions": checked_rows(predictions, "predictions"),
            "references": checked_rows(references, "references"),
        }
        if self.num_process == 1 and not kwargs:
            self._added = self._added or {"predictions": [], "references": []}
            for name, column in checked.items():
                self._added[name] += [_copied(row) for row in column]
            return
        rows = {name: _as_lists(column) for name, column in checked.items()}
        num_rows = max(1, *(len(column) for column in rows.values()))  # evaluate cannot store none
        for name, column in rows.items():
            filler = {field: _FILLER[field] for field in _FEATURES[name]}
            column.extend([filler] * (num_rows - len(column)))
        super().add_batch(**rows, **kwargs)

    def _compute(
        self,
        *,
        predictions,
        references,
        tiou_thresholds=ACTIVITYNET_TIOU_THRESHOLDS,
        clean_references=False,
        top_k=(),
        max_proposals=None,
        precision_recall=False,
    ):
        thresholds = _checked_thresholds(tiou_thresholds)
        top_k = _checked_counts("top_k", top_k)
        max_proposals = None if max_proposals is None else _checked_counts("max_proposals", [max_proposals])[0]
        for name, value in (("clean_references", clean_references), ("precision_recall", precision_recall)):
            if not isinstance(value, bool | np.bool_):
                raise ValueError(f"{name} must be True or False, got {_shown(value)}")

        predicted, scores, truth, _ = _tables(predictions, references, clean_references)
        _check_work(predicted, truth, max_proposals)

        names = _threshold_names(thresholds)
        matched = true_positives(predicted, truth, thresholds)
        tied = _range_of_ties(scores, matched, predicted.labels, truth.labels)
        curves = precision_recall_curves(matched, predicted.labels, truth.labels)
        class_ids = list(curves)
        ap = np.array([[curve.average_precision for curve in curves[c]] for c in class_ids])
        ap = ap.reshape(len(class_ids), len(thresholds)).T
        map_per_threshold = _mean(ap, axis=1).tolist()
        results: dict[str, Any] = {
            "map": float(np.mean(map_per_threshold)),
            **{f"map@{name}": value for name, value in zip(names, map_per_threshold, strict=True)},
            "per_class": dict(zip(class_ids, ap.mean(axis=0).tolist(), strict=True)),
        }
        if tied is not None:
            results["map_range"] = list(tied)
        if precision_recall:
            results["precision_recall"] = {
                name: {class_id: curves[class_id][row].as_dict() for class_id in class_ids}
                for row, name in enumerate(names)
            }
        if len(top_k) > 0:
            recall = _mean(top_k_recall(predicted, truth, thresholds, top_k), axis=2).tolist()
            for name, row in zip(names, recall, strict=True):
                results |= {f"recall@{name}@{k}x": r for k, r in zip(top_k, row, strict=True)}
        if max_proposals is not None:
            curve = average_recall(predicted, truth, thresholds, max_proposals).mean(axis=0)
            results["ar"] = dict(enumerate(curve.tolist(), start=1))
            results["ar_auc"] = float(((curve[1:] + curve[:-1]) / 2).sum() / max_proposals)
        return results


class Segments(NamedTuple):
    """Segments of many videos, one row each; those of predictions are ordered best first.

    Attributes:
        videos: int64 [N], number of the video.
        labels: int64 [N], class id.
        times: float64 [N, 2], start and end in seconds.
    """

    videos: np.ndarray
    labels: np.ndarray
    times: np.ndarray


class Tables(NamedTuple):
    """Predictions beside the ground truth.

    Attributes:
        predictions: Best first, equal scores in the order given.
        scores: float64 [N], falling.
        references: The ground truth.
        video_ids: Of video 0, 1, ...
    """

    predictions: Segments
    scores: np.ndarray
    references: Segments
    video_ids: list[str]


def segment_tables(predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]) -> Tables:
    """What the metric takes, checked as there, as arrays.

    Raises:
        ValueError: If a field is missing or malformed; names the video and the field.
    """
    tables = _tables(checked_rows(predictions, "predictions"), checked_rows(references, "references"))
    _check_work(tables.predictions, tables.references, None)
    return tables


def _tables(
    predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], clean_references: bool = False
) -> Tables:
    video_numbers: dict[str, int] = {}
    predicted_rows = _real_rows(predictions, "predictions")
    predicted, scores = _ranked_segments(predicted_rows, video_numbers)
    truth_rows = _real_rows(references, "references")
    _say_if_strangers(predicted_rows, truth_rows)
    if clean_references:
        truth_rows = [_without_degenerate_segments(row) for row in truth_rows]
    return Tables(predicted, scores, _flatten(truth_rows, video_numbers), list(video_numbers))


def temporal_iou(segments: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pairwise temporal intersection over union.

    Args:
        segments: float64 [P, 2].
        others: float64 [G, 2].

    Returns:
        float64 [P, G]; 0 where the union is not positive (0/0 would compare as a match).
    """
    return _overlaps_of_pairs(segments[:, None], others[None])


def _overlaps_of_pairs(segments: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Temporal IoU of float64 [..., 2] with [..., 2], broadcast: each with the one at its place."""
    starts = np.maximum(segments[..., 0], others[..., 0])
    ends = np.minimum(segments[..., 1], others[..., 1])
    intersection = np.maximum(ends - starts, 0.0)
    lengths, other_lengths = segments[..., 1] - segments[..., 0], others[..., 1] - others[..., 0]
    union = lengths + other_lengths - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


class PrecisionRecall(NamedTuple):
    """The steps of one class's curve at one threshold: a point per true positive, best first.

    Attributes:
        recall: float64 [M], i / n at the i-th true positive, n the ground-truth segments.
        precision: float64 [M], interpolated: the highest at this or any larger recall.
        average_precision: The area under the steps; 0 beyond the last recall.
    """

    recall: np.ndarray
    precision: np.ndarray
    average_precision: float

    def as_dict(self) -> dict[str, Any]:
        """The curve as plain lists and numbers."""
        return {"recall": self.recall.tolist(), "precision": self.precision.tolist(), "ap": self.average_precision}


def true_positives(predictions: Segments, references: Segments, thresholds: np.ndarray) -> np.ndarray:
    """Which predictions are true positives, bool [T, N]; takes what `matches` takes."""
    found = np.zeros((len(thresholds), len(predictions.labels)), bool)
    for row, matched, _ in _matched_pairs(predictions, references, thresholds):
        found[row, matched] = True
    return found


def matches(predictions: Segments, references: Segments, thresholds: np.ndarray) -> np.ndarray:
    """Which ground truth each prediction is matched with.

    Args:
        predictions: Best first.
        references: The ground truth.
        thresholds: float64 [T], temporal IoU.

    Returns:
        int64 [T, N], rows of the ground truth; -1 for false positives.
    """
    found = np.full((len(thresholds), len(predictions.labels)), -1)
    for row, matched, others in _matched_pairs(predictions, references, thresholds):
        found[row, matched] = others
    return found


def _matched_pairs(
    predictions: Segments, references: Segments, thresholds: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Number of the threshold, rows of predictions and of ground truth that match; one class at a time is in memory."""
    class_ids = np.unique(references.labels)
    groups = (_rows_by_class(part.labels, class_ids) for part in (predictions, references))
    for of_class, truth_of_class in zip(*groups, strict=True):
        own, truth = (
            Segments(*(column[rows] for column in part))
            for part, rows in ((predictions, of_class), (references, truth_of_class))
        )
        rows, others, overlaps = _overlapping_pairs(own, truth, thresholds.min())
        for row, threshold in enumerate(thresholds):
            near = overlaps >= threshold
            held = _matched(rows[near], others[near], len(truth_of_class))
            yield row, of_class[rows[near][held]], truth_of_class[others[near][held]]


def _rows_by_class(labels: np.ndarray, class_ids: np.ndarray) -> Iterator[np.ndarray]:
    """The rows, ascending, whose label is each of these ids, which ascend."""
    if not len(class_ids):
        return iter(())
    places = np.searchsorted(class_ids, labels)
    places[class_ids[np.minimum(places, len(class_ids) - 1)] != labels] = len(class_ids)
    # Of 16 bits NumPy sorts in linear time.
    places = places.astype(np.uint16 if len(class_ids) < 2**16 else np.int64)
    order = np.argsort(places, kind="stable")
    bounds = np.searchsorted(places, np.arange(len(class_ids) + 1), sorter=order)
    return (order[first:last] for first, last in pairwise(bounds.tolist()))


def precision_recall_curves(
    matched: np.ndarray, labels: np.ndarray, truth_labels: np.ndarray
) -> dict[int, list[PrecisionRecall]]:
    """Precision and recall of each class that has ground truth, all videos together.

    Args:
        matched: bool [T, N], the true positives among ranked predictions.
        labels: int64 [N], class ids of the predictions.
        truth_labels: int64 [G], those of the ground truth.

    Returns:
        Class id, ascending, -> T curves.
    """
    class_ids, num_references = np.unique(truth_labels, return_counts=True)
    classes = zip(class_ids.tolist(), num_references.tolist(), _rows_by_class(labels, class_ids), strict=True)
    return {
        class_id: [precision_recall_curve(hits[rows], count) for hits in matched] for class_id, count, rows in classes
    }


def precision_recall_curve(hits: np.ndarray, num_references: int) -> PrecisionRecall:
    """The curve of ranked predictions, bool [N] True where one is a true positive."""
    return curve_of_ranks(np.flatnonzero(hits) + 1, num_references)


def curve_of_ranks(ranks: np.ndarray, num_references: int) -> PrecisionRecall:
    """The curve of the ranks of true positives, int64 [M], ascending; the best prediction has rank 1."""
    found = np.arange(1, len(ranks) + 1)
    # A precision between two true positives is below that at the first of them.
    precision = np.maximum.accumulate((found / ranks)[::-1])[::-1]
    return PrecisionRecall(found / num_references, precision, float(precision.sum() / num_references))


def top_k_recall(
    predictions: Segments, references: Segments, thresholds: np.ndarray, top_k: Sequence[int]
) -> np.ndarray:
    """Recall of the best k * G predictions per video and class, G its ground-truth segments.

    A prediction may cover several of them here (recall@kx of ActionFormer and OpenTAD).

    Args:
        predictions: Best first.
        references: The ground truth.
        thresholds: float64 [T], temporal IoU.
        top_k: The multiples k.

    Returns:
        float64 [T, len(top_k), K], the classes ascending by id.
    """
    class_ids, num_references = np.unique(references.labels, return_counts=True)
    found = np.zeros((len(thresholds), len(top_k), len(class_ids)))
    for prediction_rows, reference_rows in _groups(predictions, references):
        overlaps = temporal_iou(predictions.times[prediction_rows], references.times[reference_rows])
        column = np.searchsorted(class_ids, references.labels[reference_rows[0]])
        for position, k in enumerate(top_k):
            best = overlaps[: k * len(reference_rows)].max(axis=0, initial=0.0)
            found[:, position, column] += (best >= thresholds[:, None]).sum(axis=1)
    return found / num_references


def average_recall(
    predictions: Segments, references: Segments, thresholds: np.ndarray, max_proposals: int
) -> np.ndarray:
    """Class-agnostic recall against the average number AN of proposals per video.

    As in the ActivityNet proposal task, AN stands for a share of each video's own proposals,
    rounded down, and not for a fixed number of them; one proposal may cover several segments.

    Args:
        predictions: Best first; their labels are ignored.
        references: The ground truth; videos without any do not count.
        thresholds: float64 [T], temporal IoU.
        max_proposals: The largest AN.

    Returns:
        float64 [T, max_proposals], for AN = 1 ... max_proposals; NaN without ground truth.
    """
    num_videos = len(np.unique(references.videos))
    if num_videos == 0:
        return np.full((len(thresholds), max_proposals), np.nan)
    share = max_proposals * float(num_videos) / max(len(predictions.videos), 1)
    overlaps = []
    for prediction_rows, reference_rows in _groups(
        predictions._replace(labels=np.zeros_like(predictions.labels)),
        references._replace(labels=np.zeros_like(references.labels)),
    ):
        kept = prediction_rows[: int(len(prediction_rows) * share)]
        overlaps.append(temporal_iou(predictions.times[kept], references.times[reference_rows]))

    num_kept = sum(len(overlap) for overlap in overlaps)
    # Rounded down below, so this order of operations, the toolkit's, decides at whole numbers.
    shares = np.arange(1, max_proposals + 1) / max_proposals
    shares = shares * (max_proposals * float(num_videos) / max(num_kept, 1))
    best = []  # [max_proposals, G] per video: the best overlap of a ground-truth segment so far
    for overlap in overlaps:
        num_proposals = np.minimum((len(overlap) * shares).astype(np.int64), len(overlap))
        with_none = np.concatenate([np.zeros((1, overlap.shape[1])), overlap])
        best.append(np.maximum.accumulate(with_none, axis=0)[num_proposals])
    best_overlap = np.concatenate(best, axis=1)
    return np.stack([(best_overlap >= threshold).mean(axis=1) for threshold in thresholds])


def _groups(predictions: Segments, references: Segments) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows of predictions and of references for each video and class with ground truth."""
    class_ids, classes = np.unique(np.concatenate([predictions.labels, references.labels]), return_inverse=True)
    keys = np.concatenate([predictions.videos, references.videos]) * len(class_ids) + classes
    prediction_keys, reference_keys = np.split(keys, [len(predictions.labels)])
    prediction_order = np.argsort(prediction_keys, kind="stable")
    reference_order = np.argsort(reference_keys, kind="stable")
    groups, starts = np.unique(reference_keys[reference_order], return_index=True)
    firsts = np.searchsorted(prediction_keys[prediction_order], groups, side="left")
    lasts = np.searchsorted(prediction_keys[prediction_order], groups, side="right")
    reference_rows = np.split(reference_order, starts[1:])  # one empty part if there is no group
    for first, last, rows in zip(firsts, lasts, reference_rows, strict=False):
        yield prediction_order[first:last], rows


def _overlapping_pairs(
    predictions: Segments, references: Segments, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of a prediction and ground truth of its video, all of one class, that overlap enough.

    Returns:
        int64 [M] rows of predictions, ascending; int64 [M] rows of references, of one prediction by falling overlap
        and then as listed; float64 [M] tIoU.
    """
    order = np.argsort(predictions.videos, kind="stable")
    videos = predictions.videos[order]
    firsts = np.searchsorted(videos, references.videos, side="left")
    counts = np.searchsorted(videos, references.videos, side="right") - firsts
    parts = []
    blocks = counts.cumsum() // MAX_PAIRS
    for block in np.unique(blocks):
        others = np.flatnonzero(blocks == block)
        lengths = counts[others]
        steps = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        others = np.repeat(others, lengths)
        rows = order[firsts[others] + steps]
        overlaps = _overlaps_of_pairs(predictions.times[rows], references.times[others])
        near = overlaps >= threshold
        parts.append((rows[near], others[near], overlaps[near]))
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    rows, others, overlaps = (np.concatenate(column) for column in zip(*parts, strict=True))
    ranked = np.lexsort((others, -overlaps, rows))
    return rows[ranked], others[ranked], overlaps[ranked]


def _matched(rows: np.ndarray, others: np.ndarray, num_references: int) -> np.ndarray:
    """Greedy matching, best prediction first, each to the free ground truth that it overlaps most; all videos at once.

    It is the one stable matching (Gale and Shapley, 1962) in which all ground truth prefers the better prediction:
    in each round every prediction without one asks for its next choice, which goes to the best that asked so far.

    Args:
        rows: int64 [M], predictions of the pairs that may match, ascending.
        others: int64 [M], their ground truth, best choice first.
        num_references: How many there are.

    Returns:
        int64, the pairs that are matched.
    """
    nobody = len(rows)
    holder = np.full(num_references, nobody)  # the pair of the best prediction that asked
    asking = np.flatnonzero(np.diff(rows, prepend=-1))
    while len(asking):
        before = holder[others[asking]]
        better = asking[asking < before]
        holder[others[better[::-1]]] = better[::-1]  # of several the last written stays, the best
        displaced = np.unique(before[(asking < before) & (before < nobody)])
        refused = np.concatenate([asking[holder[others[asking]] != asking], displaced])
        following = refused[refused < nobody - 1] + 1
        asking = np.sort(following[rows[following] == rows[following - 1]])
    return holder[holder < nobody]


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over the classes, NaN without numpy's warning where there is no class."""
    return values.mean(axis=axis) if values.size else np.full(values.shape[:axis], np.nan)


def _ranked_segments(rows: Sequence[Mapping[str, Any]], video_numbers: dict[str, int]) -> tuple[Segments, np.ndarray]:
    """Predictions of all videos in one table, best first, equal scores in the order given; and their scores."""
    segments = _flatten(rows, video_numbers)
    scores = _concatenate([row["scores"] for row in rows], np.float64)
    is_nan = np.isnan(scores)
    if is_nan.any():
        first = next(row["video_id"] for row in rows if np.isnan(row["scores"]).any())
        warnings.warn(
            f"{is_nan.sum()} predictions have the score NaN (the first in video {first!r}); they "
            "rank above all others, as in the ActivityNet toolkit. Look for a diverged model."
        )
    scores = np.where(is_nan, np.inf, scores)
    order = np.argsort(-scores, kind="stable")
    return Segments(*(column[order] for column in segments)), scores[order]


def _flatten(rows: Sequence[Mapping[str, Any]], video_numbers: dict[str, int]) -> Segments:
    """Rows of evaluate's table as one table of segments; gives a number to each new video."""
    videos = [video_numbers.setdefault(row["video_id"], len(video_numbers)) for row in rows]
    counts = [len(row["labels"]) for row in rows]
    return Segments(
        videos=np.repeat(np.array(videos, np.int64), np.array(counts, np.int64)),
        labels=_concatenate([row["labels"] for row in rows], np.int64),
        times=_concatenate([row["segments"] for row in rows], np.float64, width=(2,)),
    )


def _concatenate(columns: Sequence[Any], dtype: type, width: tuple[int, ...] = ()) -> np.ndarray:
    """Concatenates lists that may be empty, of rows of the given width."""
    empty: np.ndarray = np.zeros((0, *width), dtype)
    return np.concatenate([empty, *(np.asarray(c, dtype).reshape(-1, *width) for c in columns)])


def _without_degenerate_segments(row: Mapping[str, Any]) -> dict[str, Any]:
    """Drops segments without a positive length and near-copies of an earlier one of a class."""
    kept: list[tuple[list[float], int]] = []
    for (start, end), label in zip(row["segments"], row["labels"], strict=True):
        is_copy = any(
            label == other_label
            and abs(start - other_start) <= DUPLICATE_TOLERANCE
            and abs(end - other_end) <= DUPLICATE_TOLERANCE
            for (other_start, other_end), other_label in kept
        )
        if end > start and not is_copy:
            kept.append(([start, end], label))
    return {
        "video_id": row["video_id"],
        "segments": [segment for segment, _ in kept],
        "labels": [label for _, label in kept],
    }


def _real_rows(rows: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """The rows that name a video; each video may stand in a list once."""
    real_rows = [row for row in rows if row["video_id"]]
    seen: set[str] = set()
    for row in real_rows:
        if row["video_id"] in seen:
            raise ValueError(f"{name} hold video {row['video_id']!r} twice; merge its segments into one entry")
        seen.add(row["video_id"])
    return real_rows


def _say_if_strangers(predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]) -> None:
    """Warns if predictions and ground truth have no video in common: their ids are written in two ways."""
    predicted, annotated = ([row["video_id"] for row in rows] for rows in (predictions, references))
    if predicted and annotated and set(predicted).isdisjoint(annotated):
        warnings.warn(
            f"No video is in both lists, so that every prediction counts as wrong: predictions have video_id "
            f"{_shown(predicted[0])}, references {_shown(annotated[0])}. Write the ids in one way (no folder, no "
            "extension, no prefix)."
        )


def _range_of_ties(
    scores: np.ndarray, matched: np.ndarray, labels: np.ndarray, truth_labels: np.ndarray
) -> tuple[float, float] | None:
    """Warns where the order in which videos are listed moves the mAP, since scores are equal.

    Args:
        scores: float64 [N], falling.
        matched: bool [T, N], the true positives.
        labels: int64 [N], class ids of the predictions.
        truth_labels: int64 [G], those of the ground truth.

    Returns:
        The smallest and the largest mAP, with wrong ones first and with right ones first; None where they differ by
        less than `TIE_TOLERANCE`.
    """
    if not (scores[1:] == scores[:-1]).any():
        return None
    bounds = []
    for right_first in (False, True):
        means = []
        class_ids, counts = np.unique(truth_labels, return_counts=True)
        for rows, count in zip(_rows_by_class(labels, class_ids), counts, strict=True):
            own = scores[rows]
            ranked = (row[np.lexsort((row != right_first, -own))] for row in matched[:, rows])
            means.append(np.mean([precision_recall_curve(row, count).average_precision for row in ranked]))
        bounds.append(float(np.mean(means)) if means else 0.0)
    low, high = bounds
    if high - low <= TIE_TOLERANCE:
        return None
    warnings.warn(
        "predictions of equal scores, right ones and wrong ones, rank in the order in which they are listed: by it "
        f"alone the mAP may be anything from {low:.4f} to {high:.4f}. Give scores with more digits."
    )
    return low, high


def _check_work(predictions: Segments, references: Segments, max_proposals: int | None) -> None:
    """Refuses what would take all memory: more overlaps at once than `MAX_OVERLAPS`."""
    if max_proposals is not None and max_proposals * len(references.videos) > MAX_OVERLAPS:
        most = MAX_OVERLAPS // len(references.videos)
        raise ValueError(f"max_proposals must be at most {most} with {len(references.videos)} segments annotated")
    counts = [np.bincount(part.videos, minlength=1).astype(float) for part in (predictions, references)]
    size = min(map(len, counts))
    pairs = counts[0][:size] * counts[1][:size]
    if pairs.max() > MAX_OVERLAPS:
        video = int(pairs.argmax())
        raise ValueError(
            f"predictions and references of one video are {counts[0][video]:.0f} and {counts[1][video]:.0f}; their "
            f"product must be at most {MAX_OVERLAPS}: keep the best predictions only"
        )


def _shown(value: Any) -> str:
    """A value for a message: short, in one line."""
    if getattr(value, "shape", ()) and hasattr(value, "dtype"):
        return f"{value.dtype} of shape {list(value.shape)}"
    return " ".join(reprlib.repr(value).split())


def checked_rows(rows: Sequence[Mapping[str, Any]] | None, name: str) -> list[dict[str, Any]]:
    """What the user gave as predictions or references, with arrays of numbers.

    Args:
        rows: One dict per video, or None for none.
        name: `"predictions"` or `"references"`.

    Raises:
        ValueError: If a field is missing or malformed; names the video and the field.
    """
    listed = isinstance(rows, Iterable) and not isinstance(rows, str | bytes | Mapping) and not hasattr(rows, "dtype")
    if rows is not None and not listed:
        raise ValueError(f"{name} must be a list of one dict per video, got {_shown(rows)}")
    checked = []
    for position, row in enumerate([] if rows is None else rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"{name}[{position}] must be a dict, got {type(row).__name__}")
        video_id = row.get("video_id")
        if not isinstance(video_id, str) or not video_id:
            raise ValueError(f"{name}[{position}]: video_id must be a non-empty str, got {_shown(video_id)}")
        if any("\ud800" <= letter <= "\udfff" for letter in video_id):
            raise ValueError(f"{name}[{position}]: video_id {_shown(video_id)} is no text that can be stored")
        where = f"{name} of video {_shown(video_id)}"
        missing = [field for field in _FEATURES[name] if field not in row]
        if missing:
            raise ValueError(f"{where}: field {missing[0]!r} is missing")
        checked.append({"video_id": video_id, **_checked_fields(row, name, where)})
    return checked


def _copied(row: Mapping[str, Any]) -> dict[str, Any]:
    """A checked row whose arrays are nobody else's."""
    return {name: value if name == "video_id" else value.copy() for name, value in row.items()}


def _as_lists(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Checked rows with their arrays as the lists that evaluate's table takes."""
    return [{name: value if name == "video_id" else value.tolist() for name, value in row.items()} for row in rows]


def _checked_fields(row: Mapping[str, Any], name: str, where: str) -> dict[str, np.ndarray]:
    """Segments, labels and, of predictions, scores as arrays of the declared shapes."""
    arrays = {field: _checked_array(row[field], field, where) for field in _FEATURES[name] if field != "video_id"}
    segments = arrays["segments"]
    for field, array in arrays.items():
        if len(array) != len(segments):
            raise ValueError(f"{where}: {len(segments)} segments but {len(array)} {field}")
    wrong = ~(np.abs(segments) <= MAX_SECONDS).all(axis=1)
    if wrong.any():
        raise ValueError(f"{where}: segments must be finite seconds, got {segments[wrong][0].tolist()}")
    return arrays


def _checked_array(values: Any, field: str, where: str) -> np.ndarray:
    """A field as an array of numbers of the right kind and shape."""
    kinds, kind_name = ("iu", "integers") if field == "labels" else ("iuf", "numbers")
    shape, shape_name = ((0, 2), "[N, 2]") if field == "segments" else ((0,), "[N]")
    try:
        array = np.asarray(values)
    # Ragged lists; tensors on a device, in bfloat16 or with gradients.
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ValueError(f"{where}: {field} must be a list or a CPU array ({reason})") from error
    if array.shape in ((0,), shape):
        return np.zeros(shape, np.int64 if field == "labels" else np.float64)
    if array.shape[1:] != shape[1:] or array.ndim != len(shape) or array.dtype.kind not in kinds:
        raise ValueError(
            f"{where}: {field} must be {kind_name} of shape {shape_name}, "
            f"got {_shown(values) if array.ndim == 0 else _shown(array)}"
        )
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{where}: {field} must be below 2**63, got {array.max()}")
    return array


def _checked_thresholds(tiou_thresholds: Sequence[float]) -> np.ndarray:
    try:
        given = np.asarray(tiou_thresholds)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # ragged lists; tensors on a device
        given = np.empty(0)
    valid = given.ndim == 1 and given.dtype.kind in "iuf" and ((given > 0) & (given <= 1)).all()
    if not valid or not 0 < len(given) <= MAX_SETTINGS or len(np.unique(given)) != len(given):
        raise ValueError(
            "tiou_thresholds must be a list of different numbers in (0, 1], "
            f"up to {MAX_SETTINGS}, got {_shown(tiou_thresholds)}"
        )
    return given.astype(np.float64)


def _checked_counts(name: str, counts: Sequence[int]) -> list[int]:
    given = list(counts) if isinstance(counts, Sequence) or getattr(counts, "ndim", 0) else [None]
    numbers = [n for n in given if isinstance(n, int | np.integer) and not isinstance(n, bool)]
    if not len(given) == len(numbers) <= MAX_SETTINGS or any(not 1 <= n <= MAX_PROPOSALS for n in numbers):
        shown = _shown(counts[0] if name == "max_proposals" else counts)
        raise ValueError(f"{name} must be integers from 1 to {MAX_PROPOSALS}, got {shown}")
    return [int(n) for n in numbers]


def _threshold_names(thresholds: np.ndarray) -> list[str]:
    """Short names (0.4 for 0.39999999999999997) as long as they tell the thresholds apart."""
    names = [f"{threshold:g}" for threshold in thresholds]
    return names if len(set(names)) == len(names) else [repr(float(t)) for t in thresholds]
