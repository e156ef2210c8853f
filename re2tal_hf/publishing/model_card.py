"""The model card of a run: front matter and text, every number out of the run's files."""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..head import HEADS
from ..licensing.origins import Origin, find_origin, question, recorded_origin
from .feature_card import feature_limits, feature_notice, feature_rows, features_of, on_features
from .markdown import Markdown, code, escape, plain, render
from .places import file_name, parent_name, without_places
from .published_run import PublishedRun
from .upload import check_names

# The Hub lists no pipeline of this task: what would be the nearest, "video-classification", runs other models.
TASK = "temporal-action-localization"
TEMPLATE = Path(__file__).with_name("model_card_template.md")

_GENERIC_NAMES = ("annotations", "metadata", "ground_truth")
_REWIRINGS = {
    "re2tal": "Re2TAL, [arXiv 2211.14053](https://arxiv.org/abs/2211.14053)",
    "dr2net": "Dr2Net, [arXiv 2401.04105](https://arxiv.org/abs/2401.04105)",
}


@dataclass(frozen=True)
class CardOptions:
    """What the run's files do not say.

    Args:
        repo_id: `user/name` on the Hub.
        tag: The version.
        license: License that the publisher states, where the origin leaves it open.
        data_name: Name of the data set, in place of that of its file.
        notes: Markdown whose `## ` sections go to the end of the card's sections of the same name, before the license
            where there is none; what precedes the first goes under the title.

    Raises:
        ValueError: if repository or tag is not well-formed.
    """

    repo_id: str
    tag: str
    license: str | None = None
    data_name: str | None = None
    notes: str = ""

    def __post_init__(self) -> None:
        check_names(self.repo_id, self.tag)


def make_card(run: PublishedRun, options: CardOptions) -> ModelCard:
    """Returns the card of a run; of local paths only their names are in it.

    Raises:
        ValueError: if the license of the weights is not known, or the one stated contradicts their origin.
    """
    origin = origin_of(run, options)
    hub_dataset = run.hub_dataset
    name = options.data_name or _data_name(run)
    front_matter = _front_matter(run, options, origin, name).to_yaml()
    run = run.without_places()
    text = render(
        TEMPLATE.read_text(encoding="utf-8"),
        repo_id=Markdown(options.repo_id),
        tag=Markdown(options.tag),
        license=origin.license,
        notice=Markdown(feature_notice(run) if on_features(run) and origin.source is None else origin.notice),
        terms=Markdown(origin.terms or ""),
        data_name=name,
        hub_dataset=Markdown((hub_dataset or "").partition("@")[0]),
        class_agnostic=run.recipe["data"].get("class_agnostic", False),
        labels=[label for _, label in sorted(run.config["id2label"].items(), key=lambda item: int(item[0]))],
        how_trained=Markdown(_how_trained(run, origin)),
        features=features_of(run),
        head=_head(run.config["head_config"]["model_type"]),
        num_parameters=_count(run.record["num_parameters"]),
        backbone_parameters=_count(run.record["backbone_parameters"]),
        run=run.record,
        recipe=run.recipe,
        which=Markdown(run.which),
        model_choice=_model_choice(run),
        points=run.recipe["data"].get("points") if run.finds_points else None,
        map_by_threshold=run.map_by_threshold | _averages(run),
        per_class=run.metrics["per_class"],
        timeline=run.has_picture,
        settings=_settings(run),
        costs=_costs(run),
        limits=_limits(run),
    )
    return ModelCard(insert_notes(f"---\n{front_matter}\n---\n\n{text}", without_places(options.notes)))


def origin_of(run: PublishedRun, options: CardOptions) -> Origin:
    """Returns where the weights of a run come from, and under which license they are.

    Raises:
        ValueError: if nobody knows the license, or the one stated contradicts the origin.
    """
    training = run.recipe["training"]
    origin = recorded_origin(run.config)
    if origin is None:
        origin = find_origin(training.get("pretrained_backbone"), training.get("pretrained_license"))
    if options.license is not None:
        origin = origin.state(options.license, "--license")
    if origin.license is None:
        asked = question(origin, "--license ", run.config["backbone_config"]["model_type"])
        raise ValueError(f"{run.model_folder}: {asked}")
    return origin


def insert_notes(card: str, notes: str) -> str:
    """Puts the sections of hand-written notes into those of a card; see [`CardOptions`]."""
    sections = _sections(card)
    for heading, text in _sections(notes).items():
        if heading in sections:
            sections[heading] = f"{sections[heading].rstrip()}\n\n{text.strip()}\n\n"
        else:
            position = list(sections).index("License")
            items = list(sections.items())
            sections = dict([*items[:position], (heading, f"{text.strip()}\n\n"), *items[position:]])
    parts = (f"## {heading}\n\n{text.lstrip()}" if heading else text for heading, text in sections.items())
    return "".join(parts).rstrip() + "\n"


