"""Wrong recipes and overrides: what `re2tal train` does with them before it opens a video.

A recipe is a text file and overrides. Those that are taken must come back from their own file, and of a share of them
the training is rehearsed and its parts are built, over a few short videos.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mutations import Case, _fault_of_message

from re2tal_hf import Re2TALForTemporalActionLocalization, Re2TALForVideoClassification, Re2TALVideoProcessor
from re2tal_hf.data.annotations import AnnotationSet, read_annotations
from re2tal_hf.data.augmentation import Augmentation
from re2tal_hf.data.synthetic import generate
from re2tal_hf.data.timeline_index import TimelineIndex
from re2tal_hf.data.windows import TrainingWindows
from re2tal_hf.training.arguments import Recipe, load_recipe, recipe_names
from re2tal_hf.training.coupling_schedule import coupling_at
from re2tal_hf.training.optimization import learning_rate_factor
from re2tal_hf.training.recipe_yaml import read_yaml, write_yaml
from re2tal_hf.training.rehearsal import check_machine, rehearse
from re2tal_hf.training.run_folder import comparable

SHARE_BUILT = 0.15
CLASSIFYING = ("ut_clips", "finetune_swin_tiny")

# Settings of models that no recipe of the package names.
BACKBONES: list[dict[str, Any]] = [
    {"model_type": "video_swin", "variant": "tiny", "mlp_ratio": 4.0, "dropout": 0.0, "attention_dropout": 0.0},
    {"model_type": "mvit", "variant": "v2_s", "stochastic_depth_prob": 0.2, "spatial_size": [224, 224]},
    {"model_type": "slowfast", "variant": "50_4x16"},
    {"model_type": "slow_only", "depth": 50, "resample_rate": 8},
    {"model_type": "video_resnet", "variant": "r3d_18", "layers": [1, 1, 1, 1], "block": "basic"},
    {"model_type": "videomae", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "num_frames": 4},
    {"model_type": "vivit", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "num_frames": 4},
    {"model_type": "timesformer", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3},
    {
        "model_type": "vjepa2",
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "crop_size": 64,
        "adapter_width": 4,
    },
]
HEADS: list[dict[str, Any]] = [
    {"model_type": "actionformer", "hidden_size": 64, "num_levels": 4, "num_attention_heads": 4, "neck": "fpn"},
    {"model_type": "tridet", "hidden_size": 64, "num_levels": 4, "num_bins": 12},
    {"model_type": "vsgn", "hidden_size": 64, "num_levels": 4},
    {"model_type": "spotting", "hidden_size": 64, "num_levels": 4, "radius": 2.0},
]
SECTIONS = [
    field.name for field in dataclasses.fields(Recipe) if dataclasses.is_dataclass(getattr(Recipe(), field.name))
]

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 0.5, 1.5, -0.5, 1e-9, 1e-320, 1e12, 10**12, 2**31, 2**63, 10**30, 10**400,
    math.inf, -math.inf, math.nan, "", " ", "abc", "0.5", "1e-4", "yes", "no", "null", "é\u202e🎬", "a" * 4000,
    "../../etc/passwd", "cuda", "a\nb", "\t", "{x}", "%s", [], {}, [None], [[]], [0.5], [0.5, 0.5, 0.5], [1, "a"],
    [1, 2], [0, 0], [2, 2, 2], [1e9, 1e9], {"a": 1}, {"height": 64}, {"height": 10**9, "width": 10**9},
    {"a": {"b": {"c": []}}}, list(range(3000)), [[[[[[[[[[[[1]]]]]]]]]]]], ["tensorboard"] * 3,
    {"model_type": "video_swin"}, {"model_type": None},
]  # fmt: skip
EXTRAS = ["epohcs", "Training", "num_labels", "id2label", "x" * 3000, "", " ", "a.b", "__class__", "é", "size", "lr"]
BREAKS: list[Callable[[random.Random, str], str | bytes]] = [
    lambda draw, text: text[: draw.randrange(len(text))],
    lambda draw, text: text[draw.randrange(len(text)) :],
    lambda draw, text: _with(draw, text, draw.choice([":", "- ", "\t", "[", "]", "{", "}", '"', "'", "&a ", "*a"])),
    lambda draw, text: _with(draw, text, draw.choice(["\x00", "\x1b", "\ufeff", "\ufffe", "\r", "\u2028", "é", "🎬"])),
    lambda draw, text: _without_letters(draw, text),
    lambda draw, text: "\n".join(draw.sample(text.splitlines(), len(text.splitlines()))),
    lambda draw, text: text + text,
    lambda draw, text: text.replace("  ", draw.choice([" ", "\t", "   ", ""])),
    lambda draw, text: text + draw.choice(["---\na: 1\n", "...\n", "--- {}\n", "? [a]\n: b\n", "1: 2\n", "null: 1\n"]),
    lambda draw, text: text + draw.choice(["a: &a [*a]\n", "<<: 3\n", "m: &m\n  <<: *m\n", "seed: *nothing\n"]),
    lambda draw, text: text + "seed: " + draw.choice(["!!python/name:os.system", "!!binary YQ==", "!!set {a}", "!x 3"]),
    lambda draw, text: text + _bomb(),
    lambda draw, text: draw.choice(["[", "{", "- ", "a: {", "'"]) * draw.choice([50, 5000]),
    lambda draw, text: draw.choice(["[1, 2]", "3", "text", "null", "", "- a", "true", '"a"', "# a"]),
    lambda draw, text: text.encode(draw.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp037"])),
    lambda draw, text: (text + "name: Müller\n").encode("latin-1"),
    lambda draw, text: draw.randbytes(draw.choice([1, 100, 100000])),
    lambda draw, text: "<!DOCTYPE html>\n<html><body>404: not found</body></html>\n",
    lambda draw, text: "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    lambda draw, text: "x: " + "y" * draw.choice([1000, 10**6]),
]  # fmt: skip


def mutate(draw: random.Random, folder: Path) -> Case:
    """A recipe with a wrong value, name, structure or text, in its file or by overrides."""
    base = draw.choice(recipe_names())
    values = _base(base)
    if draw.random() < 0.5:
        values["model"]["backbone_config"] = copy.deepcopy(draw.choice(BACKBONES))
    if draw.random() < 0.3:
        values["model"]["head_config"] = copy.deepcopy(draw.choice(HEADS))
        values["model"]["loss_config"] = {"loss_weight": 1.0}
        finds_points = values["model"]["head_config"]["model_type"] == "spotting"
        values.setdefault("data", {})["points"] = "middle" if finds_points else None
        values["processor"]["point_window"] = 1.0 if finds_points else None
    draws = [(_wrong_value, 12), (_wrong_name, 4), (_wrong_text, 5), (_wrong_override, 3), (_wrong_file, 1)]
    kind = draw.choices([kind for kind, _ in draws], [weight for _, weight in draws])[0]
    name, overrides, names = kind(draw, folder, values)
    built = draw.random() < SHARE_BUILT
    return Case(
        f"{base}, {kind.__name__}: {[text[:200] for text in overrides]}, names {str(names)[:200]}, {_end(folder)}",
        lambda: _start(name, overrides, base),
        names,
        lambda recipe: _check(recipe, base, folder, built),
    )


def _end(folder: Path) -> str:
    """Letters at the end of the recipe, for whom the case ends badly."""
    path = folder / "own.yaml"
    return repr(path.read_bytes()[-100:]) if path.is_file() and path.stat().st_size < 10**7 else ""


@functools.cache
def _text(base: str) -> str:
    """A recipe of the package with every field written out."""
    recipe = load_recipe(base).to_dict()
    processor = Re2TALVideoProcessor(**recipe["processor"])
    for name in ("nms_method", "score_threshold", "do_center_crop", "image_std", "max_candidates", "voting_threshold"):
        recipe["processor"].setdefault(name, getattr(processor, name))
    recipe["augmentation"] = {**vars(Augmentation()), **recipe["augmentation"]}
    recipe["training"]["mixed_precision"] = "no"
    return write_yaml({**recipe, "name": "own"})


def _base(base: str) -> dict[str, Any]:
    values: dict[str, Any] = read_yaml(_text(base), base)
    return values


Mutation = tuple[str, list[str], tuple[str, ...]]
"""The recipe's name or file, the overrides, and what a refusal must name one of."""


