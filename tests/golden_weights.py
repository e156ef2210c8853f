"""Reference files of other projects: reading them, renaming their weights to ours, comparing gradients."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import safe_open
from tolerances import assert_gradients_close, assert_norms_close
from torch import Tensor

# Sizes of the backbones in the reference files.
SWIN = {
    "model_type": "video_swin",
    "embed_dim": 12,
    "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 4, 8],
    "window_size": [2, 7, 7],
    "stochastic_depth_prob": 0.0,
}
SLOWFAST = {
    "model_type": "slowfast",
    "depth": 50,
    "base_channels": 8,
    "channel_ratio": 4,
    "resample_rate": 4,
    "speed_ratio": 4,
    "fusion_kernel": 7,
}


def read_golden(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a reference file."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


SWIN_NAMES = [
    (r"inv_block\.[FG]m\.", ""),
    (r"^layers\.(\d+)\.blocks\.", lambda m: f"features.{2 * int(m[1])}."),
    (r"^layers\.(\d+)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 1}."),
    (r"^norm3\.", "norm."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
]


def swin_name(name: str) -> str:
    """From OpenTAD's or mmaction2's name of a Swin parameter to torchvision's."""
    for pattern, replacement in SWIN_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def gradient_norms(metadata: dict[str, str], key: str) -> dict[str, float]:
    """Norms of the gradients of all parameters, by the reference's names."""
    return json.loads(metadata[key])


def assert_gradients_of_reference(
    golden: tuple[Mapping[str, Tensor], dict[str, str]],
    gradients: Mapping[str, Tensor],
    our_name: Callable[[str], str],
    depth: int,
) -> None:
    """Compares gradients, `input` among them, with those and with the norms of a file computed in double precision."""
    tensors, metadata = golden
    names = {key: key.removeprefix("f64.grad.").removesuffix(".stored_as_f32") for key in tensors}
    expected = {our_name(names[key]): value for key, value in tensors.items() if key.startswith("f64.grad.")}
    assert len(expected) >= 9
    assert_gradients_close({name: gradients[name] for name in expected}, expected, depth=depth)
    norms = {our_name(name): norm for name, norm in gradient_norms(metadata, "gradnorm_f64").items()}
    parameters = {name: gradient for name, gradient in gradients.items() if name != "input"}
    assert_norms_close(parameters, norms, depth=depth)


HEAD_BLOCK_NAMES = [
    (r"\bln1\b", "attention_norm"),
    (r"\bln2\b", "mlp_norm"),
    (r"\battn\.(query|key|value)_conv\.conv\b", r"attention.\1.conv"),
    (r"\battn\.(query|key|value)_norm\b", r"attention.\1.norm"),
    (r"\battn\.(query|key|value)\b(?!\.(conv|norm))", r"attention.\1.linear"),
    (r"\battn\.proj\b", "attention.output"),
    (r"\bdrop_path_attn\.scale\b", "attention_scale"),
    (r"\bdrop_path_mlp\.scale\b", "mlp_scale"),
    (r"\bfpn_norms\b", "norms"),
    (r"\bscale\.(\d+)\.scale\b", r"level_scales.\1"),
]
HEAD_NAMES = {
    "opentad": [
        *HEAD_BLOCK_NAMES,
        (r"^projection\.embed\.", "embedding."),
        (r"^projection\.stem\.", "stem."),
        (r"^projection\.branch\.", "pyramid."),
        (r"^rpn_head\.cls_convs\.", "classification.layers."),
        (r"^rpn_head\.reg_convs\.", "boundary.layers."),
        (r"^rpn_head\.cls_head\.", "classification.predictor."),
        (r"^rpn_head\.reg_head\.", "boundary.predictor."),
        (r"^rpn_head\.", ""),
    ],
    "actionformer": [
        *HEAD_BLOCK_NAMES,
        (r"^backbone\.embd\.", "embedding."),
        (r"^backbone\.embd_norm\.(\d+)\.", r"embedding.\1.norm."),
        (r"^backbone\.stem\.", "stem."),
        (r"^backbone\.branch\.", "pyramid."),
        (r"^cls_head\.head\.", "classification.layers."),
        (r"^reg_head\.head\.", "boundary.layers."),
        (r"^cls_head\.norm\.(\d+)\.", r"classification.layers.\1.norm."),
        (r"^reg_head\.norm\.(\d+)\.", r"boundary.layers.\1.norm."),
        (r"^cls_head\.cls_head\.conv\.", "classification.predictor."),
        (r"^reg_head\.offset_head\.conv\.", "boundary.predictor."),
        (r"^reg_head\.", ""),
    ],
}


def head_name(project: str, name: str) -> str:
    """From the name of a head's parameter in a reference project to ours."""
    for pattern, replacement in HEAD_NAMES[project]:
        name = re.sub(pattern, replacement, name)
    return name


def slowfast_name(name: str) -> str:
    """From OpenTAD's name of a rewired SlowFast's parameter to mmaction2's, which is ours."""
    return re.sub(r"\.blocks\.(\d+)\.(?:(?:inv_block\.)?Fm\.)?", r".\1.", name)


TRIDET_BLOCK_NAMES = [
    (r"\bln\b", "norm"),
    (r"\bgn\b", "mlp_norm"),
    (r"\bpsi\b", "gate"),
    (r"\bconvw\b", "narrow"),
    (r"\bconvkw\b", "wide"),
    (r"\bfc\b", "instant"),
    (r"\bglobal_fc\b", "context"),
    (r"\bdrop_path_out\b", "perception_path"),
    (r"\bdrop_path_mlp\b", "mlp_path"),
]
HEAD_NAMES["tridet"] = [
    *TRIDET_BLOCK_NAMES,
    (r"^rpn_head\.cls_(start|end)_convs\.", r"\1.layers."),
    (r"^rpn_head\.cls_(start|end)_head\.", r"\1.predictor."),
    *HEAD_NAMES["opentad"],
]
HEAD_NAMES["vsgn"] = [
    (r"^projection\.stem_convs\.conv\.", "embedding."),
    (r"^projection\.pyramid_convs\.(\d+)\.conv\.", r"encoder.\1."),
    (r"^neck\.levels_transit\.0\.", "neck.top."),
    (r"^neck\.levels_enc\.(\d+)\.0\.", r"neck.laterals.\1."),
    (r"^neck\.levels_dec\.(\d+)\.0\.", r"neck.upsamplings.\1."),
    (r"^neck\.levels_fuse\.(\d+)\.0\.", r"neck.fusions.\1."),
    (r"^rpn_head\.cls_tower\.(\d+)\.0\.", r"classification.convs.\1."),
    (r"^rpn_head\.cls_tower\.(\d+)\.1\.", r"classification.norms.\1."),
    (r"^rpn_head\.reg_tower\.(\d+)\.0\.", r"regression.convs.\1."),
    (r"^rpn_head\.reg_tower\.(\d+)\.1\.", r"regression.norms.\1."),
    (r"^rpn_head\.cls_head\.", "classification.predictor."),
    (r"^rpn_head\.reg_head\.", "regression.predictor."),
    (r"^rpn_head\.tem_head\.tem\.(\d+)\.0\.conv\.", r"evaluation.\1.0."),
    (r"^rpn_head\.tem_head\.tem\.(\d+)\.1\.conv\.", r"evaluation.\1.2."),
    (r"^roi_head\.(start|end)_conv\.0\.", r"\1_adjustment.conv."),
    (r"^roi_head\.(start|end)_conv\.2\.", r"\1_adjustment.predictor."),
]
