"""The files for `re2tal launch` on GPUs and in SLURM's queue, as Accelerate reads them."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed.run
from accelerate.commands.config.config_args import load_config_from_file

from re2tal_hf.commands import launch

FILES = Path(__file__).resolve().parents[1] / "scripts/launch"
TWO_MACHINES = ["--config_file", "scripts/launch/2x8_gpus.yaml"]
# The first looks whether the port is free, which another program here may have taken.
SECOND = ["--machine_rank", "1"]
SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "gpu[3-4]", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "64"}
# What stands in place of Slurm's commands and of ours.
COMMANDS = {
    "scontrol": 'if [ "$1" = show ]; then echo gpu3; echo gpu4; else echo "$@" >> "$CALLS"; fi',
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; "$@"',
    "re2tal": 'printf "%s\\n" "$@" > "$ARGUMENTS"; exit "$CODE"',
}


@pytest.fixture
def started(monkeypatch) -> list[argparse.Namespace]:
    """What `re2tal launch` would have started, in place of starting it."""
    found: list[argparse.Namespace] = []
    monkeypatch.chdir(FILES.parents[1])
    monkeypatch.setattr(torch.distributed.run, "run", found.append)
    monkeypatch.setattr(launch, "_run_one_process", found.append)
    monkeypatch.setattr(launch.accelerate_launch, "simple_launcher", None)
    return found


@pytest.mark.parametrize(("name", "processes"), [("1_gpu", 1), ("8_gpus", 8), ("2x8_gpus", 16)])
def test_precision_is_left_to_the_recipe(name, processes):
    config = load_config_from_file(str(FILES / f"{name}.yaml"))
    assert (config.num_processes, config.use_cpu, config.mixed_precision) == (processes, False, None)


def test_one_gpu_is_one_process(started):
    assert launch.main(["--config_file", "scripts/launch/1_gpu.yaml", "train", "--output", "run"]) == 0
    [options] = started
    assert (options.num_processes, options.gpu_ids, options.multi_gpu) == (1, "0", False)
    assert options.training_script_args == ["--output", "run"]


def test_eight_gpus_are_eight_processes_on_a_free_port(started):
    assert launch.main(["--config_file", "scripts/launch/8_gpus.yaml", "train"]) == 0
    [options] = started
    assert options.nproc_per_node == "8" and int(options.master_port) > 0
    assert (options.training_script, options.module) == ("re2tal_hf.commands.train", True)


def test_two_machines_meet_at_one_of_them(started):
    meeting = ["--rdzv_backend", "c10d", "--main_process_ip", "10.0.0.1"]
    assert launch.main([*TWO_MACHINES, *meeting, *SECOND, "train"]) == 0
    [options] = started
    assert (options.nnodes, options.nproc_per_node) == ("2", "8")
    assert (options.rdzv_endpoint, options.rdzv_backend) == ("10.0.0.1:29500", "c10d")


@pytest.mark.parametrize("code", [0, 1, 143])
@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_a_job_of_slurm(code, started, tmp_path):
    for name, text in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    arguments, calls = tmp_path / "arguments.txt", tmp_path / "calls.txt"
    environment = {
        **os.environ, **SLURM, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(calls), "ARGUMENTS": str(arguments), "CODE": str(code),
    }  # fmt: skip
    command = ["bash", "scripts/launch/slurm.sh", "train", "--output", "two words"]
    assert subprocess.run(command, env=environment).returncode == code
    # What was told to end is queued again; what failed is not.
    assert (calls.read_text(encoding="utf-8") if calls.exists() else "") == ("requeue 7\n" if code == 143 else "")
    name, *given = arguments.read_text(encoding="utf-8").splitlines()
    assert name == "launch" and given[:2] == TWO_MACHINES
    assert launch.main([*TWO_MACHINES, *SECOND, *given[2:]]) == 0
    [options] = started
    assert (options.nnodes, options.nproc_per_node) == ("2", "8")
    assert (options.rdzv_endpoint, options.rdzv_backend) == ("gpu3:29500", "c10d")
    assert options.training_script_args == ["--output", "two words"]
