"""One likely fault, as it is told to the user."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One likely fault of a training.

    Attributes:
        kind: One of `KINDS`.
        seen: The figure by which it was found.
        cause: What that likely comes of.
        fix: Field and value, or what else there is to do.
    """

    kind: str
    seen: str
    cause: str
    fix: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; it must be one of {sorted(KINDS)}")

    def __str__(self) -> str:
        return f"{self.kind}: {KINDS[self.kind]}\n  seen:  {self.seen}\n  cause: {self.cause}\n  fix:   {self.fix}"


KINDS = {
    # Annotations and videos.
    "refused": "training refuses the recipe",
    "annotations": "annotations that cannot be used",
    "subset": "a subset is empty, or called otherwise",
    "labels": "names of classes that do not agree",
    "untrained_classes": "classes are measured that nothing trains",
    "time_units": "times that are not seconds",
    "start_length": "actions that end before they start",
    "points": "actions without a length",
    "outside_videos": "actions outside their videos",
    "time_rate": "times at another frame rate than the videos",
    "wrong_durations": "videos of other lengths than annotated",
    "missing_videos": "videos without a file",
    "unreadable_videos": "videos that cannot be read",
    "shared_videos": "validation videos that are trained on",
    # Windows beside the actions.
    "short_window": "windows that are too short for the actions",
    "long_window": "windows that are mostly padding",
    "low_rate": "too few frames or feature steps for the actions",
    "high_rate": "more frames a second than the videos have",
    "no_point": "actions that no point of the head learns",
    "background": "windows without an action",
    "overlap": "windows that overlap too little to show every action whole",
    # Weights and their training.
    "random_backbone": "a backbone without pretrained weights that hardly learns",
    "few_weights": "pretrained weights of which much is not used",
    "frozen": "parts that do not learn",
    "frozen_rewired": "a rewired backbone whose weights stay those of another network",
    "another_rewiring": "weights of a network that is rewired otherwise",
    "batch_norm": "batch norms that learn from one window at a time",
    "random_norms": "norms that are frozen as they began",
    "high_learning_rate": "a learning rate that is too high",
    "low_learning_rate": "a learning rate that is too low",
    "warm_up": "a warm-up that the training does not outlast",
    "schedule": "a schedule that ends before the training",
    "weight_decay": "weight decay that takes the weights away",
    "average": "a moving average that still is the untrained model",
    "few_updates": "a training of few updates",
    # What goes in and comes out.
    "normalization": "frames that are not normalised as the weights need",
    "dark_videos": "frames that show nothing",
    "not_finite": "NaN or infinity",
    "no_gradient": "parts that no gradient reaches",
    "silent_head": "a head that never fires",
    "cut_scores": "detections that are thrown away",
    "inversion": "a backward pass that is not exact",
    # A run.
    "unfinished": "a run without a finished epoch",
    "diverged": "a loss that rises",
    "not_learning": "a loss that does not fall",
    "not_finite_weights": "weights that are NaN or infinite",
    "changed_model": "a model that is not of the recipe",
    "shuffled_classes": "classes that are exchanged",
    "scaled_times": "detections on another clock than the annotations",
    "zero_map": "an mAP near 0 that nothing else explains",
}
"""What each kind of finding means."""
