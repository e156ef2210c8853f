"""What a recomputation puts back, by modules whose output depends on more than their input."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close, assert_gradients_close
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

from re2tal_hf.reversible import Backprop, Coupling, Stage, run_stages

MODES: tuple[Backprop, ...] = ("reversible", "checkpoint")
COUPLING = Coupling(0.0, 1.0)
SIZE = 6


class Counter(nn.Module):
    """Counts its calls in a buffer, in place or by a new tensor, and scales by the count."""

    count: Tensor

    def __init__(self, in_place: bool):
        super().__init__()
        self.in_place = in_place
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            self.count += 1
        else:
            self.count = self.count + 1
        return x * (1 + 0.3 * self.count)


class OwnNorm(nn.Module):
    """A batch norm by its function, without a counter."""

    mean: Tensor
    variance: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(SIZE))
        self.register_buffer("variance", torch.ones(SIZE))

    def forward(self, x: Tensor) -> Tensor:
        shift = self.mean[:, None].clone()
        return F.batch_norm(x, self.mean, self.variance, training=True) + shift


LAYERS = {
    "own norm": OwnNorm,
    "spectral norm": lambda: spectral_norm(nn.Conv1d(SIZE, SIZE, 3, padding=1)),
    "batch norm": lambda: nn.BatchNorm1d(SIZE),
    "cumulative batch norm": lambda: nn.BatchNorm1d(SIZE, momentum=None),
    "instance norm": lambda: nn.InstanceNorm1d(SIZE, track_running_stats=True),
    "counter": lambda: Counter(in_place=True),
    "counter by a new tensor": lambda: Counter(in_place=False),
    "dropout": lambda: nn.Dropout(0.3),
    "random ReLU": lambda: nn.RReLU(),
    "alpha dropout": lambda: nn.AlphaDropout(0.3),
}
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())


class Network(nn.Module):
    branches: Any  # torch's containers know only that they hold modules
    backprop: Backprop

    def __init__(self, layer=nn.Identity, depth: int = 4):
        super().__init__()
        self.entry = nn.Sequential(nn.Conv1d(3, SIZE, 3, padding=1), layer())
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv1d(SIZE, SIZE, 3, padding=1), layer(), nn.Tanh()) for _ in range(depth)
        )
        self.backprop = "plain"

    def forward(self, x: Tensor) -> Tensor:
        [output] = run_stages([Stage(self.entry, list(self.branches))], x, COUPLING, self.backprop)
        return output


def network(layer=nn.Identity) -> Network:
    torch.manual_seed(0)
    return Network(layer).double()


def video() -> Tensor:
    return torch.randn(4, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def train(model: Network, mode: Backprop, steps: int = 2) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Gradients, summed over some steps, and buffers after them."""
    model.backprop = mode
    torch.manual_seed(2)
    for _ in range(steps):
        model(video()).square().sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    return grads, dict(model.named_buffers())


@every_layer
@pytest.mark.parametrize("mode", MODES)
def test_gradients_and_buffers_are_those_of_plain_autograd(layer, mode):
    expected_grads, expected_buffers = train(network(layer), "plain")
    grads, buffers = train(network(layer), mode)
    assert_gradients_close(grads, expected_grads)
    assert_gradients_close(buffers, expected_buffers)


@every_layer
@pytest.mark.parametrize("mode", MODES)
def test_two_forward_passes_before_their_backward_passes(layer, mode):
    results = {}
    for backprop in ("plain", mode):
        model = network(layer)
        model.backprop = backprop
        torch.manual_seed(2)
        first, second = model(video()).square().sum(), model(2 * video()).square().sum()
        first.backward()
        second.backward()
        results[backprop] = {name: p.grad for name, p in model.named_parameters()}
    assert_gradients_close(results[mode], results["plain"])


@every_layer
@pytest.mark.parametrize("mode", MODES)
def test_backward_twice_gives_twice_the_gradient(layer, mode):
    model = network(layer)
    model.backprop = mode
    loss = model(video()).square().sum()
    loss.backward(retain_graph=True)
    once = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    loss.backward()
    assert_gradients_close({name: p.grad for name, p in model.named_parameters()}, {n: 2 * g for n, g in once.items()})


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_is_that_of_the_forward_pass(mode):
    results = {}
    for backprop in ("plain", mode):
        model = network(LAYERS["dropout"])
        model.backprop = backprop
        torch.manual_seed(2)
        loss = model(video()).square().sum()
        model.eval()
        loss.backward()
        assert not any(module.training for module in model.modules())
        results[backprop] = {name: p.grad for name, p in model.named_parameters()}
    assert_gradients_close(results[mode], results["plain"])


