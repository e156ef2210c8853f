"""Several processes of one training: what they agree on, on hosts without a shared folder and after a restart."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from killed_training import outcome, same

pytestmark = pytest.mark.training
TESTS = Path(__file__).resolve().parent
RESTARTED = """
import os, sys
from pathlib import Path
from killed_training import Writes, kill_at, make_recipe
from re2tal_hf.training.localization import LocalizationTrainer

data, folder = map(Path, sys.argv[1:])
if os.environ["RANK"] == "0" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    Writes(folder, kill_at("rename checkpoint.partial", 2))
LocalizationTrainer(make_recipe(data, "training.batch_size=1", "training.epochs=2"), folder).run()
"""
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def ends(place) -> dict[str, Any]:
    """Of each group of processes in `process_groups.py`, the exit status and the output of each."""
    command = [sys.executable, str(TESTS / "process_groups.py"), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_two_hosts_without_a_shared_folder(ends):
    assert [status for status, _ in ends["whole"]] == [0, 0]
    assert [status for status, _ in ends["killed"]] == [-9, 1]
    said = ends["killed"][1][1].splitlines()[-1]
    assert "ProcessLostError: process 0 on " in said and "the same command goes on after epoch 1." in said
    assert [status for status, _ in ends["again"]] == [0, 0]
    assert ends["different"] == []
    assert ends["on the second host"] == []
    assert ends["random states differ"]
    assert [status for status, _ in ends["finished"]] == [0, 0]
    assert all("is finished" in text for _, text in ends["finished"])


def test_a_training_on_shards_is_that_on_files_also_where_it_goes_on(ends):
    assert [status for status, _ in ends["killed on shards"]] == [-9, 1]
    assert [status for status, _ in ends["again on shards"]] == [0, 0]
    assert ends["different on shards"] == []


def test_two_processes_train_within_a_budget_of_memory_to_the_same_losses(ends, place):
    assert [status for status, _ in ends["within a budget"]] == [0, 0]
    plan = json.loads((place / "host0/budget/run.json").read_text())["backprop_plan"]
    assert plan["kept_bytes"] <= plan["budget_bytes"] and set(plan["modes"]) != {"plain"}
    found, expected = (
        [json.loads(line)["loss"] for line in (place / "host0" / name / "log.jsonl").read_text().splitlines()]
        for name in ("budget", "whole")
    )
    assert found == pytest.approx(expected, rel=1e-3) and len(found) == 2


def test_a_loss_that_is_not_finite_on_one_process_is_skipped_on_all(ends, place):
    (first, told), (second, silent) = ends["not finite on one"]
    assert (first, second) == (0, 0)
    assert told.count("the step is skipped.") == 1 and "of windows of training_00" in told and "skipped" not in silent
    log = [json.loads(line) for line in (place / "host0/wrong/log.jsonl").read_text().splitlines()]
    assert [entry["skipped_steps"] for entry in log] == [1, 0] and all(entry["loss"] > 0 for entry in log)


def test_evaluation_and_prediction_share_the_videos_and_find_the_same(ends, place):
    for name in ("evaluate", "predict"):
        assert [status for count in (1, 2) for status, _ in ends[f"{name} on {count}"]] == [0, 0, 0]
    [(_, alone)], [(_, first), (_, second)] = ends["evaluate on 1"], ends["evaluate on 2"]
    assert "average mAP@0.3:0.7" in alone and first.splitlines()[-7:] == alone.splitlines()[-7:]
    assert "mAP" not in second
    files = [place / f"detections_{count}.json" for count in (1, 2)]
    assert files[0].read_bytes() == files[1].read_bytes() and b"training_001" in files[0].read_bytes()
    folders = [place / f"predictions_{count}" for count in (1, 2)]
    made = [{path.name: path.read_text() for path in folder.iterdir()} for folder in folders]
    assert made[0] == made[1] and len(made[0]) == 6
    assert [text.count(" actions, in ") for _, text in ends["predict on 2"]] == [2, 1]


def test_processes_share_the_videos_whose_features_they_compute(ends, place):
    for name in ("features on 1", "features on 2", "features again"):
        assert all(status == 0 for status, _ in ends[name])
    alone, shared = ({p.name: p.read_bytes() for p in place.glob(f"features_{n}/*")} for n in (1, 2))
    assert alone == shared and len(shared) == 4
    assert "3 videos done, 0 were there" in ends["features on 2"][0][1]
    assert "1 videos done, 2 were there" in ends["features again"][0][1]
    (first, told), (second, own) = ends["features of broken"]
    assert (first, second) == (1, 1) and "2 of 3 videos cannot be read" in told
    assert "b.mp4" in own and "a.mp4" not in own
    assert sorted(path.name for path in (place / "features_3").iterdir()) == ["c.npy", "features.json"]


def test_all_videos_are_done_before_a_process_says_that_one_is_unreadable(ends, place):
    assert [status for status, _ in ends["unreadable"]] == [1, 1]
    assert "no.mp4" in ends["unreadable"][0][1] and "no.mp4" not in ends["unreadable"][1][1]
    assert len(list((place / "some").glob("*.json"))) == 3


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("on another host", "moved holds a run where process 1"),
        ("other recipe", "seed is 1 here and 0 there"),
        ("other recipe on one", "training.save_epochs is"),
        ("no data on one", "none.json do not exist"),
        ("too few windows", "An epoch has 4 windows"),
        ("not a folder", "is no folder"),
        ("damaged", "random_states_1.pkl is missing"),
    ],
)
def test_what_fails_on_one_process_fails_on_all(name, shown, ends):
    for status, text in ends[name]:
        assert status == 1 and shown in text


@pytest.mark.parametrize("hosts", [1, 2])
def test_torchrun_restarts_what_was_killed(hosts, ends, place):
    script = place / "restarted.py"
    script.write_text(RESTARTED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    options = ["--nnodes", str(hosts), "--nproc_per_node", str(2 // hosts), "--max-restarts", "1", "--rdzv-id", "job"]
    options += ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint]
    folders = [place / f"restarted_{hosts}_{host}" for host in range(hosts)]
    agents = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *options, str(script), str(place / "data"), str(folder)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )
        for folder in folders
    ]  # fmt: skip
    said = [agent.communicate() for agent in agents]
    assert [agent.returncode for agent in agents] == [0] * hosts, [error[-3000:] for _, error in said]
    assert sum("after epoch 1 of 2" in text for text, _ in said) == 1
    [trained] = [folder for folder in folders if folder.exists()]
    assert same(outcome(trained), outcome(place / "host0" / "whole"))
