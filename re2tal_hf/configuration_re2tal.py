"""What a model is: backbone, rewiring, head and loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from transformers import PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from .configuration_limits import check_labels, check_settings
from .rewiring import DUAL_RESIDUAL, check_rewiring, default_backprop
from .value_checks import BELOW_ONE, NOT_NEGATIVE, check_values, fields_of

# What transformers' `pipeline()` looks for in a saved configuration.
PIPELINES = {
    "temporal-action-localization": {
        "impl": "pipeline_re2tal.TemporalActionLocalizationPipeline",
        "pt": ["AutoModel"],
    }
}


class Re2TALConfig(PreTrainedConfig):
    r"""Configuration of the Re2TAL models.

    Args:
        backbone_config (`dict`, *optional*): `model_type` of a registered architecture and its settings, by the
            library's own argument names, for example `{"model_type": "video_swin", "variant": "tiny"}`.
        head_config (`dict`, *optional*): `model_type` of a registered localization head (`re2tal_hf.head.HEADS`) and
            its settings, for example `{"model_type": "actionformer", "hidden_size": 256}`.
        loss_config (`dict`, *optional*): Arguments of the loss that is registered with the head.
        rewiring (`str`, *optional*, defaults to `"re2tal"`): `"re2tal"`, `"none"` for the network as it is, or
            `"dr2net"` for what lies between, by `coupling`.
        coupling (`list[float]` or one for each stage, *optional*): The two coefficients of Dr2Net, by default
            `[1.0, 0.0]`, the network as it is; training moves them.
        backprop (`str`, *optional*): `"reversible"` (the default of a rewired network), `"checkpoint"` (of one
            that is not) or `"plain"`. Same outputs and gradients, other memory.
        freeze_backbone (`bool`, *optional*, defaults to `False`): No backbone parameter is trained.
        frozen_stages (`int`, *optional*, defaults to 0): So many leading stages, the stem included, are not trained.
        freeze_norms (`bool`, *optional*, defaults to `False`): The backbone's norms keep their parameters, and
            batch norms their running statistics.
        classifier_norm (`bool`, *optional*, defaults to `False`), classifier_dropout (`float`, *optional*, defaults
            to 0.0): Of [`Re2TALForVideoClassification`]: whether the pooled features are standardised over the batch,
            as a backbone from scratch needs, whose features differ little between clips; and the dropout after that.
        origin (`dict`, *optional*): The pretrained weights that training began with and their license, as training
            records them.
        num_labels (`int`, *optional*): Number of action classes; 1 for a class-agnostic model.

    Raises:
        ValueError: if a value is unknown or beyond the bounds of `configuration_limits`, or rewiring and backprop do
            not go together.

    Example:

    ```python
    >>> from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization

    >>> config = Re2TALConfig(backbone_config={"model_type": "video_swin", "variant": "tiny"}, num_labels=20)
    >>> model = Re2TALForTemporalActionLocalization(config)
    ```
    """

    model_type = "re2tal"

    backbone_config: dict[str, Any] = field(default_factory=lambda: {"model_type": "video_swin", "variant": "tiny"})
    head_config: dict[str, Any] = field(default_factory=lambda: {"model_type": "actionformer"})
    loss_config: dict[str, Any] = field(default_factory=dict)
    rewiring: str = "re2tal"
    coupling: list[float] | list[list[float]] | None = None
    backprop: str | None = None
    freeze_backbone: bool = False
    frozen_stages: Annotated[int, NOT_NEGATIVE] = 0
    freeze_norms: bool = False
    classifier_norm: bool = False
    classifier_dropout: Annotated[float, BELOW_ONE] = 0.0
    origin: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fills in defaults and checks the values."""
        self._check_bounds(kwargs.get("num_labels"))
        hints = fields_of(Re2TALConfig)
        check_values("", {name: getattr(self, name) for name in hints}, hints)
        self.head_config = {"model_type": "actionformer", **self.head_config}
        if self.backprop is None:
            self.backprop = default_backprop(self.rewiring)
        if self.rewiring == DUAL_RESIDUAL and self.coupling is None:
            self.coupling = [1.0, 0.0]
        check_rewiring(self.rewiring, self.backprop, self.coupling)
        # Where this package is installed its own pipeline is registered, and transformers would ask for
        # trust in the saved one.
        if not __name__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    def _check_bounds(self, num_labels: Any) -> None:
        check_labels(num_labels, self.id2label, self.label2id)
        for name in ("backbone_config", "head_config", "loss_config"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(f"{name} is a {type(getattr(self, name)).__name__}; it must map settings to values.")
            check_settings(name, getattr(self, name))
        for name in ("coupling", "frozen_stages", "classifier_dropout"):
            check_settings(name, getattr(self, name))

    def to_dict(self) -> dict[str, Any]:
        """As in transformers; that of a localization model names the pipeline, whose code is saved with the model."""
        values = super().to_dict()
        if "Re2TALForTemporalActionLocalization" in (values.get("architectures") or ()):
            values["custom_pipelines"] = PIPELINES
        return values
