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

from re2tal_hf.head_tridet import SGPBlock, TriDetHead
from re2tal_hf.loss_points import TriDetLoss
from re2tal_hf.temporal_segments import suppress

SMALL = {"hidden_size": 16, "num_levels": 3, "mlp_size": 24, "num_bins": 4, "max_length": 32, "branch_scale": 0.5}


def small_head(**options):
    head = TriDetHead(8, 4, **(SMALL | options)).double().eval()
    # Norms as after training, so that masked steps do not happen to be zero.
    for parameter in head.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.3, 0.5)
    return head


def features_of(length, batch=1):
    return torch.randn(batch, 8, length, dtype=torch.float64), torch.ones(batch, length, dtype=torch.bool)


# Shapes, masks and padding


@pytest.mark.parametrize("window", [1, [3, 5, 1]])
@pytest.mark.parametrize("neck", ["identity", "fpn"])
def test_padding_does_not_change_what_is_predicted(window, neck):
    head = small_head(window=window, neck=neck)
    features, mask = features_of(21)
    alone = head(features, mask)
    for total in (22, 24, 32):
        batch = torch.full((2, 8, total), 1e6, dtype=torch.float64)
        batch[:1, :, :21] = features
        batch[1] = torch.randn(8, total)
        padded = head(batch, prefix_mask([21, total], total))
        real, expected = padded.point_mask[0], alone.point_mask[0]
        assert_close(padded.logits[0][real], alone.logits[0][expected])
        assert_close(padded.offsets[0][real], alone.offsets[0][expected])


@pytest.mark.parametrize("padding", ["isolated", "opentad"])
@pytest.mark.parametrize("length", [1, 3, 4, 33, 70])
def test_any_length_is_accepted(length, padding):
    output = small_head(padding=padding)(*features_of(length))
    assert output.point_mask.sum() == sum(-(-length // stride) for stride in (1, 2, 4))
    assert output.logits.shape == (1, len(output.points), 4)
    assert output.offsets.shape == (1, len(output.points), 4, 2)
    assert (output.offsets >= 0).all() and (output.offsets <= 4).all()


@pytest.mark.parametrize("padding", ["isolated", "opentad"])
def test_a_sequence_without_real_steps_gives_finite_numbers_and_gradients(padding):
    head = small_head(padding=padding).train()
    features = torch.randn(2, 8, 24, dtype=torch.float64, requires_grad=True)
    output = head(features, prefix_mask([0, 17], 24))
    (output.logits.sum() + output.offsets.sum()).backward()
    assert output.logits.isfinite().all() and output.offsets.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in [features, *head.parameters()])


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


# The trident head


def test_boundaries_are_where_the_scores_say():
    head = small_head(num_levels=1)
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


def test_every_class_of_a_point_is_a_point_of_its_own():
    output = small_head()(*features_of(8))
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
    head = small_head()
    head(*features_of(16))
    level = torch.randn(1, 16, 16, dtype=torch.float64, requires_grad=True)
    start, _ = head.boundary_scores(level, torch.ones(1, 16, dtype=torch.bool))
    start.sum().backward()
    assert level.grad is None and head.start.predictor.weight.grad.abs().sum() > 0


def test_the_weight_of_positives_is_a_power_of_their_overlap():
    head = small_head()
    output = head(*features_of(16))
    targets = [{"segments": torch.tensor([[3.0, 6.5]]), "class_labels": torch.tensor([2])}]
    plain, weighted = TriDetLoss(iou_weight_power=0.0).eval(), TriDetLoss(iou_weight_power=2.0).eval()
    assert weighted(output, targets)["classification"] < plain(output, targets)["classification"]
    assert weighted(output, targets)["regression"] == plain(output, targets)["regression"]


# Numbers


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_stays_near_float32(half):
    head = small_head().float()
    features, mask = torch.randn(2, 8, 32), prefix_mask([32, 20], 32)
    exact = head(features, mask)
    with torch.autocast("cpu", half):
        rough = head(features, mask)
    assert rough.offsets.dtype == torch.float32
    assert_close(rough.logits, exact.logits, dtype=half)
    losses = TriDetLoss()(rough, [{"segments": torch.tensor([[3.0, 9.0]]), "class_labels": torch.tensor([1])}] * 2)
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
        {"window": 2},
        {"window": [1, 1]},
        {"num_bins": 0},
        {"boundary_kernel_size": 2},
        {"padding": "actionformer"},
        {"neck": "panet"},
        {"regression_ranges": [[0, 4]]},
    ],
)
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TriDetHead(8, 4, **(SMALL | options))


