"""Two processes of one training: what must be equal in them, what must not, and how they go on from one."""

import json
import os
import shutil
import socket

import pytest
import torch
import torch.multiprocessing as mp
from accelerate.state import AcceleratorState
from killed_training import make_recipe

from re2tal_hf.training.arguments import OptimizationArguments, load_recipe
from re2tal_hf.training.localization import LocalizationTrainer
from re2tal_hf.training.optimization import learning_rate_factor

pytestmark = pytest.mark.training
PROCESSES, EPOCHS = 2, 3
OVERRIDES = [f"training.epochs={EPOCHS}", "training.batch_size=1", "training.warmup_epochs=0.5", "evaluation.epochs=0"]


class Stop(Exception):
    pass


class Watched(LocalizationTrainer):
    """Keeps the loss and the learning rate of every step; stops before an epoch."""

    stop_before = EPOCHS

    def _train_epoch(self, epoch):
        if epoch == self.stop_before:
            raise Stop
        self.steps = []
        self.record = super()._train_epoch(epoch)
        return self.record

    def losses(self, batch):
        losses = super().losses(batch)
        self.steps.append((losses["loss"].item(), self.trained.optimizer.param_groups[0]["lr"]))
        return losses


class Half(Watched):
    stop_before = 2


def new_trainer(folder, data, rank, port):
    AcceleratorState._reset_state(reset_partial_state=True)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_WORLD_SIZE": PROCESSES}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{k: str(v) for k, v in (ranks | {"MASTER_PORT": port}).items()}}
    return Watched(make_recipe(data, *OVERRIDES), folder)


def take_part(rank, ports, data, runs):
    torch.set_num_threads(1)
    trainer = new_trainer(runs / "fresh", data, rank, ports[0])
    found = {
        "weights": {name: value.clone() for name, value in trainer.plain_model.state_dict().items()},
        "random": torch.rand(4),
        "order": [index for batch in trainer.loader.batch_sampler for index in batch],
    }
    trainer.run()
    found["steps"], found["record"] = trainer.steps, trainer.record
    trainer = new_trainer(runs / "resumed", data, rank, ports[1])
    trainer.run()
    found["rates"] = [rate for _, rate in trainer.steps]
    torch.save(found, runs / f"{rank}.pth")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs with two processes: a new one, and one that goes on from two epochs with one process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    data, runs = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("runs")
    with pytest.raises(Stop):
        Half(make_recipe(data, *OVERRIDES), runs / "one").run()
    shutil.copytree(runs / "one", runs / "resumed")
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        ports = [free.getsockname()[1] for free in (one, other)]
    mp.spawn(take_part, args=(ports, data, runs), nprocs=PROCESSES)
    return runs


@pytest.fixture(scope="module")
def parts(runs):
    return [torch.load(runs / f"{rank}.pth") for rank in range(PROCESSES)]


def test_weights_are_equal_and_windows_shared_out(parts):
    first, second = (part["weights"] for part in parts)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sorted(parts[0]["order"] + parts[1]["order"]) == list(range(4))


def test_each_process_draws_masks_of_its_own(parts):
    assert not torch.equal(parts[0]["random"], parts[1]["random"])


def test_the_log_holds_the_mean_over_the_processes(runs, parts):
    losses = [loss for part in parts for loss, _ in part["steps"]]
    assert parts[0]["steps"][0][0] != parts[1]["steps"][0][0]
    logged = json.loads((runs / "fresh/log.jsonl").read_text().splitlines()[-1])
    assert logged["loss"] == parts[1]["record"]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_the_learning_rate_is_that_of_the_epoch_whatever_the_number_of_processes(runs, parts):
    arguments = OptimizationArguments(epochs=EPOCHS, warmup_epochs=0.5)
    peak = load_recipe("quickstart").training.learning_rate
    for part in parts:
        # The last of three epochs, two updates long, after two epochs of four.
        assert part["rates"] == [peak * learning_rate_factor(arguments, update, 2) for update in (4, 5)]
        assert part["rates"] == [rate for _, rate in part["steps"]]
    for name in ("one", "fresh", "resumed"):
        log = [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()]
        assert [line["learning_rate"] for line in log] == [
            peak * learning_rate_factor(arguments, epoch, 1) if epoch < EPOCHS else 0
            for epoch in range(1, len(log) + 1)
        ]
