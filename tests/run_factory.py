"""A run folder as the trainer leaves it, with an untrained small model: for tests of what is made from runs."""

import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from re2tal_hf import (
    Re2TALConfig,
    Re2TALForTemporalActionLocalization,
    Re2TALVideoProcessor,
    TemporalActionLocalizationPipeline,
)
from re2tal_hf.training.arguments import load_recipe
from re2tal_hf.training.recipe_yaml import write_yaml

LABELS = ("jump", "run")
METRICS = {
    "map": 0.4567,
    "map@0.3": 0.61234,
    "map@0.5": 0.4877,
    "map@0.7": 0.27,
    "per_class": {"jump": 0.7041, "run": 0.2093},
    "epoch": 2,
}
RECORD = {
    "versions": {"python": "3.10.1", "re2tal_hf": "0.1.0", "torch": "2.6.0"},
    "device": "CPU, Some Processor, 4 cores, 2 threads",
    "num_processes": 1,
    "num_parameters": 5_234_567,
    "backbone_parameters": 4_321,
    "training": {"videos": 7, "segments": 41, "seconds": 1234.0},
    "validation": {"videos": 3, "segments": 19, "seconds": 321.0},
    "training_seconds": 1500.0,
}
LOG = [
    {"epoch": 1, "loss": 1.5, "seconds_per_step": 0.4, "peak_memory_mib": 811.2, "reconstruction_error": 3e-7},
    {"epoch": 2, "loss": 1.1, "seconds_per_step": 0.6, "peak_memory_mib": 823.4, "reconstruction_error": 2e-7},
    {"epoch": 3, "loss": 1.0, "seconds_per_step": 0.5, "peak_memory_mib": 802.0, "reconstruction_error": 1e-7},
]


def small_pipeline(**config: Any) -> TemporalActionLocalizationPipeline:
    """An untrained model of two classes whose scores are around one half."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "backbone_config": {"model_type": "video_swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]},
        "head_config": {"model_type": "actionformer", "hidden_size": 16, "num_levels": 3},
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: index for index, label in enumerate(LABELS)},
    }
    model = Re2TALForTemporalActionLocalization(Re2TALConfig(**settings | config))
    torch.nn.init.zeros_(model.head.classification.predictor.bias)
    point_window = 0.5 if model.config.head_config["model_type"] == "spotting" else None
    processor = Re2TALVideoProcessor(
        size={"height": 32, "width": 32}, num_frames=16, frame_rate=10.0, point_window=point_window
    )
    return TemporalActionLocalizationPipeline(model=model, video_processor=processor, device="cpu")


def write_run(folder: Path, *, overrides: tuple[str, ...] = (), **config: Any) -> Path:
    """Writes a run folder with `best/` and `last/`, and returns it."""
    places = ["data.annotations=/home/someone/kicks/annotations.json", "data.videos=/home/someone/kicks/videos"]
    recipe = load_recipe("quickstart", [*places, *overrides])
    for which in ("best", "last"):
        model_folder = folder / which
        small_pipeline(**config).save_pretrained(model_folder)
        (model_folder / "metrics.json").write_text(json.dumps(METRICS))
        (model_folder / "detections.json").write_text(json.dumps({"results": {}}))
        Figure(figsize=(1, 1)).savefig(model_folder / "timeline.png")
    (folder / "recipe.yaml").write_text(write_yaml(recipe.to_dict()))
    (folder / "run.json").write_text(json.dumps(RECORD))
    log = [{**entry, "map": 0.3} for entry in LOG]
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    return folder
