"""Videos divided among subsets: groups stay together, and classes have the same shares as far as that goes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from .annotation_records import Record
from .annotation_set import AnnotationError

# Of the groups, and of all groups together, for a set of many videos.
_MAX_PASSES, _MAX_TRIALS = 20, 20_000
# A class that a subset lacks, though there are groups enough for all, weighs more than any unevenness.
_LACKING = 10.0


def split_records(
    records: Sequence[Record], shares: Mapping[str, float], groups: Sequence[str], seed: int = 0
) -> list[str]:
    """Chooses the subset of every video.

    Groups are placed one after the other, those with the largest part of any class first, where the shares come
    nearest to those that are asked for; then groups are moved and exchanged as long as that brings them nearer. What
    counts is the squared difference of shares: of the actions of each class, all classes together as much as the
    number of videos.

    Args:
        records: The videos.
        shares: Of the videos and of the actions of each class, by subset; they sum to 1.
        groups: Of every video the group; those of one group come into one subset.
        seed: Of the order in which equal groups are placed.

    Returns:
        Of every video the subset.

    Raises:
        AnnotationError: There are fewer groups than subsets.
    """
    names = list(dict.fromkeys(groups))
    if len(names) < len(shares):
        raise AnnotationError(
            f"{len(names)} groups cannot be divided among {len(shares)} subsets ({', '.join(shares)}); each needs one"
        )
    weights = _weights(records, groups, names)
    target = np.array(list(shares.values()))[:, None]
    random = np.random.default_rng(seed)
    chosen = _placed(weights, target, random)
    _improve(weights, target, chosen, random)
    subset_of = dict(zip(names, np.array(list(shares))[chosen].tolist(), strict=True))
    return [subset_of[group] for group in groups]


def _weights(records: Sequence[Record], groups: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Of every group its part of the videos, then of the actions of each class, `[groups, 1 + classes]`."""
    index = {name: number for number, name in enumerate(names)}
    classes = {label: number for number, label in enumerate(sorted({str(x) for r in records for x in r.labels}))}
    counts = np.zeros((len(names), 1 + len(classes)))
    for record, group in zip(records, groups, strict=True):
        counts[index[group], 0] += 1
        for label, count in Counter(map(str, record.labels)).items():
            counts[index[group], 1 + classes[label]] += count
    return counts / counts.sum(axis=0)


def _costs(states: np.ndarray, target: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """How far divisions are from the target: `states` `[..., subsets, 1 + classes]` to `[...]`."""
    squares = ((states - target) ** 2).sum(axis=-2)
    lacking = ((states < 1e-12) & (target > 0)).sum(axis=-2) * possible
    parts = squares + _LACKING * lacking
    return parts[..., 0] + (parts[..., 1:].mean(axis=-1) if parts.shape[-1] > 1 else 0.0)


def _possible(weights: np.ndarray, subsets: int) -> np.ndarray:
    """Whether as many groups have a class as there are subsets."""
    return (weights > 0).sum(axis=0) >= subsets


def _placed(weights: np.ndarray, target: np.ndarray, random: np.random.Generator) -> np.ndarray:
    subsets = len(target)
    order = random.permutation(len(weights))
    order = order[np.argsort(-weights[order].max(axis=1), kind="stable")]
    state, chosen = np.zeros((subsets, weights.shape[1])), np.zeros(len(weights), dtype=int)
    placed = np.zeros(weights.shape[1])
    for group in order:
        placed += weights[group]
        options = state + np.eye(subsets)[:, :, None] * weights[group]
        # What is placed so far is to be divided in these shares.
        costs = ((options - target * placed) ** 2).sum(axis=(1, 2))
        chosen[group] = costs.argmin()
        state[chosen[group]] += weights[group]
    return chosen


def _improve(weights: np.ndarray, target: np.ndarray, chosen: np.ndarray, random: np.random.Generator) -> None:
    """Moves groups, and exchanges them with random others, as long as one does any good."""
    subsets, groups = len(target), len(weights)
    possible = _possible(weights, subsets)
    state = np.stack([weights[chosen == subset].sum(axis=0) for subset in range(subsets)])
    cost = float(_costs(state, target, possible))
    for _ in range(min(_MAX_PASSES, max(1, _MAX_TRIALS // groups))):
        before = cost
        for group in random.permutation(groups):
            others = random.permutation(groups)[:64]
            others = others[chosen[others] != chosen[group]]
            home, away = chosen[group], np.setdiff1d(np.arange(subsets), chosen[group])
            # First the moves to each other subset, then the exchanges.
            goes_to = np.concatenate([away, chosen[others]])
            goes = np.concatenate([np.repeat(weights[group][None], len(away), 0), weights[group] - weights[others]])
            options = np.repeat(state[None], len(goes_to), axis=0)
            options[:, home] -= goes
            options[np.arange(len(goes_to)), goes_to] += goes
            costs = _costs(options, target, possible)
            best = int(costs.argmin())
            if costs[best] < cost - 1e-12:
                if best >= len(away):
                    chosen[others[best - len(away)]] = home
                chosen[group], state, cost = goes_to[best], options[best], float(costs[best])
        if cost >= before - 1e-12:
            break


def split_table(records: Sequence[Record], subsets: Sequence[str], groups: Sequence[str], names: Sequence[str]) -> str:
    """Describes a division: videos, groups and the actions of each class by subset, with their shares.

    Args:
        records: The videos.
        subsets: Of every video.
        groups: Of every video.
        names: Of the subsets, in the order of the columns.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    parts: dict[str, set[str]] = defaultdict(set)
    for record, subset, group in zip(records, subsets, groups, strict=True):
        counts["videos"][subset] += 1
        counts["actions"][subset] += len(record.labels)
        parts[subset].add(group)
    for label in sorted({str(label) for record in records for label in record.labels}):
        for record, subset in zip(records, subsets, strict=True):
            counts[f"  {label}"][subset] += [str(each) for each in record.labels].count(label)
    width = max(10, *(len(name) for name in (each[:60] for each in counts)))
    lines = [" " * width + "".join(f"{name[:18]:>20}" for name in names)]
    for name, count in counts.items():
        cells = [f"{count[subset]} ({100 * count[subset] / max(count.total(), 1):.0f}%)" for subset in names]
        lines.append(f"{name[:60]:{width}}" + "".join(f"{text:>20}" for text in cells))
        if name == "videos" and len(set(groups)) < len(records):
            lines.append(f"{'  groups':{width}}" + "".join(f"{len(parts[subset]):>20}" for subset in names))
    return "\n".join(lines)
