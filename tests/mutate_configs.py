"""Configurations of every family and head, video processors, and files of weights, each with something wrong."""

from __future__ import annotations

import copy
import functools
import importlib.util
import io
import json
import math
import pickle
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from architecture_cases import CASES
from mutations import Case
from safetensors.torch import load_file
from transformers import AutoModel

from re2tal_hf import (
    Re2TALConfig,
    Re2TALForTemporalActionLocalization,
    Re2TALForVideoClassification,
    Re2TALModel,
    Re2TALVideoProcessor,
)
from re2tal_hf.pipeline_re2tal import load_pipeline
from re2tal_hf.training.pretrained import load_backbone_weights

HEADS: list[dict[str, Any]] = [
    {
        "model_type": "actionformer", "hidden_size": 16, "num_levels": 2, "num_attention_heads": 2, "neck": "fpn",
        "max_length": 64, "attention_window": 9, "dropout": 0.1, "drop_path": 0.1, "padding": "isolated",
        "regression_ranges": [[0, 4], [4, 100]], "norm_eps": 1e-6, "class_prior": 0.01,
    },
    {
        "model_type": "tridet", "hidden_size": 16, "num_levels": 2, "window": [1, 3], "window_factor": 1.5,
        "num_bins": 4, "mlp_size": 32, "boundary_kernel_size": 3, "use_position_embedding": False,
    },
    {
        "model_type": "vsgn", "hidden_size": 32, "num_levels": 2, "num_neighbours": 4, "anchor_scales": [1.0, 2.0],
        "boundary_reach": 8.0, "num_head_layers": 1, "standardize_input": True, "max_length": 64,
    },
]  # fmt: skip
LOSSES: list[dict[str, Any]] = [
    {"label_smoothing": 0.1, "center_radius": 1.5, "loss_weight": 1.0, "initial_normalizer": 100.0},
    {"iou_weight_power": 0.2, "loss_weight": 2.0},
    {"min_anchor_iou": 0.5, "min_proposal_iou": 0.7, "normalizer_momentum": 0.9},
]
LABELS = ["kick", "high jump", "Föhn"]
PROCESSOR: dict[str, Any] = {
    "size": {"height": 16, "width": 16}, "crop_size": {"height": 8, "width": 8}, "do_center_crop": True,
    "do_resize": True, "do_rescale": True, "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "resample": 2,
    "image_std": [0.2, 0.2, 0.2], "rescale_factor": 1 / 255, "num_frames": 8, "frame_rate": 10.0,
    "sampling": "sliding", "window_overlap": 0.5, "score_threshold": 0.001, "max_candidates": 100,
    "nms_method": "soft", "nms_sigma": 0.5, "nms_iou_threshold": 0.5, "nms_min_score": 0.001,
    "nms_per_class": True, "voting_threshold": 0.7, "max_detections": 50, "num_video_classes": 2,
}  # fmt: skip
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 7, 16, 4096, 10**6, 10**12, 10**400, 0.5, 1.5, -0.5, 1e-12, 1e30, math.nan),
    *(math.inf, -math.inf, "", " ", "2", "relu", "x" * 5000, "a\nb", "\ud800", "none", "auto", "float16", "0.1"),
    *([], {}, [None], [0], [-1], [1], [2, 2], [2, 2, 2], [1, 2, 3, 4], [0.5, 0.5], ["2", "2"], [[2]], [True, True]),
    *({"a": 1}, {"0": 1}, {"model_type": "x"}, [{}], {"height": 8}, {"shortest_edge": 8}, {"height": 8, "width": 0}),
]
ODD_KEYS = ["", "Depths", "depht", "model", "hiden_size", "num_label", "id2labels", "x" * 400, "to_dict", "self", "a.b"]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>404</body></html>"
MAX_PARAMETERS = 3_000_000
# Long clips and windows of large frames are anybody's right, and take their time.
MAX_FRAMES = 512
MAX_PIXELS = 2**24
# Where both one number and several are taken.
ONE_OR_MORE = ("patch_size", "image_size", "window", "size", "crop_size", "image_mean", "image_std", "img_size")

Change = tuple[str, ...]
"""Names of what was changed, of which a refusal must have one."""


