"""Bounds of a configuration: what is published passes, what would take all memory or never end is refused."""

import copy
import json
import random
import time
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from architecture_cases import CASES

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization
from re2tal_hf.value_checks import COUNT, SHARE, check_value, shown

LARGEST_PUBLISHED: list[dict[str, Any]] = [
    {"backbone_config": {"model_type": "video_swin", "variant": "base", "window_size": [16, 7, 7]}},
    {
        "backbone_config": {
            "model_type": "video_swin",
            "embed_dim": 192,
            "depths": [2, 2, 18, 2],
            "num_heads": [6, 12, 24, 48],
        }
    },
    {"backbone_config": {"model_type": "videomae", "variant": "huge"}},
    # VideoMAE V2's giant (arXiv 2303.16727, table 8).
    {
        "backbone_config": {
            "model_type": "videomae",
            "hidden_size": 1408,
            "num_hidden_layers": 40,
            "num_attention_heads": 16,
        }
    },
    {"backbone_config": {"model_type": "vjepa2", "variant": "giant", "crop_size": 384, "frames_per_clip": 64}},
    # TimeSformer's long variant (arXiv 2102.05095, table 6), and ViViT's large one (arXiv 2103.15691).
    {"backbone_config": {"model_type": "timesformer", "variant": "base", "num_frames": 96}},
    {"backbone_config": {"model_type": "timesformer", "variant": "base", "num_frames": 16, "image_size": 448}},
    {"backbone_config": {"model_type": "vivit", "hidden_size": 1024, "num_attention_heads": 16, "image_size": 320}},
    {"backbone_config": {"model_type": "mvit", "variant": "v2_s", "spatial_size": [312, 312], "temporal_size": 40}},
    {"backbone_config": {"model_type": "slowfast", "variant": "152_8x8"}},
    {"backbone_config": {"model_type": "video_resnet", "block": "bottleneck", "layers": [3, 8, 36, 3]}},
    {"num_labels": 22_000},
    {"id2label": {number: f"class {number}" for number in range(22_000)}},
    {"head_config": {"num_levels": 9, "hidden_size": 1024, "max_length": 20_000, "num_head_layers": 4}},
    {"head_config": {"regression_ranges": [[0, 4], [4, 8], [8, 16], [16, 32], [32, 64], [64, 1e9]]}},
    {"head_config": {"model_type": "tridet", "window": [1, 3, 5, 9, 17, 33], "window_factor": 5, "num_bins": 32}},
]


@pytest.mark.parametrize("settings", LARGEST_PUBLISHED, ids=lambda settings: str(settings)[:70])
def test_the_largest_published_models_are_within_the_bounds(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seconds of Python for each VideoMAE.
    table = "transformers.models.videomae.modeling_videomae.get_sinusoid_encoding_table"
    monkeypatch.setattr(table, lambda positions, width: torch.empty(1, positions, width))
    with torch.device("meta"):
        Re2TALForTemporalActionLocalization(Re2TALConfig(**settings))


SWIN = {"model_type": "video_swin", "variant": "tiny"}
nested: Any = {}
for _ in range(60):
    nested = {"a": [nested]}
HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"num_labels": 10**9}, "num_labels is 1000000000; it must be from 1 to"),
    ({"num_labels": 1e9}, "num_labels is '1000000000.0'; it must be a whole number"),
    ({"num_labels": -1}, "num_labels is -1"),
    ({"id2label": dict.fromkeys(range(200_000), "")}, "id2label has 200000 classes"),
    ({"id2label": {0: "x" * 10**6}}, "longer than 1000 letters"),
    ({"id2label": ["a", "b"]}, "id2label is a list"),
    ({"id2label": {0: "\ud800"}}, "it is no text"),
    ({"backbone_config": {**SWIN, "depths": [10**6] * 4}}, r"backbone_config.depths\[0\] is 1000000"),
    ({"backbone_config": {**SWIN, "depths": [1e6, 2, 6, 2]}}, r"depths\[0\] is 1000000.0"),
    ({"backbone_config": {**SWIN, "depths": [200] * 4}}, "backbone_config adds up to 800 layers; at most 256"),
    ({"backbone_config": {**SWIN, "depths": [60_000, -60_000]}}, "layers; at most 256"),
    ({"backbone_config": {**SWIN, "depths": [1] * 20}}, "backbone_config has 20 stages; at most 8"),
    ({"backbone_config": {**SWIN, "depths": [1] * 10**4}}, "has 10000 stages; at most"),
    ({"backbone_config": {**SWIN, "depths": [1] * 10**5}}, "backbone_config holds more than 16384 values"),
    ({"backbone_config": {**SWIN, "window_size": [64, 64, 64]}}, "window_size is .*multiplied more than 4096"),
    ({"backbone_config": {**SWIN, "embed_dim": 1000, "depths": [2] * 8}}, "16 layers up to 128000 wide"),
    ({"backbone_config": {**SWIN, "mlp_ratio": float("nan")}}, "mlp_ratio is nan"),
    ({"backbone_config": {**SWIN, "embed_dim": 10**3000}}, "embed_dim is a number of 9966 bits"),
    ({"backbone_config": {**SWIN, "patch_size": "9" * 10**6}}, "patch_size has 1000000 letters"),
    ({"backbone_config": {**SWIN, "x" * 10**6: 1}}, "a key of 1000000 letters"),
    ({"backbone_config": {**SWIN, "depths": nested}}, "nested more than 8 deep"),
    ({"backbone_config": {"model_type": "videomae", "num_hidden_layers": 10**9}}, "num_hidden_layers is 1000000000"),
    ({"backbone_config": {"model_type": "mvit", "block_setting": [{}] * 10**4}}, "layers; at most 256"),
    ({"backbone_config": [1]}, "backbone_config is a list"),
    ({"head_config": {"num_levels": 20}}, "head_config.num_levels is 20; it must lie between -12 and 12"),
    ({"head_config": {"num_levels": 20.0}}, "num_levels is 20.0"),
    ({"head_config": {"num_head_layers": 10**6}}, "num_head_layers is 1000000"),
    ({"head_config": {"max_length": 1e12}}, "max_length is 1000000000000.0"),
    ({"head_config": {"regression_ranges": [[0, 1]] * 10**5}}, "head_config holds more than 16384 values"),
    ({"loss_config": {"initial_normalizer": float("-inf")}}, "initial_normalizer is -inf"),
    ({"rewiring": "dr2net", "coupling": [[0.5, 0.5]] * 10**5}, "coupling holds more than"),
]


