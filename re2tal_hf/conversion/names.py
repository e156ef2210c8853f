"""What other projects call the tensors of networks that are ours, too.

Tables of pairs, their name and ours, which are read in both directions. `#` stands for a number, the same in both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Regular expressions and what takes their place, applied one after the other."""

# Within a block.
_TRANSFORMER = [
    ("ln1", "attention_norm"),
    ("ln2", "mlp_norm"),
    *((f"attn.{part}_conv.conv", f"attention.{part}.conv") for part in ("query", "key", "value")),
    *((f"attn.{part}_norm", f"attention.{part}.norm") for part in ("query", "key", "value")),
    *((f"attn.{part}", f"attention.{part}.linear") for part in ("query", "key", "value")),
    ("attn.proj", "attention.output"),
    ("attn.rel_pe", "attention.relative_bias"),
    ("drop_path_attn.scale", "attention_scale"),
    ("drop_path_mlp.scale", "mlp_scale"),
]
_PERCEPTION = [
    ("gn", "mlp_norm"),
    ("ln", "norm"),
    ("psi", "gate"),
    ("convw", "narrow"),
    ("convkw", "wide"),
    ("fc", "instant"),
    ("global_fc", "context"),
    ("drop_path_out", "perception_path"),
    ("drop_path_mlp", "mlp_path"),
]
# Beginnings of names.
_OPENTAD = [
    ("projection.embed.#", "embedding.#"),
    ("projection.stem.#", "stem.#"),
    ("projection.branch.#", "pyramid.#"),
    ("neck.fpn_norms.#", "neck.norms.#"),
    ("rpn_head.cls_convs.#", "classification.layers.#"),
    ("rpn_head.reg_convs.#", "boundary.layers.#"),
    ("rpn_head.cls_head", "classification.predictor"),
    ("rpn_head.reg_head", "boundary.predictor"),
    ("rpn_head.scale.#.scale", "level_scales.#"),
]
_TRIDET = [
    *((f"rpn_head.cls_{side}_convs.#", f"{side}.layers.#") for side in ("start", "end")),
    *((f"rpn_head.cls_{side}_head", f"{side}.predictor") for side in ("start", "end")),
]
_VSGN = [
    ("projection.stem_convs.conv", "embedding"),
    ("projection.pyramid_convs.#.conv", "encoder.#"),
    ("neck.levels_transit.0", "neck.top"),
    ("neck.levels_enc.#.0", "neck.laterals.#"),
    ("neck.levels_dec.#.0", "neck.upsamplings.#"),
    ("neck.levels_fuse.#.0", "neck.fusions.#"),
    ("rpn_head.cls_tower.#.0", "classification.convs.#"),
    ("rpn_head.cls_tower.#.1", "classification.norms.#"),
    ("rpn_head.reg_tower.#.0", "regression.convs.#"),
    ("rpn_head.reg_tower.#.1", "regression.norms.#"),
    ("rpn_head.cls_head", "classification.predictor"),
    ("rpn_head.reg_head", "regression.predictor"),
    ("rpn_head.tem_head.tem.#.0.conv", "evaluation.#.0"),
    ("rpn_head.tem_head.tem.#.1.conv", "evaluation.#.2"),
    *((f"roi_head.{side}_conv.0", f"{side}_adjustment.conv") for side in ("start", "end")),
    *((f"roi_head.{side}_conv.2", f"{side}_adjustment.predictor") for side in ("start", "end")),
]
_ACTIONFORMER_RELEASE = [
    # Ours within ours come first, for the way back.
    ("backbone.embd_norm.#", "embedding.#.norm"),
    ("backbone.embd.#", "embedding.#"),
    ("backbone.stem.#", "stem.#"),
    ("backbone.branch.#", "pyramid.#"),
    ("neck.lateral_convs.#.conv", "neck.laterals.#"),
    ("neck.fpn_convs.#.conv", "neck.convs.#"),
    ("neck.fpn_norms.#", "neck.norms.#"),
    ("cls_head.norm.#", "classification.layers.#.norm"),
    ("cls_head.head.#", "classification.layers.#"),
    ("cls_head.cls_head.conv", "classification.predictor"),
    ("reg_head.norm.#", "boundary.layers.#.norm"),
    ("reg_head.head.#", "boundary.layers.#"),
    ("reg_head.offset_head.conv", "boundary.predictor"),
    ("reg_head.scale.#.scale", "level_scales.#"),
]
_TRIDET_RELEASE = [
    *((f"{side}_head.norm.#", f"{side}.layers.#.norm") for side in ("start", "end")),
    *((f"{side}_head.head.#", f"{side}.layers.#") for side in ("start", "end")),
    *((f"{side}_head.cls_head.conv", f"{side}.predictor") for side in ("start", "end")),
]


def _blocks(table: Sequence[tuple[str, str]], where: str) -> list[tuple[str, str]]:
    """A table of parts of blocks for those of stem and pyramid."""
    places = ((f"{where}.stem.#", "stem.#"), (f"{where}.branch.#", "pyramid.#"))
    return [(f"{theirs}.{one}", f"{ours}.{other}") for theirs, ours in places for one, other in table]