def _wrong_value(draw: random.Random, folder: Path, values: dict[str, Any]) -> Mutation:
    """One field or several with other values, in the file or by overrides."""
    changed, overrides = [], []
    for _ in range(draw.choice([1, 1, 1, 2])):
        place = draw.choice([place for place in _places(values) if len(place) > 1 or draw.random() < 0.3])
        value = _other_value(draw, _at(values, place), values)
        if draw.random() < 0.4 and all(isinstance(key, str) and "." not in key for key in place):
            text = write_yaml(value).removesuffix("...\n").strip() if not isinstance(value, (dict, list)) else None
            text = text if text is not None and "\n" not in text else _flow(value)
            overrides.append(f"{'.'.join(map(str, place))}={text}")
        else:
            _put(values, place, value)
        changed += [str(key) for key in place if isinstance(key, str)][-1:] + [place[0]]
    return _file(folder, write_yaml(values)), overrides, (*changed, "start_epoch", "weight", "model")


def _wrong_name(draw: random.Random, folder: Path, values: dict[str, Any]) -> Mutation:
    """A field under a misspelt name, in another section, or one that there is not."""
    place = draw.choice([place for place in _places(values) if isinstance(place[-1], str)])
    holder, name = _at(values, place[:-1]), place[-1]
    kind = draw.randrange(4)
    if kind == 0:
        new = _misspelt(draw, name)
        holder[new] = holder.pop(name)
    elif kind == 1:
        new = name
        target = values[draw.choice([*SECTIONS, "model", "processor", "augmentation"])]
        target[name] = copy.deepcopy(holder[name])
        return _file(folder, write_yaml(values)), [], (name,)
    elif kind == 2:
        new = draw.choice(EXTRAS)
        holder[new] = draw.choice(VALUES)
    else:
        new = draw.choice(EXTRAS)
        override = f"{'.'.join([*map(str, place[:-1]), new])}=1"
        return _file(folder, write_yaml(values)), [override], (new[:50].strip() or "''", "field", place[0])
    return (
        _file(folder, write_yaml(values)),
        [],
        (new[:50], str(place[-2]) if len(place) > 1 else "field", "missing", name),
    )


