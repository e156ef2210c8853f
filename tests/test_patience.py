"""Trainings that end because nothing improves."""

import json

import pytest
from test_trainer import TINY

from re2tal_hf.data.synthetic import generate
from re2tal_hf.training.arguments import load_recipe
from re2tal_hf.training.localization import LocalizationTrainer
from re2tal_hf.training.patience import is_exhausted


@pytest.mark.parametrize(
    ("scores", "patience", "expected"),
    [
        ([0.5, 0.4, 0.3, 0.2], None, False),
        ([], 1, False),
        ([0.1], 1, False),
        ([0.5, 0.4], 1, True),
        ([0.5, 0.4], 2, False),
        ([0.5, 0.5, 0.5], 2, True),
        ([0.5, 0.4, 0.6, 0.1], 2, False),
        ([0.5, 0.4, 0.6, 0.1, 0.2], 2, True),
    ],
)
def test_so_many_evaluations_without_a_better_figure(scores, patience, expected):
    log = [{"epoch": 1, "loss": 2.0}, *({"map": score} for score in scores), {"epoch": 9}]
    assert is_exhausted(log, "map", patience) is expected


def test_patience_counts_evaluations():
    with pytest.raises(ValueError, match=r"evaluation.patience counts evaluations, and evaluation.epochs is 0"):
        load_recipe("quickstart", ["evaluation.epochs=0", "evaluation.patience=2"])


@pytest.mark.training
@pytest.mark.usefixtures("fresh_accelerator")
def test_a_training_ends_where_nothing_improves(tmp_path, capsys):
    generate(tmp_path, num_training=2, num_validation=1, num_test=0, durations=(20, 22))
    settings = [
        *TINY,
        f"data.annotations={tmp_path / 'annotations.json'}",
        f"data.videos={tmp_path / 'videos'}",
        "training.learning_rate=1.0e-12",
        "training.backbone_learning_rate=0",
        "training.epochs=6",
        "evaluation.epochs=1",
    ]
    recipe, folder = load_recipe("quickstart", [*settings, "evaluation.patience=2"]), tmp_path / "run"
    LocalizationTrainer(recipe, folder).run()
    said = capsys.readouterr().out
    assert "The training ends after epoch 3: no better map in 2 evaluations" in said
    assert "to go" in said and "average mAP@0.3:0.7 = " in said
    assert len((folder / "log.jsonl").read_text().splitlines()) == 3
    LocalizationTrainer(recipe, folder).run()
    said = capsys.readouterr().out
    assert "is finished: no better map" in said and "give the same command with a larger evaluation.patience" in said
    # More patience goes on with it.
    LocalizationTrainer(load_recipe("quickstart", [*settings, "evaluation.patience=3"]), folder).run()
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [1, 2, 3, 4]
