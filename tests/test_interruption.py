"""Ctrl-C and SIGTERM: what is kept, what is said, and that the same command goes on as if nothing had been."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed_training import SETTINGS, make_recipe
from video_factory import write_video

from re2tal_hf.commands import benchmark, launch
from re2tal_hf.commands.__main__ import main
from re2tal_hf.data import durations
from re2tal_hf.data.annotation_set import AnnotatedVideo
from re2tal_hf.data.timeline_index import TimelineIndex
from re2tal_hf.training.epoch import EpochSoFar
from re2tal_hf.training.interruption import Interrupted, Interruption

TESTS = Path(__file__).resolve().parent
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
}
LAUNCHER = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
HERE = torch.device("cpu")


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> dict[str, Any]:
    """Of each training in `interrupted_training.py`: exit code and output, and what ended differently."""
    command = [sys.executable, str(TESTS / "interrupted_training.py"), str(tmp_path_factory.mktemp("runs"))]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.training
@pytest.mark.parametrize(
    ("name", "code", "place"),
    [
        ("first step", 143, "after 1 step of epoch 1 of 2"),
        ("last step", 143, "with the evaluation after epoch 1 of 2"),
        ("twice", 130, "after 2 steps of epoch 2 of 2"),
        ("at once", 130, "after epoch 1 of 2"),
        ("evaluation", 143, "with the evaluation after epoch 1 of 2"),
        ("save", 130, "with the evaluation after epoch 2 of 2"),
        ("workers", 130, "after 2 steps of epoch 2 of 2"),
    ],
)
def test_the_same_command_goes_on_from_where_a_signal_came(name, code, place, ends):
    found, text = ends[name]
    assert found == code and "Traceback" not in text
    last = text.splitlines()[-1]
    assert last.startswith("Stopped by ") and last.endswith(f"is saved: the same command goes on {place}.")
    assert text.count("Stopped by") == 1
    found, text = ends[f"{name}, again"]
    assert found == 0 and re.search(f"Going on with the run in .* {place}\\.\n", text)
    assert ends[f"{name}, different"] == []


@pytest.mark.training
def test_a_run_killed_in_the_middle_of_an_epoch_goes_on_from_its_last_save(ends):
    assert ends["killed"][0] == -signal.SIGKILL
    found, text = ends["killed, again"]
    assert found == 0 and re.search(r"Going on with the run in .* after 1 step of epoch 2 of 2\.\n", text)
    assert ends["killed, different"] == []


@pytest.mark.training
def test_two_processes_and_their_data_workers_end_after_the_same_step(tmp_path):
    make_recipe(tmp_path / "data")
    places = [f"data.annotations={tmp_path / 'data/annotations.json'}", f"data.videos={tmp_path / 'data/videos'}"]
    longer = ["training.epochs=500", "training.batch_size=1", "data.num_workers=1", "evaluation.epochs=0"]
    options = ["--recipe", "quickstart", "--output", tmp_path / "run", *SETTINGS, *places, *longer]
    command = [sys.executable, "-m", "re2tal_hf.commands.launch", *LAUNCHER, "--main_process_port=0", "train", *options]
    with (tmp_path / "output.txt").open("w") as output:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=output, stderr=output, start_new_session=True)
    end = time.monotonic() + 120
    while not (tmp_path / "run" / "log.jsonl").exists() or not (tmp_path / "run" / "log.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < end, (tmp_path / "output.txt").read_text()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(60) == 130
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    text = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in text and text.count("Stopped by Ctrl-C. The run in") == 1
    assert "death signal" not in text
    progress = torch.load(tmp_path / "run/checkpoint/progress.pkl", weights_only=True)
    parts = [torch.load(tmp_path / f"run/checkpoint/random_states_{i}.pkl", weights_only=True) for i in range(2)]
    assert progress["processes"] == 2 and parts[0]["epoch"]["steps"] == parts[1]["epoch"]["steps"]


def test_a_launcher_of_one_process_waits_for_its_end(tmp_path, monkeypatch):
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(143)); print(flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(launch, "prepare_simple_launcher_cmd_env", lambda options: ([sys.executable, "-c", script], {}))
    monkeypatch.setattr(launch.accelerate_launch, "launch_command", lambda options: launch._run_one_process(options))
    before = signal.getsignal(signal.SIGTERM)
    threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    assert launch.main(["train"]) == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_signals_are_noted_or_end_what_runs():
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        assert interruption.told(HERE) == 0
        with interruption.held():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)  # a launcher's
        assert interruption.told(HERE) == signal.SIGTERM
        with pytest.raises(Interrupted, match="Stopped by Ctrl-C"):
            signal.raise_signal(signal.SIGINT)
        with interruption.held(), pytest.raises(Interrupted):
            interruption._since -= 60
            signal.raise_signal(signal.SIGINT)
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    threading.Thread(target=Interruption().__enter__).start()  # which may set no handlers


def test_another_number_of_processes_goes_on_at_the_nearest_update():
    two = [EpochSoFar(steps=6, counted=5, losses={"loss": loss}) for loss in (10.0, 20.0)]
    one = EpochSoFar.of_others(two, processes=1, multiple=4)
    assert (one.steps, one.counted, one.losses) == (12, 10, {"loss": 30.0})
    assert EpochSoFar.of_others(two, processes=3, multiple=4).steps == 4
    assert EpochSoFar.of_others([EpochSoFar()], processes=2, multiple=4) == EpochSoFar()


@pytest.mark.parametrize("signaled", ["parser", "run"])
def test_ctrl_c_ends_any_command_with_one_line(signaled, monkeypatch, capsys):
    def stop(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "main" if signaled == "parser" else "check_device", stop)
    assert main(["benchmark"]) == 130
    assert capsys.readouterr().err == "Stopped by Ctrl-C.\n"


def test_durations_that_were_measured_before_ctrl_c_are_kept(tmp_path, monkeypatch):
    paths = [write_video(tmp_path / f"{name}.mp4", np.zeros((10, 32, 32, 3), np.uint8), 10.0) for name in "ab"]
    videos = [AnnotatedVideo(path.stem, "", path, None, np.zeros((0, 2)), []) for path in paths]
    measure = durations._measured_duration

    def stop_at_b(video: AnnotatedVideo, index: TimelineIndex) -> Any:
        if video.video_id == "b":
            raise KeyboardInterrupt
        return measure(video, index)

    monkeypatch.setattr(durations, "_measured_duration", stop_at_b)
    with pytest.raises(KeyboardInterrupt):
        durations.known_durations(videos, TimelineIndex(tmp_path / "index"))
    again = TimelineIndex(tmp_path / "index")
    assert again.known_duration(paths[0]) == pytest.approx(1.0) and again.known_duration(paths[1]) is None
