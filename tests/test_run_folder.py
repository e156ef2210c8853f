"""The run folder: what goes on in it, what is refused, and what a kill leaves behind."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import forks
import pytest
import torch
import yaml
from killed_training import make_recipe, outcome, same

from re2tal_hf import dual_residual
from re2tal_hf.data.annotations import AnnotationSet
from re2tal_hf.training import localization
from re2tal_hf.training.arguments import DataArguments, Recipe, load_recipe
from re2tal_hf.training.checkpoint import surplus
from re2tal_hf.training.localization import LocalizationTrainer, read_subset
from re2tal_hf.training.run_folder import RunFolder, RunFolderError, complete_folder

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("fresh_accelerator")]
ROOT = Path(__file__).resolve().parents[1]
MOMENTS = [
    "open recipe.yaml.partial",
    "rename recipe.yaml.partial",
    "rename log.jsonl.partial",
    "open last.partial/metrics.json",
    "half of checkpoint/progress.pkl.partial",
    "rename checkpoint/progress.pkl.partial",
    "rename last",
    "rename last.partial",
    "rename best.partial",
    "open checkpoint.partial/model.pkl",
    "half of checkpoint.partial/optimizer.pkl",
    "rename checkpoint",
    "rename checkpoint.partial",
    "rmdir checkpoint.old",
]


class Interrupted(Exception):
    pass


class StopsEarly(LocalizationTrainer):
    """Stands for a run that was killed in its second epoch."""

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        if epoch == 1:
            raise Interrupted
        return super()._train_epoch(epoch)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def recipe(data) -> Recipe:
    return make_recipe(data)


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    LocalizationTrainer(recipe, folder).run()
    return folder


@pytest.fixture(scope="module")
def kept(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.raises(Interrupted):
        StopsEarly(recipe, folder).run()
    return folder


@pytest.fixture
def stopped(kept, tmp_path) -> Path:
    """A run of which the first epoch is trained."""
    return Path(shutil.copytree(kept, tmp_path / "run"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("resume", [False, True])
def test_the_same_command_goes_on(resume, recipe, stopped, whole, capsys):
    torch.manual_seed(99)
    LocalizationTrainer(recipe, stopped, resume=resume).run()
    assert f"Going on with the run in {stopped} after epoch 1 of 3." in capsys.readouterr().out
    assert same(outcome(stopped), outcome(whole))


def test_an_epoch_whose_evaluation_fails_is_not_trained_again(recipe, whole, tmp_path, capsys):
    class Fails(LocalizationTrainer):
        def evaluate(self):
            if self.progress.epoch == 2:
                raise ValueError("no memory is left")
            return super().evaluate()

    with pytest.raises(ValueError, match="no memory"):
        Fails(recipe, tmp_path / "run").run()
    assert "is saved: the same command goes on with the evaluation after epoch 2 of 3." in capsys.readouterr().out
    trainer = LocalizationTrainer(recipe, tmp_path / "run")
    assert trainer.finished is None
    trainer.run()
    said = capsys.readouterr()
    assert "Going on with the run in" in said.out and "epoch 2/3" not in said.err and "epoch 3/3" in said.err
    assert same(outcome(tmp_path / "run"), outcome(whole))


def test_dr2net_goes_on_with_the_same_stages_inverted(data, tmp_path, monkeypatch):
    monkeypatch.setattr(dual_residual, "PROBE_INTERVAL", 2)
    recipe = make_recipe(data, "model.rewiring=dr2net", "coupling.end_epoch=1", "data.windows_per_video=4")
    LocalizationTrainer(recipe, tmp_path / "whole").run()
    with pytest.raises(Interrupted):
        StopsEarly(recipe, tmp_path / "run").run()
    LocalizationTrainer(recipe, tmp_path / "run").run()
    expected = outcome(tmp_path / "whole")
    assert expected["log"][0]["inverted_stages"] > 0
    assert same(outcome(tmp_path / "run"), expected)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_finished_run_is_left_as_it_is(checkpoint, recipe, whole, tmp_path, capsys):
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    if not checkpoint:
        shutil.rmtree(folder / "checkpoint")
    before = files(folder)
    metrics = LocalizationTrainer(recipe, folder).run()
    assert "is finished: its 3 epochs are trained" in capsys.readouterr().out
    assert metrics == json.loads((folder / "last/metrics.json").read_text())
    assert files(folder) == before


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("model.rewiring=dr2net", "model.rewiring is 'dr2net' here and 're2tal' there"),
        ("seed=1", "seed is 1 here and 0 there"),
        ("training.learning_rate=0.5", "training.learning_rate is 0.5 here and 0.001 there"),
        ("data.training_subset=testing", "data.training_subset is 'testing' here and 'training' there"),
        ("model.backbone_config.depths=[1,2]", r"model.backbone_config.depths is \[1, 2\] here and \[1, 1\] there"),
        ("freeze.norms=true", "freeze.norms is True here and False there"),
        ("training.epochs=2", "training.epochs is 2 here and 3 there"),
    ],
)
def test_another_recipe_is_refused_by_the_names_of_the_fields(override, shown, recipe, data, stopped):
    before = files(stopped)
    for resume in (False, True):
        with pytest.raises(RunFolderError, match=shown):
            LocalizationTrainer(make_recipe(data, override, "data.max_unreadable=0.1"), stopped, resume)
    assert files(stopped) == before


def test_what_decides_nothing_may_differ(data, stopped, whole, tmp_path):
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    overrides = [
        f"data.annotations={moved / 'annotations.json'}", f"data.videos={moved / 'videos'}", "data.cache=null",
        "data.num_workers=1", "training.save_epochs=2", "training.trackers=[tensorboard]",
    ]  # fmt: skip
    LocalizationTrainer(make_recipe(data, *overrides), stopped).run()
    found, expected = outcome(stopped), outcome(whole)
    assert same({**found, "files": None}, {**expected, "files": None})
    assert yaml.safe_load((stopped / "recipe.yaml").read_text())["data"]["num_workers"] == 1


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda found: replace(found, label_names=found.label_names[::-1]), "class names is"),
        (lambda found: replace(found, videos=found.videos[:1]), "number of training videos is 1 here and 2 there"),
        (
            lambda found: replace(found, videos=[replace(v, segments=v.segments * 0.9) for v in found.videos]),
            "digest of the training data",
        ),
    ],
)
def test_other_data_is_refused(change, shown, recipe, stopped, monkeypatch):
    def read_changed(data: DataArguments, subset: str, *, repair: bool) -> AnnotationSet:
        found = read_subset(data, subset, repair=repair)
        return change(found) if subset == data.training_subset or "class" in shown else found

    monkeypatch.setattr(localization, "read_subset", read_changed)
    before = files(stopped)
    with pytest.raises(RunFolderError, match=shown):
        LocalizationTrainer(recipe, stopped)
    assert files(stopped) == before


def test_more_epochs_are_trained_and_recorded(data, whole, tmp_path, caplog):
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    longer = make_recipe(data, "training.epochs=4")
    LocalizationTrainer(longer, folder).run()
    assert "training.epochs is 4 and was 3" in caplog.text
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3, 4]
    assert load_recipe(str(folder / "recipe.yaml")).training.epochs == 4
    assert json.loads((folder / "run.json").read_text())["extensions"] == [{"after": 3, "from": 3, "to": 4}]
    with pytest.raises(RunFolderError, match="training.epochs is 3 here and 4 there"):
        LocalizationTrainer(make_recipe(data), folder)
    shutil.rmtree(folder / "checkpoint")
    with pytest.raises(RunFolderError, match="checkpoint is missing"):
        LocalizationTrainer(make_recipe(data, "training.epochs=5"), folder)


@pytest.mark.parametrize("name", ["model", "optimizer", "average", "random_states_0", "progress"])
def test_a_missing_or_damaged_file_of_the_checkpoint_is_named(name, recipe, stopped):
    path = stopped / "checkpoint" / f"{name}.pkl"
    whole = path.read_bytes()
    middle = len(whole) // 2
    bit = whole.index(b"\x80\x02") + 10  # of the pickle; tensors are parts of their own with a checksum
    for damaged in (None, b"", whole[:middle], whole[:bit] + bytes([whole[bit] ^ 1]) + whole[bit + 1 :]):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        before = files(stopped)
        with pytest.raises(RunFolderError, match=f"{name}.pkl is (missing|damaged)"):
            LocalizationTrainer(recipe, stopped)
        assert files(stopped) == before


@pytest.mark.parametrize(
    ("limit", "best_epoch", "kept"),
    [
        (0, 1, []),
        (1, 0, [(3, 40)]),
        (1, 1, [(1, 0)]),
        (2, 3, [(3, 0), (3, 40)]),
        (2, 1, [(1, 0), (3, 40)]),
        (2, 5, [(3, 0), (3, 40)]),
        (3, 1, [(1, 0), (3, 0), (3, 40)]),
        (9, 1, [(1, 0), (2, 0), (3, 0), (3, 40)]),
    ],
)
def test_the_last_checkpoints_are_kept_and_that_of_the_best_epoch(limit, best_epoch, kept):
    places = [(1, 0), (2, 0), (3, 0), (3, 40), (4, 0), (5, 0)]  # the last two are of a training that was given up
    assert surplus(places, (4, 0), limit, best_epoch) == [place for place in places if place not in kept]


def test_a_training_goes_back_to_an_earlier_checkpoint(data, tmp_path):
    class Measured(LocalizationTrainer):
        def evaluate(self):
            metrics, save = super().evaluate()
            return {**metrics, self.criterion: {1: 0.9, 2: 0.1, 3: 0.2}[self.progress.epoch]}, save

    run, recipe = tmp_path / "run", make_recipe(data, "training.save_total_limit=2")
    Measured(recipe, run).run()
    assert sorted(path.name for path in run.glob("checkpoint*")) == ["checkpoint", "checkpoint-1"]
    expected = outcome(run)
    (run / "checkpoint/model.pkl").write_bytes(b"")
    with pytest.raises(RunFolderError, match="delete the folder checkpoint and rename checkpoint-1 to checkpoint"):
        Measured(recipe, run)
    shutil.rmtree(run / "checkpoint")
    (run / "checkpoint-1").rename(run / "checkpoint")
    Measured(recipe, run).run()
    assert sorted(path.name for path in run.glob("checkpoint*")) == ["checkpoint", "checkpoint-1"]
    assert same(outcome(run), expected)


def test_nothing_to_go_on_from(recipe, stopped, whole, tmp_path, capsys):
    with pytest.raises(RunFolderError, match="nothing to resume"):
        LocalizationTrainer(recipe, tmp_path / "none", resume=True)
    shutil.rmtree(stopped / "checkpoint")
    LocalizationTrainer(recipe, stopped, resume=True).run()
    assert "has no checkpoint yet" in capsys.readouterr().out
    assert same(outcome(stopped), outcome(whole))


def test_a_folder_without_its_recipe_is_refused(recipe, stopped):
    recipe_file = stopped / "recipe.yaml"
    recipe_file.write_text("model: [")
    with pytest.raises(RunFolderError, match="recipe.yaml cannot be read"):
        LocalizationTrainer(recipe, stopped)
    recipe_file.unlink()
    with pytest.raises(RunFolderError, match="no recipe.yaml"):
        LocalizationTrainer(recipe, stopped)


def test_a_folder_is_complete_under_one_of_two_names(tmp_path):
    run = RunFolder(tmp_path)
    for text in ("first", "second"):
        run.write_folder("best", lambda folder, text=text: (folder / "x").write_text(text))
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    best = tmp_path / "best"
    best.rename(tmp_path / "best.old")
    (tmp_path / "best.partial").mkdir()
    assert (complete_folder(best) / "x").read_text() == "second"
    run.claim()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "best"]
    assert complete_folder(best) == best
    with pytest.raises(ZeroDivisionError):
        run.write_folder("best", lambda folder: 1 / 0)
    assert (best / "x").read_text() == "second"


def test_one_process_trains_in_a_folder(tmp_path):
    folder, output = tmp_path / "run", tmp_path / "output.txt"
    run = RunFolder(folder)
    run.claim()
    assert forks.wait(forks.start(RunFolder(folder).claim, output)) == 1
    assert "Another process trains in" in output.read_text()
    run._lock.close()
    assert forks.wait(forks.start(RunFolder(folder).claim, output)) == 0


@pytest.mark.parametrize(
    ("moments", "limit"),
    [(MOMENTS, 1), (["rename checkpoint.partial", "rename checkpoint.old", "rename checkpoint-2"], 2)],
)
def test_kills_at_named_moments(moments, limit):
    script, kills = Path(__file__).with_name("killed_training.py"), str(len(moments))
    epochs = "training.epochs=2" if limit == 1 else "training.epochs=4"
    command = [sys.executable, script, kills, epochs, f"training.save_total_limit={limit}", "--named"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *moments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{kills} of {kills} ended as the run without a kill"