def _wrong_text(draw: random.Random, folder: Path, values: dict[str, Any]) -> Mutation:
    text = draw.choice(BREAKS)(draw, write_yaml(values))
    return _file(folder, text), [], ("own.yaml",)


def _wrong_override(draw: random.Random, folder: Path, values: dict[str, Any]) -> Mutation:
    place = ".".join(str(key) for key in draw.choice(_places(values)) if isinstance(key, str))
    text = draw.choice(
        [
            place, f"{place} 3", f"{place}:3", f"={place}", "=", "", f".{place}=3", f"{place}.=3", f"{place}..x=3",
            f"{place}.x=3", f"--{place}=3", f" {place}=3", f"{place} =3", f"{place}==3", f"{place}=[", f"{place}={{a: ",
            f"{place}='", f"{place}=@x", f"{place}=a: b: c", f"{place}=&a [*a]", f"{place}=!!python/name:os.x",
            f"{place}=1\n2", f"{place}=# a", f"{place.upper()}=3", f"{place}=\t", f"{place}=%", "training=null=3",
            f"{place}={{1: 2}}", f"{place}=" + "[" * 3000, f"{place}=" + "9" * 6000, f"{'x.' * 2000}y=3", "\udce9=3",
            f"{place}=\udce9", f"{place}=\x00", "model=[]", "processor=3", "imports=[none.py]", "imports=none.py",
        ]
    )  # fmt: skip
    words = ("override", *text.partition("=")[0].strip(" .-")[:30].split("."), "field", "section", "none.py")
    return _file(folder, write_yaml(values)), [text], tuple(word for word in words if word)


