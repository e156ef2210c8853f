"""Names for the segments of a class-agnostic model, by an image-and-text model of transformers that nobody trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModel, AutoProcessor

from .value_checks import one_line, shown
from .video_source import VideoSource

FRAMES_OF_SEGMENT = 8
TEMPLATE = "a video of {}."


class TextModel:
    """Which of some labels fits frames best.

    Args:
        source: Name or folder of an image-and-text model of transformers with its processor, such as
            `openai/clip-vit-base-patch32` or `google/siglip2-base-patch16-224`.
        device: Where it computes.

    Raises:
        ValueError: if it cannot be loaded, or compares no images with texts.
    """

    def __init__(self, source: str, device: torch.device):
        try:
            self.model: Any = AutoModel.from_pretrained(source)
            self.processor: Any = AutoProcessor.from_pretrained(source)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ValueError(f"text_model is {shown(source)}, which cannot be loaded: {one_line(error)}") from error
        kind = type(self.model).__name__
        if not hasattr(self.model, "get_text_features") or not hasattr(self.processor, "image_processor"):
            raise ValueError(
                f"text_model is {shown(source)}, a {kind}, which does not compare images with texts; choose one that "
                "does, such as 'openai/clip-vit-base-patch32' or 'google/siglip2-base-patch16-224'."
            )
        self.model = self.model.eval().to(device)
        # Texts of a fixed length are what SigLIP was trained on.
        self.padding = "max_length" if "siglip" in kind.lower() else True

    @torch.inference_mode()
    def shares(self, frames: Sequence[Any], texts: Sequence[str]) -> list[float]:
        """Returns how well each text fits, a share of 1.

        Args:
            frames: Pictures, uint8 `[C, H, W]` each.
            texts: One for each label.
        """
        inputs = self.processor(images=list(frames), text=list(texts), padding=self.padding, return_tensors="pt")
        logits = self.model(**inputs.to(self.model.device)).logits_per_image
        return logits.float().mean(0).softmax(0).tolist()


def named(
    rows: Sequence[dict[str, Any]], source: VideoSource, text_model: TextModel, labels: Sequence[str], template: str
) -> list[dict[str, Any]]:
    """Gives each segment the label that fits its frames best.

    Args:
        rows: Actions of a class-agnostic model, as the pipeline returns them.
        source: Their video.
        text_model: What chooses.
        labels: Among which.
        template: A text with `{}` in the place of the label.

    Returns:
        The same with other labels, their scores multiplied by the share of the label, best first.
    """
    texts = [template.format(label) for label in labels]
    found = []
    for row in rows:
        step = (row["end"] - row["start"]) / FRAMES_OF_SEGMENT
        times = [row["start"] + (index + 0.5) * step for index in range(FRAMES_OF_SEGMENT)]
        shares = text_model.shares(list(source.frames_at(times)), texts)
        best = max(range(len(labels)), key=shares.__getitem__)
        found.append({**row, "label": labels[best], "score": row["score"] * shares[best]})
    return sorted(found, key=lambda row: -row["score"])
