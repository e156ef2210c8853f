"""The engine alone, on small branches that know nothing of video."""

import copy
import warnings
from typing import Any, TypeAlias

import pytest
import torch
from tolerances import assert_close, assert_gradients_close, depth_of
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from re2tal_hf.reversible import INPUT, Backprop, Coupling, ReconstructionErrors, Stage, run_stages
from re2tal_hf.training.memory import saved_for_backward

RE2TAL = Coupling(0.0, 1.0)
DUAL = Coupling(0.3, 0.7)
MODES: tuple[Backprop, ...] = ("reversible", "checkpoint", "plain")
AnyNetwork: TypeAlias = "Network | TwoPathways"


class Network(nn.Module):
    """Two stages of branches with dropout, after a stem."""

    entries: Any  # torch's containers know only that they hold modules
    branches: Any
    backprop: Backprop | list[Backprop]
    coupling: Coupling | list[Coupling]

    def __init__(self, width: int = 6, depth: int = 4, dropout: float = 0.2):
        super().__init__()

        def branch(size: int) -> nn.Module:
            return nn.Sequential(
                nn.LayerNorm(size),
                nn.Linear(size, 2 * size),
                nn.GELU(),
                nn.Linear(2 * size, size),
                nn.Dropout(dropout),
            )

        self.entries = nn.ModuleList([nn.Linear(3, width), nn.Linear(width, 2 * width)])
        self.branches = nn.ModuleList(nn.ModuleList(branch(size) for _ in range(depth)) for size in (width, 2 * width))
        self.backprop, self.coupling = "plain", RE2TAL
        self.errors = ReconstructionErrors()

    def forward(self, x: Tensor) -> Tensor:
        stages = [Stage(e, list(b)) for e, b in zip(self.entries, self.branches, strict=True)]
        [output] = run_stages(stages, x, self.coupling, self.backprop, self.errors)
        return output


def step(
    network: AnyNetwork, mode: Backprop | list[Backprop], x: Tensor, seed: int = 3, steps: int = 1
) -> tuple[Tensor, dict[str, Tensor | None], Tensor]:
    """Loss, gradients by name, gradient of the input, and the next number of the global stream."""
    network = copy.deepcopy(network)
    network.backprop = mode
    torch.manual_seed(seed)
    x = x.clone().requires_grad_(x.is_floating_point())
    for _ in range(steps):
        loss = network(x).square().mean()
        loss.backward()
    grads = {n: p.grad for n, p in network.named_parameters()}
    return loss.detach(), {**grads, "input": x.grad}, torch.rand(())


