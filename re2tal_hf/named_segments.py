"""Names for the segments of a class-agnostic model, by an image- or video-and-text model of transformers as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from .value_checks import one_line, shown
from .video_source import VideoSource

FRAMES_OF_SEGMENT = 8
TEMPLATE = "a video of {}."
# What similarities of videos with texts are divided by: of VideoPrism's own demonstration (videoprism_video_text_demo).
TEMPERATURE = 0.01


class TextModel:
    """Which of some labels fits frames best.

    Args:
        source: Name or folder of an image-and-text model of transformers with its processor, such as
            `openai/clip-vit-base-patch32` or `google/siglip2-base-patch16-224`, or of a video-and-text model, such as
            VideoPrism's LvT.
        device: Where it computes.

    Attributes:
        num_frames: Of a segment, that are looked at.

    Raises:
        ValueError: if it cannot be loaded, or compares neither images nor videos with texts.
    """

    def __init__(self, source: str, device: torch.device):
        try:
            self.model: Any = AutoModel.from_pretrained(source)
            self.processor: Any = AutoProcessor.from_pretrained(source)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ValueError(f"text_model is {shown(source)}, which cannot be loaded: {one_line(error)}") from error
        kind = type(self.model).__name__
        takes = [
            kind_of_input
            for kind_of_input in ("image", "video")
            if hasattr(self.model, f"get_{kind_of_input}_features")
            and hasattr(self.processor, f"{kind_of_input}_processor")
        ]
        if not hasattr(self.model, "get_text_features") or not takes:
            raise ValueError(
                f"text_model is {shown(source)}, a {kind}, which does not compare images with texts; choose one that "
                "does, such as 'openai/clip-vit-base-patch32' or 'google/siglip2-base-patch16-224'."
            )
        self.model = self.model.eval().to(device)
        self.takes_videos = takes == ["video"]
        vision = getattr(self.model.config, "vision_config", None)
        self.num_frames = getattr(vision, "num_frames", FRAMES_OF_SEGMENT) if self.takes_videos else FRAMES_OF_SEGMENT
        # Texts of a fixed length are what SigLIP and VideoPrism were trained on.
        self.is_siglip = "siglip" in kind.lower()
        self.padding = "max_length" if self.is_siglip or self.takes_videos else True

    @torch.inference_mode()
    def shares(self, frames: Sequence[Any], texts: Sequence[str]) -> list[float]:
        """Returns how well each text fits, a share of 1.

        Args:
            frames: Pictures, uint8 `[C, H, W]` each; for a model of videos they are one video.
            texts: One for each label.
        """
        if self.takes_videos:
            return self._video_shares(torch.stack(list(frames)), texts)
        inputs = self.processor(images=list(frames), text=list(texts), padding=self.padding, return_tensors="pt")
        if self.is_siglip:  # its texts were read padding and all (open_clip's issue 984)
            inputs.pop("attention_mask", None)
        logits = self.model(**inputs.to(self.model.device)).logits_per_image
        return logits.float().mean(0).softmax(0).tolist()

    def _video_shares(self, video: Tensor, texts: Sequence[str]) -> list[float]:
        inputs = self.processor(
            videos=[video], text=list(texts), padding=self.padding, return_tensors="pt", do_sample_frames=False
        ).to(self.model.device)
        # transformers' logits_per_video are shares among videos: of one video they are all 1.
        output = self.model(**inputs)
        logits = output.text_embeds.float() @ output.video_embeds.float()[0] / TEMPERATURE
        return logits.softmax(0).tolist()


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
        step = (row["end"] - row["start"]) / text_model.num_frames
        times = [row["start"] + (index + 0.5) * step for index in range(text_model.num_frames)]
        shares = text_model.shares(list(source.frames_at(times)), texts)
        best = max(range(len(labels)), key=shares.__getitem__)
        found.append({**row, "label": labels[best], "score": row["score"] * shares[best]})
    return sorted(found, key=lambda row: -row["score"])
