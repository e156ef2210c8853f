"""Trainings whose optimiser DeepSpeed shares out among two processes are those of one process, or of whole copies."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from killed_training import outcome, same
from safetensors.torch import load_file
from test_sharding import (
    PROCESSES,
    Half,
    Stop,
    alone_and_together,
    make_recipe,
    new_trainer,
    run_processes,
    train_together,
)
from test_total_batch import PYRAMID, SWIN, part_of_batch
from tolerances import assert_gradients_close

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization
from re2tal_hf.training.arguments import OptimizationArguments
from re2tal_hf.training.checkpoint import Progress
from re2tal_hf.training.finite_updates import FiniteUpdates
from re2tal_hf.training.localization import LocalizationTrainer
from re2tal_hf.training.processes import leave_processes
from re2tal_hf.training.trained_model import TrainedModel

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.training
UPDATES, ACCUMULATION = 3, 2
CASES = {
    "reversible, stage 1": (1, {}, {}),
    "reversible, stage 2": (2, {}, {}),
    "checkpoint, stage 2, a frozen stage": (2, {"backprop": "checkpoint"}, {"stages": 1}),
    "plain, stage 1": (1, {"backprop": "plain"}, {}),
    "Dr2Net, stage 2": (2, {"rewiring": "dr2net", "coupling": [0.5, 0.6]}, {}),
}
RUNS = {
    "averaged, stage 1": ("training.zero_stage=1",),
    "stage 2": ("training.zero_stage=2", "training.ema_decay=null"),
}


def train(case, rows):
    stage, settings, frozen = CASES[case]
    torch.manual_seed(0)
    defaults = {"backbone_config": SWIN, "head_config": {"model_type": "actionformer", **PYRAMID}, "num_labels": 3}
    model = Re2TALForTemporalActionLocalization(Re2TALConfig(**defaults | settings))
    model.freeze(**frozen)
    arguments = OptimizationArguments(
        learning_rate=1e-3, backbone_learning_rate=1e-3, zero_stage=stage, gradient_accumulation=ACCUMULATION
    )
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATION)
    trained = TrainedModel(model, arguments, accelerator)
    for group in trained.optimizer.param_groups:
        group["eps"] = 1e-2  # at 1e-8 a gradient that is zero but for its rounding makes a whole step
    updates = FiniteUpdates(accelerator, trained, arguments, Progress())
    trained.prepared.train()
    skipped, gradients = [], []

    def update(number, spoil=lambda loss, step: loss):
        for step in range(ACCUMULATION):
            batch = part_of_batch(number * ACCUMULATION + step, rows)
            batch["pixel_values_videos"] = batch["pixel_values_videos"].float()
            for label in batch["labels"]:
                label["segments"] = label["segments"].float()

            def losses(step=step, batch=batch):
                return {"loss": spoil(trained.prepared(**batch).loss, step)}

            updates.step(losses, ["video"] * len(rows))
            gradients.append(sum(p.grad.numel() for p in model.parameters() if p.grad is not None))
        skipped.append(updates.skipped)

    for number in range(UPDATES):  # updates that are skipped change nothing
        update(number)
        update(number, lambda loss, step: loss if step or 0 not in rows else loss * torch.nan)
        update(number, lambda loss, step: loss + (0 * loss).sqrt())
    assert skipped == [False, True, True] * UPDATES
    assert not any(gradients[1::ACCUMULATION])
    held = sum(share.numel() for group in trained.optimizer.param_groups for share in group["params"])
    means = trained.optimizer.state_dict()["state"]
    state = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    trained.release()
    return {"state": state, "means": means, "held": held, "gradients": gradients[0]}


def take_part(rank, ports, data, runs):
    torch.set_num_threads(1)
    ports = iter(ports)
    for name, overrides in RUNS.items():
        trainer = new_trainer(LocalizationTrainer, rank, next(ports), data, runs / name, *overrides)
        assert "means" in trainer.trained.shares and f"among {PROCESSES} processes" in trainer.trained.shares
        trainer.run()
        copies = (*overrides, "training.zero_stage=0")
        new_trainer(LocalizationTrainer, rank, next(ports), data, runs / f"{name}, copies", *copies).run()
    for folder in ("resumed", "alone"):
        trainer = new_trainer(Half, rank, next(ports), data, runs / folder, *overrides)
        with pytest.raises(Stop):
            trainer.run()
        leave_processes()
    new_trainer(LocalizationTrainer, rank, next(ports), data, runs / "resumed", *overrides).run()
    train_together(train, CASES, rank, runs)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return run_processes(take_part, 2 * len(RUNS) + 3, tmp_path_factory)


@pytest.mark.parametrize("case", CASES)
def test_updates_are_those_of_one_process_with_the_total_batch(case, places):
    one, (first, second) = alone_and_together(train, case, places[1])
    assert same(first["state"], second["state"])
    assert_gradients_close(first["state"], one["state"], bound=1e-5)
    for name in ("exp_avg", "exp_avg_sq"):
        found, expected = ({n: state[name] for n, state in run["means"].items()} for run in (first, one))
        assert_gradients_close(found, expected, bound=1e-4)
    assert first["gradients"] == (one["gradients"] if CASES[case][0] == 1 else 0)
    assert first["held"] == second["held"] == pytest.approx(one["held"] / PROCESSES, abs=8)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_that_of_whole_copies(name, places):
    weights, expected = (load_file(places[1] / f"{run}/last/model.safetensors") for run in (name, f"{name}, copies"))
    assert_gradients_close(weights, expected, bound=1e-3)


def test_a_resumed_run_ends_as_the_one_without_interruption(places):
    assert same(outcome(places[1] / "resumed"), outcome(places[1] / "stage 2"))


def test_one_process_goes_on_with_a_run_of_two(places, monkeypatch, capsys):
    AcceleratorState._reset_state(reset_partial_state=True)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    recipe = make_recipe(places[0], "training.batch_size=1", "training.epochs=2", *RUNS["stage 2"])
    trainer = LocalizationTrainer(recipe, places[1] / "alone")
    trainer.run()
    assert "Going on with the run" in capsys.readouterr().out
    assert all(state["step"] == 6 for state in trainer.trained.optimizer.state.values())
