"""Rewirable architectures: what one is, their registry, and `rewire`.

A file `backbone_<family>.py` describes one family of video models to this registry; see `Architecture`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn

from .reversible import Backprop, Coupling, ReconstructionErrors, Stage, run_stages

COUPLINGS = {"re2tal": Coupling(0.0, 1.0), "none": Coupling(1.0, 0.0)}
"""Rewirings by name: Re2TAL (arXiv 2211.14053), and the pretrained network as it is."""

# fp32 reconstructs to about 1e-6 at depth 24; at this error gradients are visibly wrong.
LARGEST_SILENT_ERROR = 1e-2


class Architecture(ABC):
    """Description of one family of video models, made by subclassing and passing to `register`.

    Attributes:
        model_type (`str`): Name of the family in `backbone_config`.
        model_class (`type[nn.Module]`): The library's class, whose modules are used as they are.
    """

    model_type: ClassVar[str]
    model_class: ClassVar[type[nn.Module]]

    @abstractmethod
    def build(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Returns a randomly initialised model without its classifier, from the keys of `backbone_config`."""

    @abstractmethod
    def stages(self, model: Any) -> list[Stage]:
        """Returns the stages, in order, over the model's own modules."""

    @abstractmethod
    def norm(self, model: Any, output: Tensor) -> Tensor:
        """From the merged output of the last stage to features `[B, T', ..., D]`, float."""

    @abstractmethod
    def classify(self, model: Any, features: Tensor) -> Tensor:
        """From the features to what the library's own forward returns."""

    @abstractmethod
    def initialize(self, model: Any) -> None:
        """Draws all weights anew with `torch.nn.init`, as the library's constructor does."""

    @abstractmethod
    def feature_size(self, model: Any) -> int:
        """Returns `D`."""

    @abstractmethod
    def feature_stride(self, model: Any) -> int:
        """Returns the number of input frames for each temporal feature."""

    def to_library_input(self, videos: Tensor) -> Tensor:
        """From `[B, T, C, H, W]` to what the library's forward takes; `[B, C, T, H, W]` unless overridden."""
        return videos.transpose(1, 2)

    def temporal_features(self, model: Any, features: Tensor) -> Tensor:
        """Pools features `[B, T', ..., D]` over space to `[B, T', D]`."""
        return features.flatten(2, -2).mean(2) if features.dim() > 3 else features


_REGISTRY: dict[str, Architecture] = {}


def register(architecture: type[Architecture]) -> type[Architecture]:
    """Class decorator that makes an architecture known to `rewire` and to `backbone_config`."""
    _REGISTRY[architecture.model_type] = architecture()
    return architecture


def architecture_names() -> list[str]:
    """Returns the registered `model_type`s."""
    return sorted(_REGISTRY)


def build_backbone(
    backbone_config: Mapping[str, Any], rewiring: str = "re2tal", backprop: Backprop = "reversible"
) -> RewiredModel:
    """Builds a registered architecture by name, rewired.

    Args:
        backbone_config (`Mapping`): `model_type` and the family's own settings.
        rewiring (`str`), backprop (`str`): As for `rewire`.

    Raises:
        ValueError: if `model_type` is missing or not registered, or a setting is not the family's.
    """
    settings = dict(backbone_config)
    model_type = settings.pop("model_type", None)
    if model_type not in _REGISTRY:
        raise ValueError(f"backbone_config['model_type'] is {model_type!r}; choose one of {architecture_names()}.")
    try:
        model = _REGISTRY[model_type].build(**settings)
    except TypeError as error:
        raise ValueError(f"backbone_config of {model_type!r}: {error}") from error
    return rewire(model, rewiring, backprop)


