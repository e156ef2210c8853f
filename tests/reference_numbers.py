"""Parity in numbers small enough for the repository: models filled from a seed, and summaries of what they compute.

The files of the reference implementations are too large to ship. `reference_numbers.json` holds what this package
computed in double precision on the day when it agreed with those files, with sizes and settings of the same kind.
Numbers drawn here depend on the seed and the name alone: not on a version of torch or numpy, nor on the processor.

`python tests/reference_numbers.py` writes the file anew. Do so only after the tests against the files themselves have
passed, and say why in the commit.
"""

import hashlib
import json
import subprocess
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import torch
from golden_weights import SLOWFAST, SWIN
from tolerances import depth_of
from torch import Tensor, nn

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization
from re2tal_hf.reversible import run_stages
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.temporal_segments import suppress

ROOT = Path(__file__).resolve().parents[1]
FILE = Path(__file__).with_suffix(".json")
SEED = 20240601


def draw(name: str, *shape: int) -> Tensor:
    """Uniform numbers of mean 0 and variance 1, from the bits of a generator whose stream numpy guarantees."""
    bits = np.random.PCG64([SEED, zlib.crc32(name.encode())]).random_raw(int(np.prod(shape)))
    return torch.from_numpy((2 * (bits >> np.uint64(11)) * 2.0**-53 - 1) * 3**0.5).reshape(shape)


@torch.no_grad()
def fill(model: nn.Module) -> None:
    """Gives every weight and every running statistic a value by its name, of the size that training leaves it in."""
    for name, tensor in model.state_dict().items():
        kind = name.rpartition(".")[2]
        if not tensor.is_floating_point() or kind == "normalizer":
            continue
        value = draw(name, *tensor.shape)
        if tensor.ndim > 1:
            tensor.copy_(value * (tensor.shape[0] / tensor.numel()) ** 0.5)
        elif kind in ("bias", "running_mean"):
            tensor.copy_(0.1 * value)
        else:
            tensor.copy_(1 + 0.2 * value)


@dataclass(frozen=True)
class Case:
    """Something to compute.

    Attributes:
        name: of the case in the file.
        compute: tensors by name, in a precision and by a way of backpropagation.
        modes: the ways of backpropagation, which all have the same result.
        single: whether single precision says something, too; not where it may decide otherwise.
    """

    name: str
    compute: Callable[[torch.dtype, str], dict[str, Tensor]]
    modes: tuple[str, ...] = ("plain",)
    single: bool = True


