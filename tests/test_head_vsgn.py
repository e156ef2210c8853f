import dataclasses
import json

import pytest
import torch
from golden_weights import gradient_norms, head_name, read_golden
from head_cases import (
    assert_learns,
    assert_survives_saving,
    candidates_of,
    concatenated,
    prefix_mask,
    seconds,
    stored_detections,
    tiny_model,
)
from tolerances import assert_close, assert_gradients_close, assert_norms_close, assert_same_detections, depth_of

from re2tal_hf.head_vsgn import CrossScaleGraph, VSGNHead
from re2tal_hf.loss_anchors import VSGNLoss, boundary_targets, match_anchors, segment_giou_loss
from re2tal_hf.temporal_segments import suppress

SMALL = {"hidden_size": 32, "num_levels": 3, "num_neighbours": 4, "num_head_layers": 2, "max_length": 32}


def small_head(**options):
    head = VSGNHead(8, 4, **(SMALL | options)).double().eval()
    # Biases as after training, so that masked steps do not happen to be zero.
    for parameter in head.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.3, 0.5)
    return head


def features_of(length, batch=1):
    return torch.randn(batch, 8, length, dtype=torch.float64), torch.ones(batch, length, dtype=torch.bool)


# Shapes, masks and padding


@pytest.mark.parametrize("num_neighbours", [0, 4])
def test_padding_does_not_change_what_is_predicted(num_neighbours):
    head = small_head(num_neighbours=num_neighbours)
    features, mask = features_of(21)
    alone = head(features, mask)
    for total in (22, 24, 40):
        batch = torch.full((2, 8, total), 1e6, dtype=torch.float64)
        batch[:1, :, :21] = features
        batch[1] = torch.randn(8, total)
        padded = head(batch, prefix_mask([21, total], total))
        for name in ("class_logits", "proposals", "refined"):
            found = getattr(padded, name)[0][padded.point_mask[0]]
            expected = getattr(alone, name)[0][alone.point_mask[0]]
            assert_close(found, expected)
        assert_close(padded.boundary_logits[0, :21], alone.boundary_logits[0, :21])
        scores = [o.scored_segments().logits[0][o.point_mask[0]] for o in (padded, alone)]
        assert_close(*scores)


