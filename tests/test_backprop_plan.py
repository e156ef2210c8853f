"""`backprop="auto"`: bytes as predicted, the fastest modes within a budget, the gradients of every plan."""

import itertools

import pytest
import torch
from accelerate import Accelerator
from architecture_cases import CASES
from run_factory import small_pipeline
from test_architectures import backbone, clip, every_case
from tolerances import assert_gradients_close, depth_of
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.video.swin_transformer import SwinTransformer3d

from re2tal_hf import Re2TALConfig, rewire
from re2tal_hf.backprop_plan import BackpropPlan, StageMemory, best_choices, make_plan, read_bytes
from re2tal_hf.rewired_model import RewiredModel
from re2tal_hf.training.arguments import OptimizationArguments, load_recipe
from re2tal_hf.training.memory import saved_for_backward
from re2tal_hf.training.memory_budget import budget_of, plan_backprop

ENOUGH = 2**40
SWIN = CASES[0]


def kept(model: RewiredModel, inputs: torch.Tensor) -> int:
    """Bytes that a forward pass keeps, as measured."""
    with saved_for_backward([*model.parameters(), *model.buffers()]) as saved:
        model.forward_features(inputs)
    return saved.total()


def plan_of(model: RewiredModel) -> BackpropPlan:
    assert model.plan is not None
    return model.plan


def some(budgets: list[int]) -> list[int]:
    """Leanest, fastest and three between."""
    return [budgets[i * (len(budgets) - 1) // 4] for i in range(5)]


@every_case
@pytest.mark.training
def test_predicted_bytes_are_those_measured(case):
    model = backbone(case, "auto", **case.stochastic).train()
    inputs = clip(model, case)
    model.memory_budget = ENOUGH
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    plan = model.plan_for((2, model.architecture.clip_length(model) or case.shape[0], 3, *case.shape[1:]))
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert torch.equal(torch.get_rng_state(), state)
    model.forward_features(inputs)
    assert plan.choices == plan_of(model).choices
    for budget in some([choice[0] for choice in plan_of(model).choices]):
        model.memory_budget = budget
        assert kept(model, inputs) == pytest.approx(plan_of(model).kept, rel=0.02)
        assert plan_of(model).kept <= budget


@pytest.mark.training
@pytest.mark.parametrize(
    ("rewiring", "bits"), [("re2tal", None), ("re2tal", 16), ("re2tal", 24), ("none", None), ("dr2net", None)]
)
def test_predicted_bytes_with_frozen_stages_autocast_and_every_rewiring(rewiring, bits):
    model = backbone(SWIN, "auto", rewiring).train()
    model.stream_bits = bits
    inputs = clip(model, SWIN)
    for parameter in model.architecture.stages(model)[0].entry.parameters():
        parameter.requires_grad_(False)
    model.memory_budget = ENOUGH
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            model.forward_features(inputs)
            for budget in some([choice[0] for choice in plan_of(model).choices]):
                model.memory_budget = budget
                assert kept(model, inputs) == pytest.approx(plan_of(model).kept, rel=0.02)


def test_a_stage_without_gradient_keeps_nothing():
    model = backbone(SWIN, "auto").train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.memory_budget = 0
    model.forward_features(clip(model, SWIN))
    assert plan_of(model).kept == 0 and plan_of(model).step == 1


@pytest.mark.training
@pytest.mark.parametrize("name", ["video_swin", "slow_only"])
def test_gradients_of_every_plan(name):
    case = next(case for case in CASES if case.name == name)
    model = backbone(case, "plain", **case.stochastic).double().train()
    inputs = clip(model, case).double()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def gradients() -> dict[str, torch.Tensor | None]:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        torch.manual_seed(3)
        loss = model.forward_features(inputs).square().sum()
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        return {name: grad for (name, _), grad in zip(model.named_parameters(), found, strict=True)}

    expected = gradients()
    model.backprop, model.memory_budget = "auto", ENOUGH
    model.forward_features(inputs)
    taken = set()
    for budget, _ in plan_of(model).choices:
        model.memory_budget = budget
        assert_gradients_close(gradients(), expected, depth=depth_of(model))
        taken.add(plan_of(model).modes)
    assert len(taken) == len(plan_of(model).choices) > 3


def test_the_choice_is_exact():
    generator = torch.Generator().manual_seed(0)

    def number(high: int) -> int:
        return int(torch.randint(1, high, (1,), generator=generator))

    def stage(index: int) -> StageMemory:
        before, own, inner = 2 * index, 2 * index + 2, 100 + index
        return StageMemory(
            kept={
                "plain": {before: 7, inner: number(90), own: 7},
                "checkpoint": {before + 1: 6, inner + 50: number(40), own: 7},
                "reversible": {before: 7, before + 1: 6, own: 7, own + 1: 6},
            },
            work=number(100),
            extra={"plain": 0, "checkpoint": number(50), "reversible": number(60)},
            largest_module=1,
            is_trained=True,
        )

    # The last is what comes after the stages.
    stages = [*map(stage, range(4)), StageMemory({"plain": {8: 7, 900: 11}}, 3, {"plain": 0}, 0, is_trained=True)]
    every = []
    for modes in itertools.product(*(memory.kept for memory in stages)):
        union = {k: v for memory, mode in zip(stages, modes, strict=True) for k, v in memory.kept[mode].items()}
        extra = sum(memory.extra[mode] for memory, mode in zip(stages, modes, strict=True))
        every.append((sum(union.values()), extra))
    for budget in range(min(every)[0], max(every)[0], 7):
        best = min(extra for number_of_bytes, extra in every if number_of_bytes <= budget)
        fitting = [choice for choice in best_choices(stages, range(5)) if choice.kept <= budget]
        assert fitting[-1].extra == best
    assert all("reversible" not in choice.modes for choice in best_choices(stages, ()))
    with pytest.raises(ValueError, match="memory budget leaves 0.0 MiB"):
        make_plan(stages, 1, (1,), range(5))


def test_distributed_training_within_a_budget(tmp_path):
    model = backbone(SWIN, "plain").double().train()
    inputs = clip(model, SWIN).double()
    model.forward_features(inputs).square().sum().backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.backprop, model.memory_budget = "auto", ENOUGH
    choices = model.plan_for((2, *SWIN.shape[:1], 3, *SWIN.shape[1:]), torch.float64).choices
    model.memory_budget = choices[len(choices) // 2][0]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(Features(model), find_unused_parameters=True)  # of its classifier
        for _ in range(2):
            model.zero_grad()
            parallel(inputs).square().sum().backward()
            assert_gradients_close({n: p.grad for n, p in model.named_parameters()}, expected, depth=depth_of(model))
        assert len(set(plan_of(model).modes)) > 1 and plan_of(model).kept <= plan_of(model).budget
    finally:
        torch.distributed.destroy_process_group()


class Features(torch.nn.Module):
    def __init__(self, model: RewiredModel):
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.model.forward_features(inputs)


def test_another_input_has_another_plan():
    model = backbone(SWIN, "auto").train()
    inputs = clip(model, SWIN)
    model.memory_budget = ENOUGH
    model.forward_features(inputs)
    whole = plan_of(model)
    model.memory_budget = whole.choices[-1][0]
    model.forward_features(inputs)
    assert set(plan_of(model).modes) == {"plain"}
    assert f"{inputs.shape[0]}x3x" in str(plan_of(model)) and "stage 0: plain" in str(plan_of(model))
    model.forward_features(torch.cat([inputs, inputs]))
    assert set(plan_of(model).modes) != {"plain"} and plan_of(model).kept <= whole.kept
    with pytest.raises(ValueError, match="take a smaller batch"):
        model.memory_budget = 1000
        model.forward_features(inputs)


@pytest.mark.training
def test_dr2net_inverts_only_what_its_switch_lets():
    model = backbone(SWIN, "auto", "dr2net").train()
    inputs = clip(model, SWIN)
    model.memory_budget = ENOUGH
    model.forward_features(inputs)
    leanest = plan_of(model).choices[0][0]
    model.memory_budget = leanest
    model.forward_features(inputs).sum().backward()
    assert "reversible" not in plan_of(model).modes
    model.set_coupling([0.0, 1.0])
    for _ in range(30):
        model.forward_features(inputs).sum().backward()
    assert plan_of(model).choices[0][0] < leanest


@pytest.mark.training
def test_without_a_budget_what_is_free_counts():
    model = backbone(SWIN, "auto").train()
    model.forward_features(clip(model, SWIN))
    assert set(plan_of(model).modes) == {"plain"} and plan_of(model).budget > 0
    with torch.no_grad():
        model.forward_features(clip(model, SWIN)[:1])


def test_the_public_surface():
    assert Re2TALConfig(backprop="auto").backprop == "auto"
    network = SwinTransformer3d([2, 4, 4], 8, [1, 1], [1, 2], [2, 3, 3])
    model = rewire(network, backprop="auto")
    assert model.plan is None and model.memory_budget is None
    with pytest.raises((TypeError, ValueError), match="memory_budget"):
        model.memory_budget = "24GB"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("text", "number"), [("24GB", 24 * 10**9), ("1.5 gib", 3 * 2**29), (4096, 4096), ("900 MiB", 900 * 2**20)]
)
def test_bytes_in_words(text, number):
    assert read_bytes(text, "budget") == number


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "24 parsec", "0", True, None, "nan", [1]])
def test_no_bytes(text):
    with pytest.raises(ValueError, match="training.memory_budget is"):
        read_bytes(text, "training.memory_budget")


