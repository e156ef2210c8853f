"""transformers' own Trainer trains our models by the lines of the page on training, exactly as they stand there."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import TrainingArguments
from video_factory import write_video

PAGE = Path(__file__).resolve().parents[1] / "re2tal_hf/training/README.md"
LOCALIZER, CLASSIFIER = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def videos() -> None:
    """Four videos to train on and three to measure by, with one action or two."""
    Path("videos").mkdir()
    database = {}
    for index in range(7):
        pixels = torch.randint(0, 255, (40, 32, 32, 3), dtype=torch.uint8).numpy()
        write_video(Path(f"videos/{index}.mp4"), pixels, 12.0)
        actions = [{"segment": [0.3 + i, 1.2 + i], "label": "ab"[i]} for i in range(1 + index % 2)]
        subset = "training" if index < 4 else "validation"
        database[str(index)] = {"subset": subset, "duration": 40 / 12, "annotations": actions}
    Path("annotations.json").write_text(json.dumps({"database": database}))


@pytest.fixture
def clips() -> None:
    for split, label in ((s, label) for s in ("train", "validation") for label in ("bright", "dark")):
        Path("clips", split, label).mkdir(parents=True)
        for index in range(2):
            low = 150 if label == "bright" else 0
            pixels = torch.randint(low, low + 90, (40, 40, 56, 3), dtype=torch.uint8).numpy()
            write_video(Path("clips", split, label, f"{index}.mp4"), pixels, 8.0)


def run(lines: str, settings: dict, first: str = ""):
    """Runs the lines, with more arguments for the Trainer, and returns it."""
    assert len(ast.parse(lines).body) == 12
    torch.manual_seed(0)
    shared = {
        "num_train_epochs": 2, "per_device_train_batch_size": 1, "per_device_eval_batch_size": 2,
        "report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1,
    }  # fmt: skip
    names: dict = {}
    imports = "".join(line for line in lines.splitlines(keepends=True) if line.startswith("from"))
    exec(imports, names)
    names["TrainingArguments"] = lambda folder, **own: TrainingArguments(
        folder, **{**shared, **own, **(settings or {})}
    )
    exec(lines.removeprefix(imports).replace("trainer.train(", f"{first}trainer.train("), names)
    return names["trainer"]


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.training
def test_a_localizer_is_trained_measured_saved_and_resumed(videos):
    settings = {"save_strategy": "epoch", "gradient_accumulation_steps": 2, "bf16": True, "use_cpu": True}
    trainer = run(LOCALIZER, settings)
    assert len(losses(trainer)) == 4 and np.isfinite(losses(trainer)).all()
    assert [entry["epoch"] for entry in trainer.state.log_history if "eval_loss" in entry] == [1.0, 2.0]
    found = trainer.predict(trainer.eval_dataset)
    logits, segments, mask = found.predictions[0]
    assert logits.shape[:2] == segments.shape[:2] == mask.shape and len(logits) == 2
    kept = [label for batch in found.label_ids for label in batch]
    assert [len(label["segments"]) for label in kept] == [1, 2, 1]
    for label, window in zip(kept, trainer.eval_dataset, strict=True):
        assert np.array_equal(label["segments"], window["labels"]["segments"])
        assert np.array_equal(label["class_labels"], window["labels"]["class_labels"])

    again = run(LOCALIZER.replace("train()", "train(resume_from_checkpoint='run/checkpoint-2')"), settings)
    for (name, expected), tensor in zip(
        trainer.model.state_dict().items(), again.model.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, expected), name
    trainer.save_model("saved")
    loaded = type(trainer.model).from_pretrained("saved")
    assert all(torch.equal(loaded.state_dict()[n], tensor) for n, tensor in trainer.model.state_dict().items())


@pytest.mark.training
def test_a_classifier_is_trained_and_measured(clips):
    [measure] = re.findall(r"`compute_metrics=(lambda .*?)`", PAGE.read_text(encoding="utf-8"))
    measured = f"trainer.compute_metrics = {measure}\n"
    trainer = run(CLASSIFIER, {"bf16": True, "use_cpu": True, "per_device_train_batch_size": 2}, measured)
    assert np.isfinite(losses(trainer)).all()
    assert trainer.evaluate().keys() >= {"eval_loss", "eval_top1"}
    found = trainer.predict(trainer.eval_dataset)
    assert found.predictions.shape == (4, 2)
    assert np.argmax(found.predictions, axis=1).shape == found.label_ids.shape == (4,)


@pytest.mark.training
def test_gradients_that_are_accumulated_are_those_of_the_batch(clips):
    """The Trainer leaves the division by the number of steps to models that take more than they know."""
    updates = []
    exact = "model.norm = nn.Identity()\nmodel.freeze(backbone=True)\n"
    exact += "for module in model.modules():\n    if hasattr(module, 'p'):\n        module.p = 0.0  # of dropout\n"
    exact += "before = model.classifier.weight.clone()\n"
    for settings in ({"per_device_train_batch_size": 4}, {"gradient_accumulation_steps": 4}):
        sgd = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, "eval_strategy": "no"}
        trainer = run(CLASSIFIER, sgd | settings, f"from torch import nn\n{exact}trainer.before = before\n")
        updates.append((trainer.model.classifier.weight - trainer.before).detach())
        AcceleratorState._reset_state(reset_partial_state=True)
    assert updates[0].abs().max() > 0
    torch.testing.assert_close(updates[1], updates[0], rtol=1e-3, atol=1e-6)
