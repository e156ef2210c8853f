"""What an upload consists of, put together in a folder: a model with its card, or a Space."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import torch
from huggingface_hub import metadata_load
from PIL import Image

from ..finite import check_predictions
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..pipeline_re2tal import TemporalActionLocalizationPipeline
from ..training.feature_settings import MODEL_TYPE
from ..training.recipe_yaml import write_yaml
from ..training.run_folder import DETECTIONS, LOG, METRICS, PICTURE, RECIPE, RECORD, as_json, as_lines
from ..video_processing_re2tal import Re2TALVideoProcessor
from .license_file import code_license, license_text
from .listed_files import copy_listed, is_regular
from .model_card import CardOptions, make_card, origin_of
from .places import without_places
from .published_run import PublishedRun

# Enough to pass every layer; a whole window can take minutes on a CPU.
_PROBE_FRAMES = 64
# What goes into the Spaces. A new module or recipe is added here: a test compares with what the project holds.
METRIC_FILES = (
    "README.md",
    "requirements.txt",
    *(f"{name}.py" for name in ("app", "diagnosis", "diagnosis_figure", "json_files", "tal_map", "uploads_only")),
    "example_annotations.json",
    "example_detections.json",
)
APP_FILES = (
    "README.md",
    "requirements.txt",
    "app.py",
    "screenshot.png",
    "examples/*.mp4",
    "model/config.json",
    "model/video_preprocessor_config.json",
    "model/*.safetensors",
    "model/model.safetensors.index.json",
)
PACKAGE_FILES = (
    "README.md",
    "recipes/README.md",
    "serving/README.md",
    "streaming/README.md",
    "annotate/README.md",
    "annotate/page.png",
    "training/README.md",
    "*.py",
    *(
        f"{folder}/*.py"
        for folder in ("annotate", "commands", "conversion", "data", "data/annotation_formats", "demo", "doctor")
    ),
    *(
        f"{folder}/*.py"
        for folder in ("licensing", "metrics", "publishing", "report", "serving", "streaming", "training")
    ),
    *(f"demo/{name}" for name in ("page.css", "page.js", "timeline.css", "timeline.js")),
    *(f"annotate/{name}.js" for name in ("ask", "keys", "page", "player", "proposals", "timeline", "training")),
    "annotate/page.css",
    "annotate/page.html",
    "data/annotation_page.html",
    "data/page_style.html",
    "report/page.html",
    "publishing/model_card_template.md",
    *(
        f"recipes/{data}_{backbone}{way}.yaml"
        for data in ("activitynet", "thumos14")
        for backbone in ("slowfast_101", "swin_tiny")
        for way in ("", "_plain")
    ),
    *(
        f"recipes/{data}_{backbone}.yaml"
        for data in ("activitynet", "thumos14")
        for backbone in ("swin_small", "swin_base", "slowfast_50", "slowfast_152")
    ),
    *(
        f"recipes/{data}_actionformer.yaml"
        for data in (
            "activitynet",
            "charades",
            "ego4d",
            "epic_nouns",
            "epic_sounds",
            "epic_verbs",
            "fineaction",
            "hacs",
        )
    ),
    "recipes/multithumos_actionformer.yaml",
    *(f"recipes/{data}_tridet.yaml" for data in ("activitynet", "epic_nouns", "epic_verbs", "hacs")),
    *(
        f"recipes/{data}_adatad_{size}.yaml"
        for data in ("activitynet", "thumos14")
        for size in ("small", "base", "large")
    ),
    *(
        f"recipes/{name}.yaml"
        for name in (
            "activitynet_swin_tiny_classes",
            "features_actionformer",
            "features_spotting",
            "features_tridet",
            "finetune_swin_tiny",
            "image_lite0",
            "quickstart",
            "quickstart_spotting",
            "ut_clips",
            "ut_interaction",
            "videoprism_base",
            "vjepa2_large",
        )
    ),
    *(f"recipes/{name}.md" for name in ("benchmarks", "features", "spotting", "ut_interaction")),
    *(f"metrics/tal_map/{name}" for name in METRIC_FILES),
)

logger = logging.getLogger(__name__)


def stage_model(
    run: PublishedRun, options: CardOptions, license_file: Path, folder: Path, max_shard_size: str = "50GB"
) -> None:
    """Puts a model with code, processor, card, license, results and settings into a folder.

    Args:
        run: Where it comes from.
        options: Repository, version and what else the card needs.
        license_file: License of the code.
        folder: An empty folder.
        max_shard_size: Weights that are larger are spread over several files, for example `"5GB"`.

    Raises:
        ValueError: if the model does not load or its outputs are not finite.
    """
    card = make_card(run, options)
    pipe = load_checked(run.model_folder)
    pipe.save_pretrained(folder, max_shard_size=max_shard_size)
    for path in folder.glob("*.json"):
        _rewrite_json(path, path)
    card.save(folder / "README.md")
    terms = license_text(origin_of(run, options), license_file.read_text(encoding="utf-8"))
    (folder / "LICENSE").write_text(terms, encoding="utf-8")
    public = run.without_places()
    (folder / RECIPE).write_text(write_yaml(public.recipe), encoding="utf-8")
    (folder / RECORD).write_text(as_json(public.record), encoding="utf-8")
    (folder / LOG).write_text(as_lines(public.log), encoding="utf-8")
    (folder / METRICS).write_text(as_json(public.metrics), encoding="utf-8")
    _rewrite_json(run.model_folder / DETECTIONS, folder / DETECTIONS, indent=None)
    _copy_picture(run, folder)


def load_checked(folder: Path) -> TemporalActionLocalizationPipeline:
    """Loads a model and lets it run once on random frames, or features where it takes these.

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
    kind, inputs = "frames", {}
    if model.config.backbone_config["model_type"] == MODEL_TYPE:
        kind, shape = "features", (1, num_frames, model.model.feature_size)
        inputs["temporal_features"] = torch.randn(shape, generator=generator).to(model.dtype)
    else:
        frames = torch.randint(0, 256, (num_frames, 3, 256, 256), generator=generator, dtype=torch.uint8)
        pixels = processor(frames, return_tensors="pt")["pixel_values_videos"][:, :num_frames]
        inputs["pixel_values_videos"] = pixels.to(model.dtype)
    with torch.inference_mode():
        output = model.eval()(**inputs)
    real = output.point_mask
    check_predictions(f"{folder}, random {kind}", output.logits[real], output.pred_segments[real])
    return TemporalActionLocalizationPipeline(model=model, video_processor=processor, device="cpu")