def gradients(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Gradients of the input and of the weights, those of one part of the model strung together."""
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parts.setdefault(".".join(name.split(".")[:2]), []).append(parameter.grad.flatten())
    return {"gradient.input": inputs.grad} | {f"gradient.{name}": torch.cat(part) for name, part in parts.items()}


def backbone(config: dict[str, Any], rewiring: str, shape: tuple[int, ...]) -> Callable:
    """Outputs of a backbone, and gradients of a weighted sum of them."""

    def compute(dtype: torch.dtype, mode: str) -> dict[str, Tensor]:
        model = build_backbone(config, rewiring, mode).double()
        fill(model)
        model = model.to(dtype).train()
        inputs = draw("video", *shape).to(dtype).requires_grad_()
        if config is SWIN:
            outputs = [model.forward_features(inputs)]
        else:
            outputs = list(run_stages(model.architecture.stages(model), inputs, model.couplings()[0], mode))
        weighted = [(one * draw(f"loss.{i}", *one.shape).to(dtype)).sum() for i, one in enumerate(outputs)]
        sum(weighted, torch.zeros(())).backward()
        found = {f"output.{i}": one for i, one in enumerate(outputs)} | gradients(model, inputs)
        return found | {"depth": torch.tensor(depth_of(model))}

    return compute


RANGES = [[0, 4], [4, 8], [8, 10000]]
PYRAMID = {"hidden_size": 32, "num_levels": 3, "max_length": 64, "regression_ranges": RANGES, "drop_path": 0.0}
ACTIONFORMER = {"model_type": "actionformer", "num_attention_heads": 4, **PYRAMID}
HEADS = {
    "actionformer_as_in_opentad": {**ACTIONFORMER, "norm_eps": 1e-6, "padding": "opentad"},
    "actionformer_as_published": {**ACTIONFORMER, "norm_eps": 1e-5, "padding": "actionformer"},
    "actionformer_isolated": {**ACTIONFORMER, "attention_window": 9, "use_position_embedding": True, "neck": "fpn"},
    "tridet_as_in_opentad": {
        "model_type": "tridet", "mlp_size": 48, "window": 1, "window_factor": 5, "num_bins": 8,
        "boundary_kernel_size": 3, "padding": "opentad", **PYRAMID,
    },
    "vsgn_as_in_opentad": {
        "model_type": "vsgn", "hidden_size": 32, "num_levels": 3, "num_neighbours": 0, "anchor_scales": [1, 1.5],
        "num_head_layers": 2, "boundary_reach": 8.0, "max_length": 64, "padding": "opentad",
    },
}  # fmt: skip
LENGTHS = [64, 50, 37]
ACTIONS = [[(3.0, 9.5, 0), (20.25, 31.0, 3), (28.0, 60.0, 1)], [(10.0, 14.0, 4), (30.5, 47.0, 2)], []]


def labels(frames_per_step: float) -> list[dict[str, Tensor]]:
    """Annotations of the three sequences."""
    return [
        {
            "segments": torch.tensor([row[:2] for row in rows], dtype=torch.float64).reshape(-1, 2) * frames_per_step,
            "class_labels": torch.tensor([row[2] for row in rows], dtype=torch.long),
        }
        for rows in ACTIONS
    ]


def detector(backbone_config: dict[str, Any], head_config: dict[str, Any], mode: str) -> Any:
    """A filled model in double precision."""
    config = Re2TALConfig(backbone_config=backbone_config, head_config=head_config, num_labels=5, backprop=mode)
    model = Re2TALForTemporalActionLocalization(config).double()
    fill(model)
    return model


def head(head_config: dict[str, Any]) -> Callable:
    """Predictions and losses of a head on features of 24 channels, and gradients."""
    narrow = SWIN | {"depths": [2, 2], "num_heads": [1, 2]}

    def compute(dtype: torch.dtype, mode: str) -> dict[str, Tensor]:
        whole = detector(narrow, head_config, mode).to(dtype).train()
        features = draw("features", 3, 24, 64).to(dtype).requires_grad_()
        mask = torch.arange(64)[None] < torch.tensor(LENGTHS)[:, None]
        output = whole.head(features, mask)
        predicted = output.scored_segments()
        logits = predicted.logits[predicted.point_mask]
        found = {"logits": logits[logits.isfinite()], "segments": predicted.segments[predicted.point_mask]}
        losses = [whole.criterion(output, labels(1)) for _ in range(2)]
        losses[0]["loss"].backward()
        with torch.no_grad():
            losses.append(whole.criterion.eval()(output, labels(1)))
        for step, parts in zip(("first", "second", "evaluated"), losses, strict=True):
            found |= {f"loss.{step}.{name}": value for name, value in parts.items()}
        return found | gradients(whole.head, features) | {"depth": torch.tensor(depth_of(whole.head))}

    return compute


def whole_detector(dtype: torch.dtype, mode: str) -> dict[str, Tensor]:
    """From frames to the loss and back."""
    sizes = {"embed_dim": 8, "window_size": [2, 3, 3]}
    head_config = {"hidden_size": 16, "num_levels": 3, "drop_path": 0.0, "norm_eps": 1e-6, "padding": "opentad"}
    model = detector(SWIN | sizes, head_config | {"max_length": 64}, mode).to(dtype).train()
    videos = draw("frames", 3, 128, 3, 16, 16).to(dtype).requires_grad_()
    frame_mask = torch.arange(128)[None] < 2 * torch.tensor(LENGTHS)[:, None]
    features = model.model(videos, frame_mask).last_hidden_state
    output = model(videos, frame_mask, labels=labels(2))
    output.loss.backward()
    found = {"features": features, "logits": output.logits, "segments": output.pred_segments, "loss": output.loss}
    return found | gradients(model, videos) | {"depth": torch.tensor(depth_of(model))}


def segments_from(name: str, number: int, length: float) -> Tensor:
    """Starts anywhere in a sequence, durations of up to a fifth of it, on a grid that makes overlaps exact."""
    start, duration = ((draw(f"{name}.{part}", number) / 3**0.5 + 1) / 2 for part in ("start", "duration"))
    return torch.stack((start * length, start * length + duration * length / 5 + 1), dim=1).mul(8).round() / 8


def suppression(dtype: torch.dtype, mode: str) -> dict[str, Tensor]:
    """What is kept of 300 segments in four ways."""
    segments = segments_from("nms", 300, 200.0)
    scores = (draw("nms.scores", 300) / 3**0.5 + 1) / 2
    classes = (draw("nms.labels", 300).abs() * 2).long()
    ways: dict[str, dict[str, Any]] = {
        "soft": {"method": "soft", "sigma": 0.5},
        "hard": {"method": "hard", "iou_threshold": 0.4},
        "agnostic": {"method": "soft", "sigma": 0.7, "per_class": False, "max_detections": 100},
        "voting": {"method": "soft", "sigma": 0.7, "per_class": False, "voting_threshold": 0.7},
    }
    found = {}
    for way, settings in ways.items():
        kept = suppress(segments, scores, classes, **{"min_score": 0.001, **settings})
        found |= {f"{way}.{name}": value for name, value in zip(("segments", "scores", "labels"), kept, strict=True)}
    return found


def metric(dtype: torch.dtype, mode: str) -> dict[str, Tensor]:
    """mAP, recall and AR of noisy detections of 30 videos and 4 classes, some of them of unknown videos."""
    references, predictions = [], []
    for number in range(30):
        name = f"video{number}"
        truth = segments_from(name, 12, 100.0)
        classes = (draw(f"{name}.labels", 12).abs() * 2).long()
        noise = (draw(f"{name}.noise", 5 * 12, 2) * 4).round() / 4
        scores = (draw(f"{name}.scores", 5 * 12) / 3**0.5 + 1) / 2
        segments = truth.repeat(5, 1) + noise
        segments[:, 1] = segments[:, 1].maximum(segments[:, 0] + 0.25)
        found = {"video_id": name, "segments": segments.numpy(), "labels": classes.repeat(5).numpy()}
        predictions.append(found | {"scores": scores.numpy()})
        if number < 27:
            references.append({"video_id": name, "segments": truth.numpy(), "labels": classes.numpy()})
    measure = evaluate.load(str(ROOT / "re2tal_hf" / "metrics" / "tal_map"))
    data = {"predictions": predictions, "references": references, "tiou_thresholds": [0.3, 0.5, 0.7]}
    results = measure.compute(**data, top_k=[1, 5], max_proposals=40)
    per_class = results.pop("per_class")
    results["per_class"] = [per_class[key] for key in sorted(per_class)]
    results["ar"] = list(results["ar"].values())
    return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in results.items()}


ALL_MODES = ("reversible", "checkpoint", "plain")
SHAPES = {
    "swin": {"even": (1, 3, 8, 56, 56), "odd": (2, 3, 9, 34, 50)},
    "slowfast": {"even": (1, 3, 16, 32, 32), "odd": (2, 3, 16, 41, 35)},
}
CASES = [
    *(
        Case(f"{family}_{rewiring}_{size}", backbone(config, rewiring, shape), modes)
        for family, config in (("swin", SWIN), ("slowfast", SLOWFAST))
        for rewiring, modes in (("re2tal", ALL_MODES), ("none", ALL_MODES[1:]))
        for size, shape in SHAPES[family].items()
    ),
    *(Case(name, head(config)) for name, config in HEADS.items()),
    Case("whole_detector", whole_detector, ALL_MODES),
    Case("suppression", suppression, single=False),
    Case("metric", metric, single=False),
]


def summary(tensor: Tensor) -> dict[str, Any]:
    """Shape, norm, product with a fixed direction (which sees what changes places), and three of the values."""
    values = tensor.detach().double().flatten()
    direction = draw("checksum", len(values))
    return {
        "shape": list(tensor.shape),
        "norm": float(values.norm()),
        "checksum": float(values @ direction / direction.norm()) if len(values) else 0.0,
        "values": [float(values[i]) for i in (0, len(values) // 2, -1)] if len(values) else [],
    }


def names_of(config: dict[str, Any]) -> str:
    """Digest of the names of a backbone's weights, in their order."""
    return hashlib.sha256("\n".join(build_backbone(config).state_dict()).encode()).hexdigest()


def _lines(tables: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for name, table in tables.items():
        rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in table.items())
        yield f" {json.dumps(name)}: {{\n{rows}\n }}"


def write() -> None:
    """Writes the file from what this checkout computes."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    old = json.loads(FILE.read_text())["about"] if FILE.exists() else {}
    now = {"date": date.today().isoformat(), "commit": commit.stdout.strip()}
    tables: dict[str, dict[str, Any]] = {"about": old | now}
    tables["names"] = {"slowfast": names_of(SLOWFAST), "swin": names_of(SWIN)}
    for case in CASES:
        found = case.compute(torch.float64, "plain")
        tables[case.name] = {name: summary(value) for name, value in found.items() if name != "depth"}
    FILE.write_text("{\n" + ",\n".join(_lines(tables)) + "\n}\n")


if __name__ == "__main__":
    write()
