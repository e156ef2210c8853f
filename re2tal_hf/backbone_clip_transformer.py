"""What the video transformers of the transformers library have in common."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput
from transformers.utils import ModelOutput

from .architecture import ADAPTERS, BACKBONE_SETTINGS, Architecture, adapters_of
from .backbone_rates import at_feature_rate
from .reversible import Stage
from .side_adapter import SideAdapters, beside
from .temporal_adapter import AdaptedClips, EachClip, TemporalAdapter
from .value_checks import COUNT, DTYPE, NOT_NEGATIVE, Arguments, Range, fields_of, one_line

# Settings of ours, beside those of the library's configuration.
OWN: dict[str, Any] = {"feature_stride": Annotated[int | None, COUNT]}
ADAPTER_SETTINGS: dict[str, Any] = {"adapter_width": Annotated[int, Range(0, 2**13)], "adapter_side": bool}
# Of sizes that may be lists.
LENGTHS = {
    "image_size": Range(low=1, length=2),
    "patch_size": Range(low=1, length=2),
    "tubelet_size": Range(low=1, length=3),
}


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
        token_dims: Dimensions of the tokens of clips where the layers may have adapters, `N` included; they stand in
            the order of time, then place. None where there are no adapters.
    """

    config_class: ClassVar[type[PreTrainedConfig]]
    variants: ClassVar[Mapping[str, Mapping[str, Any]]]
    input_name = "pixel_values"
    max_clip_values: ClassVar[int] = 2**28
    token_dims: ClassVar[int | None] = None
    classifier_names: ClassVar[tuple[str, ...]] = ("classifier", "fc_norm", "pooler", "predictor")
    chooses_attention = True

    def build(
        self,
        *,
        variant: str | None = None,
        feature_stride: int | None = None,
        adapter_width: int = 0,
        adapter_side: bool = False,
        **settings: Any,
    ) -> PreTrainedModel:
        """Builds a model without classifier.

        Args:
            variant: Name of a published size.
            feature_stride: Frames for each feature, to which the features of a video are interpolated; by default as
                many as the network makes one of.
            adapter_width: Channels inside the adapters, one behind each layer; 0 for none. They begin as nothing, and
                are trained where the network is frozen ([`TemporalAdapter`]). They look along all clips of a video.
            adapter_side: Put the adapters beside the last half of the layers and not behind each: what they make of the
                layers' outputs is added to the features, and nothing is propagated back through a frozen network.
            settings: Arguments of the library's configuration, and `attn_implementation`; they win over the variant's.
        """
        config = self._configuration({"variant": variant, **settings})
        model: Any = self.encoder(config)
        model.feature_stride = feature_stride
        if adapter_width:
            depth = config.num_hidden_layers
            kind, number = (SideAdapters, (depth + 1) // 2) if adapter_side else (nn.ModuleList, depth)
            adapters = (TemporalAdapter(config.hidden_size, adapter_width) for _ in range(number))
            model.add_module(ADAPTERS, kind(adapters))
        return model

    def settings(self) -> Arguments:
        """The variants, and the fields of the library's configuration; its own numbers are above 0."""
        known = Arguments({field.name: Any for field in dataclasses.fields(self.config_class)})
        for kind in reversed(self.config_class.__mro__):
            known.update({name: hint for name, hint in fields_of(kind).items() if name in known})
        for name, hint in fields_of(self.config_class).items():
            if name in BACKBONE_SETTINGS or name not in known:
                continue
            part_left_out = name.startswith(("pred_", "decoder_", "num_pooler_"))
            known[name] = Annotated[hint, NOT_NEGATIVE if part_left_out else LENGTHS.get(name, COUNT)]
        known |= {name: hint for name, hint in BACKBONE_SETTINGS.items() if name in known}
        known |= {name: Literal[tuple(ACT2FN)] for name in ("hidden_act", "pooler_act") if name in known}
        known["dtype"] = DTYPE
        known["variant"] = Literal[tuple(self.variants)] | None
        known |= {"attn_implementation": str | None} if self.chooses_attention else {}
        known |= OWN | (ADAPTER_SETTINGS if self.token_dims else {})
        return known

    def check(self, settings: Mapping[str, Any], where: str = "backbone_config.") -> None:
        """As of every family; heads must divide the width, and patches the clip."""
        super().check(settings, where)
        if settings.get("adapter_side") and not settings.get("adapter_width"):
            raise ValueError(f"{where}adapter_side: there are no adapters; set adapter_width to their width, too.")
        config = self._configuration(settings, where)
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                f"{where}num_attention_heads is {config.num_attention_heads}, which does not divide "
                f"hidden_size={config.hidden_size}."
            )
        clip, patch = clip_and_patch(config)
        if any(length % side for length, side in zip(clip, patch, strict=True)):
            raise ValueError(
                f"{where}patch_size: clips of {clip} frames, rows and columns must be divided by patches of {patch}."
            )
        place = f"{where}{'image_size' if hasattr(config, 'image_size') else 'crop_size'} of {self.model_type}"
        check_clip_values(place, clip, patch, config.hidden_size, self.max_clip_values)

    def _configuration(self, settings: Mapping[str, Any], where: str = "backbone_config.") -> Any:
        """The library's configuration of the settings, which win over the variant's."""
        own = {name: value for name, value in settings.items() if name not in ("variant", *OWN, *ADAPTER_SETTINGS)}
        try:
            return self.config_class(**{**self.variants.get(settings.get("variant") or "", {}), **own})
        except (StrictDataclassError, AttributeError, TypeError) as error:
            raise ValueError(f"{where}model_type={self.model_type!r}: {one_line(error)}") from error

    @abstractmethod
    def encoder(self, config: Any) -> PreTrainedModel:
        """Returns the library's model of this configuration, without what its features do not need."""

    @abstractmethod
    def clip_stages(self, model: Any, size: Sequence[int] | None) -> list[Stage]:
        """Returns the stages for clips of shape `size`, `[N, T, C, H, W]`; of layers with adapters, the one stage."""

    def stages(self, model: Any, size: Sequence[int] | None = None) -> list[Stage]:
        """The stages for clips, or with adapters for the clips of videos, `[B, clips, T, C, H, W]`."""
        stages = self.clip_stages(model, None if size is None else size[-5:])
        if adapters := adapters_of(model):
            assert self.token_dims is not None
            [stage] = stages
            stage.entry = EachClip(stage.entry, 5)
            steps = 1 if size is None else max(size[-4] // self.frames_per_step(model), 1)
            parts = len(stage.branches) // model.config.num_hidden_layers
            if isinstance(adapters, SideAdapters):
                stage.branches = [EachClip(branch, self.token_dims) for branch in stage.branches]
                return beside(stage, adapters, steps, self.token_dims, parts)
            stage.branches = [
                AdaptedClips(branch, adapters[index // parts], steps, self.token_dims)
                if index % parts == parts - 1
                else EachClip(branch, self.token_dims)
                for index, branch in enumerate(stage.branches)
            ]
        return stages

    def clips_see_each_other(self, model: Any) -> bool:
        return bool(adapters_of(model))

    @abstractmethod
    def clip_length(self, model: Any) -> int:
        """Returns the number of frames of a clip."""

    @abstractmethod
    def frames_per_step(self, model: Any) -> int:
        """Returns the number of frames that the network makes one feature of."""

    def feature_stride(self, model: Any) -> int:
        return getattr(model, "feature_stride", None) or self.frames_per_step(model)

    def at_feature_stride(self, model: Any, features: Tensor, length: int) -> Tensor:
        return at_feature_rate(features, self.frames_per_step(model), self.feature_stride(model), length)

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
        for adapter in adapters_of(model):
            cast(TemporalAdapter, adapter).begin()

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
        name: of the setting and the family, for error messages.
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
