"""The package as people install it: a wheel, in a folder that knows nothing of this repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_trainer import TINY

pytestmark = pytest.mark.training
ROOT = Path(__file__).resolve().parents[1]
# The commands one after another in one process: to start Python takes longer than most of them.
JOB = f"""
import sys
from pathlib import Path
import re2tal_hf
from re2tal_hf.commands.__main__ import main

assert Path(re2tal_hf.__file__).is_relative_to(sys.argv[1]), re2tal_hf.__file__
data = ["data.annotations=data/annotations.json", "data.videos=data/videos"]
generated = ["--num-training", "2", "--num-validation", "1", "--shortest", "13", "--longest", "14"]
assert main(["make_demo_data", "data", *generated]) == 0
settings = [*{TINY!r}, "training.epochs=1", "data.num_workers=0"]
assert main(["train", *data, "--recipe", "quickstart", *settings, "--output", "run"]) == 0
annotations = ["--annotations", "data/annotations.json", "--videos", "data/videos"]
assert main(["evaluate", "--model", "run/last", *annotations]) == 0
assert main(["predict", "--model", "run/last", "data/videos/testing_000.mp4"]) == 0
assert main(["publish", "run", "--repo", "user/name", "--dry-run"]) == 0
assert main(["publish", "--metric", "--repo", "user/tal_map", "--output", "metric"]) == 0
assert main(["publish", "--app", "--repo", "user/demo", "--dry-run"]) == 1
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a wheel of this project is installed in."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: setuptools leaves folders beside the sources, and puts what lies in them into the next wheel.
    shutil.copytree(ROOT / "re2tal_hf", folder / "source/re2tal_hf", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, folder / "source"], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "installed", wheel], check=True)
    return folder / "installed"


def run(installed: Path, cwd: Path, *command: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, command)),
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_data_training_evaluation_prediction_and_publication(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, sys.executable, "-c", JOB, installed)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "average mAP@0.3:0.7" in done.stdout and "model user/name, private" in done.stdout
    assert "app/README.md is missing: a Space is published from a checkout" in done.stderr
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"run/run.json", "run/best/model.safetensors", "detections.json", "predictions/testing_000.csv"} <= made
    assert {"metric/LICENSE", "metric/app.py", "metric/tal_map.py"} <= made


def test_the_command_line_lists_its_commands(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, installed / "bin/re2tal", "--help")
    assert done.returncode == 0, done.stderr
    assert "  train " in done.stdout and "  demo " in done.stdout