def _sections(markdown: str) -> dict[str, str]:
    """Heading -> text below it; what precedes the first heading is under the empty one."""
    sections = {"": ""}
    heading, in_code = "", False
    for line in markdown.splitlines(keepends=True):
        in_code ^= line.startswith("```")
        if line.startswith("## ") and not in_code:
            heading = line[3:].strip()
            sections.setdefault(heading, "")
        else:
            sections[heading] += line
    return sections if sections[""].strip() else {name: text for name, text in sections.items() if name}


def _front_matter(run: PublishedRun, options: CardOptions, origin: Origin, data_name: str) -> ModelCardData:
    hub_dataset, _, revision = (run.hub_dataset or "").partition("@")
    name = plain(data_name)
    thresholds = list(run.map_by_threshold)
    values = {f"mAP@{threshold}": value for threshold, value in run.map_by_threshold.items()}
    if run.finds_points:  # the table in the text has the rest
        values = {f"{name} mAP": value for name, value in _averages(run).items()}
    else:
        values[f"average mAP@{thresholds[0]}:{thresholds[-1]}"] = run.metrics["map"]
    metric = "spotting_map" if run.finds_points else "tal_map"
    results = [
        EvalResult(
            task_type=TASK,
            task_name="Action spotting" if run.finds_points else "Temporal action localization",
            dataset_type=hub_dataset or re.sub(r"\W+", "_", name).strip("_").lower(),
            dataset_name=name,
            dataset_split=plain(run.recipe["data"]["validation_subset"]),
            dataset_revision=plain(revision) or None,
            metric_type=metric,
            metric_name=metric_name,
            metric_value=round(value, 4),
        )
        for metric_name, value in values.items()
    ]
    is_other = origin.license == "other"
    return ModelCardData(
        library_name="transformers",
        license=origin.license,
        license_name="terms-of-the-pretrained-weights" if is_other else None,
        license_link=(origin.terms or "LICENSE") if is_other else None,
        base_model=origin.source if origin.kind == "hub" else None,
        datasets=[hub_dataset] if hub_dataset else None,
        tags=[TASK, "re2tal", "video", plain(run.config["backbone_config"]["model_type"]), *_reversible_tag(run)],
        metrics=[metric],
        model_name=options.repo_id.split("/")[1],
        eval_results=results,
    )


def _averages(run: PublishedRun) -> dict[str, float]:
    if run.finds_points:
        return {"tight average": run.metrics["map"], "loose average": run.metrics["loose_map"]}
    return {"average": run.metrics["map"]}


def _data_name(run: PublishedRun) -> str:
    if run.hub_dataset:
        return run.hub_dataset.partition("@")[0]
    source = run.recipe["data"]["annotations"]
    stem = file_name(source).rpartition(".")[0] or file_name(source)
    return parent_name(source) or stem if stem.lower() in _GENERIC_NAMES else stem


def _is_reversible(run: PublishedRun) -> bool:
    plan = run.record.get("backprop_plan")
    planned = plan.get("modes") if isinstance(plan, dict) else None
    inverts = run.config["backprop"] == "reversible" or (isinstance(planned, list) and "reversible" in planned)
    return inverts and not run.recipe["freeze"]["backbone"]


def _reversible_tag(run: PublishedRun) -> list[str]:
    return ["reversible"] if _is_reversible(run) else []


def _how_trained(run: PublishedRun, origin: Origin) -> str:
    source = origin.source
    if on_features(run):
        return "Only the head was trained, on stored features in the place of videos, with `re2tal_hf`."
    start = f"starting from {code(source)}" if source else "from scratch"
    if run.recipe["freeze"]["backbone"]:
        weights = f"from {code(source)}" if source else "at its initial, random weights"
        return f"The backbone is frozen ({weights}); only the head was trained, with `re2tal_hf`."
    text = f"Trained end to end, from pixels, {start}, with `re2tal_hf`."
    rewiring = run.config["rewiring"]
    if rewiring == "none":
        return f"{text} The backbone is not rewired."
    recomputed = ", and its activations were recomputed by inversion" if _is_reversible(run) else ""
    return f"{text} The backbone is rewired ({_REWIRINGS[rewiring]}){recomputed}."


