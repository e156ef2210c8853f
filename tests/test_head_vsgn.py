import dataclasses

import pytest
import torch
from head_cases import (
    HEAD_CASES,
    assert_detections_of_opentad,
    assert_gradients_of_reference_head,
    concatenated,
    converted_reference,
    features_of,
    prefix_mask,
)
from tolerances import assert_close, depth_of

from re2tal_hf.head_vsgn import CrossScaleGraph
from re2tal_hf.loss_anchors import VSGNLoss, boundary_targets, match_anchors, segment_giou_loss


def test_anchors_are_centred_on_the_steps_of_their_level():
    anchors = HEAD_CASES["vsgn"].trained(anchor_scales=(1.0, 2.0))(*features_of(16)).anchors
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


# Agreement with OpenTAD (A6), which has no graphs


GOLDEN = "a6_vsgn_opentad"


@pytest.fixture
def head(golden):
    return converted_reference(golden).head


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
    tensors, _ = golden
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
    assert_gradients_of_reference_head(golden, "vsgn", head, features, tensors["masks"])


@torch.no_grad()
def test_detections_are_those_of_opentad(golden, head):
    # In double precision: OpenTAD rounds before it suppresses, and single precision decides ties.
    tensors, _ = golden
    predictions = as_in_opentad(head.double().eval()(tensors["input"].double(), tensors["masks"])).scored_segments()
    # Ours leaves it to post-processing, which knows the length of the video.
    predictions = predictions._replace(segments=predictions.segments.clamp(0, head.max_length - 1))
    assert_detections_of_opentad(golden, predictions, seconds_first=True, min_score=0)