def mutate(draw: random.Random, folder: Path) -> Case:
    """Draws a configuration, a video processor or files of weights, with something wrong in it."""
    kinds = [_config, _config, _config, _labels, _processor, _json_file, _weights, _weights, _torch_file]
    return draw.choice(kinds)(draw, folder)


# Configurations


def _config(draw: random.Random, folder: Path) -> Case:
    cases = [case for case in CASES if case.config["model_type"] != "image" or importlib.util.find_spec("timm")]
    case, head = draw.choice(cases), draw.randrange(len(HEADS))
    values: dict[str, Any] = {
        "backbone_config": {**case.config, **draw.choice([{}, case.stochastic])},
        "rewiring": draw.choice(["re2tal", "none", "dr2net"]),
        "num_labels": 3,
        "output_hidden_states": False,
        "dtype": "float32",
    }
    if values["rewiring"] == "dr2net":
        values["coupling"] = [1.0, 0.0]
    localizes = draw.random() < 0.75
    if localizes:
        values |= {"head_config": dict(HEADS[head]), "loss_config": dict(LOSSES[head])}
    else:
        values |= {"classifier_norm": False, "classifier_dropout": 0.1, "num_frames": 4}
    before = values
    values, changed = _changed(draw, values)
    model_class: Any = Re2TALForTemporalActionLocalization if localizes else Re2TALForVideoClassification
    runs = draw.random() < 0.6

    def run() -> Any:
        config = model_class.config_class.from_dict(json.loads(json.dumps(values)))
        with torch.device("meta"):
            model = model_class(config)
        frames = model.model.backbone.architecture.clip_length(model.model.backbone) or 0
        small = sum(parameter.numel() for parameter in model.parameters()) < MAX_PARAMETERS and frames <= MAX_FRAMES
        if runs and small:
            model = model_class(config).eval()
            with torch.no_grad():
                return config, model(pixel_values_videos=torch.rand(1, *_clip(case.shape)))
        return config, None

    def check(result: Any) -> None:
        config, output = result
        _check_kinds(before, config.to_dict())
        again = type(config).from_dict(json.loads(config.to_json_string(use_diff=False)))
        assert again.to_dict() == config.to_dict(), "saved and read again, it is another configuration"
        if output is not None:
            assert output.logits.shape[-1] == config.num_labels
            assert not output.logits.isnan().any(), "the model gives NaN"

    return Case(f"{case.name}: {changed}, {_short(values)}", run, changed, check)


