"""`scripts/time_training.py`: the parts of a training step make up the whole."""

import runpy
from pathlib import Path

import pytest
from killed_training import make_recipe

from re2tal_hf.training.localization import LocalizationTrainer

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "time_training.py"


@pytest.mark.training
@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.parametrize("workers", [0, 1])
def test_the_parts_of_a_step(tmp_path, workers):
    made = runpy.run_path(str(SCRIPT))
    trainer = LocalizationTrainer(make_recipe(tmp_path, f"data.num_workers={workers}"), tmp_path / "run")
    seconds, shares = made["measure"](trainer, workers, 3)
    loading = {"decoding", "augmentation", "other loading"} if workers == 0 else {"waiting"}
    assert seconds > 0 and shares.keys() == {"step", "preparation", *loading}
    assert all(share >= 0 for share in shares.values()) and 0.95 < sum(shares.values()) <= 1.001
