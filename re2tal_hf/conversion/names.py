"""What other projects call the tensors of networks that are ours, too: rules from their names to ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Regular expressions and what takes their place, applied one after the other."""

# From OpenTAD's and mmaction2's Video Swin to torchvision's.
SWIN: Rules = [
    (r"inv_block\.[FG]m\.", ""),
    (r"^layers\.(\d+)\.blocks\.", lambda m: f"features.{2 * int(m[1])}."),
    (r"^layers\.(\d+)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 1}."),
    (r"^norm\d*\.", "norm."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
]

# From OpenTAD's rewired SlowFast to mmaction2's, whose names are ours.
SLOWFAST: Rules = [(r"\.blocks\.(\d+)\.(?:(?:inv_block\.)?Fm\.)?", r".\1.")]

_BLOCKS: Rules = [
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
_OPENTAD: Rules = [
    *_BLOCKS,
    (r"^projection\.embed\.", "embedding."),
    (r"^projection\.stem\.", "stem."),
    (r"^projection\.branch\.", "pyramid."),
    (r"^rpn_head\.cls_convs\.", "classification.layers."),
    (r"^rpn_head\.reg_convs\.", "boundary.layers."),
    (r"^rpn_head\.cls_head\.", "classification.predictor."),
    (r"^rpn_head\.reg_head\.", "boundary.predictor."),
    (r"^rpn_head\.", ""),
]
HEADS: dict[str, Rules] = {
    # OpenTAD's ActionFormer, TriDet and VSGN.
    "opentad": _OPENTAD,
    "tridet": [
        (r"\bln\b", "norm"),
        (r"\bgn\b", "mlp_norm"),
        (r"\bpsi\b", "gate"),
        (r"\bconvw\b", "narrow"),
        (r"\bconvkw\b", "wide"),
        (r"\bfc\b", "instant"),
        (r"\bglobal_fc\b", "context"),
        (r"\bdrop_path_out\b", "perception_path"),
        (r"\bdrop_path_mlp\b", "mlp_path"),
        (r"^rpn_head\.cls_(start|end)_convs\.", r"\1.layers."),
        (r"^rpn_head\.cls_(start|end)_head\.", r"\1.predictor."),
        *_OPENTAD,
    ],
    "vsgn": [
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
    ],
    # actionformer_release's own.
    "actionformer": [
        *_BLOCKS,
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


def renamed(name: str, rules: Rules) -> str:
    """Returns our name of a tensor; the name as it is where no rule fits."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def head_name(project: str, name: str) -> str:
    """Returns our name of a head's tensor; `project` is a key of `HEADS`."""
    return renamed(name, HEADS[project])


def swin_name(name: str) -> str:
    """Returns our name of a tensor of Video Swin as OpenTAD or mmaction2 calls it."""
    return renamed(name, SWIN)


def slowfast_name(name: str) -> str:
    """Returns our name of a tensor of SlowFast as OpenTAD or mmaction2 calls it."""
    return renamed(name, SLOWFAST)
