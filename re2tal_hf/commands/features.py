"""Computes features of videos by a frozen encoder, a file for each video, to train localizers on.

re2tal features --model runs/first --videos videos --output features
re2tal features --recipe image_lite0 --videos videos --output features training.pretrained_backbone=lite0.pth
re2tal features --encoder transformers:NAME --videos videos --output features processor.num_frames=16

On several GPUs or processes, which share the videos: re2tal launch features --model ...
Videos whose features are in the folder are passed over: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors.numpy import save_file
from tqdm.auto import tqdm
from transformers import AutoModel

from ..configuration_re2tal import Re2TALConfig
from ..data.json_files import read_json, some
from ..data.timeline_index import TimelineIndex
from ..data.video_files import find_videos
from ..data.whole_files import check_writable, written_whole
from ..modeling_re2tal import Re2TALModel
from ..training.arguments import Recipe, load_recipe, recipe_names
from ..training.feature_extraction import BackboneEncoder, FeatureExtractor, LibraryEncoder
from ..training.feature_settings import DESCRIPTION
from ..training.model_source import explained, find_model
from ..training.pretrained import load_backbone_weights
from ..training.processes import on_every_process, on_main_process, start_processes
from ..value_checks import BELOW_ONE, COUNT
from ..version import __version__
from ..video_processing_re2tal import Re2TALVideoProcessor
from ..video_reader import VideoReadError
from ._command import add_overrides, check_device, number, run_command

FORMATS = ("npy", "safetensors")


def add_options(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="folder of a model or of a run of ours, or a Hub id")
    source.add_argument("--recipe", help=f"whose backbone, weights and frames: a YAML file, or one of {recipe_names()}")
    source.add_argument("--encoder", help="timm:NAME or transformers:NAME, a network of these as it is")
    parser.add_argument("--videos", required=True, help="folder of the video files")
    parser.add_argument("--output", required=True, help="folder for the features")
    parser.add_argument(
        "--overlap", type=number(float, BELOW_ONE), default=0.5, help="share of a window that the next one repeats"
    )
    parser.add_argument("--mean", action="store_true", help="one feature for each window, the mean over it")
    parser.add_argument("--format", choices=FORMATS, default="npy")
    parser.add_argument("--batch-size", type=number(int, COUNT), default=1, help="windows encoded together")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    add_overrides(parser)


def build_extractor(options: argparse.Namespace, device: torch.device) -> FeatureExtractor:
    processor_settings: dict[str, Any] = {}
    encoder: BackboneEncoder | LibraryEncoder
    if options.recipe:
        recipe = load_recipe(options.recipe, options.overrides, options.imports)
        processor_settings, encoder = recipe.processor, BackboneEncoder(backbone_of(recipe))
        processor = Re2TALVideoProcessor(**processor_settings)
    else:
        if wrong := [text for text in options.overrides if not text.startswith("processor.")]:
            raise ValueError(f"{wrong[0]} is of a recipe; with --model or --encoder only processor.FIELD is taken.")
        changes = read_changes(options.overrides)
        if options.model:
            source = find_model(options.model, "--model")
            with explained(source, "--model"):
                model = AutoModel.from_pretrained(source)
                processor = Re2TALVideoProcessor.from_pretrained(source, **changes)
            encoder = BackboneEncoder(getattr(model, "model", model))
        else:
            encoder = LibraryEncoder(options.encoder)
            processor = Re2TALVideoProcessor(**changes)
    return FeatureExtractor(
        encoder.eval().to(device), processor, overlap=options.overlap, mean=options.mean, batch_size=options.batch_size
    )


def read_changes(overrides: list[str]) -> dict[str, Any]:
    """Fields of the processor, read and checked as those of a recipe are."""
    return load_recipe("quickstart", overrides).processor if overrides else {}


def backbone_of(recipe: Recipe) -> Re2TALModel:
    """The backbone of a recipe, with the weights that a training would begin from."""
    settings = {name: value for name, value in recipe.model.items() if name in ("backbone_config", "rewiring")}
    model = Re2TALModel(Re2TALConfig(**settings))
    source = recipe.training.pretrained_backbone
    if source is None:
        raise ValueError("training.pretrained_backbone is empty: a frozen encoder needs weights, name them.")
    print(load_backbone_weights(model.backbone, source, recipe.training.pretrained_partial))
    return model


def describe(options: argparse.Namespace, extractor: FeatureExtractor) -> dict[str, Any]:
    processor = extractor.processor
    return {
        "size": extractor.encoder.size,
        "feature_stride": float(extractor.stride),
        "feature_offset": float(extractor.offset),
        "feature_rate": float(processor.frame_rate),
        "encoder": options.model or options.encoder or f"{options.recipe} {' '.join(options.overrides)}".strip(),
        "window": processor.num_frames,
        "step": extractor.step,
        "mean": extractor.mean,
        "frame_size": list(processor.frame_size or ()),
        "version": __version__,
    }


def claim(folder: Path, description: dict[str, Any]) -> None:
    """Writes down how the features of a folder are cut, or holds what is there against it."""
    path = folder / DESCRIPTION
    if path.is_file():
        kept = read_json(path, "{size, feature_stride, ...}")
        kept = kept if isinstance(kept, dict) else {}
        if names := [name for name in description if name != "version" and kept.get(name) != description[name]]:
            raise ValueError(
                f"{path}: {names[0]} is {kept.get(names[0])} there and {description[names[0]]} here: these are other "
                "features, name a new --output."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        partial.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def write_features(path: Path, features: np.ndarray) -> None:
    with written_whole(path) as partial:
        if path.suffix == ".npy":
            with partial.open("wb") as file:
                np.save(file, features)
        else:
            save_file({"features": features}, partial)


def run(options: argparse.Namespace) -> int:
    processes = start_processes()
    folder = Path(options.output)
    on_main_process(processes, lambda: check_writable(folder))
    found = on_every_process(processes, lambda: find_videos(options.videos))
    if twice := [paths for paths in found.values() if len(paths) > 1]:
        raise ValueError(f"Several videos have one name, and so would their features: {some(twice[0])}; rename them.")
    device = options.device or (processes.device if torch.accelerator.is_available() else "cpu")
    check_device(device)
    extractor = on_every_process(processes, lambda: build_extractor(options, torch.device(device)))
    on_main_process(processes, lambda: claim(folder, describe(options, extractor)))
    targets = {paths[0]: folder / f"{paths[0].stem}.{options.format}" for paths in found.values()}
    # All have looked before any writes, or they would not share the same videos.
    todo = on_every_process(processes, lambda: [pair for pair in targets.items() if not pair[1].is_file()])
    failed = on_every_process(processes, lambda: extract(extractor, todo, processes))
    failed = gather_object(failed)
    if failed and processes.is_main_process:
        raise VideoReadError(f"{len(failed)} of {len(targets)} videos cannot be read: {some(failed)}.")
    if processes.is_main_process:
        print(f"{len(todo)} videos done, {len(targets) - len(todo)} were there; {folder}")
    return 1 if failed else 0


def extract(extractor: FeatureExtractor, todo: list[tuple[Path, Path]], processes: PartialState) -> list[str]:
    """Computes and writes the features of this process's share; returns the videos that cannot be read."""
    failed, timelines = [], TimelineIndex(writes=False)
    share = todo[processes.process_index :: processes.num_processes]
    for path, target in tqdm(share, desc="features", disable=not processes.is_main_process):
        try:
            with timelines.open(path) as reader:
                features = extractor(reader)
        except VideoReadError as error:
            print(error, file=sys.stderr)
            failed.append(str(path))
            continue
        if not features.isfinite().all():
            raise ValueError(f"{path}: the encoder computed NaN or infinite features; check its weights.")
        write_features(target, features.numpy())
    return failed


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
