"""Bounds of a configuration: what is published passes, what would take all memory or never end is refused."""

import copy
import json
import random
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from architecture_cases import CASES

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization
from re2tal_hf.architecture import BACKBONES
from re2tal_hf.head import HEADS as HEADS_BY_NAME
from re2tal_hf.value_checks import COUNT, SHARE, arguments_of, check_value, shown

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


@pytest.mark.training
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


OWN_BACKBONES = [name for name, kind in BACKBONES.items() if type(kind).__module__.startswith("re2tal_hf.")]
OWN_HEADS = [name for name, entry in HEADS_BY_NAME.items() if entry.head_class.__module__.startswith("re2tal_hf.")]
WRONG_KINDS: list[Any] = [{"a": 1}, ["a"], "softer", True, -1, -1.5, float("nan"), 10**400]
KIND_NAMES = {bool: "bool", str: "str", dict: "dict", list: "list[str]", int: "no number", float: "no number"}


def refused(settings: dict[str, Any], place: str) -> bool:
    """Whether a configuration is refused; if so, with the place of what is wrong."""
    try:
        Re2TALConfig(**settings)
    except (ValueError, TypeError) as error:
        assert place in str(error) and len(str(error).splitlines()) == 1, error
        return True
    return False


@pytest.mark.parametrize("name", OWN_BACKBONES)
def test_every_setting_of_every_backbone_has_a_type_and_is_checked(name: str) -> None:
    known = BACKBONES[name].settings()
    # The backbone of stored features has no network, and so no case among those.
    configs = (case.config for case in CASES if case.config["model_type"] == name)
    right = next(configs, {"model_type": "features"})
    assert not refused({"backbone_config": right}, "")
    for setting, hint in known.items():
        assert hint is not Any, setting
        for value in WRONG_KINDS:
            kind = next(name for type_, name in KIND_NAMES.items() if isinstance(value, type_))
            may_be_right = kind in str(hint) or (setting == "chunk_size_feed_forward" and value == -1)
            changed = {**right, setting: copy.deepcopy(value)}
            assert may_be_right or refused({"backbone_config": changed}, f"backbone_config.{setting}"), (setting, value)
    assert refused({"backbone_config": {**right, "hiden_size": 3}}, "backbone_config.hiden_size: there is no such")


