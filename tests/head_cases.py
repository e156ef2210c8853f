"""The registered heads in small, and what tests of several heads share: masks, candidates, a detector that learns."""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from golden_weights import gradient_norms
from tolerances import assert_close, assert_gradients_close, assert_norms_close, assert_same_detections, depth_of
from torchvision.ops import StochasticDepth

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization
from re2tal_hf.conversion.actionformer import plan_actionformer
from re2tal_hf.conversion.converted_model import convert
from re2tal_hf.conversion.names import head_name
from re2tal_hf.conversion.opentad import plan_opentad
from re2tal_hf.conversion.options_file import Options
from re2tal_hf.conversion.source import Source
from re2tal_hf.head import HEADS
from re2tal_hf.licensing.origins import FROM_SCRATCH
from re2tal_hf.temporal_segments import segment_iou, suppress

BACKBONE = {
    "model_type": "video_swin",
    "embed_dim": 8,
    "depths": [2],
    "num_heads": [1],
    "patch_size": [2, 4, 4],
    "window_size": [2, 3, 3],
}


@dataclass(frozen=True)
class HeadCase:
    """A head and what is to be expected of it.

    Attributes:
        name: in the registry.
        settings: of a small head.
        variants: changes of the settings that make another network.
        strides, points_per_step: of the levels, and how many points each of their steps has.
        outputs: fields of the output, each with the mask of what is real in it.
        near: the field that half precision leaves near, and `wide` those that stay float32.
        bad: settings that are refused; the message names the first of each.
        learning: changes with which it learns from few windows.
        finds_points: whether segments start where they end.
    """

    name: str
    settings: dict[str, Any]
    variants: list[dict[str, Any]]
    bad: list[dict[str, Any]]
    strides: tuple[int, ...] = (1, 2, 4)
    points_per_step: int = 1
    outputs: dict[str, str] = field(default_factory=lambda: {"logits": "point_mask", "offsets": "point_mask"})
    learning: dict[str, Any] = field(default_factory=lambda: {"drop_path": 0.0, "branch_scale": 1e-4})
    near: str = "logits"
    wide: tuple[str, ...] = ()
    paddings: tuple[str, ...] = ("isolated", "opentad", "actionformer")
    finds_points: bool = False

    def build(self, **options):
        return HEADS[self.name].head_class(8, 4, **(self.settings | options))

    def trained(self, **options):
        """A head in double precision with norms and biases as after training: masked steps are not zero by chance."""
        head = self.build(**options).double().eval()
        for parameter in head.parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, 0.3, 0.5)
        return head

    def real(self, output, index):
        """What the output says of the real points and steps of a sequence."""
        return {name: getattr(output, name)[index][getattr(output, mask)[index]] for name, mask in self.outputs.items()}


