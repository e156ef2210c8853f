"""Steps by losses and gradients that are not finite: skipped, counted, named, and not too many in a row."""

import json
from pathlib import Path

import pytest
import torch
from killed_training import make_recipe

from re2tal_hf.training.finite_updates import DivergedError
from re2tal_hf.training.localization import LocalizationTrainer

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("fresh_accelerator")]
FAST = ["training.batch_size=1", "evaluation.epochs=0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


class Broken(LocalizationTrainer):
    """Its losses, or the gradients of its last bias, are not finite in some steps."""

    wrong_losses: tuple[int, ...] = ()
    wrong_gradients: tuple[int, ...] = ()

    def losses(self, batch):
        self.step = getattr(self, "step", -1) + 1
        if self.step == 0:
            bias = self.plain_model.head.boundary.predictor.bias
            bias.register_hook(lambda gradient: gradient * (torch.nan if self.step in self.wrong_gradients else 1))
        losses = super().losses(batch)
        if self.step in self.wrong_losses:
            self.plain_model.criterion.normalizer.fill_(torch.nan)
            losses = {name: value * torch.inf for name, value in losses.items()}
        return losses

    def _step(self, batch):
        before = {name: value.clone() for name, value in self.plain_model.state_dict().items()}
        ids, found = list(batch["video_ids"]), super()._step(batch)
        if self.accelerator.sync_gradients and self.updates.skipped:
            after = self.plain_model.state_dict()
            assert all(torch.equal(value, after[name]) for name, value in before.items())
            self.skipped_ids = [*getattr(self, "skipped_ids", []), *ids]
        return found


@pytest.mark.parametrize(("losses", "gradients"), [((1, 6), ()), ((), (1, 6)), ((0, 3), (2, 4))])
def test_what_is_not_finite_is_skipped_named_and_counted(losses, gradients, data, tmp_path, caplog):
    trainer = Broken(make_recipe(data, *FAST, "training.epochs=2"), tmp_path / "run")
    trainer.wrong_losses, trainer.wrong_gradients = losses, gradients
    trainer.run()
    told = [line for line in caplog.messages if line.endswith("the step is skipped.")]
    assert len(told) == len(losses) + len(gradients) == len(trainer.skipped_ids)
    assert all(f"of windows of {video}:" in line for line, video in zip(told, trainer.skipped_ids, strict=True))
    assert sum("The loss is " in line for line in told) == len(losses)
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert sum(line["skipped_steps"] for line in log) == len(told) and all(line["loss"] > 0 for line in log)
    assert torch.isfinite(trainer.trained.average.module.criterion.normalizer)


def test_an_update_with_a_loss_that_is_not_finite_is_skipped_whole(data, tmp_path):
    recipe = make_recipe(data, *FAST, "training.epochs=1", "training.gradient_accumulation=2")
    trainer = Broken(recipe, tmp_path / "run")
    trainer.wrong_losses = (0,)
    trainer.run()
    assert (trainer.progress.updates, int(trainer.trained.average.n_averaged)) == (2, 1)
    assert json.loads((tmp_path / "run/log.jsonl").read_text())["skipped_steps"] == 1


@pytest.mark.parametrize(
    ("limit", "wrong", "message"),
    [
        (0, {1}, "1 steps in a row were skipped.*max_skipped_steps is 0.*training.learning_rate"),
        (3, {2, 3, 4, 5}, "4 steps in a row were skipped"),
        (10, {0, 1, 2, 3}, "All steps of an epoch were skipped"),
    ],
)
def test_too_many_in_a_row_stop_the_run(limit, wrong, message, data, tmp_path):
    trainer = Broken(make_recipe(data, *FAST, f"training.max_skipped_steps={limit}"), tmp_path / "run")
    trainer.wrong_losses = tuple(wrong)
    with pytest.raises(DivergedError, match=message):
        trainer.run()
    assert not (tmp_path / "run/last").exists()


def test_gradients_of_any_size_count_without_clipping(data, tmp_path):
    trainer = Broken(make_recipe(data, *FAST, "training.max_gradient_norm=null", "training.epochs=1"), tmp_path / "run")
    trainer.wrong_gradients = (2,)
    trainer.run()
    assert json.loads((tmp_path / "run/log.jsonl").read_text())["skipped_steps"] == 1