def _wrong_file(draw: random.Random, folder: Path, values: dict[str, Any]) -> Mutation:
    """What is no recipe at all."""
    path = folder / "own.yaml"
    kind = draw.randrange(7)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(path)
    elif kind == 2:
        os.mkfifo(path)
    elif kind == 3:
        with path.open("wb") as file:
            file.truncate(2**40)
    elif kind == 4:
        return (
            draw.choice(["quickstrat", "x" * 5000, "", "\x00", "nowhere/own.yaml", ".", "/", "\udce9"]),
            [],
            ("recipe",),
        )
    elif kind == 5:
        return _file(folder, write_yaml(values)) + draw.choice(["/", "x", "/x", " "]), [], ("own.yaml",)
    else:
        own = folder / draw.choice(["mine.py", "re.py", "head.py", "a b.py", "mine.txt"])
        own.write_bytes(
            draw.choice([b"", b"\x00", b"\xff", b"def", b"1 / 0", b"import sys; sys.exit()", b"x = 1", b"import a_b_c"])
        )
        values["imports"] = [str(own)]
        return _file(folder, write_yaml(values)), [], (own.name,)
    return str(path), [], ("own.yaml",)


def _file(folder: Path, text: str | bytes) -> str:
    path = folder / "own.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return str(path)