@pytest.mark.parametrize(("settings", "message"), HOSTILE, ids=[message for _, message in HOSTILE])
def test_what_no_model_needs_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    start = time.process_time()
    with pytest.raises((ValueError, TypeError), match=message):
        Re2TALConfig(**settings)
    assert time.process_time() - start < 30  # a thousandth of it here; what it refuses takes hours


def test_tables_made_in_python_are_bounded() -> None:
    with pytest.raises(ValueError, match="videomae: clips of 8 x 224 x 224 patches"):
        Re2TALConfig(backbone_config={"model_type": "videomae", "variant": "base", "patch_size": 1})


HEADS: list[dict[str, Any]] = [
    {"model_type": "actionformer", "hidden_size": 16, "num_levels": 3, "attention_window": 9, "max_length": 64},
    {"model_type": "tridet", "hidden_size": 32, "num_levels": 3, "window": [1, 3, 5], "num_bins": 4},
    {"model_type": "vsgn", "hidden_size": 32, "num_levels": 3, "num_neighbours": 4, "anchor_scales": [1.0, 2.0]},
]
JUNK: list[Any] = [
    *(0, -1, 3, 20, 250, 4096, 65_536, 10**6, 10**9, 10**18, 10**400, 0.5, 1e6, 1e9, 1e308, -1e9),
    *(float("nan"), float("inf"), True, None, "", "x" * 5000, "1000000000", [], [1] * 1000, [10**6] * 3, [2, [2]], {}),
    *({"a": {"b": [1]}}, [[]], [4096] * 3, [250] * 8),
]


def places(value: Any, way: tuple = ()) -> list[tuple]:
    """The way to every value of a configuration, lists and mappings included."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in parts for found in [(*way, key), *places(part, (*way, key))]]


def mutated(settings: dict[str, Any], generator: random.Random) -> dict[str, Any]:
    """A copy with junk, or a number some times as large, in one or two places."""
    settings = copy.deepcopy(settings)
    for _ in range(generator.randint(1, 2)):
        *way, last = generator.choice(places(settings))
        owner = settings
        for key in way:
            owner = owner[key]
        number = isinstance(owner[last], (int, float)) and generator.random() < 0.6
        factor = generator.choice([2, 4, 16, 128, 1024])
        owner[last] = owner[last] * factor if number else copy.deepcopy(generator.choice(JUNK))
    return settings


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_mutated_configurations_are_refused_or_built_in_seconds(case: Any) -> None:
    generator = random.Random(case.name)
    outcomes = {"refused": 0, "built": 0}
    for number in range(40):
        settings = {
            "backbone_config": case.config,
            "head_config": HEADS[number % 3],
            "loss_config": {"loss_weight": 1.0},
        }
        settings = json.loads(json.dumps(mutated({**settings, "num_labels": 4}, generator)))
        start = time.process_time()
        try:
            config = Re2TALConfig(**settings)
            with torch.device("meta"):
                Re2TALForTemporalActionLocalization(config)
            outcomes["built"] += 1
        except Exception:
            outcomes["refused"] += 1
        assert time.process_time() - start < 60, settings
    assert min(outcomes.values()) > 0, outcomes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, "0.5"),
        ("softer", "'softer'"),
        ("a\nb", r"'a\nb'"),
        (torch.zeros(2, 3), "Tensor float32 [2, 3]"),
        (np.zeros((2, 3)), "ndarray float64 [2, 3]"),
        pytest.param(10**5000, "int too long to show", id="digits"),  # pytest cannot write it out either
        ([torch.zeros(2, 2)], "[tensor([[0., 0.], [0., 0.]])]"),
    ],
)
def test_values_in_messages_are_short_and_of_one_line(value, expected):
    assert shown(value) == expected
    assert len(shown([value, "x" * 10**6] * 100)) < 200


@pytest.mark.parametrize("number", [10**30, 10**400, 10**5000], ids=["30", "400", "5000"])
def test_whole_numbers_of_any_size_are_compared(number):
    with pytest.raises(ValueError, match="share is .*; it must be at least 0 and at most 1"):
        check_value("share", number, Annotated[float, SHARE])
    assert check_value("count", number, Annotated[int, COUNT]) == number