def stage_metric(repository: Path, folder: Path) -> None:
    """Puts the metric's Space into a folder.

    Args:
        repository: A checkout of this project.
        folder: An empty folder.

    Raises:
        ValueError: if a file that a Space needs is missing.
    """
    source = repository / "re2tal_hf" / "metrics" / "tal_map"
    _check_space(repository, "re2tal_hf/metrics/tal_map")
    copy_listed(source, folder, METRIC_FILES)
    shutil.copyfile(code_license(repository), folder / "LICENSE")


def stage_app(repository: Path, folder: Path) -> None:
    """Puts the demo Space into a folder, the package beside its `app.py`: it is on no package index.

    Args:
        repository: A checkout of this project.
        folder: An empty folder.

    Raises:
        ValueError: if a file that a Space needs is missing.
    """
    _check_space(repository, "app")
    copy_listed(repository / "app", folder, APP_FILES)
    for path in (folder / "model").glob("*.json"):
        _rewrite_json(path, path)
    copy_listed(repository / "re2tal_hf", folder / "re2tal_hf", PACKAGE_FILES)
    shutil.copyfile(code_license(repository), folder / "LICENSE")


def _check_space(repository: Path, space: str) -> None:
    for name in (f"{space}/README.md", f"{space}/app.py", f"{space}/requirements.txt"):
        if not is_regular(repository, name):
            reason = "is a link or lies behind one" if (repository / name).exists() else "is missing"
            raise ValueError(f"{repository / name} {reason}: a Space is published from a checkout that holds it.")
    code_license(repository)
    front_matter = metadata_load(repository / space / "README.md") or {}
    if front_matter.get("sdk") != "gradio":
        raise ValueError(f"{repository / space / 'README.md'}: its front matter must say 'sdk: gradio'.")


def _rewrite_json(source: Path, target: Path, indent: int | None = 2) -> None:
    """Copies a JSON file without local paths."""
    try:
        value = json.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{source} is not JSON ({error}): restore it, or have it made anew.") from error
    target.write_text(json.dumps(without_places(value), indent=indent) + "\n", encoding="utf-8")


def _copy_picture(run: PublishedRun, folder: Path) -> None:
    """Draws the picture anew, so that nothing but its pixels is in the file."""
    path = run.model_folder / PICTURE
    if not path.exists():
        return
    if not run.has_picture:
        logger.warning("Left out: %s is a link or lies behind one.", path)
        return
    with Image.open(path) as picture:
        picture.convert("RGB").save(folder / PICTURE)