@pytest.mark.parametrize("coupling", [RE2TAL, DUAL], ids=["re2tal", "dual"])
@pytest.mark.parametrize("mode", ["reversible", "checkpoint"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_same_loss_gradients_and_random_stream(mode, dtype, coupling):
    network = Network().to(dtype)
    network.coupling = coupling
    x = torch.randn(2, 5, 3, dtype=dtype)
    loss, grads, following = step(network, mode, x)
    reference_loss, reference, reference_following = step(network, "plain", x)
    assert_close(loss, reference_loss, depth=depth_of(network))
    assert_gradients_close(grads, reference, depth=depth_of(network))
    assert following == reference_following


def test_forward_follows_the_equations():
    network = Network(dropout=0.0).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    for coupling in (RE2TAL, DUAL, Coupling(1.0, 0.0)):
        a, b = coupling
        expected = x
        for entry, branches in zip(network.entries, network.branches, strict=True):
            newest = entry(expected)
            rest = b * newest
            for branch in branches:
                newest, rest = branch(newest) + a * newest + rest, b * newest
            expected = (newest + rest) / (1 + b)
        network.coupling = coupling
        assert_close(network(x), expected)


def test_rewired_skips_one_block_more():
    network = Network(dropout=0.0).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    states = [network.entries[0](x)] * 2  # x[-1] = x[0]
    for branch in network.branches[0]:
        states.append(branch(states[-1]) + states[-2])
    stage = Stage(network.entries[0], list(network.branches[0]))
    [found] = run_stages([stage], x, RE2TAL, "plain")
    assert_close(found, (states[-1] + states[-2]) / 2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("frozen", ["entries.0", "branches.0", "branches.0.1", "branches.1.0", "branches.1", "entries"])
def test_frozen_parts(mode, frozen):
    network = Network().double()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    _, grads, _ = step(network, mode, x)
    _, reference, _ = step(network, "plain", x)
    assert_gradients_close(grads, reference)
    assert all((g is None) == name.startswith(frozen) for name, g in grads.items())


def test_input_without_gradient_and_frozen_start_keep_the_later_gradients():
    network = Network().double()
    network.entries[0].requires_grad_(False)
    network.branches[0][0].requires_grad_(False)
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    results = {}
    for mode in MODES:
        network.backprop = mode
        network.zero_grad()
        torch.manual_seed(1)
        network(x).square().mean().backward()
        results[mode] = {n: p.grad for n, p in network.named_parameters()}
        results[mode] = {n: g if g is None else g.clone() for n, g in results[mode].items()}
    assert_gradients_close(results["reversible"], results["plain"])
    assert_gradients_close(results["checkpoint"], results["plain"])
    assert results["plain"]["branches.0.1.1.weight"] is not None


@pytest.mark.parametrize("mode", ["reversible", "checkpoint"])
def test_accumulation_and_batch_of_one(mode):
    network = Network().double()
    x = torch.randn(1, 5, 3, dtype=torch.float64)
    assert_gradients_close(step(network, mode, x, steps=3)[1], step(network, "plain", x, steps=3)[1])


@pytest.mark.parametrize("mode", ["reversible", "checkpoint"])
def test_autocast_bfloat16(mode):
    network = Network(width=16)
    x = torch.randn(4, 5, 3)

    def gradients(backprop):
        replica = copy.deepcopy(network)
        replica.backprop = backprop
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = replica(x)
        assert output.dtype == torch.float32  # the streams stay fp32
        output.square().mean().backward()  # outside of autocast, as training loops do
        return {n: p.grad for n, p in replica.named_parameters()}

    found, reference = gradients(mode), gradients("plain")
    for name, grad in reference.items():
        assert found[name].dtype == torch.float32
        assert (found[name] - grad).norm() <= 0.0025 * grad.norm(), name


def saved_bytes(network: Network, x: Tensor) -> int:
    with saved_for_backward(without=network.parameters()) as saved:
        network(x)
    return saved.total()


def test_reversible_keeps_the_input_and_two_streams_a_stage_whatever_the_depth():
    x = torch.randn(8, 7, 3)
    kept = {}
    for depth in (2, 12):
        network = Network(depth=depth)
        network.backprop = "reversible"
        kept[depth] = saved_bytes(network, x)
    tokens, float_bytes = 8 * 7, 4
    assert kept[2] == kept[12] == tokens * float_bytes * (3 + 2 * 6 + 2 * 12)
    network.backprop = "plain"
    assert saved_bytes(network, x) > 20 * kept[12]


@pytest.mark.parametrize("mode", MODES)
def test_inference_keeps_nothing(mode):
    network = Network()
    network.backprop = mode
    x = torch.randn(2, 3)
    with torch.no_grad():
        assert saved_bytes(network, x) == 0
        assert not network(x).requires_grad
    network.requires_grad_(False)
    assert saved_bytes(network, x) == 0


def test_reconstruction_error_is_measured():
    network = Network(depth=24)
    network.backprop = "reversible"
    assert network.errors.largest() == 0.0
    network(torch.randn(4, 3)).sum().backward()
    assert set(network.errors.by_stage) == {0, 1}
    assert 0 < network.errors.largest() < 1e-5
    network.coupling = Coupling(1.0, 0.1)
    network(torch.randn(4, 3)).sum().backward()
    assert network.errors.largest() > 1e-2


def test_gradients_by_autograd_grad_and_functional_call():
    network = Network().double()
    x = torch.randn(2, 3, dtype=torch.float64)
    other = {n: (p * 1.1).detach().requires_grad_() for n, p in network.named_parameters()}

    def gradients(mode):
        network.backprop = mode
        torch.manual_seed(0)
        loss = functional_call(network, other, (x,)).square().sum()
        # The backward pass runs when the module has its own parameters again.
        return dict(zip(other, torch.autograd.grad(loss, list(other.values())), strict=True))

    assert_gradients_close(gradients("reversible"), gradients("plain"))
    assert all(p.grad is None for p in network.parameters())


def test_a_parameter_used_by_two_branches_gets_both_gradients():
    network = Network().double()
    network.branches[0][1] = network.branches[0][0]
    x = torch.randn(2, 3, dtype=torch.float64)
    assert_gradients_close(step(network, "reversible", x)[1], step(network, "plain", x)[1])


def test_changed_parameters_before_backward_are_refused():
    network = Network()
    network.backprop = "reversible"
    loss = network(torch.randn(2, 3)).sum()
    with torch.no_grad():
        network.branches[0][0][1].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_second_derivative_is_refused():
    network = Network()
    network.backprop = "reversible"
    x = torch.randn(2, 3, requires_grad=True)
    [grad] = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="backprop='plain' allows it"):
        grad.sum().backward()


def test_distributed_with_unused_parameters(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        network = Network().double()
        network.unused = nn.Linear(2, 2)
        expected = step(network, "plain", torch.ones(2, 3, dtype=torch.float64))[1]
        network.backprop = "reversible"
        parallel = DistributedDataParallel(network, find_unused_parameters=True)
        torch.manual_seed(3)
        parallel(torch.ones(2, 3, dtype=torch.float64)).square().mean().backward()
        found = {n: p.grad for n, p in network.named_parameters()}
        expected.pop("input")
        used = {n: g for n, g in expected.items() if not n.startswith("unused")}
        assert_gradients_close({n: found[n] for n in used}, used)
    finally:
        torch.distributed.destroy_process_group()


def test_wrong_settings_are_named():
    stage = Stage(nn.Identity(), [nn.Linear(2, 2)])
    with pytest.raises(ValueError, match="no inverse"):
        run_stages([stage], torch.ones(1, 2), Coupling(1.0, 0.0), "reversible")
    with pytest.raises(ValueError, match="choose 'reversible'"):
        run_stages([stage], torch.ones(1, 2), RE2TAL, "magic")  # type: ignore[arg-type]


def test_no_warnings_in_a_plain_step():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mode in MODES:
            step(Network(), mode, torch.randn(2, 3))


class Fusion(nn.Module):
    """Concatenates one pathway with a projection of another, then mixes them."""

    def __init__(self, size: int, lateral_size: int):
        super().__init__()
        self.lateral = nn.Linear(lateral_size, size)
        self.mix = nn.Linear(2 * size, size)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.mix(torch.cat([x, self.lateral(other)], -1))


class TwoPathways(nn.Module):
    """A shared stem, a narrow pathway, and a wide one that takes from it; ReLU after each sum."""

    backprop: Backprop | list[Backprop]
    coupling: Coupling | list[Coupling]

    def __init__(self, depth: int = 4):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.1))
        self.narrow = nn.ModuleList([nn.Linear(6, 4), *(nn.Linear(4, 4) for _ in range(depth))])
        self.wide = nn.ModuleList([Fusion(6, 6), *(nn.Linear(6, 6) for _ in range(depth))])
        self.last = nn.ModuleList([Fusion(6, 4), *(nn.Linear(6, 6) for _ in range(depth))])
        self.backprop, self.coupling = "plain", RE2TAL
        self.errors = ReconstructionErrors()

    def stages(self) -> list[Stage]:
        return [
            Stage(self.stem, [], [INPUT]),
            Stage(self.narrow[0], list(self.narrow)[1:], [0], torch.relu),
            Stage(self.wide[0], list(self.wide)[1:], [0, 0], torch.relu),
            Stage(self.last[0], list(self.last)[1:], [2, 1], torch.relu),
            Stage(nn.Identity(), [], [1]),
        ]

    def forward(self, x: Tensor) -> Tensor:
        last, narrow = run_stages(self.stages(), x, self.coupling, self.backprop, self.errors)
        return torch.cat([last, narrow], -1)


@pytest.mark.parametrize("coupling", [RE2TAL, DUAL], ids=["re2tal", "dual"])
@pytest.mark.parametrize("mode", ["reversible", "checkpoint"])
def test_pathways_that_meet(mode, coupling):
    network = TwoPathways().double()
    network.coupling = coupling
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    loss, grads, following = step(network, mode, x)
    reference_loss, reference, reference_following = step(network, "plain", x)
    assert_close(loss, reference_loss)
    assert_gradients_close(grads, reference)
    assert following == reference_following


def test_the_activation_stands_after_the_near_sum():
    network = TwoPathways(depth=2).double().eval()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    stage = Stage(network.stem, list(network.wide)[1:], activation=torch.relu)
    first, second = stage.branches
    start = network.stem(x)
    [plain] = run_stages([stage], x, Coupling(1.0, 0.0), "plain")
    near = torch.relu(first(start) + start)
    assert_close(plain, torch.relu(second(near) + near))
    [rewired] = run_stages([stage], x, RE2TAL, "plain")
    near = torch.relu(first(start)) + start
    assert_close(rewired, (torch.relu(second(near)) + start + near) / 2)


def test_pathways_keep_their_streams_only():
    kept = {}
    for depth in (2, 8):
        network = TwoPathways(depth)
        network.backprop = "reversible"
        x = torch.randn(16, 50, 3)
        with saved_for_backward([*network.parameters()]) as saved:
            network(x).sum()
        kept[depth] = saved.total()
    assert kept[2] == kept[8]
    # The input, the stem's output, two streams of sizes 4, 6 and 6.
    assert kept[2] == 16 * 50 * 4 * (3 + 6 + 2 * (4 + 6 + 6))


def test_each_stage_may_have_its_own_coupling_and_mode():
    network = TwoPathways().double()
    couplings = [RE2TAL, DUAL, RE2TAL, Coupling(1.0, 0.0), RE2TAL]
    modes: list[Backprop] = ["reversible", "reversible", "checkpoint", "plain", "reversible"]
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    network.coupling = couplings
    reference = step(network, "plain", x)
    mixed = step(network, modes, x)
    assert_close(mixed[0], reference[0])
    assert_gradients_close(mixed[1], reference[1])