@pytest.mark.usefixtures("fresh_accelerator")
def test_what_is_left_of_the_trainings_memory():
    model = small_pipeline(backprop="auto").model
    arguments = OptimizationArguments(memory_budget="1GB")
    accelerator = Accelerator(cpu=True)
    state = torch.get_rng_state()
    budget = budget_of(arguments, accelerator.device)
    plan = plan_backprop(model, (2, 16, 3, 32, 32), arguments, budget, accelerator.autocast)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(plan.modes) == {"plain"} and plan.budget == model.memory_budget
    weights = sum(4 * parameter.numel() for parameter in model.parameters())
    assert plan.kept < plan.budget < 10**9 - 5 * weights
    with pytest.raises(ValueError, match=r"training.memory_budget is 1.0 MB, and this training needs \d+\.\d MB: "):
        plan_backprop(model, (2, 16, 3, 32, 32), arguments, 10**6, accelerator.autocast)


def test_a_budget_is_for_auto():
    with pytest.raises(ValueError, match=r"training.backprop_share is for model.backprop=clips"):
        load_recipe("quickstart", ["training.backprop_share=0.3", "model.backprop=auto"])
    with pytest.raises(ValueError, match=r"training.memory_budget is for model.backprop=auto"):
        load_recipe("quickstart", ["training.memory_budget=24GB"])
    with pytest.raises(ValueError, match=r"training.memory_budget is '2 parsec'"):
        load_recipe("quickstart", ["training.memory_budget=2 parsec", "model.backprop=auto"])
    assert load_recipe("quickstart", ["training.memory_budget=24GB", "model.backprop=auto"]).model["backprop"] == "auto"
