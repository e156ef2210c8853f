"""Updates of two processes are those of one that has the total batch: whole models, accumulation, frozen parts."""

import os

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tolerances import assert_gradients_close

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization
from re2tal_hf.training.arguments import OptimizationArguments
from re2tal_hf.training.checkpoint import Progress
from re2tal_hf.training.finite_updates import FiniteUpdates
from re2tal_hf.training.processes import leave_processes, same_on_every_process
from re2tal_hf.training.trained_model import TrainedModel

PROCESSES, WINDOWS, UPDATES, ACCUMULATION, FRAMES = 2, 4, 3, 2, 16
SWIN = {
    "model_type": "video_swin", "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "patch_size": [2, 4, 4],
    "window_size": [2, 3, 3], "stochastic_depth_prob": 0.0,
}  # fmt: skip
SLOW_ONLY = {"model_type": "slow_only", "stage_blocks": [2, 2], "base_channels": 8, "resample_rate": 2}

PYRAMID = {"hidden_size": 16, "num_levels": 3, "drop_path": 0.0}
CASES = {
    "reversible": ({}, {}),
    "checkpoint, TriDet, a frozen stage": (
        {"backprop": "checkpoint", "head_config": {"model_type": "tridet", **PYRAMID}},
        {"stages": 1},
    ),
    "plain, VSGN": (
        {"backprop": "plain", "head_config": {"model_type": "vsgn", "hidden_size": 32, "num_levels": 3}},
        {},
    ),
    **{
        f"{backprop}, spotting": (
            {
                "backprop": backprop,
                "head_config": {"model_type": "spotting", **PYRAMID},
                "loss_config": {"initial_normalizer": 5},
            },
            {},
        )
        for backprop in ("reversible", "checkpoint", "plain")
    },
    "Dr2Net": ({"rewiring": "dr2net", "coupling": [0.5, 0.6]}, {}),
    "batch norms on running statistics": ({"backbone_config": SLOW_ONLY}, {}),
}


def part_of_batch(step, rows):
    """Some windows of a total batch, of which each has its own length and actions."""
    draw = torch.Generator().manual_seed(step)
    videos = torch.randn(WINDOWS, FRAMES, 3, 16, 16, dtype=torch.float64, generator=draw)
    lengths, counts = torch.tensor([16, 9, 16, 13]), [2, 0, 1, 3]
    starts = [torch.rand(count, 1, generator=draw) * 6 for count in counts]
    labels = [
        {
            "segments": torch.cat((s, s + 1 + 2 * torch.rand(s.shape, generator=draw)), 1),
            "class_labels": torch.arange(len(s)),
        }
        for s in starts
    ]
    mask = torch.arange(FRAMES) < lengths[:, None]
    return {"pixel_values_videos": videos[rows], "frame_mask": mask[rows], "labels": [labels[row] for row in rows]}


def train(case, rows):
    """Three updates as the trainer makes them: the gradients of each, the losses, and what they come to."""
    settings, frozen = CASES[case]
    torch.manual_seed(0)
    defaults = {"backbone_config": SWIN, "head_config": {"model_type": "actionformer", **PYRAMID}, "num_labels": 3}
    plain = Re2TALForTemporalActionLocalization(Re2TALConfig(**defaults | settings)).double()
    plain.freeze(**frozen)
    arguments = OptimizationArguments(learning_rate=1e-3, backbone_learning_rate=1e-3, max_gradient_norm=1.0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATION)
    trained = TrainedModel(plain, arguments, accelerator)
    model, optimizer = trained.prepared, trained.optimizer.optimizer
    for group in optimizer.param_groups:
        group["eps"] = 1e-2  # at 1e-8 a gradient that is zero but for its rounding makes a whole step
    gradients = []
    optimizer.register_step_pre_hook(
        lambda *_: gradients.append({n: p.grad.clone() for n, p in plain.named_parameters() if p.requires_grad})
    )
    updates = FiniteUpdates(accelerator, trained, arguments, Progress())
    model.train()
    losses = []
    for step in range(UPDATES * ACCUMULATION):
        batch = part_of_batch(step, rows)

        def compute(batch=batch):
            output = model(**batch)
            return {"loss": output.loss, **output.loss_dict}

        losses.append(updates.step(compute, ["video"] * len(rows)))
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    return {"gradients": gradients, "losses": losses, "state": state}


def take_part(rank, folder):
    torch.set_num_threads(1)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_WORLD_SIZE": PROCESSES}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    found = {case: train(case, list(range(rank, WINDOWS, PROCESSES))) for case in CASES}
    found["shared"] = torch.full((2,), float(rank))
    same_on_every_process(Accelerator(cpu=True), [found["shared"]])
    torch.save(found, folder / f"{rank}.pth")
    leave_processes()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(take_part, args=(folder,), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pth") for rank in range(PROCESSES)]


@pytest.mark.training
@pytest.mark.parametrize("case", CASES)
def test_two_processes_update_as_one_with_the_total_batch(case, parts):
    AcceleratorState._reset_state(reset_partial_state=True)
    one, (first, second) = train(case, list(range(WINDOWS))), [part[case] for part in parts]
    AcceleratorState._reset_state(reset_partial_state=True)
    assert len(one["gradients"]) == UPDATES
    # VSGN amplifies rounding a thousandfold from update to update, also in one process with another order of windows.
    updates = 1 if "VSGN" in case else UPDATES
    for number in range(updates):
        found, other, expected = (run["gradients"][number] for run in (first, second, one))
        assert_gradients_close(found, expected, bound=1e-10)
        assert all(torch.equal(found[name], other[name]) for name in found)
    if updates == UPDATES:
        assert_gradients_close(first["state"], one["state"], bound=1e-10)
    for step, expected in enumerate(one["losses"][: updates * ACCUMULATION]):
        mean = {name: sum(part["losses"][step][name] for part in (first, second)) / PROCESSES for name in expected}
        assert mean == pytest.approx(expected, rel=1e-9)


@pytest.mark.training
def test_points_are_learned_alike_in_every_mode(parts):
    modes = [parts[0][f"{backprop}, spotting"] for backprop in ("plain", "checkpoint", "reversible")]
    for mode in modes[1:]:
        for found, expected in zip(mode["gradients"], modes[0]["gradients"], strict=True):
            assert_gradients_close(found, expected, bound=1e-10)


@pytest.mark.training
def test_buffers_are_made_those_of_the_first_process(parts):
    assert [part["shared"].tolist() for part in parts] == [[0.0, 0.0], [0.0, 0.0]]
