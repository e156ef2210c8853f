"""What holds of every registered head: shapes, masks and padding, precision, building, learning, saving."""

import itertools

import pytest
import torch
from head_cases import HEAD_CASES, assert_learns, assert_survives_saving, features_of, prefix_mask, tiny_model
from tolerances import assert_close, assert_gradients_close

from re2tal_hf import head_memory
from re2tal_hf.head import HEADS
from re2tal_hf.training.memory import saved_for_backward

CASES = list(HEAD_CASES.values())
TARGET = {"segments": torch.tensor([[3.0, 9.0]]), "class_labels": torch.tensor([1])}

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def each(of):
    """Parameters: every case with each of what `of` returns for it."""
    found = [(case, *values) for case in CASES for values in of(case)]
    return [pytest.param(*values, id=f"{values[0].name}-{number}") for number, values in enumerate(found)]


def test_every_head_has_a_case():
    assert set(HEADS) == set(HEAD_CASES)


@pytest.mark.parametrize(("case", "variant"), each(lambda case: zip(case.variants)))
def test_padding_does_not_change_what_is_predicted(case, variant):
    head = case.trained(**variant)
    features, mask = features_of(21)
    alone = head(features, mask)
    for total in (22, 24, 32):
        batch = torch.full((2, 8, total), 1e6, dtype=torch.float64)
        batch[:1, :, :21] = features
        batch[1] = torch.randn(8, total)
        padded = head(batch, prefix_mask([21, total], total))
        expected = case.real(alone, 0)
        for name, found in case.real(padded, 0).items():
            assert_close(found, expected[name], what=name)


