"""SlowFast classifiers of PySlowFast (https://github.com/facebookresearch/SlowFast) and PyTorchVideo.

Both are of the same authors and differ in names. Their slow pathway takes frames spread evenly from the first to the
last of a clip; ours every so many from the first, so that features of long videos lie on one grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from ..modeling_re2tal import Re2TALForVideoClassification, Re2TALModel
from ..value_checks import shown
from .backbones import find_backbone, pool_every_frame
from .converted_model import Plan
from .names import PYSLOWFAST, PYTORCHVIDEO, Rules, renamed
from .options_file import Options
from .settings import Settings
from .source import Source

ADVICE = (
    "both are the ratio of the pathways' frame rates, 4 of SLOWFAST_8x8 and 8 of SLOWFAST_4x16: name them, as in "
    "backbone_config.resample_rate=4 backbone_config.speed_ratio=4, or give PySlowFast's config with --options."
)
# Of PySlowFast's config: its names, ours, and types.
_SIZES = [
    ("SLOWFAST.ALPHA", ("resample_rate", "speed_ratio"), int),
    ("SLOWFAST.BETA_INV", ("channel_ratio",), int),
    ("SLOWFAST.FUSION_KERNEL_SZ", ("fusion_kernel",), int),
    ("RESNET.DEPTH", ("depth",), int),
    ("RESNET.WIDTH_PER_GROUP", ("base_channels",), int),
]
# What our network always is, and the weights do not tell.
_ALWAYS: list[tuple[str, Any]] = [("MODEL.ARCH", "slowfast"), ("RESNET.STRIDE_1X1", False)]


def plan_pyslowfast(source: Source, options: Options | None, given: Mapping[str, Any]) -> Plan:
    """Plans the conversion of a SlowFast of PySlowFast's model zoo; see `_plan`."""
    return _plan(source, options, given, PYSLOWFAST, "PySlowFast")


def plan_pytorchvideo(source: Source, options: Options | None, given: Mapping[str, Any]) -> Plan:
    """Plans the conversion of a SlowFast of PyTorchVideo's model zoo, which has no options file; see `_plan`."""
    if options is not None:
        raise ValueError(f"--options {options.source}: PyTorchVideo has no config; name settings instead.")
    return _plan(source, options, given, PYTORCHVIDEO, "PyTorchVideo")


def _plan(source: Source, options: Options | None, given: Mapping[str, Any], rules: Rules, project: str) -> Plan:
    """Plans the conversion of a classifier or, where that is left out, of a backbone.

    The network is as it was unless `rewiring=re2tal` is given: then it starts from the same weights and is fine-tuned.

    Args:
        source: The checkpoint.
        options: Config of its training.
        given: Settings that the user or a recipe names.
        rules: From the project's names to ours.
        project: What messages call it.

    Raises:
        ValueError: if the checkpoint is of another network, or a setting is contradicted or not known.
    """
    names = {name: renamed(name, rules) for name in source.tensors}
    ours = {new: source.tensors[name] for name, new in names.items()}
    backbone = (
        find_backbone(ours) if all(f"{path}_path.conv1.conv.weight" in ours for path in ("slow", "fast")) else None
    )
    if backbone is None:
        raise ValueError(
            f"{source.name} is no SlowFast of {project}. The published MViT are in torchvision, too: "
            "convert MViT_V2_S_Weights.KINETICS400_V1 --from library."
        )
    settings = Settings(source.name)
    settings.add({name: value for name, value in backbone.settings.items() if name != "rewiring"}, "the weights")
    if options is not None:
        settings.add(_options(options), options.name)
    settings.add({"rewiring": "none", **given}, "the settings given")
    settings.need(backbone.needed, ADVICE)
    classifies = "classifier.weight" in ours
    if classifies:
        settings.add({"num_labels": len(ours["classifier.weight"])}, "the weights")
        pool_every_frame(settings, f"{project}'s code")
    inner = "model.backbone." if classifies else "backbone."
    return Plan(
        source.name,
        Re2TALForVideoClassification if classifies else Re2TALModel,
        {name: _widened(new, ours) for name, new in names.items()},
        {name: new if new.startswith("classifier.") else inner + new for name, new in names.items()},
        settings,
        source.origin,
    )


def _options(options: Options) -> dict[str, Any]:
    """What a config of PySlowFast says, by the names of [`Settings`]."""
    for place, value in _ALWAYS:
        if (found := options.get(place, Any, value)) != value:
            raise ValueError(f"{options.source}: {place} is {shown(found)}; ours is {value!r}.")
    found = {}
    for place, settings, kind in _SIZES:
        if (value := options.get(place, kind | None)) is not None:
            found |= {f"backbone_config.{name}": value for name in settings}
    return found


def _widened(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """A tensor; zeros before and after a kernel of one frame where the stage's first block has one of three.

    Deep networks have kernels over time in some blocks of a stage only; ours in all, and with zeros they are the same.
    """
    tensor = tensors[name]
    pathway, _, rest = name.partition(".")
    layer, _, part = rest.partition(".")
    if not (layer.startswith("layer") and part.endswith(".conv1.conv.weight")):
        return tensor
    first = tensors.get(f"{pathway}.{layer}.0.conv1.conv.weight", tensor)
    if tensor.ndim == first.ndim == 5 and tensor.shape[2] == 1 and first.shape[2] == 3:
        return functional.pad(tensor, (0, 0, 0, 0, 1, 1))
    return tensor