@pytest.mark.parametrize("name", OWN_HEADS)
def test_every_setting_of_every_head_and_loss_has_a_type_and_is_checked(name: str) -> None:
    entry = HEADS_BY_NAME[name]
    for section, part in (("head_config", entry.head_class), ("loss_config", entry.loss_class)):
        known = arguments_of(part)
        assert known
        for setting, hint in known.items():
            assert hint is not Any, setting
            for value in WRONG_KINDS:
                head: dict[str, Any] = {"head_config": {"model_type": name}, "loss_config": {}}
                head[section][setting] = copy.deepcopy(value)
                right = (value is True and hint is bool) or (isinstance(value, str) and hint is str)
                assert right or refused(head, f"{section}.{setting}"), (setting, value)
        wrong: dict[str, Any] = {"head_config": {"model_type": name}, "loss_config": {}}
        wrong[section]["num_lvels"] = 3
        assert refused(wrong, f"{section}.num_lvels: there is no such setting")


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (Literal["a", "b"] | None, ["a", "b", None], ["c", 1, True, ["a"], {"a": 1}]),
        (Literal[50, 101], [50, 101], [50.5, "50", 51, None]),
        (Mapping[str, int], [{}, {"a": 1}], [{"a": "1"}, {1: 1}, [], "a"]),
        (Sequence[Literal["x", "y"]], [["x", "y"], ("x",)], [["z"], "x", [1]]),
        (str | torch.dtype | None, ["float32", torch.float32, None], [5, [], True]),
    ],
)
def test_kinds_of_values(hint: Any, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        assert check_value("setting", value, hint) == value
    for value in wrong:
        with pytest.raises(ValueError, match="setting is .*; it must be"):
            check_value("setting", value, hint)


NAMES = {0: "kick", 1: "run"}
IDS = {"kick": 0, "run": 1}


@pytest.mark.parametrize(
    "labels",
    [
        {"num_labels": 2, "id2label": NAMES},
        {"id2label": {"0": "kick", "1": "run"}},
        {"id2label": {"1": "run", "0": "kick"}},
        {"label2id": IDS},
        {"label2id": {"kick": "0", "run": "1"}, "id2label": NAMES},
        {"id2label": NAMES, "label2id": {"LABEL_0": 0, "LABEL_1": 1}},
    ],
)
def test_classes_are_named_by_either_mapping(labels: dict[str, Any]) -> None:
    config = Re2TALConfig(**labels)
    assert (config.id2label, config.label2id, config.num_labels) == (NAMES, IDS, 2)
    assert list(config.id2label) == [0, 1]
    again = Re2TALConfig.from_dict(json.loads(config.to_json_string()))
    assert (again.id2label, again.label2id) == (NAMES, IDS)


def test_another_number_of_classes_takes_the_place_of_those_in_the_file(tmp_path: Any) -> None:
    Re2TALConfig(id2label=NAMES).save_pretrained(tmp_path)
    assert Re2TALConfig.from_pretrained(tmp_path, num_labels=2).id2label == NAMES
    assert Re2TALConfig.from_pretrained(tmp_path, num_labels=3).id2label == {i: f"LABEL_{i}" for i in range(3)}
    assert Re2TALConfig.from_pretrained(tmp_path, id2label={0: "a"}).label2id == {"a": 0}
    with pytest.raises(ValueError, match=r"config.json of .*: id2label has no class 0"):
        Re2TALConfig.from_pretrained(tmp_path, id2label={1: "a"})
    with pytest.raises(ValueError, match=r"config.json of .*: backprop is 'backwards'; choose one of"):
        Re2TALConfig.from_pretrained(tmp_path, backprop="backwards")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"id2label": {1: "kick", 2: "run"}}, "id2label has no class 0; the ids of 2 classes must be 0 to 1"),
        ({"id2label": {0: "kick", 2: "run"}}, "id2label has no class 1"),
        ({"id2label": {"a": "kick"}}, "id2label: the id 'a' is no whole number from 0"),
        ({"id2label": {0: "kick", "0": "run"}}, "id2label has the id 0 twice"),
        ({"id2label": {0: "kick", 1: "kick"}}, "id2label has the name 'kick' 2 times"),
        ({"id2label": {0: None}}, "the name of class 0 is 'None'; it must be text"),
        ({"id2label": {}}, "id2label has 0 classes"),
        ({"label2id": {"kick": 1}}, "label2id has no class 0"),
        ({"label2id": {"kick": 0, "run": 0}}, "label2id has the id 0 twice"),
        ({"id2label": NAMES, "label2id": {"run": 0, "kick": 1}}, "label2id has 'run' for class 0, and id2label 'kick'"),
        ({"id2label": NAMES, "num_labels": 3}, "num_labels is 3, but id2label names 2 classes"),
        ({"num_labels": 0}, "num_labels is 0; it must be from 1"),
    ],
)
def test_classes_that_do_not_go_together_are_refused(labels: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Re2TALConfig(**labels)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"depths": [0, 2]}, r"depths\[0\] is 0; it must be at least 1"),
        ({"depths": []}, "depths is .*; it must hold one or more numbers"),
        ({"depths": [1], "num_heads": [1]}, "depths is .1.; there must be two blocks or more"),
        ({"depths": [2]}, "num_heads has 2 stages, and depths 1"),
        ({"num_heads": [1, 5]}, r"num_heads\[1\] is 5, which does not divide the stage's 16 channels"),
        ({"patch_size": [2, 4]}, "patch_size is .*; it must hold 3 numbers"),
        ({"model_type": "videomae", "hidden_size": 30}, "num_attention_heads is 12, which does not divide"),
        ({"model_type": "videomae", "patch_size": 15}, "patch_size: clips of .*must be divided by patches of"),
        ({"model_type": "vivit", "tubelet_size": [3, 16, 16]}, "patch_size: clips of .*must be divided by patches of"),
        ({"model_type": "timesformer", "attention_type": "space"}, "attention_type is 'space'; it must be one of"),
        ({"model_type": "vjepa2", "hidden_act": "gellu"}, "hidden_act is 'gellu'; it must be one of"),
        ({"model_type": "slowfast", "resample_rate": 7}, "resample_rate is 7; choose a multiple of 8, speed_ratio"),
        ({"model_type": "slow_only", "depth": 18}, r"depth is 18; it must be one of \[50, 101, 152\]"),
        ({"model_type": "video_resnet", "layers": [2, 2]}, "layers is .*; it must hold 4 numbers"),
        ({"model_type": "mvit", "block_setting": [{}, {}]}, r"block_setting\[0\].num_heads is missing"),
        ({"model_type": "mvit", "variant": "v2_s", "spatial_size": [225, 224]}, "spatial_size is .* do not divide"),
    ],
)
def test_sizes_of_a_backbone_that_do_not_go_together_are_refused(backbone: dict[str, Any], message: str) -> None:
    swin = {"model_type": "video_swin", "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2]}
    settings = backbone if "model_type" in backbone else {**swin, **backbone}
    with pytest.raises(ValueError, match=f"^backbone_config.{message}"):
        Re2TALConfig(backbone_config=settings)


@pytest.mark.parametrize("value", [1, Fraction(1), np.float32(1), np.array(1), torch.tensor(1.0)])
def test_numbers_of_other_types_become_floats(value):
    assert type(check_value("share", value, Annotated[float | None, SHARE])) is float
    with pytest.raises(ValueError, match="factor is .*; it must be finite"):
        check_value("factor", 10**400, float)
