"""How an error ends a command: one line, a report in a file, or nothing where nobody reads."""

import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from own_files import own_registrations, write_own_files

from re2tal_hf.commands import train
from re2tal_hf.commands._errors import NOBODY_READS, expected

ROOT = Path(__file__).resolve().parents[1]


def train_with(error, monkeypatch, *more):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(train, "load_recipe", fail)
    return train.main(["--recipe", "quickstart", "--output", "my run", *more])


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("error", [KeyError("depths"), RuntimeError("a\n\nb " * 500), AssertionError(), ValueError()])
def test_a_fault_of_ours_is_said_to_be_ours_and_kept_in_a_file(error, temporary, monkeypatch, capsys):
    assert train_with(error, monkeypatch) == 1
    first, second, path = capsys.readouterr().err.splitlines()
    assert first.startswith(f"internal error: {type(error).__name__}") and len(first) < 600
    assert re.search(r"train.py, line \d+\)$", first)
    assert second.startswith("The fault is re2tal_hf's, not yours.")
    assert [str(file) for file in temporary.iterdir()] == [path]
    report = Path(path).read_text(encoding="utf-8")
    assert report.startswith("re2tal train --recipe quickstart --output 'my run'\nPython ")
    assert f"torch {version('torch')}" in report and "Traceback (most recent call last)" in report


def test_a_report_that_cannot_be_kept_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert train_with(KeyError("depths"), monkeypatch) == 1
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error and "/nowhere" in error.splitlines()[-1]


def test_a_fault_in_a_file_of_ones_own_is_told_from_ours(temporary, monkeypatch, capsys):
    _, path = write_own_files(temporary)
    path.write_text(f"{path.read_text()}\n\ndef fail():\n    return {{}}['x']\n")
    with own_registrations():
        monkeypatch.setattr(train, "load_recipe", lambda *given: sys.modules["re2tal_hf.my_head"].fail())
        assert train.main(["--recipe", "quickstart", "--output", "run", "--import", str(path)]) == 1
    assert f"It came up in {path}, which is yours." in capsys.readouterr().err


def memory_errors():
    for reserve in (lambda: torch.empty(2**58), lambda: np.empty(2**58), lambda: bytearray(2**60)):
        with pytest.raises((RuntimeError, MemoryError)) as raised:
            reserve()
        yield raised.value
    yield torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    yield RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")


def test_memory_that_ran_out_is_an_error_with_a_remedy(monkeypatch, capsys):
    for error in memory_errors():
        assert train_with(error, monkeypatch) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: memory ran out (") and "training.batch_size" in line
    bus_error = "DataLoader worker (pid 1) is killed by signal: Bus error. It is possible that dataloader's workers "
    assert "data.num_workers=0" in expected(RuntimeError(f"{bus_error}are out of shared memory (shm)."))


@pytest.mark.parametrize("error", [KeyError("depths"), MemoryError()])
def test_whoever_asks_for_the_traceback_gets_it(error, monkeypatch):
    with pytest.raises(type(error)):
        train_with(error, monkeypatch, "--traceback")


@pytest.mark.training
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("lines", [3, 300000])
def test_a_reader_that_goes_away_ends_a_command_quietly(unbuffered, lines):
    program = (
        "import sys\nfrom re2tal_hf.commands._command import run_command\n"
        "def run(options):\n"
        f"    sys.stdin.read()\n    for line in range({lines}):\n        print(line)\n    return 0\n"
        "sys.exit(run_command('', lambda parser: None, run, []))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, **pipes) as command:
        command.stdout.close()
        command.stdin.close()
        assert command.stderr.read() == b""
    assert command.returncode == NOBODY_READS