_TABLES = {
    # OpenTAD's ActionFormer, TriDet and VSGN.
    "opentad": [*_blocks(_TRANSFORMER, "projection"), *_OPENTAD],
    "tridet": [*_blocks(_PERCEPTION, "projection"), *_TRIDET, *_OPENTAD],
    "vsgn": _VSGN,
    # actionformer_release's own, and those of TriDet's release, which builds on it.
    "actionformer": [*_blocks(_TRANSFORMER, "backbone"), *_ACTIONFORMER_RELEASE],
    "tridet_release": [*_blocks(_PERCEPTION, "backbone"), *_TRIDET_RELEASE, *_ACTIONFORMER_RELEASE],
}


def _rule(name: str, other: str) -> tuple[str, str]:
    return f"^{re.escape(name)}(?=\\.|$)".replace(r"\#", r"(\d+)"), other.replace("#", r"\1")


def _rules(project: str, back: bool) -> Rules:
    return [_rule(ours, theirs) if back else _rule(theirs, ours) for theirs, ours in _TABLES[project]]


HEADS = {project: _rules(project, back=False) for project in _TABLES}
"""From a project's names of a head's tensors to ours."""

HEADS_BACK = {project: _rules(project, back=True) for project in _TABLES}
"""From our names of a head's tensors to a project's."""

# From OpenTAD's and mmaction2's Video Swin to torchvision's.
SWIN: Rules = [
    (r"inv_block\.[FG]m\.", ""),
    (r"^layers\.(\d+)\.blocks\.", lambda m: f"features.{2 * int(m[1])}."),
    (r"^layers\.(\d+)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 1}."),
    (r"^norm\d*\.", "norm."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
]
# And back; the last norm has a number there.
SWIN_BACK: Rules = [
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^features\.(\d*[02468])\.", lambda m: f"layers.{int(m[1]) // 2}.blocks."),
    (r"^features\.(\d+)\.", lambda m: f"layers.{int(m[1]) // 2}.downsample."),
]
SWIN_BACK_REWIRED: Rules = [
    *SWIN_BACK,
    (r"(\.blocks\.\d+\.)(norm1|attn)\.", r"\1inv_block.Fm.\2."),
    (r"(\.blocks\.\d+\.)(norm2|mlp)\.", r"\1inv_block.Gm.\2."),
]

# From OpenTAD's rewired SlowFast to mmaction2's, whose names are ours; and back.
SLOWFAST: Rules = [(r"\.blocks\.(\d+)\.(?:(?:inv_block\.)?Fm\.)?", r".\1.")]
SLOWFAST_BACK_REWIRED: Rules = [
    (r"(\.layer\d+)\.0\.(conv\d)\.", r"\1.blocks.0.Fm.\2."),
    (r"(\.layer\d+)\.0\.downsample\.", r"\1.blocks.0.downsample."),
    (r"(\.layer\d+)\.(\d+)\.(conv\d)\.", r"\1.blocks.\2.inv_block.Fm.\3."),
]


def _pathway(pathway: str) -> str:
    return "fast_path" if int(pathway) else "slow_path"


def _layer(number: str) -> str:
    """Of a stage counted from the stem, which is 0."""
    return f"layer{number}" if int(number) else "conv1"


_CONVS = {"a": "conv1", "b": "conv2", "c": "conv3"}

# From PySlowFast's and PyTorchVideo's SlowFast to ours.
PYSLOWFAST: Rules = [
    (r"^s1\.pathway(\d)_stem\.", lambda m: f"{_pathway(m[1])}.conv1."),
    (r"^s(\d)\.pathway(\d)_res(\d+)\.", lambda m: f"{_pathway(m[2])}.layer{int(m[1]) - 1}.{m[3]}."),
    (r"^s(\d)_fuse\.conv_f2s\.", lambda m: f"slow_path.{_layer(str(int(m[1]) - 1))}_lateral.conv."),
    (r"^s(\d)_fuse\.bn\.", lambda m: f"slow_path.{_layer(str(int(m[1]) - 1))}_lateral.bn."),
    (r"\.branch1(_bn)?\.", lambda m: f".downsample.{'bn' if m[1] else 'conv'}."),
    (r"\.branch2\.([abc])(_bn)?\.", lambda m: f".{_CONVS[m[1]]}.{'bn' if m[2] else 'conv'}."),
    (r"^head\.projection\.", "classifier."),
]
PYTORCHVIDEO: Rules = [
    (r"^blocks\.0\.multipathway_blocks\.(\d)\.", lambda m: f"{_pathway(m[1])}.conv1."),
    (
        r"^blocks\.(\d)\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)\.",
        lambda m: f"{_pathway(m[2])}.layer{m[1]}.{m[3]}.",
    ),
    (r"^blocks\.(\d)\.multipathway_fusion\.", lambda m: f"slow_path.{_layer(m[1])}_lateral."),
    (r"\.conv_fast_to_slow\.", ".conv."),
    (r"\.branch1_(conv|norm)\.", r".downsample.\1."),
    (r"\.branch2\.(conv|norm)_([abc])\.", lambda m: f".{_CONVS[m[2]]}.{m[1]}."),
    (r"\.norm\.", ".bn."),
    (r"^blocks\.\d\.proj\.", "classifier."),
]


def renamed(name: str, rules: Rules) -> str:
    """Returns another name of a tensor; the name as it is where no rule fits."""
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
