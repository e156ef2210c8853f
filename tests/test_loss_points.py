import math

import pytest
import torch
from tolerances import assert_close

from re2tal_hf.head import LocalizationHeadOutput
from re2tal_hf.loss_points import LocalizationLoss, SpottingLoss, assign_labels, segment_diou_loss


def pyramid_points(length=16, num_levels=3):
    ranges = [(0, 4), (4, 8), (8, 10000)]
    rows = []
    for level in range(num_levels):
        stride = 2**level
        rows += [[step * stride, *ranges[level], stride] for step in range(length // stride)]
    return torch.tensor(rows, dtype=torch.float32)


def make_output(batch=2, num_labels=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = pyramid_points()
    shape = (batch, len(points))
    return LocalizationHeadOutput(
        logits=torch.randn(*shape, num_labels, generator=generator).to(dtype).requires_grad_(),
        offsets=torch.rand(*shape, 2, generator=generator).to(dtype).mul(4).requires_grad_(),
        points=points,
        point_mask=torch.ones(shape, dtype=torch.bool),
    )


def make_target(segments, labels):
    return {
        "segments": torch.tensor(segments, dtype=torch.float64).reshape(-1, 2),
        "class_labels": torch.tensor(labels, dtype=torch.long),
    }


TARGETS = [make_target([[2.0, 5.0], [1.0, 13.0]], [0, 2]), make_target([[6.5, 9.5]], [1])]
NOTHING = make_target([], [])


# Label assignment


def naive_assignment(point, segments, labels, num_labels, radius, all_classes=False):
    position, low, high, stride = point
    candidates = []
    for (start, end), label in zip(segments, labels, strict=True):
        center = (start + end) / 2
        inside = max(start, center - radius * stride) < position
        inside = inside and position < min(end, center + radius * stride)
        if inside and low <= max(position - start, end - position) <= high:
            candidates.append((end - start, start, end, label))
    classes = [0.0] * num_labels
    if not candidates:
        return classes, None
    length, start, end, _ = min(candidates, key=lambda candidate: candidate[0])
    for other, _, _, label in candidates:
        if all_classes or other <= length + 1e-3:
            classes[label] = 1.0
    return classes, [(position - start) / stride, (end - position) / stride]


@pytest.mark.parametrize("all_classes", [False, True])
def test_assignment_equals_a_plain_loop(all_classes):
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(12, generator=generator, dtype=torch.float64) * 12
    segments = torch.stack((start, start + torch.rand(12, generator=generator) * 10), dim=1)
    segments = torch.cat((segments, segments[:2]))  # the same segments again
    labels = torch.arange(14) % 4
    points = pyramid_points()
    classes, offsets = assign_labels(points, segments, labels, 4, 1.5, all_classes)
    positives = several = 0
    for index, point in enumerate(points.tolist()):
        expected = naive_assignment(point, segments.tolist(), labels.tolist(), 4, 1.5, all_classes)
        assert classes[index].tolist() == expected[0]
        if expected[1] is not None:
            assert offsets[index].tolist() == pytest.approx(expected[1])
            positives += 1
            several += sum(expected[0]) > 1
    assert positives > 5 and (several > 2) == all_classes


def test_points_near_the_centre_only_and_of_the_right_level():
    classes, offsets = assign_labels(pyramid_points(), torch.tensor([[2.0, 8.0]]), torch.tensor([1]), 2, 1.5)
    chosen = pyramid_points()[classes[:, 1] > 0]
    # On level 0 steps 4, 5, 6 (the centre is 5); on level 1, where the farther boundary must be at
    # least 4 away, steps at 4 and 6; none on level 2.
    assert chosen[:, [0, 3]].tolist() == [[4, 1], [5, 1], [6, 1], [4, 2], [6, 2]]
    assert offsets[classes[:, 1] > 0].tolist() == [[2, 4], [3, 3], [4, 2], [1, 2], [2, 1]]


def test_nothing_to_find_means_all_zero():
    classes, offsets = assign_labels(pyramid_points(), torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), 3, 1.5)
    assert classes.shape == (28, 3) and offsets.shape == (28, 2)
    assert not classes.any()


# Boundary loss


def test_diou_of_equal_disjoint_and_shifted_segments():
    offsets = torch.tensor([[2.0, 2.0], [0.0, 0.0], [1.0, 3.0]])
    targets = torch.tensor([[2.0, 2.0], [2.0, 2.0], [3.0, 1.0]])
    expected = torch.tensor([0.0, 1.0, 1 - 2 / 6 + (2 / 6) ** 2])
    assert_close(segment_diou_loss(offsets, targets), expected)


def test_diou_gradients_are_finite_at_segments_of_no_length():
    offsets = torch.zeros(4, 2, requires_grad=True)
    segment_diou_loss(offsets, torch.zeros(4, 2)).sum().backward()
    assert offsets.grad.isfinite().all()


# The loss


def test_parts_sum_to_the_loss_and_are_weighted():
    output = make_output()
    plain = LocalizationLoss().eval()(output, TARGETS)
    weighted = LocalizationLoss(loss_weight=2.0).eval()(output, TARGETS)
    for losses in (plain, weighted):
        assert_close(losses["loss"], losses["classification"] + losses["regression"])
    assert_close(weighted["regression"], 2 * plain["regression"])
    assert_close(weighted["classification"], plain["classification"])


def test_label_smoothing_shares_a_part_among_the_classes():
    # With two classes, smoothing 0.3 makes a negative target 0.1. Where that is what is predicted,
    # the cross entropy no longer pulls and only the focal weight, 1 - p_t, does.
    logit = torch.logit(torch.tensor(0.1, dtype=torch.float64))
    output = make_output(batch=1, num_labels=2)
    with torch.no_grad():
        output.logits.fill_(logit)
    smooth = LocalizationLoss(label_smoothing=0.3).eval()(output, [NOTHING])["loss"]
    entropy = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    agreement = 0.1 * 0.1 + 0.9 * 0.9
    balance = 0.25 * 0.1 + 0.75 * 0.9
    expected = 2 * len(output.points) * balance * (1 - agreement) ** 2 * entropy
    assert_close(smooth, torch.tensor(expected, dtype=torch.float64))


def test_padding_is_neither_positive_nor_negative():
    output = make_output()
    output.point_mask[:, ::2] = False
    with torch.no_grad():
        output.logits[:, ::2] = 50.0
    losses = LocalizationLoss()(output, TARGETS)
    losses["loss"].backward()
    assert losses["loss"] < 10
    assert not output.logits.grad[:, ::2].any() and not output.offsets.grad[:, ::2].any()


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_without_actions_trains_the_classifier_only(training):
    output = make_output()
    losses = LocalizationLoss().train(training)(output, [NOTHING, NOTHING])
    losses["loss"].backward()
    assert losses["regression"] == 0 and losses["classification"] > 0
    assert output.logits.grad.isfinite().all() and output.logits.grad.any()
    assert not output.offsets.grad.any()


def test_a_batch_without_real_points_costs_nothing():
    output = make_output()
    output.point_mask[:] = False
    losses = LocalizationLoss()(output, TARGETS)
    losses["loss"].backward()
    assert losses["loss"] == 0
    assert not output.logits.grad.any() and not output.offsets.grad.any()


def test_one_class_ignores_labels():
    output = make_output(num_labels=1)
    specific = LocalizationLoss().eval()(output, TARGETS)["loss"]
    others = [dict(target, class_labels=target["class_labels"] + 190) for target in TARGETS]
    assert_close(LocalizationLoss().eval()(output, others)["loss"], specific)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_precision_is_computed_in_float32_or_more(dtype):
    output = make_output(dtype=dtype)
    losses = LocalizationLoss()(output, TARGETS)
    losses["loss"].backward()
    assert losses["loss"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert output.logits.grad.dtype == dtype and output.logits.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences():
    output = make_output()
    loss = LocalizationLoss(label_smoothing=0.1, loss_weight=2.0).eval()

    def total(logits, offsets):
        return loss(LocalizationHeadOutput(logits, offsets, output.points, output.point_mask), TARGETS)["loss"]

    assert torch.autograd.gradcheck(total, (output.logits, output.offsets))


def test_the_normalizer_is_a_running_mean_that_is_saved():
    loss = LocalizationLoss(initial_normalizer=200)
    output = make_output()
    count = int(
        sum(
            (assign_labels(output.points, t["segments"], t["class_labels"], 3, 1.5)[0] > 0).any(1).sum()
            for t in TARGETS
        )
    )
    loss(output, TARGETS)
    assert float(loss.normalizer) == pytest.approx(0.9 * 200 + 0.1 * count)
    loss(output, [NOTHING, NOTHING])
    assert float(loss.normalizer) == pytest.approx(0.81 * 200 + 0.09 * count + 0.1)
    before = float(loss.normalizer)
    loss.eval()(output, TARGETS)
    assert float(loss.normalizer) == before

    restored = LocalizationLoss()
    restored.load_state_dict(loss.state_dict())
    assert restored.normalizer.dtype == torch.float32
    assert float(restored.normalizer) == before


def test_a_loss_built_on_meta_is_complete_after_initialization():
    with torch.device("meta"):
        loss = LocalizationLoss(initial_normalizer=123)
    loss.to_empty(device="cpu").initialize_weights()
    assert float(loss.normalizer) == 123


def test_a_second_backward_pass_sees_its_own_normalizer():
    loss, output = LocalizationLoss(), make_output()
    first = loss(output, TARGETS)["loss"]
    loss(output, TARGETS)
    first.backward()  # the buffer has changed since
    assert output.logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([TARGETS[0]], "batch of 2"),
        ([TARGETS[0], make_target([[1.0, 2.0]], [3])], r"targets\[1\].*0\.\.2"),
        ([TARGETS[0], make_target([[1.0, 2.0]], [0, 1])], r"targets\[1\]"),
    ],
)
def test_bad_targets_are_named(targets, message):
    with pytest.raises(ValueError, match=message):
        LocalizationLoss()(make_output(), targets)


# Points in time


def spotting_output(displacements, radius=1.5, num_labels=3):
    """A head's output for one sequence whose steps say how far off the action is."""
    displacements = torch.tensor(displacements, dtype=torch.float64, requires_grad=True)
    steps = torch.arange(len(displacements), dtype=torch.float32)
    constants = [torch.full_like(steps, value) for value in (0.0, radius, 1.0)]
    output = LocalizationHeadOutput(
        logits=torch.zeros(1, len(steps), num_labels, dtype=torch.float64, requires_grad=True),
        offsets=torch.stack([radius - displacements, radius + displacements], -1)[None],
        points=torch.stack([steps, *constants], 1),
        point_mask=torch.ones(1, len(steps), dtype=torch.bool),
    )
    return output, displacements


def test_steps_near_a_point_learn_its_class_and_the_nearest_time():
    output, _ = spotting_output([0.0] * 8)
    # Of the second, a segment, the middle counts: 5.25. Step 4 is near both.
    target = make_target([[3.0, 3.0], [4.0, 6.5]], [0, 2])
    positive, offsets = SpottingLoss()._targets(output, [target])
    assert [row.nonzero().flatten().tolist() for row in positive[0]] == [[], [], [0], [0], [0, 2], [2], [2], []]
    displacements = (offsets[0, :, 1] - offsets[0, :, 0]) / 2
    assert displacements[2:7].tolist() == [1, 0, -1, 0.25, -0.75]
    assert not SpottingLoss()._targets(output, [NOTHING])[0].any()


def test_the_loss_of_points_is_that_of_their_distance():
    target = make_target([[3.25, 3.25]], [1])
    right, _ = spotting_output([0, 0, 1.25, 0.25, -0.75, 0])
    assert_close(SpottingLoss().eval()(right, [target])["regression"], torch.tensor(0.0))
    wrong, displacements = spotting_output([0, 0, 1.25, 0.75, -0.75, 0])
    loss = SpottingLoss().eval()(wrong, [target])
    # Three steps learn it, and one is half a step off, of segments of three.
    assert_close(loss["regression"], torch.tensor((1 - 2.5 / 3.5 + (0.5 / 3.5) ** 2) / 3))
    loss["regression"].backward()
    assert displacements.grad.nonzero().flatten().tolist() == [3] and displacements.grad[3] > 0


def test_what_a_point_can_learn():
    output, _ = spotting_output([0.0] * 4)
    loss = SpottingLoss()
    segments = torch.tensor([[-1.0, -1.0], [-2.0, -2.0], [3.0, 4.0], [5.0, 5.0]])
    assert loss.can_learn(output, segments).tolist() == [True, False, True, False]
    output.point_mask[0, 3] = False
    assert loss.can_learn(output, segments).tolist() == [True, False, False, False]


@pytest.mark.parametrize("option", [{"center_radius": 2.0}, {"all_classes": True}])
def test_what_is_of_segments_is_refused_of_points(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is of segments"):
        SpottingLoss(**option)
