"""Loading, saving and initialisation, the same for all models."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import ModelCard
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.initialization import guard_torch_init_functions

from .architecture import adapters_of
from .backprop_plan import AnyBackprop, BackpropPlan
from .configuration_re2tal import Re2TALConfig, RewiredConfig
from .coupling import COUPLING, check_backprop
from .loaded_weights import WeightFit, is_computed, is_infinite, some, without_loading_report
from .lora import begin_lora, is_lora, library_name
from .published_weights import commit_of, digest, digest_of_all, published_names, read_published
from .reversible import Stage
from .rewired_model import RewiredModel
from .saved_code import code_of, save_code
from .saved_files import WEIGHT_NAMES, cached_folder, check_place, check_weights, files_checked
from .value_checks import check_value, check_values, suggesting

logger = logging.getLogger(__name__)

# What DDP, torch.compile and torch's averaged models put before the names.
WRAPPERS = {r"^(module\.|_orig_mod\.)+": ""}


class Re2TALPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation, the same for all Re2TAL models."""

    config_class: ClassVar[type[RewiredConfig]] = Re2TALConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules_strict: Collection[str] = (COUPLING,)

    # What transformers' own pipelines run the model, as its card says.
    pipeline_tag: ClassVar[str | None] = None
    # The parts beside the backbone.
    head_parts: ClassVar[tuple[str, ...]] = ()
    # Tensors of a head that the source of the weights did not have.
    untrained_head: tuple[str, ...] = ()

    def __init__(self, config: RewiredConfig):
        if self.head_parts and getattr(config, "model_type", None) != self.config_class.model_type:
            raise ValueError(
                f"{type(self).__name__} takes a {self.config_class.__name__}, not a {type(config).__name__}."
            )
        super().__init__(config)

    @classmethod
    def from_pretrained(cls, *args: Any, partial: bool | None = None, **kwargs: Any) -> Any:
        """As in transformers, but weights that do not fit are refused.

        Args:
            *args: As in transformers.
            **kwargs: As in transformers. With `ignore_mismatched_sizes=True` tensors of the head that have another
                shape, such as those of another number of classes, are begun anew.
            partial: `True` begins anew whatever the source lacks or has in another shape. By default this may only be
                the whole head, where the source is a model of another class, such as the result of the classification
                stage, and a pipeline refuses the model until it is trained; with `False` nothing.

        Raises:
            ValueError: if a tensor is missing, of another shape, or has no place in the model.
        """
        with_info, ignored = kwargs.pop("output_loading_info", False), kwargs.pop("ignore_mismatched_sizes", False)
        unwrap = "key_mapping" not in kwargs
        kwargs = {"key_mapping": WRAPPERS, **kwargs}
        settings = {"output_loading_info": True, "ignore_mismatched_sizes": True, **kwargs}
        source = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        if source is not None:
            check_place("pretrained_model_name_or_path", source)
        with without_loading_report(), files_checked(source, kwargs, lambda folder: _kinds_in(folder, kwargs)):
            model, info = super().from_pretrained(*args, **settings)
        if unwrap:
            model._weight_conversions = []  # saving would put the wrappers back
        folder = cached_folder(source, kwargs) or (source and Path(source, kwargs.get("subfolder") or ""))
        kinds = _kinds_in(folder, kwargs) if folder else {}
        if model.config.backbone_weights is not None and info["missing_keys"]:
            info["missing_keys"] = set(info["missing_keys"]) - model._load_published(info["missing_keys"])
        model._check_loaded(info, partial, ignored, kinds if unwrap else {})
        model.base_model.compute_buffers(info["missing_keys"])
        if model.config.lora is not None:
            model.freeze(backbone=True)  # loading makes new parameters
        return (model, info) if with_info else model

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """As in transformers; of our code only what the model uses is saved with it, and a file of the user's own.

        After [`leave_out_published`] weights that are as published are left out.
        """
        check_place("save_directory", save_directory)
        code = code_of(type(self), self.registered_parts())
        if self.config.backbone_weights is not None:
            state = self.state_dict() if state_dict is None else state_dict
            state_dict = {name: tensor for name, tensor in state.items() if not self._is_as_published(name, tensor)}
        super().save_pretrained(save_directory, is_main_process, state_dict, *args, **kwargs)
        if is_main_process:
            save_code(Path(save_directory), code)

    def _upload_modified_files(self, working_dir: str | Path, *args: Any, **kwargs: Any) -> Any:
        # With `push_to_hub=True` transformers uploads before `save_pretrained` returns.
        save_code(Path(working_dir), code_of(type(self), self.registered_parts()))
        if self.pipeline_tag is not None:
            card = ModelCard.load(Path(working_dir) / "README.md")
            card.data.pipeline_tag = self.pipeline_tag
            card.save(Path(working_dir) / "README.md")
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    def leave_out_published(self, source: str, revision: str | None = None) -> None:
        """Saves the model from now on without those weights of its backbone that are as published, and loads them anew.

        Of a frozen backbone adapters and head are left, a few MB. `from_pretrained` fetches the others where they are
        published, and refuses them if they have changed.

        Args:
            source: A name of torchvision's, or a repository on the Hub: a model of transformers', of timm's or of ours.
            revision: Of the repository; by default its latest.

        Raises:
            ValueError: if the weights cannot be had, or those of the backbone are others.
        """
        network = self._base.backbone
        published = {name: digest(tensor) for name, tensor in read_published(network, source, revision).items()}
        own, names = network.state_dict(), published_names(network)
        if other := [name for name, there in names.items() if digest(own[name]) != published[there]]:
            raise ValueError(f"The backbone has not the weights of {source}: {some(other)} are others.")
        self._base.published_digests = published
        self.config.backbone_weights = {
            "source": source,
            "revision": revision or commit_of(source),
            "digest": digest_of_all(published),
        }

    def _load_published(self, missing: Iterable[str]) -> set[str]:
        """Fetches what was left out of the saved weights; returns the names of the tensors that were filled."""
        network, place = self._base.backbone, self.config.backbone_weights
        check_values("backbone_weights.", place, {"source": str, "revision": str | None, "digest": str})
        state = read_published(network, place["source"], place["revision"])
        published = {name: digest(tensor) for name, tensor in state.items()}
        if digest_of_all(published) != place["digest"]:
            raise ValueError(
                f"{self.name_or_path} was saved without the weights of its backbone, which are those of "
                f"{place['source']}; these have changed. Take an earlier revision of them (config.json, "
                "backbone_weights.revision)."
            )
        self._base.published_digests = published
        own, filled, prefix = network.state_dict(keep_vars=True), set(), self._backbone_prefix()
        with torch.no_grad():
            for name, there in published_names(network).items():
                if prefix + name in missing:
                    if own[name].is_meta:
                        raise ValueError(
                            "backbone_weights: a model without them cannot be kept on a disk; load it whole."
                        )
                    own[name].copy_(state[there])
                    filled.add(prefix + name)
        return filled

    def _is_as_published(self, name: str, tensor: Tensor) -> bool:
        prefix = self._backbone_prefix()
        known = self._base.published_digests.get(library_name(name.removeprefix(prefix)))
        return name.startswith(prefix) and known is not None and not is_lora(name) and digest(tensor) == known

    def _backbone_prefix(self) -> str:
        return "backbone." if self.base_model is self else f"{self.base_model_prefix}.backbone."

    def registered_parts(self) -> list[type]:
        """Returns the classes of what the configuration chose by name."""
        return [type(self._base.backbone.architecture)]

    @property
    def _base(self) -> Any:
        """The `Re2TALModel`: this one or the one inside."""
        return self.base_model

    @property
    def backprop(self) -> AnyBackprop:
        """How activations are had in the backward pass; may be set at any time."""
        return self._base.backbone.backprop

    @backprop.setter
    def backprop(self, value: AnyBackprop) -> None:
        check_backprop(value)
        self._base.backbone.backprop = value

    @property
    def memory_budget(self) -> int | None:
        """Bytes that the backbone may keep between forward and backward with `backprop="auto"`; None: what is free."""
        return self._base.backbone.memory_budget

    @memory_budget.setter
    def memory_budget(self, value: int | None) -> None:
        self._base.backbone.memory_budget = value

    @property
    def backprop_share(self) -> float:
        """Share of the clips or chunks of a video that `backprop="clips"` takes gradients of; see `RewiredModel`."""
        return self._base.backbone.backprop_share

    @backprop_share.setter
    def backprop_share(self, value: float) -> None:
        self._base.backbone.backprop_share = value

    @property
    def plan(self) -> BackpropPlan | None:
        """Modes of the latest training pass with `backprop="auto"`, and why; `print(model.plan)`."""
        return self._base.backbone.plan

    def set_coupling(self, coupling: Sequence[float]) -> None:
        """Sets the coefficients `(alpha, beta)` of Dr2Net, in all stages."""
        self._base.backbone.set_coupling(coupling)

    def reconstruction_error(self) -> float:
        """Returns the largest relative error of the inversions in the latest backward pass."""
        return self._base.backbone.reconstruction_errors.largest()

    @suggesting
    def freeze(self, backbone: bool = False, stages: int = 0, norms: bool = False) -> None:
        """Takes parts of the backbone out of the training; what was frozen before stays so.

        Nothing of it is saved: whoever loads a model trains the whole of it, unless he freezes parts again. Only a
        backbone with LoRA is frozen whenever it is made.

        Args:
            backbone: Freeze all of its parameters but those of adapters and of LoRA.
            stages: Freeze so many leading stages, the stem included.
            norms: Freeze the parameters of its norms and the running statistics of its batch norms; these stay in
                evaluation mode when the model is put into training mode.

        Raises:
            ValueError: if the backbone has not so many stages.
        """
        for name, value in (("backbone", backbone), ("norms", norms)):
            check_value(name, value, bool)
        network = self._base.backbone
        found: list[Stage] = network.architecture.stages(network)
        if isinstance(stages, bool) or not isinstance(stages, int) or not 0 <= stages <= len(found):
            raise ValueError(f"stages is {stages!r}, but the backbone has {len(found)} stages; give 0 to {len(found)}.")
        frozen: list[nn.Module] = [module for stage in found[:stages] for module in stage.modules]
        if backbone:
            frozen.append(network)
        if norms:
            self._base.norms_frozen = True
            frozen += self._base.norms()
            self._base.train(self._base.training)
        for module in frozen:
            module.requires_grad_(False)
        if backbone:
            adapters_of(network).requires_grad_(True)
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(parameter.requires_grad or is_lora(name))

    def unfreeze(self) -> None:
        """Trains the whole backbone again."""
        self._base.norms_frozen = False
        self._base.backbone.requires_grad_(True)
        self._base.train(self._base.training)

    def _set_gradient_checkpointing(self, enable: bool = True, **settings: Any) -> None:
        """What `gradient_checkpointing_enable()` and `gradient_checkpointing_disable()` of transformers call."""
        if enable and self.backprop != "checkpoint":
            self._base.backprop_before = self.backprop
            self.backprop = "checkpoint"
        elif not enable and self.backprop == "checkpoint":
            self.backprop = self._base.backprop_before

    @property
    def is_activation_checkpointing(self) -> bool:
        """Whether every branch is recomputed from its stored input."""
        return self.backprop == "checkpoint"

    is_gradient_checkpointing = is_activation_checkpointing  # its name until transformers 6

    def _check_and_adjust_attn_implementation(
        self, attn_implementation: Any, is_init_check: bool = False, **settings: Any
    ) -> Any:
        """Leaves it to the backbone's library, which is asked when the backbone is built or set."""
        if not is_init_check and attn_implementation is not None:
            self._base.backbone.architecture.check_attention(attn_implementation)
        return attn_implementation

    def train(self, mode: bool = True) -> Re2TALPreTrainedModel:
        """As in PyTorch; a head that was begun anew counts as trained from now on."""
        if mode:
            self.untrained_head = ()
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in PyTorch."""
        self.untrained_head = ()
        return super().load_state_dict(*args, **kwargs)

    def _check_loaded(
        self, info: dict[str, Any], partial: bool | None, ignored: bool, kinds: Mapping[str, bool]
    ) -> None:
        """Refuses what was not loaded, or says what was begun anew."""
        needed = self.state_dict()
        if self.base_model is self:  # of a model with a head, whose names are longer
            kinds = {name.removeprefix(f"{self.base_model_prefix}."): kind for name, kind in kinds.items()} | dict(
                kinds
            )
        head = {name for name in needed if name.split(".")[0] in self.head_parts}
        heads = {part for kind in Re2TALPreTrainedModel.__subclasses__() for part in kind.head_parts}
        not_ours = heads.difference(self.head_parts) | {"n_averaged"}
        # The source may have another rewiring.
        own = {name for name in info["missing_keys"] if name.rpartition(".")[2] != COUPLING}
        missing = {name for name in own if name in head or not is_computed(needed[name])}
        fit = WeightFit(
            self.name_or_path,
            total=len(needed.keys() - info["missing_keys"] | missing),
            missing=sorted(missing),
            unused=[
                name
                for name in info["unexpected_keys"]
                if name.split(".")[0] not in not_ours and name.rpartition(".")[2] != COUPLING
            ],
            reshaped={name: (tuple(there), tuple(here)) for name, there, here in info["mismatched_keys"]},
            infinite=sorted(name for name, tensor in needed.items() if name not in missing and is_infinite(tensor)),
            retyped=sorted(
                name for name, kind in kinds.items() if name in needed and kind == is_computed(needed[name])
            ),
        )
        allowed = head & fit.reshaped.keys() if ignored else set()
        if partial is None and type(self).__name__ not in (self.config.architectures or ()) and head <= missing:
            allowed |= head
            self.untrained_head = tuple(sorted(head))
        fit.check_numbers()
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
                _draw_missing(module, _draw)
        self.initialize_parts()

    def initialize_parts(self) -> None:
        """Draws the weights of the parts beside the backbone."""


def _kinds_in(folder: Path, settings: Mapping[str, Any]) -> dict[str, bool]:
    """Checks the weights in a folder that `from_pretrained` would read.

    Returns:
        Of each tensor by the model's name whether its numbers are not whole ones.
    """
    if settings.get("gguf_file") or settings.get("state_dict"):
        return {}
    names = WEIGHT_NAMES if settings.get("use_safetensors") is not False else WEIGHT_NAMES[1:]
    found = check_weights(folder, settings.get("variant"), names)
    [(pattern, name)] = WRAPPERS.items()
    return {re.sub(pattern, name, key): kind for key, kind in found.items()}


_REMEDY = (
    "Restore the weights, or the configuration that they were saved with; for another number of classes give "
    "ignore_mismatched_sizes=True; partial=True begins anew whatever does not fit."
)


def _draw(backbone: RewiredModel) -> None:
    backbone.architecture.initialize(backbone)
    begin_lora(backbone)


def _draw_missing(module: RewiredModel, draw: Callable[[RewiredModel], None]) -> None:
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
