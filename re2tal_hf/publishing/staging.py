"""What an upload consists of, put together in a folder: a model with its card, or a Space."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import metadata_load

from ..finite import check_predictions
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..pipeline_re2tal import TemporalActionLocalizationPipeline
from ..training.recipe_yaml import write_yaml
from ..video_processing_re2tal import Re2TALVideoProcessor
from .license_file import license_text
from .model_card import CardOptions, make_card, origin_of
from .run_folder import TrainingRun

# Enough to pass every layer; a whole window can take minutes on a CPU.
_PROBE_FRAMES = 64
# Gradio writes the .pyi files when a component is imported.
_CACHES = shutil.ignore_patterns("__pycache__", "*.pyc", "*.pyi", ".*")


def stage_model(
    run: TrainingRun, options: CardOptions, license_file: Path, folder: Path, max_shard_size: str = "50GB"
) -> None:
    """Puts a model with code, processor, card, license, results and settings into a folder.

    Args:
        run (`TrainingRun`): Where it comes from.
        options (`CardOptions`): Repository, version and what else the card needs.
        license_file (`Path`): License of the code.
        folder (`Path`): An empty folder.
        max_shard_size (`str`): Weights that are larger are spread over several files, for example `"5GB"`.

    Raises:
        ValueError: if the model does not load or its outputs are not finite.
    """
    card = make_card(run, options)
    pipe = load_checked(run.model_folder)
    pipe.save_pretrained(folder, max_shard_size=max_shard_size)
    card.save(folder / "README.md")
    (folder / "LICENSE").write_text(license_text(origin_of(run, options), license_file.read_text()))
    (folder / "recipe.yaml").write_text(write_yaml(_without_places(run.recipe)))
    for name in ("run.json", "log.jsonl"):
        shutil.copyfile(run.folder / name, folder / name)
    for name in ("metrics.json", "detections.json", "timeline.png"):
        if (run.model_folder / name).exists():
            shutil.copyfile(run.model_folder / name, folder / name)


def load_checked(folder: Path) -> TemporalActionLocalizationPipeline:
    """Loads a model and lets it run once on random frames.

    Raises:
        ValueError: if weights are missing or left over, or an output is not finite.
    """
    model, report = Re2TALForTemporalActionLocalization.from_pretrained(folder, output_loading_info=True)
    wrong = {name: sorted(map(str, found))[:3] for name, found in report.items() if found}
    if wrong:
        raise ValueError(f"{folder}: the weights do not fit the model, {wrong}; train again or restore the folder.")
    processor = Re2TALVideoProcessor.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    num_frames = min(processor.num_frames, _PROBE_FRAMES)
    frames = torch.randint(0, 256, (num_frames, 3, 256, 256), generator=generator, dtype=torch.uint8)
    pixels = processor(frames, return_tensors="pt")["pixel_values_videos"][:, :num_frames].to(model.dtype)
    with torch.inference_mode():
        output = model.eval()(pixels)
    real = output.point_mask
    check_predictions(f"{folder}, random frames", output.logits[real], output.pred_segments[real])
    return TemporalActionLocalizationPipeline(model=model, video_processor=processor, device="cpu")


def stage_metric(repository: Path, folder: Path) -> None:
    """Puts the metric's Space into a folder.

    Args:
        repository (`Path`): A checkout of this project.
        folder (`Path`): An empty folder.

    Raises:
        ValueError: if a file that a Space needs is missing.
    """
    source = repository / "re2tal_hf" / "metrics" / "tal_map"
    _check_space(source)
    _copy(source, folder)
    shutil.copyfile(repository / "LICENSE", folder / "LICENSE")


def stage_app(repository: Path, folder: Path) -> None:
    """Puts the demo Space into a folder, the package beside its `app.py`: it is on no package index.

    Args:
        repository (`Path`): A checkout of this project.
        folder (`Path`): An empty folder.

    Raises:
        ValueError: if a file that a Space needs is missing.
    """
    _check_space(repository / "app")
    _copy(repository / "app", folder)
    _copy(repository / "re2tal_hf", folder / "re2tal_hf")
    shutil.copyfile(repository / "LICENSE", folder / "LICENSE")


def _copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, ignore=_CACHES, dirs_exist_ok=True)


def _check_space(folder: Path) -> None:
    for name in ("README.md", "app.py", "requirements.txt"):
        if not (folder / name).exists():
            raise ValueError(f"{folder / name} is missing: a Space needs it.")
    front_matter = metadata_load(folder / "README.md") or {}
    if front_matter.get("sdk") != "gradio":
        raise ValueError(f"{folder / 'README.md'}: its front matter must say 'sdk: gradio'.")


def _without_places(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with absolute paths shortened to names: they mean nothing elsewhere, and tell of the machine."""
    recipe = copy.deepcopy(recipe)
    for section in ("data", "training"):
        for name, value in recipe[section].items():
            if isinstance(value, str) and Path(value).is_absolute():
                recipe[section][name] = Path(value).name
    return recipe
