"""Trainings whose weights are shared out among two processes are those of one process, or of two with whole copies."""

import json
import os
import socket

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from killed_training import make_recipe, outcome, same
from safetensors.torch import load_file
from test_total_batch import PYRAMID, SWIN, WINDOWS, part_of_batch
from tolerances import assert_gradients_close
from torch.distributed.tensor import DTensor

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization
from re2tal_hf.training.arguments import OptimizationArguments
from re2tal_hf.training.checkpoint import Progress
from re2tal_hf.training.finite_updates import FiniteUpdates
from re2tal_hf.training.localization import LocalizationTrainer
from re2tal_hf.training.processes import leave_processes
from re2tal_hf.training.sharding import WholeModel, whole_state
from re2tal_hf.training.trained_model import TrainedModel

pytestmark = pytest.mark.training
PROCESSES, UPDATES, ACCUMULATION = 2, 3, 2
CASES = {
    "reversible": ({}, {}),
    "checkpoint, a frozen stage": ({"backprop": "checkpoint"}, {"stages": 1}),
    "plain": ({"backprop": "plain"}, {}),
    "Dr2Net": ({"rewiring": "dr2net", "coupling": [0.5, 0.6]}, {}),
}
RUNS = {"averaged": (), "not averaged": ("training.ema_decay=null",)}


def train(case, rows):
    settings, frozen = CASES[case]
    torch.manual_seed(0)
    defaults = {"backbone_config": SWIN, "head_config": {"model_type": "actionformer", **PYRAMID}, "num_labels": 3}
    model = Re2TALForTemporalActionLocalization(Re2TALConfig(**defaults | settings)).double()
    model.freeze(**frozen)
    alone = len(rows) == WINDOWS
    arguments = OptimizationArguments(
        learning_rate=1e-3, backbone_learning_rate=1e-3, max_gradient_norm=1.0, shard_weights=True
    )
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATION)
    found = {"bytes": sum(p.nbytes for p in model.parameters() if p.dim())}
    trained = TrainedModel(model, arguments, accelerator)
    optimizer = trained.optimizer.optimizer
    if not alone:
        shares = [parameter for parameter in model.parameters() if parameter.dim()]
        assert all(isinstance(parameter, DTensor) for parameter in shares)
        found["bytes"] = sum(parameter.to_local().nbytes for parameter in shares)
    for group in optimizer.param_groups:
        group["eps"] = 1e-2  # at 1e-8 a gradient that is zero but for its rounding makes a whole step
    found["gradients"] = []

    def keep(*_):
        gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        found["gradients"].append({n: g.clone() for n, g in whole_state(gradients, kept=True).items()})

    optimizer.register_step_pre_hook(keep)
    updates = FiniteUpdates(accelerator, trained, arguments, Progress())
    model.train()
    for step in range(ACCUMULATION):  # an update that is skipped changes nothing
        batch = part_of_batch(step, rows)
        updates.step(lambda batch=batch: {"loss": model(**batch).loss * torch.nan}, ["video"] * len(rows))
    for step in range(UPDATES * ACCUMULATION):
        batch = part_of_batch(step, rows)
        updates.step(lambda batch=batch: {"loss": model(**batch).loss}, ["video"] * len(rows))
    weights = model.parameters() if alone else WholeModel(model).parameters()
    found["weights"] = {n: w.detach().clone() for (n, _), w in zip(model.named_parameters(), weights, strict=True)}
    means = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    found["means"] = sum(v.to_local().nbytes if isinstance(v, DTensor) else v.nbytes for v in means)
    return found


class Stop(Exception):
    pass


class Half(LocalizationTrainer):
    """Ends without a word before its second epoch."""

    def _train_epoch(self, epoch):
        if epoch == 1:
            raise Stop
        return super()._train_epoch(epoch)


def new_trainer(kind, rank, port, data, folder, *overrides):
    AcceleratorState._reset_state(reset_partial_state=True)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_WORLD_SIZE": PROCESSES}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{k: str(v) for k, v in (ranks | {"MASTER_PORT": port}).items()}}
    return kind(make_recipe(data, "training.batch_size=1", "training.epochs=2", *overrides), folder)


def run_processes(take_part, groups, tmp_path_factory):
    """Has processes meet so many times over; returns the folders of their data and their runs."""
    AcceleratorState._reset_state(reset_partial_state=True)
    data, runs = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("runs")
    make_recipe(data)
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(groups)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    mp.spawn(take_part, args=(ports, data, runs), nprocs=PROCESSES)
    return data, runs


def train_together(train, cases, rank, runs):
    """Trains each case by this process's share of the windows, and writes what it returns beside the runs."""
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.distributed.init_process_group("gloo", f"file://{runs}/store", rank=rank, world_size=PROCESSES)
    found = {case: train(case, list(range(rank, WINDOWS, PROCESSES))) for case in cases}
    torch.save(found, runs / f"{rank}.pth")
    leave_processes()


def alone_and_together(train, case, runs):
    """What a case returns in this process, by all windows, and what `train_together` has written of each process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    one = train(case, list(range(WINDOWS)))
    AcceleratorState._reset_state(reset_partial_state=True)
    return one, [torch.load(runs / f"{rank}.pth")[case] for rank in range(PROCESSES)]


def take_part(rank, ports, data, runs):
    torch.set_num_threads(1)
    ports = iter(ports)
    for name, overrides in RUNS.items():
        shares = (*overrides, "training.shard_weights=true")
        new_trainer(LocalizationTrainer, rank, next(ports), data, runs / f"copies {name}", *overrides).run()
        trainer = new_trainer(LocalizationTrainer, rank, next(ports), data, runs / f"shares {name}", *shares)
        assert "among 2 processes" in trainer.trained.shares
        assert sum(isinstance(p, DTensor) for p in trainer.plain_model.parameters()) > 100
        trainer.run()
    trainer = new_trainer(Half, rank, next(ports), data, runs / "resumed", *shares)
    with pytest.raises(Stop):
        trainer.run()
    leave_processes()
    new_trainer(LocalizationTrainer, rank, next(ports), data, runs / "resumed", *shares).run()
    train_together(train, CASES, rank, runs)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return run_processes(take_part, 2 * len(RUNS) + 2, tmp_path_factory)[1]


@pytest.mark.parametrize("case", CASES)
def test_updates_are_those_of_one_process_with_the_total_batch(case, runs):
    one, parts = alone_and_together(train, case, runs)
    assert len(one["gradients"]) == UPDATES
    for found in parts:
        for number, expected in enumerate(one["gradients"]):
            assert_gradients_close(found["gradients"][number], expected, bound=1e-10)
        assert_gradients_close(found["weights"], one["weights"], bound=1e-10)
    for kind in ("bytes", "means"):  # each holds about a half
        assert sum(part[kind] for part in parts) == pytest.approx(one[kind], rel=1e-2)
        assert max(part[kind] for part in parts) < 0.6 * one[kind]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_that_of_whole_copies(name, runs):
    copies, shares = (runs / f"{kind} {name}" for kind in ("copies", "shares"))
    weights, expected = (load_file(run / "last/model.safetensors") for run in (shares, copies))
    assert_gradients_close(weights, expected, bound=1e-3)
    found, told = ((run / "log.jsonl").read_text().splitlines() for run in (shares, copies))
    losses = [[json.loads(line)["loss"] for line in lines] for lines in (found, told)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and len(losses[0]) == 2
    Re2TALForTemporalActionLocalization.from_pretrained(shares / "last")


def test_a_resumed_run_ends_as_the_one_without_interruption(runs):
    assert same(outcome(runs / "resumed"), outcome(runs / "shares not averaged"))