def _labels(draw: random.Random, folder: Path) -> Case:
    values: dict[str, Any] = {
        "backbone_config": {"model_type": "video_swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]},
        "head_config": {"hidden_size": 16, "num_levels": 2},
    }
    names = dict(enumerate(LABELS))
    values |= draw.choice([{"id2label": names}, {"label2id": {n: i for i, n in names.items()}}, {}])
    values |= draw.choice([{}, {"num_labels": 3}, {"id2label": names, "label2id": {n: i for i, n in names.items()}}])
    start = draw.choice([1, 2, -1, 10**6])
    odd = [
        {"id2label": {str(index + start): name for index, name in names.items()}},
        {"id2label": {index: name for index, name in names.items() if index != draw.randrange(2)}},
        {"id2label": {name: index for index, name in names.items()}},
        {"id2label": {0: "kick", 1: "kick"}},
        {"id2label": {0: draw.choice([None, 3, "", " ", True, ["kick"], {}])}},
        {"id2label": {draw.choice(["a", "0.0", "-0", "1e0", "٣", "", " 0", "00x"]): "kick"}},
        {"label2id": {"kick": draw.choice([1, -1, "x", None, 0.5, True, [0]])}},
        {"label2id": {"kick": 0, "run": 0}},
        {"id2label": LABELS}, {"label2id": LABELS}, {"id2label": {}}, {"label2id": {}}, {"id2label": "kick"},
        {"num_labels": draw.choice([0, -1, 2, 4, 3.0, "3", 10**9, True, [3], {}])},
        {"label2id": {"other": 0, "kick": 1, "run": 2}, "id2label": names},
        {"id2label": names, "num_labels": draw.choice([1, 2, 7])},
    ]  # fmt: skip
    values |= draw.choice(odd)

    def run() -> Any:
        with torch.device("meta"):
            return Re2TALForTemporalActionLocalization(Re2TALConfig(**copy.deepcopy(values)))

    def check(model: Any) -> None:
        config = model.config
        assert list(config.id2label) == list(range(config.num_labels)), config.id2label
        assert config.label2id == {name: index for index, name in config.id2label.items()}
        assert all(isinstance(name, str) and name.strip() for name in config.label2id)

    return Case(f"labels: {_short(values)}", run, ("id2label", "label2id", "num_labels"), check)


def _processor(draw: random.Random, folder: Path) -> Case:
    values, changed = _changed(draw, PROCESSOR)
    from_file = draw.random() < 0.3

    def run() -> Any:
        given = json.loads(json.dumps(values))
        if from_file:
            (folder / "video_preprocessor_config.json").write_text(json.dumps(given))
            processor = Re2TALVideoProcessor.from_pretrained(folder)
        else:
            processor = Re2TALVideoProcessor(**given)
        windows = processor.windows("a video", 1.0)
        if processor.frame_size and processor.num_frames * math.prod(processor.frame_size) > MAX_PIXELS:
            return processor, windows, None
        frames = torch.zeros(2, 3, 12, 20, dtype=torch.uint8)
        return processor, windows, processor.prepare([processor.resize_and_crop(frames)])

    def check(result: Any) -> None:
        processor, windows, inputs = result
        _check_kinds(PROCESSOR, processor.to_dict())
        assert windows and windows[0].num_frames >= 1
        if inputs is not None:
            assert inputs["pixel_values_videos"].shape[:3] == (1, processor.num_frames, 3)
            assert inputs["pixel_values_videos"].isfinite().all()

    return Case(f"processor: {changed}, {_short(values)}", run, changed, check)


def _changed(draw: random.Random, values: dict[str, Any]) -> tuple[dict[str, Any], Change]:
    """A copy with one to three changes, and the names of what was changed and of what is beside it."""
    values, names = copy.deepcopy(values), set()
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        way = draw.choice(_places(values))
        owner = values
        for key in way[:-1]:
            owner = owner[key]
        names |= {key for key in way if isinstance(key, str)}
        _change(draw, owner, way[-1], names)
    if "head_config" in names:
        names |= {"loss_config"}  # whose settings depend on the head
    return values, tuple(sorted(name or "''" for name in names))


def _change(draw: random.Random, owner: Any, key: Any, names: set[str]) -> None:
    value, what = owner[key], draw.random()
    if what < 0.1:
        del owner[key]
    elif what < 0.2 and isinstance(owner, dict):
        new = draw.choice([*ODD_KEYS, _typo(draw, key)])
        owner[new] = owner.pop(key) if draw.random() < 0.7 else draw.choice(ODD_VALUES)
        names.add(new[:50])
    elif what < 0.3 and isinstance(value, list):
        owner[key] = draw.choice([value * 2, value[:-1], [*value, copy.deepcopy(draw.choice(ODD_VALUES))], value[::-1]])
    elif what < 0.6 and isinstance(value, int | float) and not isinstance(value, bool):
        owner[key] = draw.choice([-value, 0, value * 2, value * 3, value + 1, value - 1, value / 3, value * 1000])
    else:
        owner[key] = copy.deepcopy(draw.choice(ODD_VALUES))


def _places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a mapping or a list, however deep."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in parts for found in [(*way, key), *_places(part, (*way, key))]]


def _typo(draw: random.Random, word: str) -> str:
    at = draw.randrange(len(word)) if word else 0
    return draw.choice([word[:at] + word[at + 1 :], word[:at] + "x" + word[at:], word.upper(), f"{word}s"])


def _check_kinds(before: Any, after: Any) -> None:
    """What was taken is of the kind that it was right with, or left out."""
    for way in _places(before):
        old, new = before, after
        for key in way:
            inside = (isinstance(new, dict) and key in new) or (isinstance(new, list) and len(new) > key)
            if not inside:
                break
            old, new = old[key], new[key]
        else:
            if way[-1] not in ONE_OR_MORE and old is not None and new is not None and _kind(new) != _kind(old):
                raise AssertionError(f"{way} is {new!r}, in place of {old!r}")


def _kind(value: Any) -> str:
    kinds = {bool: "bool", int: "number", float: "number", str: "text", dict: "mapping"}
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), "list")


