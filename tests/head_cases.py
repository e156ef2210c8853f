"""What tests of several localization heads share: masks, and detections compared with stored ones."""

import torch


def prefix_mask(lengths, total):
    return torch.arange(total)[None] < torch.tensor(lengths)[:, None]


def concatenated(tensors, prefix, num_levels):
    levels = [tensors[f"{prefix}.{level}"] for level in range(num_levels)]
    return torch.cat(levels, dim=-1).transpose(1, 2)


def candidates_of(predictions, index, top_k=2000, min_score=0.001):
    """The best scores of one sequence, whatever their class, and their segments."""
    scores = predictions.logits[index].sigmoid() * predictions.point_mask[index].unsqueeze(-1)
    points, labels = torch.nonzero(scores > min_score, as_tuple=True)
    scores = scores[points, labels]
    order = scores.argsort(descending=True, stable=True)[:top_k]
    return predictions.segments[index][points[order]], scores[order], labels[order]


def assert_same_detections(found, expected, time_tolerance, score_tolerance):
    """As sets: near-ties may swap, and one may fall on the other side of the least score."""
    segments, scores, labels = (value.detach().double() for value in found)
    unmatched = torch.ones(len(scores), dtype=torch.bool)
    missing = 0
    for segment, score, label in zip(*expected, strict=True):
        near = (segments - segment).abs().amax(dim=1) <= time_tolerance
        near &= ((scores - score).abs() <= score_tolerance) & (labels == label) & unmatched
        if near.any():
            unmatched[int(near.nonzero()[0])] = False
        else:
            missing += 1
    assert missing <= 1 and unmatched.sum() <= 1
    assert len(scores) > 0


def stored_detections(tensors, prefix):
    return [tensors[f"{prefix}.{name}"] for name in ("segments", "scores", "labels")]


def seconds(segments, meta):
    frames = segments * meta["snippet_stride"] + meta["offset_frames"]
    times = (frames + meta.get("window_start_frame", 0)) / meta["fps"]
    return times.clamp(0, meta["duration"])