def _head(name: str) -> Markdown:
    """A head by its name and, if it is registered, its paper."""
    paper = HEADS[name].paper if name in HEADS else None
    if not paper:
        return code(str(name))
    linked = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[\g<0>](https://arxiv.org/abs/\1)", escape(paper))
    return Markdown(f"{code(name)} ({linked})")


def _model_choice(run: PublishedRun) -> str:
    averaged = "averaged weights" if run.recipe["training"]["ema_decay"] is not None else "weights"
    evaluations = len({entry["epoch"] for entry in run.log if "map" in entry})
    text = f"the {averaged} after epoch {run.metrics['epoch']}"
    if run.which == "best" and evaluations > 1:
        text += f", the best of {evaluations} evaluated (chosen on this same subset, which flatters it a little)"
    return text


def _settings(run: PublishedRun) -> dict[str, str]:
    training, processor = run.recipe["training"], run.processor
    windows = training["batch_size"] * training["gradient_accumulation"] * run.record["num_processes"]
    frames = f"{processor['num_frames']} frames"
    cosine = training["schedule_epochs"] or training["epochs"]
    sampled = "spread over the whole video" if _is_resized(run) else f"at {processor['frame_rate']:g} a second"
    settings = {
        "backbone": _describe(run.recipe["model"].get("backbone_config") or run.config["backbone_config"]),
        "head": _describe(run.recipe["model"].get("head_config") or run.config["head_config"]),
        "rewiring, backpropagation": f"{run.config['rewiring']}, {run.config['backprop']}",
        "frozen": _frozen(run),
        "window": f"{frames} {sampled}, {_frame_size(run)}",
        "windows in an update": str(windows),
        "epochs": f"{training['epochs']}, {training['warmup_epochs']:g} of them warm-up; cosine over {cosine}",
        "optimizer": f"AdamW, weight decay {training['weight_decay']:g}, clipped to {training['max_gradient_norm']:g}",
        "learning rate": f"{training['learning_rate']:g}, of the backbone {training['backbone_learning_rate']:g}",
        "moving average": "none" if training["ema_decay"] is None else f"{training['ema_decay']:g}",
        "mixed precision": training["mixed_precision"],
        "augmentation": _describe(run.recipe["augmentation"]) or "none",
    }
    if on_features(run):
        settings |= feature_rows(run)
    return {name: value for name, value in settings.items() if value}


def _frozen(run: PublishedRun) -> str:
    frozen = run.recipe["freeze"]
    if frozen["backbone"]:
        return "the backbone"
    parts = [f"{frozen['stages']} leading stages"] if frozen["stages"] else []
    return ", ".join([*parts, *(["norms of the backbone"] if frozen["norms"] else [])])


def _costs(run: PublishedRun) -> dict[str, str]:
    record = run.record
    memory = max(entry["peak_memory_mib"] for entry in run.log)
    step = statistics.median(entry["seconds_per_step"] for entry in run.log)
    processes = f", {record['num_processes']} processes" if record["num_processes"] > 1 else ""
    where = "of the process" if record["device"].startswith("CPU") else "allocated on the GPU"
    costs = {
        "machine": f"{record['device']}{processes}",
        "training without evaluations": _duration(record["training_seconds"]),
        "one step": f"{step:.2f} s (median of the epochs)",
        f"peak memory {where}": f"{memory:.0f} MiB",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }
    if _is_reversible(run):
        error = max(entry["reconstruction_error"] for entry in run.log)
        costs["largest relative reconstruction error of the inversion"] = f"{error:.1g}"
    return costs


def _limits(run: PublishedRun) -> list[str]:
    data, processor = run.record["training"], run.processor
    amount = f"{data['segments']} actions in {data['videos']} videos"
    trained = f"Trained on {amount}: other people, places and cameras than these have not been tried."
    scores = "Scores rank the actions; they are not calibrated probabilities."
    if on_features(run):
        return [trained, *feature_limits(run), scores]
    if _is_resized(run):
        window = f"Every video is sampled to {processor['num_frames']} frames: the longer it is, the coarser the times."
    else:
        seconds = processor["num_frames"] / processor["frame_rate"]
        limit = "an action that takes longer is never seen whole"
        if run.finds_points:
            limit = "what is farther from an action tells nothing of it"
        window = f"A window is {seconds:.3g} s long: {limit}."
    return [
        trained,
        window,
        f"Frames are scaled to {_frame_size(run)}: what cannot be told at that size is not found. Sound is not used.",
        scores,
    ]


def _is_resized(run: PublishedRun) -> bool:
    return run.processor.get("sampling") == "resized"


def _frame_size(run: PublishedRun) -> str:
    size = run.processor["crop_size"] if run.processor.get("do_center_crop") else run.processor["size"]
    if "height" in size:
        return f"{size['width']}x{size['height']}"
    return f"a shortest edge of {size['shortest_edge']}"


def _describe(settings: dict[str, Any]) -> str:
    values = {name: value for name, value in settings.items() if name != "model_type"}
    listed = ", ".join(f"{name} {_plain(value)}" for name, value in values.items())
    kind = settings.get("model_type", "")
    return f"{kind}: {listed}" if kind and listed else kind or listed


def _plain(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _count(number: int) -> str:
    return f"{number / 1e6:.3g} M" if number >= 1e6 else f"{number:,}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