SMALL = {"hidden_size": 16, "num_levels": 3, "max_length": 32, "branch_scale": 0.5}
HEAD_CASES = {
    "actionformer": HeadCase(
        "actionformer",
        SMALL,
        variants=[
            {
                "attention_window": window,
                "neck": neck,
                "use_position_embedding": positions,
                "standardize_input": standard,
            }
            for window, neck, positions, standard in itertools.product(
                (None, 5), ("identity", "fpn"), (False, True), (False, True)
            )
        ]
        + [
            {"attention_window": window, "use_relative_position_bias": relative}
            for window, relative in ((5, True), ([5, 3, None], False), ([3, None, 5], True))
        ],
        bad=[
            {"neck": "panet"},
            {"padding": "reflect"},
            {"regression_ranges": [[0, 4]]},
            {"num_attention_heads": 3},
            {"attention_window": 1},
            {"attention_window": [5, 1, 5]},
            {"attention_window": [5, 5]},
            {"attention_window": [5, "all", 5]},
            {"input_dropout": 1.0},
            {"input_noise": -0.1},
            {"use_relative_position_bias": True},
            {"use_relative_position_bias": True, "attention_window": [None, 4, 5]},
            {"use_relative_position_bias": True, "attention_window": 4},
        ],
    ),
    "spotting": HeadCase(
        "spotting",
        SMALL,
        variants=[{"attention_window": 5, "radius": 3.5}, {"num_levels": 1}, {"use_position_embedding": True}],
        bad=[{"neck": "identity"}, {"regression_ranges": [[0, 4], [4, 8], [8, 16]]}, {"radius": 0.5}, {"radius": "1"}],
        strides=(1,),
        finds_points=True,
    ),
    "tridet": HeadCase(
        "tridet",
        SMALL | {"mlp_size": 24, "num_bins": 4},
        variants=[{"window": window, "neck": neck} for window in (1, [3, 5, 1]) for neck in ("identity", "fpn")]
        + [{"branch_size": 24, "branch_kernel_size": 5, "boundary_kernel_size": 1}],
        bad=[
            {"hidden_size": 24},
            {"window": 2},
            {"window": [1, 1]},
            {"num_bins": 0},
            {"boundary_kernel_size": 2},
            {"conv_std": -1.0},
            {"branch_kernel_size": 4},
            {"neck": "panet"},
            {"regression_ranges": [[0, 4]]},
        ],
        wide=("offsets",),
    ),
    "vsgn": HeadCase(
        "vsgn",
        {"hidden_size": 32, "num_levels": 3, "num_neighbours": 4, "num_head_layers": 2, "max_length": 32},
        variants=[{"num_neighbours": 0}, {"num_neighbours": 4}],
        bad=[
            {"hidden_size": 24},
            {"num_levels": 0},
            {"num_neighbours": 3},
            {"anchor_scales": []},
            {"boundary_reach": 0},
            {"padding": "actionformer"},
        ],
        paddings=("isolated", "opentad"),
        strides=(2, 4, 8),
        points_per_step=2,
        outputs=dict.fromkeys(("class_logits", "proposals", "refined"), "point_mask")
        | {"boundary_logits": "step_mask"},
        learning={},
        near="proposals",
        wide=("proposals",),
    ),
}


def features_of(length, batch=1):
    return torch.randn(batch, 8, length, dtype=torch.float64), torch.ones(batch, length, dtype=torch.bool)


def prefix_mask(lengths, total):
    return torch.arange(total)[None] < torch.tensor(lengths)[:, None]


def concatenated(tensors, prefix, num_levels):
    levels = [tensors[f"{prefix}.{level}"] for level in range(num_levels)]
    return torch.cat(levels, dim=-1).transpose(1, 2)


def candidates_of(predictions, index, top_k=2000, min_score=0.001):
    """The best scores of one sequence, whatever their class, and their segments."""
    scores = predictions.logits[index].sigmoid() * predictions.point_mask[index].unsqueeze(-1)
    points, labels = torch.nonzero(scores > min_score, as_tuple=True)
    scores = scores[points, labels]
    order = scores.argsort(descending=True, stable=True)[:top_k]
    return predictions.segments[index][points[order]], scores[order], labels[order]


def stored_detections(tensors, prefix):
    return [tensors[f"{prefix}.{name}"] for name in ("segments", "scores", "labels")]


def seconds(segments, meta):
    frames = segments * meta["snippet_stride"] + meta["offset_frames"]
    times = (frames + meta.get("window_start_frame", 0)) / meta["fps"]
    return times.clamp(0, meta["duration"])


def tiny_model(head_config):
    return Re2TALForTemporalActionLocalization(
        Re2TALConfig(
            backbone_config=BACKBONE, head_config=head_config, loss_config={"initial_normalizer": 10.0}, num_labels=2
        )
    )


def small_videos():
    """Two windows in which actions are frames of one colour: red is class 0, green class 1."""
    videos = torch.randn(2, 32, 3, 8, 8) * 0.1
    actions = [[(6, 14, 0), (20, 28, 1)], [(4, 20, 1)]]
    labels = []
    for video, annotated in zip(videos, actions, strict=True):
        for start, end, label in annotated:
            video[start:end, label] += 2
        segments = torch.tensor([[start, end] for start, end, _ in annotated], dtype=torch.float32)
        labels.append({"segments": segments, "class_labels": torch.tensor([label for *_, label in annotated])})
    return videos, labels


