import pytest
import torch
from head_cases import (
    HEAD_CASES,
    assert_detections_of_opentad,
    assert_gradients_of_reference_head,
    concatenated,
    converted_reference,
    features_of,
)
from tolerances import assert_close, depth_of

from re2tal_hf.head_tridet import SGPBlock
from re2tal_hf.loss_points import TriDetLoss


def test_a_block_mixes_no_more_than_its_windows_and_its_mean():
    block = SGPBlock(
        16, 24, stride=1, window=1, wide_window=3, drop_path=0.0, branch_scale=None, isolate_padding=True
    ).double()
    for parameter in (block.context.weight, block.context.bias, block.mlp[2].weight, block.mlp[2].bias):
        torch.nn.init.zeros_(parameter)
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    changed = x.clone()
    changed[0, 4] += torch.randn(16)
    difference = (block(changed, torch.ones(1, 9).bool())[0] - block(x, torch.ones(1, 9).bool())[0]).abs().amax(-1)
    assert (difference[0] > 0).nonzero().flatten().tolist() == [3, 4, 5]


def test_convolutions_of_the_blocks_are_drawn_as_asked():
    head = HEAD_CASES["tridet"].build(hidden_size=512, conv_std=0.2)
    for block in (*head.stem, *head.pyramid):
        for conv in (block.gate, block.narrow, block.wide, block.instant, block.context):
            assert 0.15 < conv.weight.std() < 0.25 and not conv.bias.any()
        assert 0.01 < block.mlp[0].weight.std() < 0.05  # as PyTorch draws a linear layer of 512 channels
    quiet = HEAD_CASES["tridet"].build(conv_std=0.0)
    assert not any(block.wide.weight.any() for block in quiet.pyramid)
    assert all(block.wide.weight.any() for block in HEAD_CASES["tridet"].build().pyramid)


# The trident head


def test_boundaries_are_where_the_scores_say():
    head = HEAD_CASES["tridet"].trained(num_levels=1)
    start, end = torch.zeros(2, 1, 8, 4, dtype=torch.float64)
    start[0, 2, 1], end[0, 6, 1] = 50, 50
    relative = torch.zeros(1, 8, 10, dtype=torch.float64)
    offsets = head.decode(relative, (start, end), torch.ones(1, 8, dtype=torch.bool))
    assert_close(offsets[0, 4, 1], torch.tensor([2.0, 2.0]).double())
    assert_close(offsets[0, 4, 0], torch.tensor([2.0, 2.0]).double())  # no scores: the middle bin
    assert_close(offsets[0, 2, 1], torch.tensor([0.0, 4.0]).double())
    relative[..., 0], relative[..., 6] = 90, 90
    offsets = head.decode(relative, (start, end), torch.ones(1, 8, dtype=torch.bool))
    assert_close(offsets[0, 4, 1], torch.tensor([4.0, 1.0]).double())


def test_boundaries_lie_within_the_bins():
    output = HEAD_CASES["tridet"].trained()(*features_of(33))
    assert output.offsets.shape == (1, len(output.points), 4, 2)
    assert (output.offsets >= 0).all() and (output.offsets <= 4).all()


def test_every_class_of_a_point_is_a_point_of_its_own():
    output = HEAD_CASES["tridet"].trained()(*features_of(8))
    logits, segments, point_mask = output.scored_segments()
    num_points = len(output.points)
    assert logits.shape == (1, num_points * 4, 4) and point_mask.shape == (1, num_points * 4)
    assert_close(logits.sigmoid().sum(dim=-1), output.logits.sigmoid().flatten(1))
    position, _, _, stride = output.points[9]
    assert stride == 2 and position == 2
    start = position - 2 * output.offsets[0, 9, 3, 0]
    assert_close(segments[0, 9 * 4 + 3, 0], start)
    assert logits[0, 9 * 4 + 3, 3] == output.logits[0, 9, 3]


def test_the_pyramid_gets_no_gradient_from_start_and_end_scores():
    head = HEAD_CASES["tridet"].trained()
    head(*features_of(16))
    level = torch.randn(1, 16, 16, dtype=torch.float64, requires_grad=True)
    start, _ = head.boundary_scores(level, torch.ones(1, 16, dtype=torch.bool))
    start.sum().backward()
    assert level.grad is None and head.start.predictor.weight.grad.abs().sum() > 0


