"""Several processes learn what one would from the total batch."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tolerances import assert_gradients_close
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from re2tal_hf.head import HEADS
from re2tal_hf.loss_normalization import process_share, total_over_processes
from re2tal_hf.training.processes import leave_processes

LENGTHS = (32, 20, 32, 9, 27)
SEGMENTS = ([[2.0, 5.0], [9.0, 23.0]], [], [[0.0, 4.0]], [[1.0, 7.0]], [[3.0, 9.5], [8.0, 20.0], [21.0, 24.0]])


class HeadAndLoss(nn.Module):
    """A head with its loss, of the rows of the total batch that it is given."""

    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        entry = HEADS[name]
        self.head, self.loss = entry.head_class(6, 3, hidden_size=32, num_levels=3).double(), entry.loss_class()
        # Boundaries and refinements that differ from each other.
        for parameter in self.head.parameters():
            nn.init.normal_(parameter, std=0.1)
        self.eval()
        self.loss.train()

    def forward(self, rows):
        features = torch.randn(len(LENGTHS), 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        mask = torch.arange(32) < torch.tensor(LENGTHS)[:, None]
        targets = [
            {
                "segments": torch.tensor(segments, dtype=torch.float64).reshape(-1, 2),
                "class_labels": torch.arange(len(segments)),
            }
            for segments in SEGMENTS
        ]
        return self.loss(self.head(features[rows], mask[rows]), [targets[row] for row in rows])


def two_steps(model, rows):
    """Losses and gradients of a first and a second step, the normaliser having moved."""
    steps = []
    for _ in range(2):
        losses = model(rows)
        model.zero_grad()
        losses["loss"].backward()
        gradients = {n.removeprefix("module."): p.grad.clone() for n, p in model.named_parameters()}
        steps.append(({name: value.item() for name, value in losses.items()}, gradients))
    return steps


def take_part(rank, processes, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=processes)
    rows = list(range(rank, len(LENGTHS), processes))
    steps = {name: two_steps(DistributedDataParallel(HeadAndLoss(name)), rows) for name in HEADS}
    torch.save(steps, folder / f"{rank}.pth")
    leave_processes()


@pytest.mark.training
def test_processes_learn_what_one_would(tmp_path):
    processes = 3
    mp.spawn(take_part, args=(processes, tmp_path), nprocs=processes)
    parts = [torch.load(tmp_path / f"{rank}.pth") for rank in range(processes)]
    for name in HEADS:
        for step, (losses, gradients) in enumerate(two_steps(HeadAndLoss(name), range(len(LENGTHS)))):
            for key, value in losses.items():
                found = sum(part[name][step][0][key] for part in parts) / processes
                assert value > 0 and found == pytest.approx(value, rel=1e-12), (name, key)
            assert_gradients_close(parts[0][name][step][1], gradients)


def test_one_process_has_all():
    count = torch.tensor([3, 0])
    total, processes = total_over_processes(count)
    assert (total.tolist(), processes) == ([3, 0], 1)
    assert process_share(count, torch.float64).tolist() == [3, 1]