def assert_learns(model, num_steps, learning_rate, finds_points=False):
    """Trains on two windows: the loss falls to a fifth, and the best of every class is its action, or its time."""
    videos, labels = small_videos()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    losses = []
    for _ in range(num_steps):
        loss = model.train()(videos, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5, losses[:: num_steps // 5]
    with torch.no_grad():
        output = model.eval()(videos)
    for index, target in enumerate(labels):
        scores = output.logits[index].sigmoid() * output.point_mask[index].unsqueeze(-1)
        for segment, label in zip(target["segments"], target["class_labels"], strict=True):
            best = output.pred_segments[index][scores[:, label].argmax()]
            if finds_points:
                assert best[0] == best[1] and (best - segment.mean()).abs().max() < 1, (best, segment)
            else:
                assert segment_iou(best[None], segment[None]) > 0.7, (best, segment)


def assert_survives_saving(model, folder):
    """Saved, loaded, and the same in outputs and losses."""
    videos, labels = small_videos()
    model.save_pretrained(folder)
    loaded, report = Re2TALForTemporalActionLocalization.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    found, expected = (one.double().eval()(videos.double(), labels=labels) for one in (loaded, model))
    for name in ("loss", "logits", "pred_segments"):
        assert_close(getattr(found, name), getattr(expected, name), what=name)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def converted_reference(golden):
    """The detector of a reference file, on features, as it is converted; without drop path, as there."""
    tensors, metadata = golden
    config = json.loads(metadata["config"])
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
    plan = plan_opentad if "projection" in config else plan_actionformer
    source = Source("the reference", state, FROM_SCRATCH)
    model = convert(plan(source, Options(config, "the reference's settings"), {})).model
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0
    return model


def assert_gradients_of_reference_head(golden, project, head, features, mask, prefix="f32.", norms=True, bound=0.0):
    """Gradients of the input, of the weights that are stored, and the norms of all."""
    tensors, metadata = golden
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    found, stored = {}, {}
    for key, expected in tensors.items():
        if not key.startswith(f"{prefix}grad."):
            continue
        name = key.removeprefix(f"{prefix}grad.")
        if name in ("input", "backbone_input"):
            # Ours is zero at padding, where the references read their own zeros.
            real = mask[:, None].expand_as(features)
            found[name], stored[name] = features.grad[real], expected[real]
        else:
            found[name] = gradients[head_name(project, name)].reshape(expected.shape)
            stored[name] = expected
    assert_gradients_close(found, stored, depth=depth_of(head), bound=bound)
    if norms:
        expected = {head_name(project, name): norm for name, norm in gradient_norms(metadata, "gradnorm_f64").items()}
        assert_norms_close(gradients, expected, depth=depth_of(head), bound=bound)


def assert_detections_of_opentad(golden, predictions, *, seconds_first=False, **candidates):
    """Detections of single windows and of windows merged, suppressed with the settings of the reference."""
    tensors, metadata = golden
    nms = json.loads(metadata["post_cfg"])["nms"]
    settings = {"sigma": nms["sigma"], "min_score": nms["min_score"], "max_detections": nms["max_seg_num"]}
    for index, meta in enumerate(json.loads(metadata["metas"])):
        segments, *rest = candidates_of(predictions, index, **candidates)
        found = suppress(seconds(segments, meta) if seconds_first else segments, *rest, **settings)
        if not seconds_first:
            found = (seconds(found[0], meta), *found[1:])
        expected = stored_detections(tensors, f"det.nosliding.{meta['video_name']}")
        assert_same_detections(found, expected, 0.011, 1.1e-4)
    windows = {}
    for index, meta in enumerate(json.loads(metadata["metas_sliding"])):
        segments, scores, labels = candidates_of(predictions, index, **candidates)
        # OpenTAD rounds before it merges windows.
        rounded = (seconds(segments, meta).mul(100).round() / 100, scores.mul(1e4).round() / 1e4)
        windows.setdefault(meta["video_name"], []).append((*rounded, labels))
    for video, parts in windows.items():
        merged = [torch.cat(values) for values in zip(*parts, strict=True)]
        expected = stored_detections(tensors, f"det.sliding.{video}")
        assert_same_detections(suppress(*merged, **settings), expected, 0.011, 1.1e-4)