def test_the_weight_of_positives_is_a_power_of_their_overlap():
    head = HEAD_CASES["tridet"].trained()
    output = head(*features_of(16))
    targets = [{"segments": torch.tensor([[3.0, 6.5]]), "class_labels": torch.tensor([2])}]
    plain, weighted = TriDetLoss(iou_weight_power=0.0).eval(), TriDetLoss(iou_weight_power=2.0).eval()
    assert weighted(output, targets)["classification"] < plain(output, targets)["classification"]
    assert weighted(output, targets)["regression"] == plain(output, targets)["regression"]


# Agreement with OpenTAD (A6)


GOLDEN = "a6_tridet_opentad"


@pytest.fixture
def head(golden):
    return converted_reference(golden).head


def targets_of(tensors):
    return [{"segments": tensors[f"gt.{i}.segments"], "class_labels": tensors[f"gt.{i}.labels"]} for i in range(3)]


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "prefix"), [(torch.float32, "f32"), (torch.float64, "f64")])
def test_predictions_are_those_of_opentad(golden, head, dtype, prefix):
    tensors, _ = golden
    head, depth = head.to(dtype).eval(), depth_of(head)
    features, mask = tensors["input"].to(dtype), tensors["masks"]
    levels, masks = head.extract_pyramid(features, mask)
    pyramid = {"proj": levels, "neck": head.neck(levels, masks)}
    pyramid["reg_offsets"] = [
        head.boundary_values(x, m, level) for level, (x, m) in enumerate(zip(pyramid["neck"], masks, strict=True))
    ]
    output = head(features, mask)
    for kind, found in pyramid.items():
        for level, (x, real) in enumerate(zip(found, masks, strict=True)):
            key = f"{prefix}.eval.{kind}.{level}"
            if key in tensors:
                assert_close(x[real], tensors[key].transpose(1, 2)[real], depth=depth, what=key)
    real = output.point_mask
    logits = concatenated(tensors, f"{prefix}.eval.cls_logits", 3)
    assert_close(output.logits[real], logits[real], depth=depth)
    if prefix == "f32":
        assert torch.equal(output.points, tensors["f32.eval.pred.0"])
        offsets = tensors["f32.eval.pred.1"].transpose(1, 2)
        assert_close(output.offsets[real], offsets[real], depth=depth)
        assert_close(output.logits.sigmoid()[real], tensors["f32.eval.pred.2"][real], depth=depth)


def test_losses_and_gradients_are_those_of_opentad(golden, head):
    tensors, _ = golden
    features = tensors["input"].clone().requires_grad_()
    output = head.train()(features, tensors["masks"])
    loss, targets = TriDetLoss(), targets_of(tensors)
    first = loss(output, targets)
    assert_close(loss.normalizer, torch.tensor(91.5))
    second = loss(output, targets)
    with torch.no_grad():
        evaluated = loss.eval()(output, targets)
    names = {"loss": "cost", "classification": "cls_loss", "regression": "reg_loss"}
    for step, losses in (("train", first), ("train2", second)):
        for ours, theirs in names.items():
            assert_close(losses[ours], tensors[f"f32.{step}.{theirs}"], depth=depth_of(head), what=(step, ours))
    # In evaluation OpenTAD divides one part by the untouched running mean, 100, and the other by the
    # number of positives, 15; here both are divided by the number.
    assert_close(evaluated["regression"], tensors["f32.evalloss.reg_loss"], depth=depth_of(head))
    assert_close(evaluated["classification"], tensors["f32.evalloss.cls_loss"] * 100 / 15, depth=depth_of(head))

    first["loss"].backward()
    assert_gradients_of_reference_head(golden, "tridet", head, features, tensors["masks"])


@torch.no_grad()
def test_detections_are_those_of_opentad(golden, head):
    # In double precision: OpenTAD rounds before it suppresses, and single precision decides ties.
    tensors, _ = golden
    predictions = head.double().eval()(tensors["input"].double(), tensors["masks"]).scored_segments()
    assert_detections_of_opentad(golden, predictions)
