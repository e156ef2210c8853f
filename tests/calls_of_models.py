"""Wrong calls: models, rewiring and the registries."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models.video import R2Plus1D_18_Weights, r3d_18
from wrong_arguments import INF, NAN, Arguments, Call, anything, classifier, pipe, tensor, values

from re2tal_hf import (
    Architecture,
    register_backbone,
    register_head,
    rewire,
)
from re2tal_hf.loss_points import LocalizationLoss
from re2tal_hf.rewired_model import RewiredModel

# The models.

PIXELS = [
    *[
        functools.partial(tensor, *shape)
        for shape in ((0, 8, 3, 16, 16), (1, 0, 3, 16, 16), (1, 8, 16, 16, 3), (1, 3, 8, 16, 16), (1, 8, 1, 16, 16),
                      (8, 3, 16, 16), (1, 8, 3, 0, 16), (1, 8, 3, 1, 1), (1, 1, 3, 16, 16), (1, 9, 3, 17, 5), (1, 8,
                        4, 16, 16))
    ],
    *[functools.partial(tensor, 1, 8, 3, 16, 16, dtype=kind)
      for kind in (torch.uint8, torch.int64, torch.float64, torch.bfloat16, torch.float16, torch.bool,
        torch.complex64)],
    lambda: np.zeros((1, 8, 3, 16, 16), np.float32),
    lambda: tensor(1, 8, 3, 16, 16).tolist(),
    lambda: tensor(1, 8, 3, 16, 16).to("meta"),
    lambda: tensor(1, 8, 3, 16, 16).to_sparse(),
]  # fmt: skip
MASKS = [
    *[
        functools.partial(tensor, *shape, dtype=torch.bool)
        for shape in ((1, 8), (8,), (1, 9), (2, 8), (1, 8, 1), (0, 8))
    ],
    *[functools.partial(tensor, 1, 8, dtype=kind, value=1) for kind in (torch.int64, torch.float32, torch.complex64)],
    lambda: torch.zeros(1, 8, dtype=torch.bool),
    lambda: np.ones((1, 8), bool),
    lambda: [[True] * 8],
    lambda: "abc",
]


def label(**change: Any) -> Arguments:
    right = {"segments": torch.tensor([[1.0, 5.0], [2.0, 2.0]]), "class_labels": torch.tensor([0, 1])}
    return {name: value for name, value in (right | change).items() if value is not ...}


LABELS = [
    *[
        functools.partial(lambda name, value: [label(**{name: value})], name, value)
        for name, options in {
            "segments": (..., None, [[1, 5], [2, 3]], tensor(2, 3), tensor(2), tensor(0, 2), tensor(2, 2, value=NAN),
                         torch.tensor([[5.0, 1.0], [2.0, 3.0]]), torch.tensor([[1, 5], [2, 3]]), tensor(1, 2, 2), "abc",
                         torch.tensor([[1.0, INF], [2.0, 3.0]]), tensor(2, 2, dtype=torch.complex64), np.ones((2, 2))),
            "class_labels": (..., None, [0, 1], torch.tensor([0, 7]), torch.tensor([-1, 0]), torch.tensor([0.0, 1.0]),
                             torch.tensor([[0, 1]]), torch.tensor([0]), torch.tensor([], dtype=torch.long), "abc",
                             torch.tensor([True, False]), torch.tensor([0, 1], dtype=torch.int32)),
        }.items()
        for value in options
    ],
    lambda: [label(segments=torch.zeros(0, 2), class_labels=torch.zeros(0, dtype=torch.long))],
    list,
    lambda: label(),
    lambda: [label(), label()],
    lambda: [None],
    lambda: [{"segments": torch.ones(1, 2), "labels": torch.tensor([0])}],
    lambda: torch.tensor([0]),
]  # fmt: skip
FEATURES = [
    *[
        functools.partial(tensor, *shape)
        for shape in ((1, 4, 16), (0, 4, 16), (1, 0, 16), (1, 16, 4), (4, 16), (2, 4, 16), (1, 4, 8))
    ],
    functools.partial(tensor, 1, 4, 16, dtype=torch.float64),
    functools.partial(tensor, 1, 4, 16, dtype=torch.uint8),
    lambda: np.zeros((1, 4, 16)),
]


def forward(**arguments: Any) -> Any:
    with torch.no_grad():
        return pipe().model(**arguments)


def forward_backbone(**arguments: Any) -> Any:
    with torch.no_grad():
        return pipe().model.model(**arguments)


def forward_classifier(**arguments: Any) -> Any:
    with torch.no_grad():
        return classifier()(**arguments)


def check_output(output: Any, arguments: Arguments) -> None:
    assert output.logits.dim() == 3 and output.logits.shape[-1] == 2 and len(output.logits)
    assert output.pred_segments.shape == (*output.logits.shape[:2], 2)
    assert output.point_mask.shape == output.logits.shape[:2]
    assert (output.loss is None) == (arguments.get("labels") is None)
    assert output.loss is None or (output.loss.dim() == 0 and output.loss.isfinite())


def check_features(output: Any, arguments: Arguments) -> None:
    features = output.last_hidden_state
    assert features.dim() == 3 and features.shape[:2] == output.feature_mask.shape and len(features)
    assert features.isfinite().all()


def check_classified(output: Any, arguments: Arguments) -> None:
    assert output.logits.shape == (len(arguments["pixel_values_videos"]), 3) and output.logits.isfinite().all()
    assert output.loss is None or (output.loss.dim() == 0 and output.loss.isfinite())


# Rewiring.


@functools.cache
def network() -> nn.Module:
    with torch.device("meta"):
        return r3d_18()


def rewire_network(**arguments: Any) -> Any:
    return rewire(**arguments)


def check_rewired(model: Any, arguments: Arguments) -> None:
    assert isinstance(model, RewiredModel) and model.rewiring in ("re2tal", "none", "dr2net")
    assert model.backprop in ("reversible", "checkpoint", "plain")
    assert all(0 <= value <= 1 for pair in model.couplings() for value in pair)


COUPLINGS = values([0.5, 0.5], (1, 0), [[0.5, 0.5]] * 4, [[0.5, 0.5]] * 3, [0.5], [2, 0], ["a", "b"], [NAN, 1],
  [[0.5], 1],
                   torch.tensor([0.5, 0.5]), np.array([0.5, 0.5]), [True, False], {"alpha": 1, "beta": 0}, [[]],
                     "ab")  # fmt: skip


# The registries.


class Good(Architecture):
    model_type = "mutated"
    model_class = nn.Bilinear

    def build(self, *args: Any, **kwargs: Any) -> Any: ...
    def stages(self, model: Any, size: Any = None) -> Any: ...
    def norm(self, model: Any, *outputs: Any) -> Any: ...
    def classify(self, model: Any, features: Any) -> Any: ...
    def initialize(self, model: Any) -> Any: ...
    def feature_size(self, model: Any) -> Any: ...
    def feature_stride(self, model: Any) -> Any: ...


def bad_architecture(**change: Any) -> type:
    return type("Bad", (Good,), change)


def register_architecture(architecture: Any) -> Any:
    from re2tal_hf.architecture import BACKBONES

    before = set(BACKBONES)
    try:
        return register_backbone(architecture)
    finally:
        for name in set(BACKBONES) - before:
            BACKBONES.remove(name)


def register_and_forget(head: Any, **arguments: Any) -> Any:
    from re2tal_hf.head import HEADS

    before = set(HEADS)
    try:
        return register_head(**arguments)(head)
    finally:
        for name in set(HEADS) - before:
            HEADS.remove(name)


class Head(nn.Module):
    def initialize_weights(self) -> None: ...


CALLS = {
    "localizer": Call(
        forward,
        lambda: {"pixel_values_videos": tensor(1, 8, 3, 16, 16), "labels": [label()]},
        {"pixel_values_videos": PIXELS, "frame_mask": MASKS, "labels": LABELS, "temporal_features": FEATURES,
          "feature_mask": MASKS,
         "output_hidden_states": values(True, "yes", 1)},
        check_output,
        {},
    ),
    "features": Call(
        forward,
        lambda: {"temporal_features": tensor(1, 4, 16), "labels": [label()]},
        {"temporal_features": FEATURES, "feature_mask": MASKS, "labels": LABELS},
        check_output,
        {"temporal_features": ("batch",)},
    ),
    "backbone": Call(
        forward_backbone,
        lambda: {"pixel_values_videos": tensor(1, 8, 3, 16, 16)},
        {"pixel_values_videos": PIXELS, "frame_mask": MASKS, "output_hidden_states": values(True, "yes")},
        check_features,
        {},
    ),
    "classifier": Call(
        forward_classifier,
        lambda: {"pixel_values_videos": tensor(1, 8, 3, 16, 16), "labels": torch.tensor([1])},
        {"pixel_values_videos": PIXELS, "frame_mask": MASKS,
         "labels": values(torch.tensor([7]), torch.tensor([-1]), torch.tensor(1), torch.tensor([1, 2]), [1],
           torch.tensor([1.0]),
                          torch.tensor([[0.2, 0.3, 0.5]]), torch.tensor([[0.5, 0.5]]), torch.tensor([True]),
                            [label()], torch.tensor([NAN]),
                          torch.tensor([1], dtype=torch.int32), torch.tensor([-100]))},
        check_classified,
        {},
    ),
    "rewire": Call(
        rewire_network,
        lambda: {"model": copy.deepcopy(network())},
        {"model": [lambda: nn.Linear(2, 2), lambda: r3d_18, lambda: "r3d_18", lambda: R2Plus1D_18_Weights.DEFAULT,
          lambda: pipe().model],
         "rewiring": values("none", "dr2net", "revit", ["re2tal"]), "backprop": values("plain", "checkpoint",
           "reversible", "fast"),
         "coupling": COUPLINGS, "stream_bits": values(16, 24, 8, True, 16.0, "16", [16], torch.tensor([16, 24]))},
        check_rewired,
        {"coupling": ("alpha", "coefficients"), "model": ("architecture",)},
    ),
    "register_backbone": Call(
        register_architecture,
        lambda: {"architecture": bad_architecture()},
        {"architecture": [lambda: nn.Linear, lambda: Good(), lambda: Architecture,
                          *[functools.partial(lambda name, value: bad_architecture(**{name: value}), name, value)
                            for name in ("model_type", "model_class", "input_name",
                              "classifier_names") for value in (None, 5, "", [], int)]]},
        anything,
        {"architecture": ("model_type", "model_class", "input_name", "classifier_names")},
    ),
    "register_head": Call(
        register_and_forget,
        lambda: {"head": Head, "name": "mutated", "loss": LocalizationLoss},
        {"head": [lambda: nn.Linear, lambda: Head(), lambda: int], "name": values("", "actionformer", 5, None),
         "loss": [lambda: nn.Linear, lambda: LocalizationLoss(), lambda: "focal"], "paper": values("a paper", 5)},
        anything,
        {"head": ("Linear", "initialize_weights"), "loss": ("Linear", "initialize_weights")},
    ),
}  # fmt: skip
