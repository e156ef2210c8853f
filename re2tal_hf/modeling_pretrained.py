"""Loading, saving and initialisation, the same for all models."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import guard_torch_init_functions

from .configuration_re2tal import Re2TALConfig
from .loaded_weights import WeightFit, is_computed, some, without_loading_report
from .rewiring import RewiredModel

logger = logging.getLogger(__name__)

# What DDP, torch.compile and torch's averaged models put before the names.
WRAPPERS = {r"^(module\.|_orig_mod\.)+": ""}


class Re2TALPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation, the same for all Re2TAL models."""

    config_class = Re2TALConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = False

    # The parts beside the backbone.
    head_parts: ClassVar[tuple[str, ...]] = ()
    # Tensors of a head that the source of the weights did not have.
    untrained_head: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(cls, *args: Any, partial: bool | None = None, **kwargs: Any) -> Any:
        """As in transformers, but weights that do not fit are refused; what the configuration freezes is frozen.

        Args:
            args, kwargs: As in transformers. With `ignore_mismatched_sizes=True` tensors of the head that have another
                shape, such as those of another number of classes, are begun anew.
            partial (`bool`, *optional*): `True` begins anew whatever the source lacks or has in another shape. By
                default this may only be the whole head, where the source is a model of another class, such as the
                result of the classification stage, and a pipeline refuses the model until it is trained; with `False`
                nothing.

        Raises:
            ValueError: if a tensor is missing, of another shape, or has no place in the model.
        """
        with_info, ignored = kwargs.pop("output_loading_info", False), kwargs.pop("ignore_mismatched_sizes", False)
        unwrap = "key_mapping" not in kwargs
        kwargs = {"key_mapping": WRAPPERS, **kwargs}
        settings = {"output_loading_info": True, "ignore_mismatched_sizes": True, **kwargs}
        with without_loading_report():
            model, info = super().from_pretrained(*args, **settings)
        if unwrap:
            model._weight_conversions = []  # saving would put the wrappers back
        model._check_loaded(info, partial, ignored)
        model.base_model.compute_buffers(info["missing_keys"])
        # Loading replaces the parameters, and with them their requires_grad.
        model.base_model.freeze()
        return (model, info) if with_info else model

    def train(self, mode: bool = True) -> Re2TALPreTrainedModel:
        """As in PyTorch; a head that was begun anew counts as trained from now on."""
        if mode:
            self.untrained_head = ()
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in PyTorch."""
        self.untrained_head = ()
        return super().load_state_dict(*args, **kwargs)

    def _check_loaded(self, info: dict[str, Any], partial: bool | None, ignored: bool) -> None:
        """Refuses what was not loaded, or says what was begun anew."""
        needed = self.state_dict()
        head = {name for name in needed if name.split(".")[0] in self.head_parts}
        heads = {part for kind in Re2TALPreTrainedModel.__subclasses__() for part in kind.head_parts}
        not_ours = heads.difference(self.head_parts) | {"n_averaged"}
        missing = {name for name in info["missing_keys"] if name in head or not is_computed(needed[name])}
        fit = WeightFit(
            self.name_or_path,
            total=len(needed.keys() - info["missing_keys"] | missing),
            missing=sorted(missing),
            unused=[name for name in info["unexpected_keys"] if name.split(".")[0] not in not_ours],
            reshaped={name: (tuple(there), tuple(here)) for name, there, here in info["mismatched_keys"]},
        )
        allowed = head & fit.reshaped.keys() if ignored else set()
        if partial is None and type(self).__name__ not in (self.config.architectures or ()) and head <= missing:
            allowed |= head
            self.untrained_head = tuple(sorted(head))
        if not partial:
            fit.check(type(self).__name__, _REMEDY, allowed)
        if fit.missing or fit.reshaped:
            logger.warning("%s; begun anew: %s", fit, some([*fit.missing, *fit.reshaped]))
        else:
            logger.info(str(fit))

    @torch.no_grad()
    @guard_torch_init_functions()
    def initialize_weights(self) -> None:
        """Draws the weights that were not loaded.

        Whole parts know how to draw theirs; transformers would ask layer by layer, and of custom code
        only the layers that hold parameters themselves.
        """
        for module in self.modules():
            if isinstance(module, RewiredModel):
                _draw_missing(module, module.architecture.initialize)
        self.initialize_parts()

    def initialize_parts(self) -> None:
        """Draws the weights of the parts beside the backbone."""


_REMEDY = (
    "Restore the weights, or the configuration that they were saved with; for another number of classes give "
    "ignore_mismatched_sizes=True; partial=True begins anew whatever does not fit."
)


def _draw_missing(module: RewiredModel, draw: Callable[[nn.Module], None]) -> None:
    """Draws weights of a module, except those that transformers has marked as loaded.

    transformers guards these against `torch.nn.init` only, not against a layer's own `reset_parameters`.
    """
    tensors = [tensor for tensor in module.state_dict(keep_vars=True).values() if not tensor.is_meta]
    loaded = [tensor for tensor in tensors if getattr(tensor, "_is_hf_initialized", False)]
    if len(loaded) == len(tensors):
        return
    values = [tensor.clone() for tensor in loaded]
    draw(module)
    for tensor, value in zip(loaded, values, strict=True):
        tensor.copy_(value)