def _clip(shape: tuple[int, int, int]) -> tuple[int, int, int, int]:
    return shape[0], 3, *shape[1:]


def _short(values: Any) -> str:
    text = repr(values)
    return text if len(text) < 900 else f"{text[:900]}..."


# Files


@functools.cache
def _saved(sharded: bool = False) -> Path:
    """A folder with a small model and its video processor."""
    folder = Path(tempfile.mkdtemp(prefix="re2tal-saved-"))
    torch.manual_seed(0)
    backbone = {
        "model_type": "video_swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": [2, 2, 2],
    }  # fmt: skip
    head = {"hidden_size": 8, "num_levels": 2, "num_attention_heads": 1, "num_head_layers": 1}
    names = dict(enumerate(LABELS))
    model = Re2TALForTemporalActionLocalization(
        Re2TALConfig(backbone_config=backbone, head_config=head, id2label=names, loss_config={})
    )
    model.save_pretrained(folder, **({"max_shard_size": "20KB"} if sharded else {}))
    Re2TALVideoProcessor(**PROCESSOR).save_pretrained(folder)
    for code in folder.glob("*.py"):
        code.unlink()
    return folder


def _copied(folder: Path, sharded: bool = False) -> Path:
    copied = folder / "model"
    copied.mkdir()
    for file in _saved(sharded).iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    return copied


def _backbone() -> Any:
    return _model_of_folder().model.backbone


@functools.cache
def _model_of_folder() -> Any:
    return Re2TALForTemporalActionLocalization.from_pretrained(_saved())


LOADERS: list[Callable[[Path], Any]] = [
    Re2TALForTemporalActionLocalization.from_pretrained,
    Re2TALModel.from_pretrained,
    AutoModel.from_pretrained,
    lambda folder: load_pipeline(str(folder)),
    lambda folder: load_backbone_weights(_backbone(), str(folder)),
]


def _json_file(draw: random.Random, folder: Path) -> Case:
    """A file of settings that is broken, or of another form."""
    name = draw.choice(["config.json", "video_preprocessor_config.json"])
    right = json.loads((_saved() / name).read_text())
    text = json.dumps(right).encode()
    cut = text[: draw.randrange(len(text))]
    damaged = draw.choice(
        [
            *(b"", b"\0" * 100, LFS, PAGE, cut, cut + b"}", b"[" * 10**5, b"[]", b"5", b'"text"', b"null", b"true"),
            *(text.decode().encode("utf-16"), text.replace(b'"', b"'"), text + text, b"\xff" + text, text[1:], b"[1]"),
            text.replace(b"{", b'{"model_type": "x", "model_type": "y", "size": 1, "size": 2, ', 1),
            json.dumps({**right, "model_type": draw.choice(["re2tall", "", None, 5, [], {}, "video_swin"])}).encode(),
            json.dumps({**right, "auto_map": draw.choice([5, "x", [], True])}).encode(),
            json.dumps({**right, "architectures": draw.choice([5, "x", {}, [5]])}).encode(),
            json.dumps({**right, "dtype": draw.choice(["float33", "nn", 5, "int8", "", [], {"a": "b"}])}).encode(),
            json.dumps({**right, "size": draw.choice(["x", [1, 2, 3], {"height": 5}, True])}).encode(),
            json.dumps(_changed(draw, right)[0]).encode(),
        ]
    )
    doors = {
        "config.json": [
            Re2TALConfig.from_pretrained,
            Re2TALForTemporalActionLocalization.from_pretrained,
            lambda folder: load_pipeline(str(folder)),
        ],
        "video_preprocessor_config.json": [
            Re2TALVideoProcessor.from_pretrained,
            lambda folder: load_pipeline(str(folder)),
        ],
    }
    door = draw.choice(doors[name])

    def run() -> Any:
        copied = _copied(folder)
        (copied / name).write_bytes(damaged)
        return door(copied)

    def check(result: Any) -> None:
        # A setting may be another one than it was, but a file that is no object may not pass.
        assert isinstance(json.loads(damaged), dict)

    return Case(f"{name}: {damaged[:300]!r}", run, (name, str(folder), "head_config", "backbone_config"), check)


