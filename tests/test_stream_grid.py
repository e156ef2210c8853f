"""Streams on a grid: the inverse is exact, so that gradients in low precision are to the bit those of checkpointing."""

import copy
import warnings
from typing import Any

import pytest
import torch
from architecture_cases import CASES
from torch import Tensor, nn

from re2tal_hf import Re2TALConfig, Re2TALModel, rewire
from re2tal_hf.reversible import Backprop, Coupling, ReconstructionErrors, Stage, run_stages
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.stream_grid import GRIDS
from re2tal_hf.training.memory import saved_for_backward

RE2TAL = Coupling(0.0, 1.0)
DEEP = pytest.mark.training
both_grids = pytest.mark.parametrize("bits", GRIDS)


class Network(nn.Module):
    """Two stages of branches with dropout; the sum of many stays within the grid of 16 bits."""

    def __init__(self, depth: int, width: int = 8):
        super().__init__()

        def branch() -> nn.Module:
            return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.1))

        self.entries: Any = nn.ModuleList([nn.Linear(3, width), nn.Linear(width, width)])
        self.branches: Any = nn.ModuleList(nn.ModuleList(branch() for _ in range(depth // 2)) for _ in range(2))
        self.errors = ReconstructionErrors()

    def forward(self, x: Tensor, mode: Backprop, bits: int | None) -> Tensor:
        stages = [Stage(e, list(b)) for e, b in zip(self.entries, self.branches, strict=True)]
        grid = None if bits is None else GRIDS[bits]
        [output] = run_stages(stages, x, RE2TAL, mode, self.errors, grid=grid)
        return output


def gradients(network: Network, x: Tensor, mode: Backprop, bits: int | None, autocast: bool) -> list[Tensor]:
    """Gradients of the parameters and, at the end, of the input; outputs before them."""
    network.zero_grad()
    torch.manual_seed(3)
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = network(x, mode, bits)
    output.float().square().mean().backward()
    found = [output.detach(), *(p.grad for p in network.parameters()), x.grad]
    return [tensor.clone() for tensor in found if tensor is not None]


def all_equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


@both_grids
@pytest.mark.parametrize("depth", [100, pytest.param(200, marks=DEEP), pytest.param(1000, marks=DEEP)])
@pytest.mark.parametrize("kind", ["autocast", "parameters", "fp32"])
def test_gradients_are_to_the_bit_those_of_checkpointing_at_any_depth(kind, depth, bits):
    torch.manual_seed(0)
    network, x = Network(depth), torch.randn(2, 5, 3)
    if kind == "parameters":  # all of the model in bf16, without autocast
        network, x = network.bfloat16(), x.bfloat16()
    expected = gradients(network, x, "checkpoint", bits, kind == "autocast")
    assert expected[0].dtype == (torch.bfloat16 if kind == "parameters" else torch.float32)
    assert all_equal(gradients(network, x, "reversible", bits, kind == "autocast"), expected)
    assert len(network.errors.by_stage) == 2 and network.errors.largest() == 0


def test_without_a_grid_bf16_is_not_reconstructed():
    torch.manual_seed(0)
    network, x = Network(100).bfloat16(), torch.randn(2, 5, 3).bfloat16()
    found = gradients(network, x, "reversible", None, autocast=False)
    assert network.errors.largest() > 1e-3
    assert not all_equal(found, gradients(network, x, "checkpoint", None, autocast=False))


@pytest.mark.training
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_architecture_in_bf16_is_reconstructed_to_the_bit(case):
    torch.manual_seed(1)
    model = build_backbone({**case.config, **case.stochastic}, stream_bits=16).train()
    frames, height, width = case.shape
    if case.name == "slowfast":
        # Of 2 frames out of 4, oneDNN leaves parts of a weight's gradient in bf16 unwritten (torch 2.14, AVX512_BF16).
        frames *= 2
    videos = torch.randn(2, frames, 3, height, width)
    found: dict[str, dict[str, Tensor]] = {}
    for mode in ("checkpoint", "reversible"):
        model.backprop = mode
        model.zero_grad()
        torch.manual_seed(7)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = model.video_features(videos)
        features.float().square().mean().backward()
        found[mode] = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(model.reconstruction_errors.by_stage) > 0 and model.reconstruction_errors.largest() == 0
    assert [n for n, g in found["checkpoint"].items() if not torch.equal(found["reversible"][n], g)] == []


@both_grids
def test_rounding_is_to_the_nearest_and_its_gradient_is_one(bits):
    grid = GRIDS[bits]
    x = torch.tensor([-3.3, -0.4, 0.0, 0.6, 7.1], requires_grad=True)
    rounded = grid.rounded(x * grid.step)
    rounded.sum().backward()
    assert (rounded / grid.step).tolist() == [-3, 0, 0, 1, 7]
    assert x.grad is not None and (x.grad == grid.step).all()


def test_streams_in_bf16_without_a_grid_are_warned_of():
    model = build_backbone(CASES[0].config).bfloat16()
    frames, height, width = CASES[0].shape
    videos = torch.randn(1, frames, 3, height, width).bfloat16()
    model.video_features(videos).sum().backward()
    with pytest.warns(UserWarning, match="reconstructed its activations .* stream_bits=24 or 16"):
        model.video_features(videos)
    model.stream_bits = 16
    model.video_features(videos).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.video_features(videos)


def test_every_integer_comes_back():
    grid = GRIDS[16]
    numbers = torch.arange(-(2**15) + 1, 2**15).float() * grid.step
    packed = grid.packed([numbers])
    assert packed is not None and packed[0].dtype == torch.int16
    assert torch.equal(grid.unpacked(packed, torch.float32)[0], numbers)
    assert numbers.abs().max() == grid.limit


def kept_bytes(network: Network, x: Tensor, bits: int | None) -> int:
    with saved_for_backward(without=network.parameters()) as saved:
        network(x, "reversible", bits)
    return saved.total()


def test_of_sixteen_bits_two_bytes_are_kept_of_a_number():
    network, x = Network(4), torch.randn(2, 5, 3)
    numbers = 2 * 2 * 8 * 10  # two stages, two streams
    assert kept_bytes(network, x, None) == kept_bytes(network, x, 24) == 4 * (x.numel() + numbers)
    assert kept_bytes(network, x, 16) == 4 * x.numel() + 2 * numbers


@both_grids
def test_what_the_grid_does_not_hold_is_refused_before_the_backward_pass(bits):
    network, x = Network(4), torch.randn(2, 5, 3)
    with torch.no_grad():
        network.entries[1].bias.fill_(2 * GRIDS[bits].limit)
    with pytest.raises(FloatingPointError, match=f"Stage 1 of the backbone hands on .*stream_bits={bits} hold"):
        network(x, "reversible", bits)
    network(x, "checkpoint", bits).sum().backward()
    with torch.no_grad():
        network(x, "reversible", bits)


class Jump(nn.Module):
    """Adds the same everywhere."""

    def __init__(self, height: float):
        super().__init__()
        self.height = nn.Parameter(torch.tensor(height))

    def forward(self, x: Tensor) -> Tensor:
        return self.height + 0 * x


def test_too_large_inside_of_a_stage_is_noticed_before_there_is_a_gradient():
    network, x = Network(4), torch.randn(2, 5, 3)
    # Up to 2000 and back by every second branch, where a float has no place for the last bit of a multiple of 2^-14.
    network.branches[1] = nn.ModuleList([Jump(1000.0), nn.Tanh(), Jump(1000.0), nn.Tanh(), Jump(-2000.0), nn.Tanh()])
    loss = network(x, "reversible", 24).sum()
    with pytest.raises(FloatingPointError, match=r"Stage 1 .* not reconstructed to the bit .* exceeded 1024 inside it"):
        loss.backward()
    assert all(p.grad is None for p in network.parameters())


def test_a_module_that_computes_otherwise_the_second_time_is_noticed():
    class Counting(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return 0.1 * self.calls * x

    network, x = Network(4), torch.randn(2, 5, 3)
    network.branches[1].append(Counting())
    loss = network(x, "reversible", 16).sum()
    with pytest.raises(FloatingPointError, match=r"Stage 1 .* was not reconstructed to the bit .*computes otherwise"):
        loss.backward()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stream_bits": 8}, r"stream_bits is 8; choose one of \[16, 24\], or None"),
        ({"stream_bits": True}, "stream_bits is True"),
        ({"stream_bits": "16"}, "stream_bits is '16'"),
        ({"stream_bits": 16, "rewiring": "dr2net"}, "multiplies them by its coefficients"),
        ({"stream_bits": 16, "rewiring": "none"}, "rewiring='none' has none"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Re2TALConfig(**settings)


def test_models_keep_the_setting(tmp_path):
    config = Re2TALConfig(backbone_config=CASES[0].config, stream_bits=16)
    model = Re2TALModel(config)
    assert model.backbone.stream_bits == 16
    model.save_pretrained(tmp_path)
    assert Re2TALModel.from_pretrained(tmp_path).backbone.stream_bits == 16
    assert copy.deepcopy(model).backbone.stream_bits == 16
    assert rewire(model.backbone).stream_bits is None
