"""Every stage of training over every registered architecture, from one to the next, on two tiny videos."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from architecture_cases import CASES, Case
from video_factory import write_video

from re2tal_hf import Re2TALForTemporalActionLocalization, Re2TALForVideoClassification
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.arguments import load_recipe
from re2tal_hf.training.classification import ClassificationTrainer
from re2tal_hf.training.localization import LocalizationTrainer

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("fresh_accelerator")]
FRAMES = 24


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    annotations = {}
    for split, subset in (("train", "training"), ("validation", "validation")):
        for label in ("bright", "dark"):
            (folder / split / label).mkdir(parents=True)
            level = 190 if label == "bright" else 10
            pixels = torch.randint(level, level + 60, (FRAMES, 40, 40, 3), dtype=torch.uint8).numpy()
            write_video(folder / split / label / f"{split}_{label}.mp4", pixels, 10.0)
            annotations[f"{split}_{label}"] = {
                "subset": subset,
                "duration": FRAMES / 10,
                "annotations": [{"segment": [0.4, 0.8], "label": label}],
            }
    (folder / "annotations.json").write_text(json.dumps({"database": annotations}))
    return folder


def write_recipe(path: Path, case: Case, **sections) -> Path:
    config = {**case.config, **case.stochastic}
    backbone = build_backbone(config)
    frames, height, width = case.shape
    if clip := backbone.architecture.clip_length(backbone):
        frames = clip + 2
    recipe = {
        "model": {"backbone_config": config, **sections.pop("model", {})},
        "processor": {"size": {"height": height, "width": width}, "num_frames": frames, "frame_rate": 10.0},
        "data": {"num_workers": 0, "windows_per_video": 1, **sections.pop("data")},
        "training": {
            "epochs": 1,
            "batch_size": 2,
            "warmup_epochs": 0.0,
            "trackers": [],
            **sections.pop("training", {}),
        },
        "evaluation": {"views": 1},
        **sections,
    }
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_from_clips_to_actions(case, videos, tmp_path):
    clips = {"annotations": str(videos), "training_subset": "train"}
    plain = write_recipe(tmp_path / "plain.yaml", case, data=clips, model={"rewiring": "none"})
    metrics = ClassificationTrainer(load_recipe(str(plain)), tmp_path / "plain").run()
    assert metrics["clips"] == 2

    source = {"pretrained_backbone": str(tmp_path / "plain/best")}
    taught = write_recipe(tmp_path / "taught.yaml", case, data=clips, training=source, distillation={"weight": 1.0})
    trainer = ClassificationTrainer(load_recipe(str(taught)), tmp_path / "taught")
    assert trainer.teacher is not None
    teacher = Re2TALForVideoClassification.from_pretrained(tmp_path / "plain/best").model.backbone
    expected = teacher.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trainer.teacher.state_dict().items())
    trainer.run()
    [line] = [json.loads(line) for line in (tmp_path / "taught/log.jsonl").read_text().splitlines()]
    assert 0 < line["distillation"] < float("inf")

    localized = write_recipe(
        tmp_path / "localized.yaml",
        case,
        # Some of these windows are shorter than a feature step and a half: what is learned does not matter here.
        data={"annotations": str(videos / "annotations.json"), "videos": str(videos), "max_unlearnable": 1.0},
        model={"head_config": {"hidden_size": 16, "num_levels": 2}},
        training={"pretrained_backbone": str(tmp_path / "taught/best")},
    )
    metrics = LocalizationTrainer(load_recipe(str(localized)), tmp_path / "localized").run()
    assert 0 <= metrics["map"] <= 1
    model = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "localized/best")
    assert model.config.backbone_config["model_type"] == case.config["model_type"]