def _weights(draw: random.Random, folder: Path) -> Case:
    """Weights of a saved model whose file, or one of them, or their index is damaged."""
    sharded = draw.random() < 0.4
    names = sorted(file.name for file in _saved(sharded).glob("model*"))
    name = draw.choice(names)
    content = (_saved(sharded) / name).read_bytes()
    if name.endswith(".json"):
        damaged, what = _damaged_index(draw, json.loads(content))
    elif draw.random() < 0.1 and sharded:
        damaged, what = None, "missing"
    else:
        damaged, what = _damaged_tensors(draw, content)
    load = draw.choice(LOADERS)

    def run() -> Any:
        copied = _copied(folder, sharded)
        if damaged is None:
            (copied / name).unlink()
        else:
            (copied / name).write_bytes(damaged)
        return load(copied)

    return Case(f"{name}: {what}", run, (name, str(folder)), _must_be_refused)


def _must_be_refused(result: Any) -> None:
    raise AssertionError(f"damaged, and taken as {type(result).__name__}")


def _damaged_tensors(draw: random.Random, content: bytes) -> tuple[bytes, str]:
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    cut = draw.choice([draw.randrange(8), 8, draw.randrange(9, 8 + length), draw.randrange(8 + length, len(content))])
    whole = [b"", b"\0" * len(content), LFS, PAGE, b"{}", b"no weights", b"PK\3\4" + content[4:], draw.randbytes(500)]
    whole += [content + b"\0", b"\0" + content, content[1:], content[:cut], json.dumps({"error": "not found"}).encode()]
    whole += [draw.randbytes(8) + content[8:], content[:8] + content[8 : 8 + length].replace(b'"', b"'") + data]
    if sum(name.startswith("head.") for name in header) < len(header) // 2 and len(data) > 10**4:
        whole += [content[: 8 + length] + draw.randbytes(len(data)), content[: 8 + length] + (b"\xff" * len(data))]
    if draw.random() < 0.5:
        return draw.choice(whole), "bytes"
    # Which every loader needs; of the index of a window it would be the same by other numbers.
    names = [n for n, e in header.items() if n.startswith("model.backbone.") and e["dtype"] == "F32"]
    if not names:
        return draw.choice(whole), "bytes"
    name = draw.choice(names)
    entry = header[name]
    what = draw.choice(["dtype", "shape", "offsets", "name", "gone", "twice", "entry", "type"])
    if what == "dtype":
        entry["dtype"] = draw.choice(["I32", "U32", "BOOL", "F64", "F16", "X9", "", None, 5])
    elif what == "shape":
        entry["shape"] = draw.choice([[], [0], [-1], [10**18], ["2"], None, 5, [*entry["shape"], 2], [2.5], {}])
        if (
            not entry["shape"]
            and isinstance(entry["shape"], list)
            and entry["data_offsets"][1] - entry["data_offsets"][0] <= 8
        ):
            entry["shape"] = [7]
    elif what == "offsets":
        first, last = entry["data_offsets"]
        odd = [[first, last + 4], [first + 4, last], [last, first], [0], None, ["0", "4"], [first, 10**15], [-4, last]]
        entry["data_offsets"] = draw.choice(odd)
    elif what == "name":
        header = {
            draw.choice([f"{name}x", name.upper(), "", "x" * 200]) if n == name else n: e for n, e in header.items()
        }
    elif what == "gone":
        del header[name]
    elif what == "twice":
        header[name + "_again"] = dict(entry)
    elif what == "entry":
        header[name] = draw.choice([None, 5, [], "x", {}])
    else:
        header = draw.choice([[], [header], "x", 5, None, {"__metadata__": 5}])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data, f"header, {what} of {name}"