@pytest.mark.parametrize("padding", ["isolated", "opentad"])
@pytest.mark.parametrize("length", [1, 3, 8, 33, 70])
def test_any_length_is_accepted(length, padding):
    logits, segments, point_mask = small_head(padding=padding)(*features_of(length)).scored_segments()
    assert point_mask.sum() == 2 * sum(-(-length // stride) for stride in (2, 4, 8))
    assert logits.shape == (1, point_mask.shape[1], 4) and segments.shape == (1, point_mask.shape[1], 2)
    assert logits.isfinite().all() and segments.isfinite().all()


def test_a_sequence_without_real_steps_gives_finite_numbers_and_gradients():
    head = small_head().train()
    output = head(torch.randn(2, 8, 24, dtype=torch.float64), prefix_mask([0, 17], 24))
    none = {"segments": torch.zeros(0, 2), "class_labels": torch.zeros(0, dtype=torch.long)}
    losses = VSGNLoss()(output, [none, {"segments": torch.tensor([[3.0, 9.0]]), "class_labels": torch.tensor([1])}])
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_anchors_are_centred_on_the_steps_of_their_level():
    anchors = small_head(anchor_scales=(1.0, 2.0))(*features_of(16)).anchors
    assert anchors[:4].tolist() == [[0.5, 1.5], [-0.5, 2.5], [2.5, 3.5], [1.5, 4.5]]
    assert anchors[-2:].tolist() == [[8.5, 15.5], [4.5, 19.5]]


# The graph


def test_edges_go_to_the_nearest_steps_of_both_scales():
    graph = CrossScaleGraph(2, 2)
    with torch.no_grad():
        graph.own.weight.zero_(), graph.own.bias.zero_(), graph.difference.weight.copy_(torch.eye(2))
    x = torch.tensor([[0.0, 0.0], [0.1, 5.0], [9.0, 0.0], [0.0, 0.5], [1.0, 0.0], [7.0, 7.0]])[None]
    out = graph(x, torch.ones(1, 6, dtype=torch.bool))
    # Step 0: step 4 of its own scale, step 3 of the finer one.
    assert_close(out[0, 0], torch.tensor([1.0, 0.5]))
    out = graph(x, prefix_mask([1], 6))
    assert out.abs().sum() == 0


# Matching and losses


def test_matching():
    anchors = torch.tensor([[0.0, 4.0], [0.0, 8.0], [10.0, 14.0], [10.0, 18.0], [30.0, 34.0]])
    segments = torch.tensor([[0.0, 6.0], [13.0, 40.0]])
    everything = torch.ones(5, dtype=torch.bool)
    positive, index = match_anchors(anchors, everything, segments, 0.7)
    # 0.67 and 0.75 with the first; the second has its best anchor, however bad.
    assert positive.tolist() == [False, True, False, True, False]
    assert index[positive].tolist() == [0, 1]
    real = torch.tensor([True, False, True, True, True])
    assert match_anchors(anchors, real, segments, 0.7)[0].tolist() == [True, False, False, True, False]
    positive, _ = match_anchors(anchors[:4], everything[:4], segments[:1], 0.6, anchors_per_step=2)
    assert positive.tolist() == [False, True, False, False]
    for nothing in (torch.tensor([[50.0, 60.0]]), torch.zeros(0, 2)):
        assert not match_anchors(anchors, everything, nothing, 0.5)[0].any()


def test_generalized_iou():
    segments = torch.tensor([[0.0, 2.0], [0.0, 2.0], [0.0, 2.0]])
    targets = torch.tensor([[0.0, 2.0], [1.0, 3.0], [4.0, 6.0]])
    assert_close(segment_giou_loss(segments, targets), torch.tensor([0.0, 2 / 3, 1 + 1 / 3]))


def test_steps_that_are_starts_ends_and_actions():
    targets = boundary_targets(torch.tensor([[2.3, 5.0]]), 8)
    assert [row.nonzero().flatten().tolist() for row in targets.T] == [[1, 2], [4, 5], [3, 4]]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_stays_near_float32(half):
    head = small_head().float()
    features, mask = torch.randn(2, 8, 32), prefix_mask([32, 20], 32)
    exact = head(features, mask)
    with torch.autocast("cpu", half):
        rough = head(features, mask)
    assert rough.proposals.dtype == torch.float32
    real = exact.point_mask
    assert_close(rough.proposals[real], exact.proposals[real], dtype=half)
    losses = VSGNLoss()(rough, [{"segments": torch.tensor([[3.0, 9.0]]), "class_labels": torch.tensor([1])}] * 2)
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_runs_in_bfloat16_throughout():
    head = small_head().bfloat16()
    predictions = head(torch.randn(2, 8, 32).bfloat16(), prefix_mask([32, 20], 32)).scored_segments()
    assert not predictions.logits.isnan().any() and predictions.segments.isfinite().all()
    assert predictions.segments.dtype == torch.float32


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_size": 24},
        {"num_levels": 0},
        {"num_neighbours": 3},
        {"anchor_scales": []},
        {"boundary_reach": 0},
        {"padding": "actionformer"},
    ],
)
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        VSGNHead(8, 4, **(SMALL | options))


# In the whole model

CONFIG = {"model_type": "vsgn", "hidden_size": 32, "num_levels": 3, "num_neighbours": 4, "num_head_layers": 1}


def test_learns_a_few_windows_and_survives_saving(tmp_path):
    model = tiny_model(CONFIG)
    assert_learns(model, num_steps=60, learning_rate=0.003)
    assert_survives_saving(model, tmp_path)


@pytest.mark.parametrize("options", [{"hidden_size": 17}, {"num_bananas": 3}])
def test_a_bad_configuration_gives_one_clear_error(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        tiny_model(CONFIG | options)


# Agreement with OpenTAD (A6), which has no graphs


@pytest.fixture(scope="module")
def golden(model_goldens):
    return read_golden(model_goldens / "a6_vsgn_opentad.safetensors")


@pytest.fixture
def head(golden):
    tensors, metadata = golden
    config = json.loads(metadata["config"])
    rpn = config["rpn_head"]
    head = VSGNHead(
        24,
        rpn["num_classes"] - 1,
        hidden_size=rpn["in_channels"],
        num_levels=len(config["projection"]["pyramid_levels"]),
        num_neighbours=0,
        anchor_scales=rpn["anchor_generator"]["anchor_scale"],
        num_head_layers=rpn["num_layers"],
        boundary_reach=config["roi_head"]["roi_extractor"]["beta"],
        max_length=rpn["anchor_generator"]["tscale"],
        padding="opentad",
    )
    weights = {
        head_name("vsgn", name.removeprefix("state.")): value
        for name, value in tensors.items()
        if name.startswith("state.")
    }
    head.load_state_dict(weights)
    return head


def as_in_opentad(output):
    """There padding has scores and losses like everything else."""
    masks = {name: torch.ones_like(getattr(output, name)) for name in ("point_mask", "step_mask")}
    return dataclasses.replace(output, **masks)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "prefix"), [(torch.float32, "f32"), (torch.float64, "f64")])
