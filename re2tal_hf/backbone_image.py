"""Image networks, frame by frame, as timm ships them, with timm's parameter names."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Annotated, Any

from torch import Tensor, nn

from .architecture import ADAPTERS, Architecture, TemporalReach, adapters_of, register_backbone
from .coupling import COUPLING
from .reversible import Stage
from .value_checks import BELOW_ONE, MAX_LAYERS, Range, one_line, shown


@register_backbone
class ImageNetwork(Architecture):
    """timm's EfficientNets, ResNets, ConvNeXts and vision transformers (DINOv2 and 3, SigLIP 2, Perception Encoder).

    Every frame goes through the network alone, unless a temporal shift (TSM, arXiv 1811.08383) brings channels of its
    neighbours into every residual branch: no parameters more, and the pretrained ones are of use from the start.

    A rewired network takes images `[N, 3, H, W]`, as timm's do, or videos `[B, T, 3, H, W]`.
    """

    model_type = "image"
    classifier_names = ("classifier", "fc", "head")

    def build(
        self,
        *,
        variant: str = "tf_efficientnet_lite0",
        temporal_shift: Annotated[float, Range(0, 0.5)] = 0.0,
        adapter_width: Annotated[int, Range(0, 2**13)] = 0,
        drop_path_rate: Annotated[float, BELOW_ONE] = 0.0,
        drop_rate: Annotated[float, BELOW_ONE] = 0.0,
        img_size: Annotated[int | None, Range(1, 2048)] = None,
        patch_size: Annotated[int | None, Range(1, 256)] = None,
        layers: Annotated[list[int] | None, Range(1, MAX_LAYERS, length=4)] = None,
        depths: Annotated[list[int] | None, Range(1, MAX_LAYERS, length=4)] = None,
        dims: Annotated[list[int] | None, Range(1, 2**13, length=4)] = None,
        depth: Annotated[int | None, Range(1, MAX_LAYERS)] = None,
        embed_dim: Annotated[int | None, Range(1, 2**13)] = None,
        num_heads: Annotated[int | None, Range(1, 2**13)] = None,
        depth_multiplier: Annotated[float | None, Range(0.1, 16)] = None,
    ) -> nn.Module:
        """Builds a network without classifier.

        Args:
            variant: timm's name of it, such as `"tf_efficientnet_lite0"` or `"vit_small_patch14_dinov2"`.
            temporal_shift: Share of the channels that a branch takes from the frame before, and as many from the one
                after; an eighth is usual, 0 for frames that are seen alone.
            adapter_width: Channels inside the adapters, one behind each branch; 0 for none. They begin as nothing, and
                are trained where the network is frozen ([`TemporalAdapter`]).
            drop_path_rate: Of stochastic depth.
            drop_rate: Of the dropout before the classifier.
            img_size: Of a transformer, as are the next four, in place of the variant's.
            patch_size: Side of a patch.
            depth: Number of blocks.
            embed_dim: Width.
            num_heads: Of the attention.
            layers: Blocks of each stage of a ResNet.
            depths: The same of a ConvNeXt.
            dims: Widths of the stages of a ConvNeXt.
            depth_multiplier: Of the number of blocks of an EfficientNet, as far as timm has the variant take it.

        Raises:
            ValueError: if the variant is of a kind that is not supported, or does not take a size.
            ImportError: if timm is not installed.
        """
        timm = import_timm()
        sizes = {
            "img_size": img_size, "patch_size": patch_size, "layers": layers, "depths": depths, "dims": dims,
            "depth": depth, "embed_dim": embed_dim, "num_heads": num_heads, "depth_multiplier": depth_multiplier,
        }  # fmt: skip
        settings = {name: value for name, value in sizes.items() if value is not None}
        rates = {"drop_path_rate": drop_path_rate, "drop_rate": drop_rate}
        # Rotary positions are computed for the size of the frames then, and not once.
        of_transformers = {"dynamic_img_size": True} if _is_transformer(variant) else {}
        try:
            model = timm.create_model(variant, num_classes=0, **rates, **of_transformers, **settings)
        except (AssertionError, TypeError, ArithmeticError, LookupError, RuntimeError) as error:
            given = ", ".join(f"{name}={value}" for name, value in settings.items())
            raise ValueError(
                f"backbone_config of 'image': {variant} cannot be built with {given or 'its own sizes'}: "
                f"{one_line(error)}."
            ) from error
        if not self.describes(type(model)):
            raise ValueError(
                f"backbone_config['variant'] is {variant!r}, a {type(model).__name__}: it has no rewiring."
            )
        _check_tokens(model)
        model.temporal_shift = temporal_shift
        if adapter_width:
            from .backbone_image_blocks import new_adapters

            model.adapters = new_adapters(model, adapter_width)
        return model

    def check(self, settings: Mapping[str, Any], where: str = "backbone_config.") -> None:
        """As of every family; heads must divide the width, and the variant be one of timm's, where timm can say so."""
        super().check(settings, where)
        width, heads = settings.get("embed_dim"), settings.get("num_heads")
        if width and heads and width % heads:
            raise ValueError(f"{where}num_heads is {heads}, which does not divide embed_dim={width}.")
        if (variant := settings.get("variant")) is None or find_spec("timm") is None:
            return
        if not (timm := import_timm()).is_model(variant):
            near = difflib.get_close_matches(variant, timm.list_models(), 1)
            hint = f"did you mean {near[0]!r}?" if near else "timm.list_models() names them."
            raise ValueError(f"{where}variant is {shown(variant)}, which timm does not have; {hint}")

    def describes(self, model_class: type[nn.Module]) -> bool:
        """Whether it is a class of timm's that can be taken apart."""
        if "timm" not in sys.modules:  # whose import takes a while; no object of its classes is there before
            return False
        from .backbone_image_blocks import CONVOLUTIONAL, TRANSFORMERS

        return issubclass(model_class, (*CONVOLUTIONAL, *TRANSFORMERS))

    @property
    def recast_modules(self) -> Mapping[type[nn.Module], type[nn.Module]]:  # type: ignore[override]
        from .backbone_image_blocks import RECAST

        return RECAST

    def clip_length(self, model: Any) -> int | None:
        return None if temporal_shift_of(model) or adapters_of(model) else 1

    def temporal_reach(self, model: Any) -> TemporalReach | None:
        """A frame for each branch that shifts; none where there are adapters, or clips are single frames."""
        if not temporal_shift_of(model) or adapters_of(model):
            return None
        return TemporalReach(sum(len(stage.branches) for stage in self.stages(model)), 1)

    def to_library_input(self, videos: Tensor) -> Tensor:
        """`[B, T, C, H, W]`, or images `[B, C, H, W]` of videos of one frame."""
        return videos[:, 0] if videos.shape[1] == 1 else videos

    def stages(self, model: nn.Module, size: Sequence[int] | None = None) -> list[Stage]:
        from .backbone_image_blocks import check_parts, stages_of

        check_parts(model)
        return stages_of(model, size, temporal_shift_of(model))

    def norm(self, model: nn.Module, *outputs: Tensor) -> Tensor:
        from .backbone_image_blocks import end

        return end(model, outputs[0])

    def temporal_features(self, model: Any, features: Tensor) -> Tensor:
        """Each frame pooled as timm pools it for its classifier."""
        from .backbone_image_blocks import are_of_images, as_of_timm

        frames = features.unsqueeze(1) if are_of_images(model, features) else features
        pooled = model.forward_head(as_of_timm(model, frames.flatten(0, 1)), pre_logits=True)
        return pooled.unflatten(0, frames.shape[:2])

    def classify(self, model: Any, features: Tensor) -> Tensor:
        """Class scores `[N, classes]`; of videos by the mean of their frames."""
        from .backbone_image_blocks import are_of_images, as_of_timm

        if are_of_images(model, features):
            return model.forward_head(as_of_timm(model, features))
        return model.get_classifier()(self.temporal_features(model, features).mean(1))

    def initialize(self, model: nn.Module) -> None:
        from .backbone_image_blocks import initialize

        initialize(model)

    def todays_names(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of the package efficientnet_lite_pytorch, whose tensors stand in the order of timm's."""
        if "_conv_stem.weight" not in state:
            return state
        features = [name for name in state if not name.startswith("_fc.")]
        own = [name for name in model.state_dict() if name.split(".")[0] not in (COUPLING, ADAPTERS)]
        ends = [[name.rpartition(".")[2] for name in names] for names in (features, own)]
        if ends[0] != ends[1]:
            return state
        return {new: state[old] for new, old in zip(own, features, strict=True)}

    def feature_size(self, model: Any) -> int:
        return model.head_hidden_size

    def feature_stride(self, model: nn.Module) -> int:
        return 1


def hub_id(name: str) -> str:
    """Returns where on the Hub pretrained weights are, by timm's name of them such as `"tf_efficientnet_lite0.in1k"`.

    Names that are none of timm's are returned as they are, without `"hf-hub:"` in front.
    """
    name = name.removeprefix("hf-hub:")
    if "/" in name or not import_timm().is_model(name):
        return name
    return import_timm().get_pretrained_cfg(name).hf_hub_id or name


def _is_transformer(variant: str) -> bool:
    return import_timm().model_entrypoint(variant).__module__.endswith((".vision_transformer", ".eva"))


def temporal_shift_of(model: nn.Module) -> float:
    """Returns the temporal shift of a network; one that was built elsewhere has it once the attribute is set."""
    return float(getattr(model, "temporal_shift", 0.0))


def import_timm() -> ModuleType:
    """Returns timm.

    Raises:
        ImportError: if it is not installed; says how to.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            "Image networks are timm's, which is not installed: pip install 're2tal_hf[timm]'."
        ) from error
    return timm


def _check_tokens(model: Any) -> None:
    """Refuses a transformer without tokens, or whose heads are too narrow for its rotary positions."""
    if 0 in (getattr(getattr(model, "patch_embed", None), "grid_size", None) or ()):
        raise ValueError(
            f"backbone_config.img_size leaves no patch; patches have {list(model.patch_embed.patch_size)}."
        )
    if getattr(model, "rope", None) is not None and (width := model.embed_dim // model.blocks[0].attn.num_heads) % 4:
        raise ValueError(f"backbone_config.num_heads leaves {width} channels a head; rotary positions need 4, 8, ...")