def rewire(model: nn.Module, rewiring: str = "re2tal", backprop: Backprop = "reversible") -> RewiredModel:
    """Rewires a model in place, so that its activations need not be stored.

    Modules, parameters and `state_dict` keys stay as they are; what changes is the order in which the
    residual branches are added up (Re2TAL, arXiv 2211.14053, fig. 3). A rewired network does not compute what
    the original did: it starts from its weights and is fine-tuned.

    Args:
        model (`nn.Module`): An instance of a registered architecture, such as torchvision's `swin3d_t()`.
        rewiring (`str`): `"re2tal"`, or `"none"` for the network as it is.
        backprop (`str`): `"reversible"`, `"checkpoint"` or `"plain"`: same outputs, same gradients, other
            memory. It may be set again later as `model.backprop`.

    Returns:
        `RewiredModel`: the same object, whose class is now a mixture of this and its own.

    Raises:
        ValueError: if the model's class, the rewiring or the backprop mode is unknown, or the two do not go together.
    """
    if isinstance(model, RewiredModel):
        original: type[nn.Module] = type(model).original_class
    else:
        original = type(model)
    architecture = _architecture_of(original)
    check_rewiring(rewiring, backprop)
    model.__class__ = _rewired_class(original)
    assert isinstance(model, RewiredModel)
    model.architecture = architecture
    model.rewiring = rewiring
    model.backprop = backprop
    model.reconstruction_errors = ReconstructionErrors()
    return model


def check_rewiring(rewiring: str, backprop: str) -> None:
    """Raises a `ValueError` if the rewiring or the backprop mode is unknown, or the two do not go together."""
    if rewiring not in COUPLINGS:
        raise ValueError(f"rewiring is {rewiring!r}; choose one of {sorted(COUPLINGS)}.")
    if backprop not in get_args(Backprop):
        raise ValueError(f"backprop is {backprop!r}; choose one of {list(get_args(Backprop))}.")
    if backprop == "reversible" and COUPLINGS[rewiring].b == 0:
        raise ValueError(f"rewiring={rewiring!r} cannot be inverted: use backprop='checkpoint' or 'plain' with it.")


def _architecture_of(model_class: type[nn.Module]) -> Architecture:
    for architecture in _REGISTRY.values():
        if issubclass(model_class, architecture.model_class):
            return architecture
    known = [architecture.model_class.__name__ for architecture in _REGISTRY.values()]
    raise ValueError(
        f"{model_class.__name__} is not a registered architecture (known: {known}). "
        "Describe it with a subclass of Architecture and register() it."
    )


class RewiredModel(nn.Module):
    """Mixed into the class of a rewired model: the forward pass over the rewired stages."""

    original_class: ClassVar[type[nn.Module]]
    architecture: Architecture
    rewiring: str
    backprop: Backprop
    reconstruction_errors: ReconstructionErrors

    def forward_features(self, inputs: Tensor) -> Tensor:
        """From the library's own input form to normalised features `[B, T', ..., D]`."""
        if torch.is_grad_enabled():  # a compiled inference graph could not read the errors
            self._warn_of_errors()
        output = run_stages(
            self.architecture.stages(self),
            inputs,
            COUPLINGS[self.rewiring],
            self.backprop,
            self.reconstruction_errors,
        )
        return self.architecture.norm(self, output)

    def temporal_features(self, inputs: Tensor) -> Tensor:
        """From the library's own input form to features `[B, T', D]`."""
        return self.architecture.temporal_features(self, self.forward_features(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns what the library's own forward returns, computed over the rewired stages."""
        return self.architecture.classify(self, self.forward_features(inputs))

    def _warn_of_errors(self) -> None:
        # Read one step late, when the values are there and nothing has to wait for them.
        error = self.reconstruction_errors.largest()
        if not error <= LARGEST_SILENT_ERROR:
            warnings.warn(
                f"The reversible backward pass reconstructed its activations with a relative error of {error:.1e}; "
                "gradients are unreliable. Use backprop='checkpoint', or fp32 streams.",
                stacklevel=3,
            )

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # The class is made at run time; pickle cannot name it.
        return _unpickled, (type(self).original_class,), self.__dict__


_REWIRED_CLASSES: dict[type[nn.Module], type[RewiredModel]] = {}


def _rewired_class(original: type[nn.Module]) -> type[RewiredModel]:
    if original not in _REWIRED_CLASSES:
        attributes = {"original_class": original}
        made = type(f"Rewired{original.__name__}", (RewiredModel, original), attributes)
        _REWIRED_CLASSES[original] = made
    return _REWIRED_CLASSES[original]


def _unpickled(original: type[nn.Module]) -> RewiredModel:
    cls = _rewired_class(original)
    return cls.__new__(cls)