def _damaged_index(draw: random.Random, index: dict[str, Any]) -> tuple[bytes | None, str]:
    places = index["weight_map"]
    name = draw.choice(sorted(places))
    what = draw.choice(
        ["bytes", "type", "no map", "no metadata", "empty", "place", "name", "gone", "moved", "gone file"]
    )
    if what == "bytes":
        text = json.dumps(index).encode()
        return draw.choice([b"", LFS, PAGE, text[: draw.randrange(len(text))], b"[]", b"5", b"null", text + b"}"]), what
    if what == "type":
        index["weight_map"] = draw.choice([None, 5, "x", [], list(places)])
    elif what == "no map":
        del index["weight_map"]
    elif what == "no metadata":
        index.pop("metadata") if draw.random() < 0.5 else index.update(metadata=draw.choice([5, [], "x", None]))
    elif what == "empty":
        index["weight_map"] = {}
    elif what == "place":
        odd = [None, 5, "", "..", "../model.safetensors", "/etc/passwd", "absent.safetensors", ".", [], "config.json"]
        places[name] = draw.choice(odd)
    elif what == "name":
        places[f"{name}x"] = places.pop(name)
    elif what == "gone":
        del places[name]
    elif what == "moved":
        places[name] = draw.choice([place for place in sorted(set(places.values())) if place != places[name]])
    else:
        return None, what
    return json.dumps(index).encode(), f"{what} of {name}"


class _Anything:
    """An object that a pickle must not bring."""


def _torch_file(draw: random.Random, folder: Path) -> Case:
    """A file of `torch.save`, or what has the name of one."""
    suffix = draw.choice([".pth", ".pt", ".bin", ".ckpt"])
    right = {n: t for n, t in load_file(_saved() / "model.safetensors").items() if n.startswith("model.backbone.")}
    right = {name.removeprefix("model.backbone."): tensor for name, tensor in right.items()}
    first = next(name for name, tensor in right.items() if tensor.is_floating_point())
    wrapped = draw.choice(
        [
            right,
            {"state_dict": right, "epoch": 3},
            {"model": right},
            {"state_dict": {f"module.{n}": t for n, t in right.items()}},
        ]
    )
    itself: dict[str, Any] = {}
    itself["state_dict"] = itself
    odd: list[Any] = [
        *([], list(right.values()), "text", 5, 2.5, None, True, {}, {"epoch": 3}, {"state_dict": {}}, itself),
        *(torch.zeros(3), {"state_dict": [right]}, {"state_dict": {"a": {"b": 1}}}, {1: 2}, {None: torch.zeros(2)}),
        *(_Anything(), {"state_dict": _Anything()}, {**right, "hook": _Anything()}, torch.nn.Linear(1, 1)),
        {**right, first: right[first].to(torch.int32)},
        {**right, first: torch.zeros(2, 3, 4)},
        {name: tensor for name, tensor in right.items() if name != first},
        {**right, "more.weight": torch.zeros(2)},
        {name: tensor.tolist() for name, tensor in right.items()},
        {first: torch.zeros(1).expand(10**6, 10**6)},
    ]
    content = io.BytesIO()
    kind = draw.choice(["value", "bytes", "right"])
    torch.save(wrapped if kind != "value" else draw.choice(odd), content)
    damaged = content.getvalue()
    if kind == "bytes":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", pickle.dumps(right and {"a": 1}))
            archive.writestr("a/data/0", b"\0" * 10**6)
        legacy = io.BytesIO()
        torch.save(wrapped, legacy, _use_new_zipfile_serialization=False)
        cut = draw.randrange(1, len(damaged))
        damaged = draw.choice(
            [
                *(b"", LFS, PAGE, b"\0" * 500, b"text", draw.randbytes(300), damaged[:cut], packed.getvalue()),
                *(
                    b"\x80" + draw.randbytes(50),
                    legacy.getvalue()[: len(legacy.getvalue()) * cut // len(damaged) // 2],
                    pickle.dumps(right and {"a": [1]}),
                    damaged[cut:],
                ),
                *((_saved() / "model.safetensors").read_bytes(), b"PK\3\4", b"PK\5\6" + b"\0" * 18, b"{}"),
                b"cos\nsystem\n(S'touch ../here'\ntR.",
            ]
        )
    path = folder / f"weights{suffix}"

    def run() -> Any:
        path.write_bytes(damaged)
        return load_backbone_weights(_backbone(), str(path))

    def check(summary: Any) -> None:
        assert kind == "right", f"damaged, and taken: {summary}"
        assert "used" in summary

    return Case(f"{path.name}: {kind}, {damaged[:60]!r}", run, (path.name,), check)
