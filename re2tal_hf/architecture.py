"""What a family of video models tells of itself, and the registry of families.

A file `backbone_<family>.py` describes one family to this registry; `rewire` and `backbone_config` find it there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from .registry import Registry
from .reversible import Stage
from .value_checks import (
    BELOW_ONE,
    POSITIVE,
    Arguments,
    arguments_of,
    check_arguments,
    check_value,
    check_values,
    one_line,
    shown,
)

ADAPTERS = "adapters"
"""Attribute of a backbone that holds its adapters; pretrained weights have none of them."""

# What the libraries' own constructors take without a word, by the names they have there.
BACKBONE_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(
        (
            "dropout", "attention_dropout", "stochastic_depth_prob", "hidden_dropout_prob", "drop_path_rate",
            "attention_probs_dropout_prob", "pred_attention_probs_dropout_prob", "pred_drop_path_rate",
        ),
        Annotated[float, BELOW_ONE],
    ),
    **dict.fromkeys(("layer_norm_eps", "initializer_range", "mlp_ratio"), Annotated[float, POSITIVE]),
}  # fmt: skip


@dataclass(frozen=True)
class TemporalReach:
    """How far along a video the features of a network see.

    Attributes:
        frames: Input frames before and after those that a feature stands for, on which it may depend. Where a part of
            the video is computed by itself, features farther from its ends are those of the whole video.
        alignment: A part must begin and end at multiples of so many frames, the video's end excepted.
    """

    frames: int
    alignment: int


class Architecture(ABC):
    """Description of one family of video models, made by subclassing and passing to `register_backbone`.

    Attributes:
        model_type: Name of the family in `backbone_config`.
        model_class: The library's class or classes, whose modules are used as they are.
        input_name: Name of the video among the arguments of the library's forward.
        recast_modules: The library's classes of modules whose forward is not what a branch needs, with a subclass of
            each; `rewire` makes the model's modules of the one class instances of the other.
        classifier_names: The library's attributes that its features do not need; their weights may be left out of
            pretrained ones.
        chooses_attention: Whether `build` takes transformers' `attn_implementation`.
    """

    model_type: ClassVar[str]
    model_class: ClassVar[type[nn.Module] | tuple[type[nn.Module], ...]]
    input_name: ClassVar[str] = "x"
    recast_modules: ClassVar[Mapping[type[nn.Module], type[nn.Module]]] = {}
    classifier_names: ClassVar[tuple[str, ...]] = ("head", "fc", "classifier", "cls_head")
    chooses_attention: ClassVar[bool] = False

    @abstractmethod
    def build(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Returns a randomly initialised model without its classifier, from the keys of `backbone_config`."""

    def settings(self) -> Arguments:
        """Returns what `backbone_config` may hold, with types and ranges: the arguments of `build`."""
        return arguments_of(self.build)

    def check(self, settings: Mapping[str, Any], where: str = "backbone_config.") -> None:
        """Checks settings before anything is built from them; a family adds what must go together.

        Args:
            settings: Keys of `backbone_config` beside `model_type`.
            where: What stands before the name of a setting in a message.

        Raises:
            ValueError: if a setting is unknown or not of its type or range.
        """
        if "attn_implementation" in settings:
            self.check_attention(settings["attn_implementation"])
        known = self.settings()
        usual = {name: hint for name, hint in BACKBONE_SETTINGS.items() if known.get(name, Any) is Any}
        check_arguments(where, settings, known)
        check_values(where, {name: settings[name] for name in usual if name in settings}, usual)

    @abstractmethod
    def stages(self, model: Any, size: Sequence[int] | None = None) -> list[Stage]:
        """Returns the stages over the model's own modules, every stage after its sources.

        `size` is the shape of the library's input, for branches that need to know the grid of tokens; None where
        only the modules matter.
        """

    @abstractmethod
    def norm(self, model: Any, *outputs: Tensor) -> Tensor:
        """From the merged output of the last stage (of each last stage) to features `[B, T', ..., D]`."""

    @abstractmethod
    def classify(self, model: Any, features: Tensor) -> Any:
        """From the features to what the library's own forward returns; may take more of its arguments by name."""

    @abstractmethod
    def initialize(self, model: Any) -> None:
        """Draws all weights anew with `torch.nn.init`, as the library's constructor does."""

    @abstractmethod
    def feature_size(self, model: Any) -> int:
        """Returns `D`."""

    @abstractmethod
    def feature_stride(self, model: Any) -> int:
        """Returns the number of input frames for each temporal feature."""

    def describes(self, model_class: type[nn.Module]) -> bool:
        """Whether a class of models is of this family: by default a subclass of `model_class`."""
        return issubclass(model_class, self.model_class)

    def check_attention(self, attn_implementation: Any) -> None:
        """Raises a `ValueError` if there is one implementation of the attention only."""
        if not self.chooses_attention:
            raise ValueError(
                f"attn_implementation is {attn_implementation!r}, but a backbone of type {self.model_type!r} has none "
                "to choose; leave it out."
            )

    def todays_names(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Renames weights of the same network that others have published under names of their own."""
        return state

    def clip_length(self, model: Any) -> int | None:
        """Returns the number of frames that the model takes, None if it takes any; longer videos are cut into clips."""
        return None

    def clips_see_each_other(self, model: Any) -> bool:
        """Whether what the model makes of a clip depends on the other clips of its video, as with temporal adapters.

        Then they go through the network together, as `[B, clips, ...]` in place of `[B * clips, ...]`; `stages` gets
        that shape. Where this is False, clips may be had one by one.
        """
        return False

    def temporal_reach(self, model: Any) -> TemporalReach | None:
        """Returns how far features see, None if that is the whole video or the model takes clips."""
        return None

    def to_library_input(self, videos: Tensor) -> Tensor:
        """From `[B, T, C, H, W]` to what the library's forward takes; `[B, C, T, H, W]` unless overridden."""
        return videos.transpose(1, 2)

    def temporal_features(self, model: Any, features: Tensor) -> Tensor:
        """Pools features `[B, T', ..., D]` over space to `[B, T', D]`."""
        return features.flatten(2, -2).mean(2) if features.dim() > 3 else features

    def at_feature_stride(self, model: Any, features: Tensor, length: int) -> Tensor:
        """From the joined features of clips, `[B, N, D]`, to `[B, length, D]`, one for each `feature_stride` frames."""
        return features[:, :length]


BACKBONES: Registry[Architecture] = Registry("backbone_config['model_type']")
"""The registered architectures by their `model_type`."""


def register_backbone(architecture: type[Architecture]) -> type[Architecture]:
    """Class decorator that makes an architecture known to `rewire` and to `backbone_config`.

    Raises:
        TypeError: if it is no architecture, or lacks a method.
        ValueError: if another architecture has its `model_type`.
    """
    if not isinstance(architecture, type) or not issubclass(architecture, Architecture):
        raise TypeError(f"architecture is {shown(architecture)}; it must be a subclass of Architecture.")
    name = architecture.__name__
    if missing := sorted(architecture.__abstractmethods__):
        raise TypeError(f"architecture {name} has no {missing[0]}(), which every architecture needs.")
    for attribute, hint in (("model_type", str), ("input_name", str), ("classifier_names", tuple[str, ...])):
        value = check_value(f"architecture {name}: {attribute}", getattr(architecture, attribute, None), hint)
        if value == "":
            raise ValueError(f"architecture {name}: {attribute} is empty; give it a name.")
    classes = getattr(architecture, "model_class", None)
    kinds = classes if classes and isinstance(classes, tuple) else (classes,)
    described = architecture.describes is not Architecture.describes  # by itself
    if not described and not all(isinstance(kind, type) and issubclass(kind, nn.Module) for kind in kinds):
        raise TypeError(f"architecture {name}: model_class is {shown(classes)}; it must be a class of nn.Module.")
    BACKBONES.register(architecture.model_type, architecture, architecture())
    return architecture


def architecture_of(model_class: type[nn.Module]) -> Architecture:
    """Returns the registered architecture that a class of models belongs to; `ValueError` if there is none."""
    for architecture in BACKBONES.values():
        if architecture.describes(model_class):
            return architecture
    raise ValueError(
        f"{model_class.__name__} is not a registered architecture (known: {sorted(BACKBONES)}). "
        "Describe it with a subclass of Architecture and register_backbone."
    )


def build_library_model(backbone_config: Mapping[str, Any]) -> nn.Module:
    """Builds a registered architecture by name, as its library ships it; see `build_backbone`."""
    settings = dict(backbone_config)
    architecture = BACKBONES.find(model_type := settings.pop("model_type", None))
    architecture.check(settings)
    try:
        return architecture.build(**settings)
    except (TypeError, ArithmeticError, LookupError, AssertionError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" in str(error):
            raise
        raise ValueError(f"backbone_config of {model_type!r}: {one_line(error)}") from error


def adapters_of(model: Any) -> nn.ModuleList:
    """Returns the adapters of a backbone, one for each branch; none where it was built without."""
    return getattr(model, ADAPTERS, None) or nn.ModuleList()
