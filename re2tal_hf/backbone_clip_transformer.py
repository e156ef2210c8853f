"""What the video transformers of the transformers library have in common."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput
from transformers.utils import ModelOutput

from .rewiring import Architecture


class FirstOutput(nn.Module):
    """A module that returns a tuple, as one that returns the tuple's first tensor."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Takes what the module takes."""
        return self.module(x)[0]


class ClipTransformer(Architecture):
    """A transformer over the patches of clips of a fixed number of frames.

    A rewired model is called as the library's own, `model(pixel_values=..., labels=...)`, and returns an instance of
    the library's output class, without the hidden states and attention matrices of single layers.

    Attributes:
        config_class: The library's configuration.
        variants: Settings of the published sizes, by name.
        max_clip_values: Largest number of patches of a clip, multiplied by the width.
    """

    config_class: ClassVar[type[PreTrainedConfig]]
    variants: ClassVar[Mapping[str, Mapping[str, Any]]]
    input_name = "pixel_values"
    max_clip_values: ClassVar[int] = 2**28
    classifier_names = ("classifier", "fc_norm", "pooler", "predictor")
    chooses_attention = True

    def build(self, *, variant: str | None = None, **settings: Any) -> PreTrainedModel:
        """Builds a model without classifier.

        Args:
            variant: Name of a published size.
            settings: Arguments of the library's configuration, and `attn_implementation`; they win over the variant's.

        Raises:
            ValueError: if the variant or a setting is unknown, or a value is not of the setting's type or too large.
        """
        if variant is not None and variant not in self.variants:
            raise ValueError(f"backbone_config['variant'] is {variant!r}; choose one of {sorted(self.variants)}.")
        sizes = {**(self.variants[variant] if variant else {}), **settings}
        known = {field.name for field in dataclasses.fields(self.config_class)} | {"attn_implementation"}
        if unknown := sorted(sizes.keys() - known):
            raise ValueError(f"backbone_config of {self.model_type!r}: {self.config_class.__name__} has no {unknown}.")
        try:
            config = self.config_class(**sizes)
        except StrictDataclassError as error:
            raise ValueError(f"backbone_config of {self.model_type!r}: {error}") from error
        check_clip_values(self.model_type, *clip_and_patch(config), config.hidden_size, self.max_clip_values)
        return self.encoder(config)

    @abstractmethod
    def encoder(self, config: Any) -> PreTrainedModel:
        """Returns the library's model of this configuration, without what its features do not need."""

    def classify(self, model: Any, features: Tensor, labels: Tensor | None = None) -> ModelOutput:
        """Returns `BaseModelOutput`, or of a classifier `ImageClassifierOutput`, with `loss` where labels are given."""
        if model.base_model is model:
            return BaseModelOutput(last_hidden_state=features)
        logits = self.logits(model, features)
        loss = None if labels is None else model.loss_function(labels, logits, model.config)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def logits(self, model: Any, features: Tensor) -> Tensor:
        """From the features to class scores, by the class token unless overridden."""
        return model.classifier(features[:, 0])

    def initialize(self, model: Any) -> None:
        # Children first: some modules draw again what their children have drawn.
        model.apply(model._init_weights)

    def feature_size(self, model: Any) -> int:
        return model.config.hidden_size

    def to_library_input(self, videos: Tensor) -> Tensor:
        return videos


def pair(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """Returns height and width of a size that is one number where they are equal."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def clip_and_patch(config: Any) -> tuple[list[int], list[int]]:
    """Returns frames, height and width of a clip and of a patch, which the families name differently."""
    frames = getattr(config, "frames_per_clip", None) or config.num_frames
    tubelet = getattr(config, "tubelet_size", 1)
    patch = [tubelet, *pair(config.patch_size)] if isinstance(tubelet, int) else list(tubelet)
    return [frames, *pair(getattr(config, "crop_size", None) or config.image_size)], patch


def check_clip_values(name: str, clip: Sequence[int], patch: Sequence[int], width: int, largest: int) -> None:
    """Checks the number of patches in a clip, multiplied by the width: the size of a table of their positions.

    Args:
        name: of the family, for error messages.
        clip: frames, height and width.
        patch: the same of a patch.
        width: of the network.
        largest: number of values allowed.

    Raises:
        ValueError: if there are more, or a size is not above 0.
    """
    if min(*clip, *patch, width) < 1:
        raise ValueError(
            f"{name}: clips of {list(clip)}, patches of {list(patch)}, width {width}: all must be above 0."
        )
    grid = [length // side for length, side in zip(clip, patch, strict=True)]
    if math.prod(grid) * width > largest:
        raise ValueError(
            f"{name}: clips of {grid[0]} x {grid[1]} x {grid[2]} patches and width {width} are more than {largest} "
            "values; use fewer frames, smaller images or larger patches."
        )