def _places(values: Any, place: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The place of every value, however deep."""
    parts = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [found for key, part in parts for found in ((*place, key), *_places(part, (*place, key)))]


def _at(values: Any, place: tuple[str | int, ...]) -> Any:
    for key in place:
        values = values[key]
    return values


def _put(values: Any, place: tuple[str | int, ...], value: Any) -> None:
    holder = _at(values, place[:-1])
    holder[place[-1]] = value


def _other_value(draw: random.Random, value: Any, values: dict[str, Any]) -> Any:
    changes: list[Callable[[], Any]] = [
        lambda: copy.deepcopy(draw.choice(VALUES)),
        lambda: copy.deepcopy(draw.choice(VALUES)),
        lambda: [value],
        lambda: {str(value)[:20]: value},
        lambda: str(value),
        lambda: copy.deepcopy(_at(values, draw.choice(_places(values)))),
    ]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        changes += [
            lambda: -value,
            lambda: value * draw.choice([2, 10, 1000, 10**6]),
            lambda: value / 3,
            lambda: value + 1,
        ]
    if isinstance(value, str):
        changes += [lambda: _misspelt(draw, value), value.upper, lambda: f" {value} "]
    if isinstance(value, list):
        changes += [lambda: value[:-1], lambda: value * 2, lambda: value[::-1], lambda: [*value, None]]
    return draw.choice(changes)()


def _misspelt(draw: random.Random, name: str) -> str:
    at = draw.randrange(len(name) + 1)
    return draw.choice([name[:at] + name[at + 1 :], name[:at] + draw.choice("aex_.- ") + name[at:], name.title()])


def _flow(value: Any) -> str:
    """A value as it stands in an override."""
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, width=10**9).removesuffix("...\n").strip()


def _with(draw: random.Random, text: str, letters: str) -> str:
    at = draw.randrange(len(text))
    return text[:at] + letters + text[at:]


def _without_letters(draw: random.Random, text: str) -> str:
    for _ in range(draw.choice([1, 5, 30])):
        at = draw.randrange(len(text))
        text = text[:at] + text[at + 1 :]
    return text


def _bomb() -> str:
    rows = [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    return "\n".join(["a: &a [x, x]", *rows, ""])


def _start(name: str, overrides: list[str], base: str) -> Recipe:
    """What a training does first."""
    recipe = load_recipe(name, overrides)
    check_machine(recipe.training)
    return recipe


def _check(recipe: Recipe, base: str, folder: Path, built: bool) -> None:
    for name, value in comparable(recipe).items():
        assert not isinstance(value, float) or math.isfinite(value), f"{name} is {value}"
    again = folder / "again.yaml"
    again.write_text(write_yaml(recipe.to_dict()), encoding="utf-8")
    try:
        assert comparable(load_recipe(str(again))) == comparable(recipe), "another recipe comes back"
    except ValueError as error:
        raise AssertionError(f"does not come back: {error}") from error
    if not built:
        return
    model_class = Re2TALForVideoClassification if base in CLASSIFYING else Re2TALForTemporalActionLocalization
    try:
        rehearse(recipe, model_class)
    except ValueError as error:
        assert _fault_of_message(str(error), ("model", "freeze", "processor", "config")) == "", str(error)[:500]
        return
    try:
        _build(recipe)
    except (ValueError, TypeError, OSError) as error:
        raise AssertionError(f"refused late: {error}") from error


def _build(recipe: Recipe) -> None:
    """The parts of a training beside its model, and a window."""
    annotations = _videos()
    data = recipe.data
    crop_ratio = (data.crop_ratio[0], data.crop_ratio[1]) if data.crop_ratio else None
    processor = Re2TALVideoProcessor(**recipe.processor)
    augmentation = Augmentation(**{**recipe.augmentation, "unflippable_labels": ()})
    try:
        windows = TrainingWindows(
            annotations.videos, processor, augmentation=augmentation, windows_per_video=data.windows_per_video,
            seconds_per_window=data.seconds_per_window, truncation_threshold=data.truncation_threshold,
            crop_ratio=crop_ratio, max_unreadable=data.max_unreadable, max_lost=data.max_unlearnable, seed=recipe.seed,
            timelines=_timelines(),
        )  # fmt: skip
    except ValueError as error:
        assert "windows_per_video" in str(error), str(error)
        return
    # Hundreds of large frames take many seconds, and rightly so.
    if processor.num_frames * math.prod(processor.frame_size or (1, 1)) < 3 * 10**7:
        frames = windows[len(windows) - 1]["frames"]
        assert frames.dtype == torch.uint8 and 1 <= len(frames) <= processor.num_frames
        assert processor.frame_size in (None, tuple(frames.shape[-2:]))
        if frames.numel() < 10**8 and processor.num_frames * frames[0].numel() < 10**8:
            assert processor.prepare([frames])["pixel_values_videos"].isfinite().all()
    factors = [learning_rate_factor(recipe.training, update, 10) for update in (0, 5, 10 * recipe.training.epochs)]
    assert all(0 <= factor <= 1 for factor in factors), factors
    if recipe.model.get("rewiring") == "dr2net":
        course = [
            coupling_at(recipe.coupling, epoch, recipe.training.epochs) for epoch in (0, 0.5, recipe.training.epochs)
        ]
        assert all(0 <= number <= 1 for pair in course for number in pair), course


@functools.cache
def _home() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="re2tal-recipes-")


@functools.cache
def _videos() -> AnnotationSet:
    """Two short videos."""
    place = Path(_home().name)
    generate(place, num_training=2, num_validation=0, num_test=0, durations=(13, 14), size=(32, 32), frame_rate=8.0)
    return read_annotations(place / "annotations.json", subset="training", video_folder=place / "videos")


@functools.cache
def _timelines() -> TimelineIndex:
    return TimelineIndex(writes=False)
