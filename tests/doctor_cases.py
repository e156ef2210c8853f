"""Good recipes of many kinds, in which the doctor should find nothing.

python tests/doctor_cases.py 100       # so many; prints those in which it finds something
python tests/doctor_cases.py 100 100   # the next hundred
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from re2tal_hf.data.synthetic import MOTIONS, generate
from re2tal_hf.training.arguments import Recipe, load_recipe

BACKBONES = [
    ["model.backbone_config.embed_dim=8", "model.backbone_config.depths=[1,1]"],
    ["model.backbone_config.embed_dim=8", "model.backbone_config.depths=[1,1]", "model.rewiring=none"],
    ["model.backbone_config.embed_dim=8", "model.backbone_config.depths=[1,1]", "model.rewiring=dr2net"],
    [
        "model.backbone_config={model_type: slowfast, stage_blocks: [1, 1], base_channels: 8, channel_ratio: 4, "
        "resample_rate: 4, speed_ratio: 2, norm_eval: false}"
    ],
]
HEADS = [
    ["model.head_config.hidden_size=16"],
    ["model.head_config={model_type: tridet, hidden_size: 16, num_levels: 4, standardize_input: true}"],
]
DATASETS: list[dict[str, Any]] = [
    {"num_training": 8, "num_validation": 4, "seed": 1, "durations": (14.0, 18.0)},
    {"num_training": 12, "num_validation": 4, "seed": 2, "durations": (14.0, 24.0), "frame_rate": 15.0},
    {"num_training": 6, "num_validation": 3, "seed": 3, "durations": (20.0, 30.0), "frame_rate": 10.0},
    {
        "num_training": 8,
        "num_validation": 4,
        "seed": 4,
        "durations": (15.0, 18.0),
        "size": (48, 64),
        "frame_rate": 24.0,
    },
]


def good_recipe(number: int, folder: Path) -> Recipe:
    """The recipe of a number; its data are made in the folder, once for each of `DATASETS`."""
    draw = random.Random(number)
    which = number % len(DATASETS)
    data = folder / str(which)
    if not (data / "annotations.json").exists():
        generate(data, num_test=0, **DATASETS[which])
    classes = draw.choice([1, 2, 3, 4])
    annotations = _with_classes(data / "annotations.json", classes, which)
    native = DATASETS[which].get("frame_rate", 12.0)
    rate = draw.choice([rate for rate in (6.0, 7.5, 8.0, 10.0, 12.0, 15.0) if rate <= 1.25 * native])
    frames = draw.choice([frames for frames in (64, 96, 128, 160, 192) if 8 <= frames / rate <= 16])
    learning_rate = draw.choice([3e-4, 5e-4, 1e-3, 2e-3])
    return load_recipe(
        "quickstart",
        [
            *draw.choice(BACKBONES),
            *draw.choice(HEADS),
            f"data.annotations={annotations}",
            f"data.videos={data / 'videos'}",
            f"data.cache={folder / 'cache'}",
            "data.num_workers=0",
            f"data.windows_per_video={draw.choice([2, 3, 4])}",
            "processor.size={height: 32, width: 32}",
            f"processor.frame_rate={rate}",
            f"processor.num_frames={frames}",
            f"processor.window_overlap={draw.choice([0.25, 0.5, 0.75])}",
            f"augmentation.flip_probability={draw.choice([0.0, 0.5])}",
            f"augmentation.contrast={draw.choice([0.0, 0.3])}",
            f"training.epochs={draw.choice([20, 30, 60])}",
            f"training.learning_rate={learning_rate}",
            f"training.backbone_learning_rate={learning_rate * draw.choice([0.3, 1.0])}",
            f"training.warmup_epochs={draw.choice([1, 2, 5])}",
            f"training.ema_decay={draw.choice(['null', 0.95, 0.98])}",
            f"training.weight_decay={draw.choice([0.0, 0.01, 0.05, 0.1])}",
            f"seed={number}",
        ],
    )


def _with_classes(file: Path, number: int, which: int) -> Path:
    """The annotations with some classes made one."""
    changed = file.with_name(f"classes_{number}.json")
    if not changed.exists():
        content = json.loads(file.read_text(encoding="utf-8"))
        names = sorted(MOTIONS)
        for entry in content["database"].values():
            for action in entry["annotations"]:
                action["label"] = names[names.index(action["label"]) % number]
        changed.write_text(json.dumps(content), encoding="utf-8")
    return changed


def main(count: int, first: int = 0) -> None:
    """Looks at so many and prints the kinds of what is found."""
    from re2tal_hf.doctor.examination import findings

    alarms: Counter[str] = Counter()
    alarmed = 0
    with tempfile.TemporaryDirectory(prefix="re2tal-good-") as folder:
        for number in range(first, first + count):
            found = findings(good_recipe(number, Path(folder)), steps=4)
            alarmed += bool(found)
            alarms.update(finding.kind for finding in found)
            for finding in found:
                print(f"{number}: {finding}", flush=True)
            print(f"{number - first + 1} looked at, {alarmed} with an alarm", flush=True)
    print(f"{alarmed} of {count} good recipes with an alarm: {dict(alarms)}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