@pytest.mark.parametrize("mode", MODES)
def test_a_buffer_changed_before_the_backward_pass_is_refused(mode):
    model = network(LAYERS["batch norm"]).eval()
    model.backprop = mode
    loss = model(video()).square().sum()
    with torch.no_grad():
        model.branches[1][1].running_mean.add_(1)
    with pytest.raises(RuntimeError, match="changed after the forward pass"):
        loss.backward()


@pytest.mark.parametrize("mode", MODES)
def test_hooks_count_in_both_passes(mode):
    results = {}
    for backprop in ("plain", mode):
        model = network()
        for branch in model.branches:
            branch[0].register_forward_hook(lambda module, inputs, output: 1.5 * output)
            branch[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 0.1,))
        results[backprop] = train(model, backprop)[0]
    assert_gradients_close(results[mode], results["plain"])
    without = train(network(), "plain")[0]
    assert not torch.allclose(results["plain"]["branches.0.0.weight"], without["branches.0.0.weight"])


@pytest.mark.parametrize("mode", MODES)
def test_a_hook_on_a_parameters_gradient_runs_once(mode):
    model = network()
    model.branches[0][0].weight.register_hook(lambda grad: 3 * grad)
    expected = train(network(), "plain", steps=1)[0]["branches.0.0.weight"]
    assert_close(train(model, mode, steps=1)[0]["branches.0.0.weight"], 3 * expected)


@every_layer
@pytest.mark.parametrize("mode", ["plain", *MODES])
def test_inside_an_outer_checkpoint(layer, mode):
    if isinstance(layer(), Counter) or "norm" in str(layer()).lower():
        pytest.skip("torch's own checkpoint updates buffers twice")
    results = {}
    for outer in (False, True):
        model = network(layer)
        model.backprop = mode
        torch.manual_seed(2)
        x = video().requires_grad_()
        output = checkpoint(model, x, use_reentrant=False) if outer else model(x)
        output.square().sum().backward()
        results[outer] = {"input": x.grad, **{name: p.grad for name, p in model.named_parameters()}}
    assert_gradients_close(results[True], results[False])


@pytest.mark.parametrize("mode", MODES)
def test_parameters_and_buffers_of_a_functional_call(mode):
    results = {}
    for backprop in ("plain", mode):
        model = network(LAYERS["batch norm"]).eval()
        model.requires_grad_(False)
        model.backprop = backprop
        tensors = {name: (tensor * 1.1) for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
        scale = tensors["branches.0.0.weight"].requires_grad_()
        # The backward pass runs when the module has its own parameters, frozen ones too, and buffers again.
        loss = functional_call(model, tensors, (video(),)).square().sum()
        results[backprop] = {"grad": torch.autograd.grad(loss, scale)[0]}
    assert_gradients_close(results[mode], results["plain"])


class Quantized(nn.Module):
    """A linear layer whose integer weights only it can handle, as those of quantisation libraries."""

    class Codes(nn.Parameter):
        """Integers with a scale beside them."""

        scale: float

    def __init__(self):
        super().__init__()
        self.codes = Quantized.Codes(torch.randint(-127, 128, (8, 8), dtype=torch.int8), requires_grad=False)
        self.codes.scale = 1 / 127
        self.adapter = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.codes.to(x.dtype) * self.codes.scale) + self.adapter(x)


@pytest.mark.parametrize("mode", MODES)
def test_frozen_parameters_of_other_classes(mode):
    results = {}
    for backprop in ("plain", mode):
        model = network(Quantized)
        results[backprop] = {name: grad for name, grad in train(model, backprop)[0].items() if grad is not None}
    assert len(results["plain"]) == 20
    assert_gradients_close(results[mode], results["plain"])


@pytest.mark.parametrize("mode", MODES)
def test_transforms_and_second_derivatives_name_the_way_out(mode):
    model = network()
    model.backprop = mode
    parameters = dict(model.named_parameters())

    def loss(values):
        return functional_call(model, values, (video(),)).square().sum()

    with pytest.raises(RuntimeError, match="backprop='plain' allows it"):
        torch.func.grad(loss)(parameters)
    x = video().requires_grad_()
    [grad] = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="backprop='plain' allows it"):
        grad.sum().backward()
    model.backprop = "plain"
    assert torch.func.grad(loss)(parameters).keys() == parameters.keys()
    [grad] = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    grad.sum().backward()