def test_predictions_are_those_of_opentad(golden, head, dtype, prefix):
    tensors, _ = golden
    head, depth = head.to(dtype).eval(), depth_of(head)
    features, mask = tensors["input"].to(dtype), tensors["masks"]
    levels, masks, _ = head.extract_pyramid(features, mask)
    for kind, found in (("proj", levels), ("neck", head.neck(levels, masks))):
        for level, x in enumerate(found):
            assert torch.equal(masks[level], tensors[f"eval.mask.{level}"])
            key = f"{prefix}.eval.{kind}.{level}"
            if key in tensors:
                assert_close(x, tensors[key].transpose(1, 2), depth=depth, what=key)
    output = head(features, mask)
    logits = concatenated(tensors, f"{prefix}.eval.cls_logits", 3).unflatten(2, (2, 6)).flatten(1, 2)
    assert_close(output.class_logits, logits, depth=depth)
    if prefix == "f32":
        assert_close(output.boundary_logits.transpose(1, 2), tensors["f32.eval.pred.0"], depth=depth)
        assert_close(output.class_logits.softmax(dim=-1), tensors["f32.eval.pred.1"], depth=depth)
        assert_close(output.refined, tensors["f32.eval.pred.2"], depth=depth)


def test_losses_and_gradients_are_those_of_opentad(golden, head):
    tensors, metadata = golden
    features = tensors["input"].clone().requires_grad_()
    output = as_in_opentad(head.train()(features, tensors["masks"]))
    targets = [{"segments": tensors[f"gt.{i}.segments"], "class_labels": tensors[f"gt.{i}.labels"]} for i in range(2)]
    loss = VSGNLoss()
    first, second = loss(output, targets), loss(output, targets)
    names = {
        "loss": "cost",
        "classification": "loss_stage1_cls",
        "regression": "loss_stage1_reg",
        "refinement": "loss_stage2_loc",
        "boundaries": "loss_tem",
    }
    for step, losses in (("train", first), ("train2", second)):
        for ours, theirs in names.items():
            assert_close(losses[ours], tensors[f"f32.{step}.{theirs}"], depth=depth_of(head), what=(step, ours))
    # In evaluation OpenTAD divides by the running mean after its first update, here it is by the number of positives.
    with torch.no_grad():
        evaluated = loss.eval()(output, targets)
    for ours, count in (("regression", 8), ("refinement", 5)):
        expected = tensors[f"f32.evalloss.{names[ours]}"] * (90 + 0.1 * count) / count
        assert_close(evaluated[ours], expected, depth=depth_of(head), what=ours)

    first["loss"].backward()
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    real = tensors["masks"][:, None].expand_as(features)
    found, stored = {"input": features.grad[real]}, {"input": tensors["f32.grad.input"][real]}
    for key in (key for key in tensors if key.startswith("f32.grad.") and key != "f32.grad.input"):
        name = head_name("vsgn", key.removeprefix("f32.grad."))
        found[name], stored[name] = gradients[name].reshape(tensors[key].shape), tensors[key]
    assert_gradients_close(found, stored, depth=depth_of(head))
    norms = {head_name("vsgn", name): norm for name, norm in gradient_norms(metadata, "gradnorm_f64").items()}
    assert_norms_close(gradients, norms, depth=depth_of(head))


@torch.no_grad()
def test_detections_are_those_of_opentad(golden, head):
    tensors, metadata = golden
    # In double precision: OpenTAD rounds before it suppresses, and single precision decides ties.
    predictions = as_in_opentad(head.double().eval()(tensors["input"].double(), tensors["masks"])).scored_segments()
    # Ours leaves it to post-processing, which knows the length of the video.
    predictions = predictions._replace(segments=predictions.segments.clamp(0, head.max_length - 1))
    nms = json.loads(metadata["post_cfg"])["nms"]
    settings = {"sigma": nms["sigma"], "min_score": nms["min_score"], "max_detections": nms["max_seg_num"]}
    for index, meta in enumerate(json.loads(metadata["metas"])):
        segments, scores, labels = candidates_of(predictions, index, min_score=0)
        segments, scores, labels = suppress(seconds(segments, meta), scores, labels, **settings)
        expected = stored_detections(tensors, f"det.nosliding.{meta['video_name']}")
        assert_same_detections((segments, scores, labels), expected, 0.011, 1.1e-4)
    parts = []
    for index, meta in enumerate(json.loads(metadata["metas_sliding"])):
        segments, scores, labels = candidates_of(predictions, index, min_score=0)
        # OpenTAD rounds before it merges windows.
        parts.append((seconds(segments, meta).mul(100).round() / 100, scores.mul(1e4).round() / 1e4, labels))
    merged = [torch.cat(values) for values in zip(*parts, strict=True)]
    assert_same_detections(
        suppress(*merged, **settings), stored_detections(tensors, "det.sliding.vid_a"), 0.011, 1.1e-4
    )
