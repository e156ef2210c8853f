"""Detections of a stream out of the candidates of its windows, each said once and never taken back.

The suppression of a whole video goes from the best segment down: a segment is lowered by those that score more and
overlap it. So what is below the lowest score reported changes nothing of the rest, and what is left falls apart into
groups of segments that overlap. A group is settled as soon as no later window can put a segment into it; suppressed by
itself it gives, to the last bit, what the suppression of the whole video gives.

Two things would make the results other than those of the whole video, and both are counted. A group that does not
end, as of an action that goes on for hours, is cut: what ended `delay` seconds ago is said with what is known. And a
segment of a later window may reach back to what was said already: it is lowered as if that had scored more.

Points in time are here the segments about them by which they suppress each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..temporal_segments import kept_by, segment_iou, vote_segments
from ..video_detections import Candidates, about_points, points_within

# Of what was said already, so that it comes first whatever overlaps it: no number of factors brings it down to a score.
SAID_SCORE = 1e300


def no_candidates() -> Candidates:
    """Of a window in which nothing was found."""
    return torch.empty((0, 2), dtype=torch.float64), torch.empty(0, dtype=torch.float64), torch.empty(0).long()


@dataclass
class Merger:
    """Collects candidates and gives out what is settled.

    Args:
        settings: of the suppression, by their names in the processor.
        threshold: lowest score that is reported.
        delay: seconds after its end at which a segment is said, whatever may follow.

    Attributes:
        num_cut: detections that were said before their group was settled.
        num_late: candidates that overlapped what had been said already.
    """

    settings: Mapping[str, Any]
    threshold: float
    delay: float
    num_cut: int = 0
    num_late: int = 0
    _open: Candidates = field(default_factory=no_candidates)
    # All candidates, also those below the threshold: they vote.
    _voters: Candidates = field(default_factory=no_candidates)
    _said: Candidates = field(default_factory=no_candidates)

    def add(self, candidates: Candidates, *, horizon: float, now: float) -> Candidates:
        """Takes what was found in a window and returns what is settled by it, by rising start.

        Args:
            candidates: of the window.
            horizon: second before which no segment of a later window starts, and no point is.
            now: second at which the window ends.
        """
        self._take(candidates)
        return self._settle(horizon - (self.settings["point_window"] or 0) / 2, now - self.delay)

    def finish(self, candidates: Candidates, duration: float) -> Candidates:
        """Takes what was found in the last window and returns all the rest; the stream ends at `duration`."""
        self._take(candidates)
        last = about_points(torch.tensor([[duration, duration]]).double(), self.settings["point_window"])
        self._open, self._voters = (_clamped(kept, last) for kept in (self._open, self._voters))
        return self._settle(math.inf, math.inf)

    def _take(self, candidates: Candidates) -> None:
        candidates = about_points(candidates[0], self.settings["point_window"]), *candidates[1:]
        reported = _chosen(candidates, candidates[1] >= self.threshold)
        if len(self._said[1]) and len(reported[1]):
            overlap = segment_iou(reported[0], self._said[0]) > 0
            if self.settings["nms_per_class"]:
                overlap &= reported[2][:, None] == self._said[2]
            self.num_late += int(overlap.any(dim=1).sum())
        self._open = _joined(self._open, reported)
        if self.settings["voting_threshold"] is not None:
            self._voters = _joined(self._voters, candidates)

    def _settle(self, horizon: float, cut: float) -> Candidates:
        segments, _, labels = self._open
        groups = labels if self.settings["nms_per_class"] else torch.zeros_like(labels)
        settled = ends_of_groups(segments, groups) <= horizon
        decided = settled | (segments[:, 1] <= cut)
        if not decided.any():
            return no_candidates()
        kept, scores = self._kept()
        chosen = decided[kept] & (scores >= self.threshold)
        kept, scores = kept[chosen], scores[chosen]
        self.num_cut += int((~settled[kept]).sum())
        order = segments[kept, 0].argsort(stable=True)
        found = segments[kept][order], scores[order], labels[kept][order]
        self._open = _chosen(self._open, ~decided)
        self._remember(found, horizon, cut)
        segments, scores, labels = self._voted(found, horizon)
        return points_within(segments, self.settings["point_window"]), scores, labels

    def _kept(self) -> tuple[Tensor, Tensor]:
        """Indices of the open candidates that the suppression keeps, after what was said, and their scores."""
        segments, scores, labels = _joined(self._said, self._open)
        kept, scores = kept_by(
            self.settings["nms_method"],
            segments,
            scores,
            labels if self.settings["nms_per_class"] else None,
            sigma=self.settings["nms_sigma"],
            iou_threshold=self.settings["nms_iou_threshold"],
            min_score=self.settings["nms_min_score"],
        )
        before = len(self._said[1])
        return kept[kept >= before] - before, scores[kept >= before]

    def _remember(self, found: Candidates, horizon: float, cut: float) -> None:
        """Keeps what was said for as long as something open may overlap it, or something late is likely to."""
        first = min([horizon - self.delay, cut, *self._open[0][:, 0].tolist()])
        said = found[0], torch.full_like(found[1], SAID_SCORE), found[2]
        self._said = _joined(self._said, said)
        self._said = _chosen(self._said, self._said[0][:, 1] > first)

    def _voted(self, found: Candidates, horizon: float) -> Candidates:
        threshold = self.settings["voting_threshold"]
        if threshold is None:
            return found
        per_class = self.settings["nms_per_class"]
        segments = vote_segments(
            found[0],
            self._voters[0],
            self._voters[1],
            threshold=threshold,
            labels=found[2] if per_class else None,
            candidate_labels=self._voters[2] if per_class else None,
        )
        first = min([horizon, *self._open[0][:, 0].tolist()])
        self._voters = _chosen(self._voters, self._voters[0][:, 1] > first)
        return segments, found[1], found[2]


def ends_of_groups(segments: Tensor, labels: Tensor) -> Tensor:
    """For each segment the last end among those that it overlaps, directly or through others of its label.

    Args:
        segments: `[N, 2]`.
        labels: `[N]`.

    Returns:
        `[N]`.

    Example:
        >>> segments = torch.tensor([[0.0, 2.0], [1.0, 4.0], [4.0, 5.0]])
        >>> ends_of_groups(segments, torch.zeros(3)).tolist()
        [4.0, 4.0, 5.0]
    """
    ends = segments[:, 1].clone()
    for label in labels.unique():
        [places] = torch.nonzero(labels == label, as_tuple=True)
        places = places[segments[places, 0].argsort(stable=True)]
        reached = np.maximum.accumulate(segments[places, 1].numpy())
        # A group begins where a segment starts no earlier than all before have ended.
        begins = np.concatenate([[True], segments[places, 0].numpy()[1:] >= reached[:-1]])
        last = np.append(np.flatnonzero(begins)[1:], len(places)) - 1
        ends[places] = torch.from_numpy(reached[last][np.cumsum(begins) - 1])
    return ends


def _chosen(candidates: Candidates, mask: Tensor) -> Candidates:
    segments, scores, labels = candidates
    return segments[mask], scores[mask], labels[mask]


def _joined(first: Candidates, second: Candidates) -> Candidates:
    segments, scores, labels = (torch.cat(parts) for parts in zip(first, second, strict=True))
    return segments, scores, labels


def _clamped(candidates: Candidates, last: Tensor) -> Candidates:
    """Starts and ends no later than those of `last`."""
    segments = candidates[0].minimum(last)
    return _chosen((segments, *candidates[1:]), segments[:, 1] > segments[:, 0])