@pytest.mark.parametrize("length", [1, 3, 4, 8, 33, 70])
@pytest.mark.parametrize(("case", "padding"), each(lambda case: zip(case.paddings)))
def test_any_length_is_accepted(case, padding, length):
    logits, segments, point_mask = case.trained(padding=padding, **case.variants[-1])(
        *features_of(length)
    ).scored_segments()
    num_points = case.points_per_step * sum(-(-length // stride) for stride in case.strides)
    # A point may stand for each class apart.
    assert point_mask.sum() in (num_points, 4 * num_points)
    assert logits.shape == (1, point_mask.shape[1], 4) and segments.shape == (1, point_mask.shape[1], 2)
    assert not logits.isnan().any() and segments.isfinite().all()


@pytest.mark.parametrize(
    ("case", "padding", "variant"), each(lambda case: itertools.product(case.paddings, case.variants))
)
def test_a_sequence_without_real_steps_gives_finite_numbers_and_gradients(case, padding, variant):
    head = case.trained(padding=padding, **variant).train()
    features = torch.randn(2, 8, 24, dtype=torch.float64, requires_grad=True)
    output = head(features, prefix_mask([0, 17], 24))
    assert not output.point_mask[0].any()
    values = [getattr(output, name) for name in case.outputs]
    assert all(value.isfinite().all() for value in values)
    torch.stack([value.sum() for value in values]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in [features, *head.parameters()])


@every_case
def test_the_loss_of_windows_with_and_without_actions_is_finite(case):
    head, loss = case.trained().train(), HEADS[case.name].loss_class()
    output = head(torch.randn(2, 8, 24, dtype=torch.float64), prefix_mask([0, 17], 24))
    none = {"segments": torch.zeros(0, 2), "class_labels": torch.zeros(0, dtype=torch.long)}
    losses = loss(output, [none, TARGET])
    assert_close(sum(value for name, value in losses.items() if name != "loss"), losses["loss"])
    losses["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
    assert loss.can_learn(output, torch.tensor([[30.0, 39.0]])).tolist() == [False]


RECOMPUTED = [
    (case, variant)
    for case in HEAD_CASES.values()
    for variant in (
        {},
        *({"attention_window": w} for w in (5, [5, 3, None]) if case.name in ("actionformer", "spotting")),
    )
] + [
    (HEAD_CASES["actionformer"], {"attention_window": 4, "neck": "fpn", "padding": "actionformer"}),
    (HEAD_CASES["actionformer"], {"attention_window": 5, "use_relative_position_bias": True, "num_head_layers": 0}),
    (HEAD_CASES["tridet"], {"window": [3, 5, 1], "neck": "fpn", "padding": "opentad", "boundary_kernel_size": 5}),
]


@pytest.mark.parametrize(("case", "variant"), RECOMPUTED, ids=lambda value: getattr(value, "name", str(value)))
def test_a_head_that_recomputes_keeps_less_and_has_the_same_gradients(case, variant, monkeypatch):
    monkeypatch.setattr(head_memory, "CHUNK_STEPS", 10)
    head, loss = (
        case.trained(**variant | (case.learning | {"drop_path": 0.3} if case.learning else {})),
        HEADS[case.name].loss_class().double().eval(),
    )
    features, _ = features_of(52, batch=2)
    mask = prefix_mask([52, 39], 52)
    kept, found = {}, {}
    for recomputes in (False, True):
        head.recomputes = loss.recomputes = recomputes
        head.train().zero_grad()
        torch.manual_seed(0)
        features = features.detach().requires_grad_()
        with saved_for_backward([features, *head.parameters()]) as saved:
            losses = loss(head(features, mask), [TARGET, TARGET])
        kept[recomputes] = saved.total()
        losses["loss"].backward()
        found[recomputes] = {name: p.grad for name, p in head.named_parameters()}
        found[recomputes] |= {"features": features.grad, "loss": losses["loss"].detach()}
    assert_gradients_close(found[True], found[False], bound=1e-10)
    assert kept[True] < 0.6 * kept[False]


@every_case
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_stays_near_float32(case, half):
    head = case.trained(**case.variants[-1]).float()
    features, mask = torch.randn(2, 8, 32), prefix_mask([32, 20], 32)
    exact = head(features, mask)
    with torch.autocast("cpu", half):
        rough = head(features, mask)
    assert all(getattr(rough, name).dtype == torch.float32 for name in case.wide)
    real = exact.point_mask
    assert_close(getattr(rough, case.near)[real], getattr(exact, case.near)[real], dtype=half)
    HEADS[case.name].loss_class()(rough, [TARGET] * 2)["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


@every_case
def test_runs_in_bfloat16_throughout(case):
    head = case.trained().bfloat16()
    predictions = head(torch.randn(2, 8, 32).bfloat16(), prefix_mask([32, 20], 32)).scored_segments()
    assert not predictions.logits.isnan().any() and predictions.segments.isfinite().all()
    assert predictions.segments.dtype == torch.float32


@pytest.mark.parametrize(("case", "options"), each(lambda case: zip(case.bad)))
def test_bad_settings_are_named(case, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        case.build(**options)


@every_case
def test_bad_shapes_are_named(case):
    head = case.trained()
    features, mask = features_of(16)
    with pytest.raises(ValueError, match="mask"):
        head(features, mask[:, 1:])
    with pytest.raises(ValueError, match="features"):
        head(features.transpose(1, 2), mask[:, :8])


@every_case
def test_weights_are_the_same_at_the_same_seed(case):
    torch.manual_seed(3)
    first = case.build().state_dict()
    torch.manual_seed(3)
    for name, value in case.build().state_dict().items():
        assert torch.equal(value, first[name]), name


@every_case
def test_a_head_built_on_meta_is_complete_after_initialization(case):
    with torch.device("meta"):
        head = case.build(**case.variants[-1])
    assert not list(head.buffers())
    head.to_empty(device="cpu")
    for parameter in head.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    head.initialize_weights()
    assert all(parameter.isfinite().all() for parameter in head.parameters())
    logits, segments, _ = head(torch.randn(1, 8, 16), torch.ones(1, 16, dtype=torch.bool)).scored_segments()
    assert not logits.isnan().any() and segments.isfinite().all()


# In the whole model


def config_of(case, **settings):
    return {"model_type": case.name, **case.settings, **case.learning, "standardize_input": True, **settings}


@pytest.mark.training
@every_case
def test_learns_a_few_windows_and_survives_saving(case, tmp_path):
    model = tiny_model(config_of(case))
    assert_learns(model, num_steps=60, learning_rate=0.005, finds_points=case.finds_points)
    assert_survives_saving(model, tmp_path)


@every_case
@pytest.mark.parametrize("settings", [{"hidden_size": 17}, {"num_bananas": 3}])
def test_a_bad_configuration_gives_one_clear_error(case, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        tiny_model(config_of(case, **settings))
