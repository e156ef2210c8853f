import json
import math

import numpy as np
import pytest
import torch
from tolerances import assert_close

from re2tal_hf.temporal_segments import (
    assign_video_classes,
    hard_nms,
    segment_iou,
    soft_nms,
    suppress,
    vote_segments,
)


def random_detections(count, num_classes=1, seed=0):
    """In double precision, whose noise decides nothing."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(count, generator=generator, dtype=torch.float64) * 100
    length = torch.rand(count, generator=generator, dtype=torch.float64) * 20 + 0.1
    scores = torch.rand(count, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (count,), generator=generator)
    return torch.stack((start, start + length), dim=1), scores, labels


def naive_iou(a, b, margin=0.0):
    intersection = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = a[1] - a[0] + b[1] - b[0] + 2 * margin - intersection
    return intersection / union if union > 0 else 0.0


def naive_soft_nms(segments, scores, sigma, min_score):
    remaining = dict(enumerate(scores.tolist()))
    kept = []
    while remaining:
        best = max(remaining, key=lambda i: (remaining[i], -i))
        kept.append((best, remaining.pop(best)))
        for i in list(remaining):
            iou = naive_iou(segments[best].tolist(), segments[i].tolist(), margin=1e-6)
            remaining[i] *= math.exp(-(iou**2) / sigma)
            if remaining[i] < min_score:
                del remaining[i]
    return kept


def test_iou_of_pairs():
    a = torch.tensor([[0.0, 10.0], [3.0, 3.0]])
    b = torch.tensor([[0.0, 10.0], [5.0, 15.0], [20.0, 30.0], [3.0, 3.0]])
    expected = torch.tensor([[1.0, 1 / 3, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert_close(segment_iou(a, b), expected)


def test_iou_of_nothing_has_the_right_shape():
    assert segment_iou(torch.zeros(0, 2), torch.zeros(3, 2)).shape == (0, 3)


@pytest.mark.parametrize("sigma", [0.4, 0.7])
@pytest.mark.parametrize("min_score", [0.0, 0.05])
def test_soft_nms_equals_a_plain_loop_per_class(sigma, min_score):
    segments, scores, labels = random_detections(90, num_classes=4)
    kept, kept_scores = soft_nms(segments, scores, labels, sigma=sigma, min_score=min_score)
    expected = []
    for label in labels.unique():
        own = torch.nonzero(labels == label).squeeze(1)
        found = naive_soft_nms(segments[own], scores[own], sigma, min_score)
        expected += [(int(own[i]), score) for i, score in found]
    expected.sort(key=lambda pair: -pair[1])
    assert kept.tolist() == [i for i, _ in expected]
    assert kept_scores.tolist() == pytest.approx([score for _, score in expected], rel=1e-12)


def test_hard_nms_leaves_no_pair_that_overlaps():
    segments, scores, labels = random_detections(200, num_classes=3)
    kept = hard_nms(segments, scores, labels, iou_threshold=0.3)
    for label in labels.unique():
        own = kept[labels[kept] == label]
        overlap = segment_iou(segments[own], segments[own]).fill_diagonal_(0)
        assert overlap.max() < 0.3
        rest = torch.nonzero(labels == label).squeeze(1)
        rest = rest[~torch.isin(rest, own)]
        killers = (segment_iou(segments[rest], segments[own]) >= 0.3) & (scores[rest, None] <= scores[own])
        assert killers.any(dim=1).all()


def test_a_group_may_be_video_and_class_in_one_number():
    first = random_detections(60, num_classes=3, seed=1)
    second = random_detections(40, num_classes=3, seed=2)
    groups = torch.cat((first[2], second[2] + 1000))
    kept, scores = soft_nms(torch.cat((first[0], second[0])), torch.cat((first[1], second[1])), groups)
    alone, alone_scores = soft_nms(*second)
    from_second = kept >= 60
    assert torch.equal(kept[from_second] - 60, alone)
    assert_close(scores[from_second], alone_scores)


def test_limits_of_the_number_and_of_the_score():
    segments, scores, labels = random_detections(100, num_classes=5)
    everything = suppress(segments, scores, labels, max_detections=100)
    few = suppress(segments, scores, labels, max_detections=7)
    for whole, cut in zip(everything, few, strict=True):
        assert_close(whole[:7].double(), cut.double())
    assert len(suppress(segments, scores, labels, max_detections=0)[1]) == 0
    assert (suppress(segments, scores, labels, method="none", min_score=0.5)[1] >= 0.5).all()


def test_voting_per_class_listens_to_the_class_only():
    segments = torch.tensor([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0]])
    scores = torch.tensor([0.9, 0.3, 0.8])
    labels = torch.tensor([0, 0, 1])
    options = {"method": "hard", "voting_threshold": 0.7}
    per_class, _, _ = suppress(segments, scores, labels, per_class=True, **options)
    assert_close(per_class, torch.tensor([[0.25, 10.25], [2.0, 12.0]]))
    together, _, _ = suppress(segments, scores, labels, per_class=False, **options)
    assert_close(together, torch.tensor([[0.25, 10.25]]))


def test_voting_per_class_equals_voting_alone():
    segments, scores, labels = random_detections(600, num_classes=3)
    refined, _, found = suppress(segments, scores, labels, voting_threshold=0.6, max_detections=600)
    for label in range(3):
        own = labels == label
        alone, _, _ = suppress(segments[own], scores[own], labels[own], voting_threshold=0.6, max_detections=600)
        assert_close(refined[found == label], alone)


def test_video_classes_multiply_scores():
    segments, scores, _ = random_detections(3)
    class_scores = torch.tensor([0.1, 0.7, 0.2], dtype=torch.float64)
    found, found_scores, labels = assign_video_classes(segments, scores, class_scores, top_k=2)
    assert found.shape == (6, 2)
    assert sorted(labels.tolist()) == [1, 1, 1, 2, 2, 2]
    assert found_scores.tolist() == sorted(found_scores.tolist(), reverse=True)
    for segment, score, label in zip(found, found_scores, labels, strict=True):
        source = (segments == segment).all(dim=1)
        assert_close(score, (scores[source] * class_scores[label]).squeeze())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": torch.zeros(2, 3)}, "must be"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, "labels"),
        ({"scores": torch.tensor([0.5, math.nan])}, "NaN"),
        ({"segments": torch.tensor([[0, math.nan], [0, 1]])}, "NaN"),
        ({"segments": torch.tensor([[0, math.inf], [0, 1]])}, "infinity"),
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"sigma": math.nan}, "sigma is nan"),
        ({"max_detections": -1}, "max_detections"),
        ({"method": "fast"}, "method"),
    ],
)
def test_bad_input_gives_one_clear_error(change, message):
    arguments = {
        "segments": torch.zeros(2, 2),
        "scores": torch.zeros(2),
        "labels": torch.zeros(2, dtype=torch.long),
    }
    with pytest.raises(ValueError, match=message):
        suppress(**(arguments | change))


def test_voting_needs_the_labels_of_both_sides():
    with pytest.raises(ValueError, match="candidate_labels"):
        vote_segments(
            torch.zeros(1, 2),
            torch.zeros(1, 2),
            torch.ones(1),
            threshold=0.5,
            labels=torch.zeros(1, dtype=torch.long),
        )


def test_half_precision_is_computed_in_float32():
    segments, scores, labels = random_detections(50)
    found, found_scores, _ = suppress(segments.half(), scores.half(), labels)
    assert found.dtype == found_scores.dtype == torch.float32


def test_twenty_classes_are_suppressed_side_by_side():
    # Far apart, so that nothing is ever suppressed: the longest loop there is.
    start = torch.arange(4000.0)[:, None]
    segments = torch.cat((start, start + 0.5), dim=1)
    scores, labels = torch.rand(4000), torch.arange(4000) % 20
    rounds = []

    def nothing(iou, length):
        rounds.append(iou.shape)
        return torch.ones_like(iou)

    kept, _ = soft_nms(segments, scores, labels, min_score=0.0, decay=nothing)
    assert len(kept) == 4000
    assert rounds == [(20, 200)] * 200


# Reference numbers of OpenTAD and actionformer_release.

# A NaN score is refused, and a negative limit, which there drops the last detections, too.
REFUSED = ("edge_nan_score", "max-1")


def reference_cases(folder):
    cases = json.loads((folder / "nms_cases.json").read_text())
    return cases, dict(np.load(folder / "nms.npz"))


def expected_rows(arrays, source, index):
    rows = slice(*arrays[f"{source}/offsets"][index : index + 2])
    names = ("segs", "scores", "cls", "inds")
    return [torch.from_numpy(arrays[f"{source}/{name}"][rows]) for name in names]


def other_decay(params):
    threshold = params["iou_threshold"]
    if params["method"] == 0:
        return lambda iou, length: (iou < threshold).float()
    if params["method"] == 1:
        return lambda iou, length: torch.where(iou >= threshold, 1 - iou, 1)
    t1, t2, sigma = params["t1"], params["t2"], params["sigma"]
    return lambda iou, length: torch.where(iou >= t1 + t2 * length, torch.exp(-(iou**2) / sigma), 1)


def run_suppress(params, segments, scores, labels, source="ot"):
    per_class = params["multiclass"]
    if params.get("method", 2) != 2:
        kept, kept_scores = soft_nms(
            segments,
            scores,
            labels if per_class else None,
            min_score=params["min_score"],
            max_detections=params["max_seg_num"],
            decay=other_decay(params),
        )
        order = kept_scores.argsort(descending=True, stable=True)[: params["max_seg_num"]]
        return segments[kept[order]], kept_scores[order], labels[kept[order]]
    # Both projects ignore the voting threshold where classes are separate.
    voting = params["voting_thresh"] if not per_class else 0
    return suppress(
        segments,
        scores,
        labels,
        method="soft" if params["use_soft_nms"] else "hard",
        sigma=params.get("sigma", 0.5),
        iou_threshold=params["iou_threshold"],
        min_score=params["min_score"],
        max_detections=params["max_seg_num"],
        per_class=per_class,
        voting_threshold=voting or None,
        weight_votes_by_iou=source == "af",
    )


def check_detections(case, found, expected):
    segments, scores, labels, _ = expected
    assert len(found[0]) == len(segments)
    # The references multiply up to 200 single factors into a score.
    assert ((found[1] - scores).abs() <= 5e-6 * scores).all()
    assert found[2].tolist() == labels.tolist()
    voting = case["params"]["voting_thresh"] > 0 and not case["params"]["multiclass"]
    tolerance = (0.02 if "huge" in case["name"] else 2e-4) if voting else 0
    # Where the references divide 0 by 0 (a segment of no length, or reversed, has no voters) a
    # segment stays as it was.
    defined = ~segments.isnan().any(dim=1)
    assert ((found[0].float()[defined] - segments[defined]).abs() <= tolerance).all()
    assert found[0].isfinite().all()


def test_every_public_case_of_suppression(metric_goldens):
    cases, arrays = reference_cases(metric_goldens)
    compared = 0
    for case in cases:
        name, index, params = case["name"], case["i"], case["params"]
        segments, scores, labels = (
            torch.from_numpy(arrays[f"in/{case['input']}/{part}"]) for part in ("segs", "scores", "cls")
        )
        segments, scores = segments.double(), scores.double()  # what is kept must not hang on rounding
        if case["level"] != "batched_nms":
            options = {key: params[key] for key in ("sigma", "min_score") if key in params}
            if case["level"] == "softnms":
                kept, _ = soft_nms(segments, scores, **options)
            else:
                kept = hard_nms(segments, scores, iou_threshold=params["iou_threshold"], min_score=0)
            assert kept.tolist() == expected_rows(arrays, "ot", index)[3].tolist(), name
            compared += 1
            continue
        if any(part in name for part in REFUSED):
            with pytest.raises(ValueError):
                run_suppress(params, segments, scores, labels)
            continue
        if case["ot"] != "ok":  # refuses a tensor that is not contiguous: no reason to
            assert len(run_suppress(params, segments.T.contiguous().T, scores, labels)[0]) == 5
            continue
        for source in ("ot", "af") if case["af"] == "ok" else ("ot",):
            if case["input"] == "edge_reversed" and params["voting_thresh"] > 0:
                continue  # the references disagree about ends before starts, and mean nothing
            found = run_suppress(params, segments, scores, labels, source)
            check_detections(case, found, expected_rows(arrays, source, index))
            compared += 1
    assert compared > 300


def test_vote_weights_of_both_projects():
    segments = torch.tensor([[0.0, 10.0], [1.0, 11.0], [0.0, 10.0]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    plain = vote_segments(segments[:1], segments, scores, threshold=0.7)
    assert_close(plain, torch.tensor([[1 / 3, 10 + 1 / 3]]))
    weight = 0.8 * 9 / 11
    shift = weight / (1.6 + weight)
    by_iou = vote_segments(segments[:1], segments, scores, threshold=0.7, weight_by_iou=True)
    assert_close(by_iou, torch.tensor([[shift, 10 + shift]]))
