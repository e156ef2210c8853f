"""What the card of a model on stored features says, where that of another speaks of videos and their frames."""

from __future__ import annotations

from typing import Any

from ..training.feature_settings import MODEL_TYPE
from .markdown import Markdown, code
from .published_run import PublishedRun


def on_features(run: PublishedRun) -> bool:
    """Whether the model takes stored features in the place of videos."""
    return run.config["backbone_config"].get("model_type") == MODEL_TYPE


def features_of(run: PublishedRun) -> dict[str, Any] | None:
    """What the template says of the features that a model takes; None of one that takes videos."""
    if not on_features(run):
        return None
    return {
        "size": run.config["backbone_config"].get("size", 2048),
        "apart": _apart(run.processor),
        "source": _source(run),
        "rate_is_known": run.processor.get("feature_rate") is not None or run.processor.get("feature_stride") is None,
    }


def feature_rows(run: PublishedRun) -> dict[str, str]:
    """Rows of the table of settings, by the names of those that they take the place of."""
    names = ("feature_stride", "feature_offset", "feature_rate")
    cut = ", ".join(f"{name} {run.processor.get(name)}" for name in names)
    window = f"{run.processor['num_frames']} features"
    tested = ", tested on whole videos" if run.processor.get("sampling") == "whole" else ""
    return {
        "backbone": "",
        "rewiring, backpropagation": "",
        "features": f"size {run.config['backbone_config'].get('size', 2048)}, {cut}",
        "window": f"{window} spread over the whole video" if _spread(run.processor) else f"{window}{tested}",
        "learning rate": f"{run.recipe['training']['learning_rate']:g}",
        "augmentation": "",
    }


def feature_limits(run: PublishedRun) -> list[str]:
    """What limits such a model, beside what limits any."""
    stride, rate = run.processor.get("feature_stride"), run.processor.get("feature_rate")
    limits = []
    if stride and rate and not _spread(run.processor):
        seconds = run.processor["num_frames"] * stride / rate
        limits.append(f"A training window is {seconds:.3g} s long: an action that takes longer was never seen whole.")
    return [
        *limits,
        "It takes features that were cut as those of its training, by the same network; of others its output means "
        "nothing. What they do not hold is not found.",
    ]


def feature_notice(run: PublishedRun) -> str:
    """What a reader must know of the rights in the weights, in Markdown."""
    encoder = _encoder(run)
    named = f", {code(encoder)}" if encoder else ""
    return (
        f"The weights were trained from scratch, on features of another network{named}: its terms may say what becomes "
        "of what is trained on its features."
    )


def _spread(processor: dict[str, Any]) -> bool:
    return processor.get("sampling") == "resized" or processor.get("feature_stride") is None


def _apart(processor: dict[str, Any]) -> str:
    stride, rate = processor.get("feature_stride"), processor.get("feature_rate")
    if stride is None:
        return "spread evenly over the video"
    first = f"the first one at frame {processor.get('feature_offset', 0):g}"
    every = "frame" if stride == 1 else f"{stride:g} frames"
    return f"one every {every}, {first}" + (f", at {rate:g} frames a second" if rate else "")


def _source(run: PublishedRun) -> Markdown:
    """Who computed the features, and from which windows, as far as their folder said."""
    found, encoder = run.record.get("features"), _encoder(run)
    if not isinstance(found, dict) or not encoder:
        return Markdown("as another program computed them for the training")
    window, step = found.get("window"), found.get("step")
    cut = f", windows of {window} frames, a step of {step}" if isinstance(window, int) and isinstance(step, int) else ""
    mean = ", one feature for each" if found.get("mean") is True else ""
    return Markdown(f"as `re2tal features` computed them with {code(encoder)}{cut}{mean}")


def _encoder(run: PublishedRun) -> str | None:
    found = run.record.get("features")
    encoder = found.get("encoder") if isinstance(found, dict) else None
    return encoder if isinstance(encoder, str) else None