# In the whole model

CONFIG = {"model_type": "tridet", "drop_path": 0.0, "hidden_size": 16, "num_levels": 3, "mlp_size": 24, "num_bins": 8}


def test_learns_a_few_windows_and_survives_saving(tmp_path):
    model = tiny_model(CONFIG)
    assert_learns(model, num_steps=60, learning_rate=0.003)
    assert_survives_saving(model, tmp_path)


@pytest.mark.parametrize("options", [{"hidden_size": 17}, {"num_bananas": 3}])
def test_a_bad_configuration_gives_one_clear_error(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        tiny_model(CONFIG | options)


# Agreement with OpenTAD (A6)


@pytest.fixture(scope="module")
def golden(model_goldens):
    return read_golden(model_goldens / "a6_tridet_opentad.safetensors")


@pytest.fixture
def head(golden):
    tensors, metadata = golden
    config = json.loads(metadata["config"])
    projection, rpn = config["projection"], config["rpn_head"]
    head = TriDetHead(
        24,
        rpn["num_classes"],
        hidden_size=projection["out_channels"],
        num_levels=1 + projection["arch"][2],
        mlp_size=projection["sgp_mlp_dim"],
        window=projection["sgp_win_size"],
        window_factor=projection["k"],
        num_bins=rpn["num_bins"],
        boundary_kernel_size=rpn["boundary_kernel_size"],
        max_length=projection["max_seq_len"],
        regression_ranges=rpn["prior_generator"]["regression_range"],
        drop_path=0.0,
        padding="opentad",
    )
    shapes = {name: parameter.shape for name, parameter in head.named_parameters()}
    weights = {
        head_name("tridet", name.removeprefix("state.")): value
        for name, value in tensors.items()
        if name.startswith("state.") and not name.endswith("loss_normalizer")
    }
    assert weights.keys() == shapes.keys()
    head.load_state_dict({name: value.reshape(shapes[name]) for name, value in weights.items()})
    return head


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
    tensors, metadata = golden
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
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    real = tensors["masks"][:, None].expand_as(features)
    found, stored = {"input": features.grad[real]}, {"input": tensors["f32.grad.input"][real]}
    for key in (key for key in tensors if key.startswith("f32.grad.") and key != "f32.grad.input"):
        name = head_name("tridet", key.removeprefix("f32.grad."))
        found[name], stored[name] = gradients[name].reshape(tensors[key].shape), tensors[key]
    assert_gradients_close(found, stored, depth=depth_of(head))
    norms = {head_name("tridet", name): norm for name, norm in gradient_norms(metadata, "gradnorm_f64").items()}
    assert_norms_close(gradients, norms, depth=depth_of(head))


@torch.no_grad()
def test_detections_are_those_of_opentad(golden, head):
    tensors, metadata = golden
    # In double precision: OpenTAD rounds before it suppresses, and single precision decides ties.
    predictions = head.double().eval()(tensors["input"].double(), tensors["masks"]).scored_segments()
    nms = json.loads(metadata["post_cfg"])["nms"]
    settings = {"sigma": nms["sigma"], "min_score": nms["min_score"], "max_detections": nms["max_seg_num"]}
    for index, meta in enumerate(json.loads(metadata["metas"])):
        segments, scores, labels = suppress(*candidates_of(predictions, index), **settings)
        expected = stored_detections(tensors, f"det.nosliding.{meta['video_name']}")
        assert_same_detections((seconds(segments, meta), scores, labels), expected, 0.011, 1.1e-4)
    windows = {}
    for index, meta in enumerate(json.loads(metadata["metas_sliding"])):
        segments, scores, labels = candidates_of(predictions, index)
        # OpenTAD rounds before it merges windows.
        rounded = (seconds(segments, meta).mul(100).round() / 100, scores.mul(1e4).round() / 1e4)
        windows.setdefault(meta["video_name"], []).append((*rounded, labels))
    for video, parts in windows.items():
        merged = [torch.cat(values) for values in zip(*parts, strict=True)]
        expected = stored_detections(tensors, f"det.sliding.{video}")
        assert_same_detections(suppress(*merged, **settings), expected, 0.011, 1.1e-4)
