"""The commands: listed, found by every way to start them, and ended by a user's error with one line."""

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from torch._utils import ExceptionWrapper

from re2tal_hf.commands import train
from re2tal_hf.commands.__main__ import commands, main
from re2tal_hf.commands._errors import one_line
from re2tal_hf.video_reader import VideoReadError

ROOT = Path(__file__).resolve().parents[1]


def test_every_command_is_listed_and_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main([]) == 0
    listed = capsys.readouterr().out
    for name, line in commands().items():
        assert f"  {name} " in listed and line.endswith(".") and line in listed
        with pytest.raises(SystemExit) as left:
            main([name.replace("_", "-"), "--help"])
        assert left.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: re2tal {name} ")


def test_an_unknown_command_is_refused_with_the_names_of_those_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "'trian' is none of the commands: " in capsys.readouterr().err


@pytest.mark.training
def test_scripts_hand_over_to_the_commands_and_hide_no_library() -> None:
    scripts = sorted(path for path in (ROOT / "scripts").glob("*.py") if path.stem in commands())
    assert scripts
    for script in scripts:
        [only] = ast.parse(script.read_text()).body
        assert ast.unparse(only).split("\n")[1:] == [
            f"    from re2tal_hf.commands.{script.stem} import main",
            "    raise SystemExit(main())",
        ]
        # Python finds modules beside a script before it finds those installed.
        assert find_spec(script.stem) is None
    done = subprocess.run([sys.executable, ROOT / "scripts/train.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: re2tal train ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["seed=x", "--recipe", "quickstart", "data.videos=v", "--output", "run", "data.annotations=a"],
        ["--recipe", "quickstart", "data.videos=v", "data.annotations=a", "--output", "run", "seed=x"],
        ["data.videos=v", "data.annotations=a", "seed=x", "--output", "run", "--recipe", "quickstart"],
    ],
)
def test_options_stand_anywhere_among_overrides(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert "seed" in printed.err and not list(tmp_path.iterdir())


@pytest.mark.training
@pytest.mark.training
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--recipe", "none"], 1, "error: There is no recipe 'none'; "),
        (["--resume"], 2, "re2tal train: error: the following arguments are required: --recipe"),
    ],
)
def test_launched_in_two_processes_an_error_is_said_once(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    launcher = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    launcher.append("--main_process_port=0")  # any that is free; where the usual one is not, accelerate warns
    command = [sys.executable, "-m", "re2tal_hf.commands.launch", *launcher, "train", "--output", "run", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(said) == 1 and said[0].startswith(message)
    assert code == 2 or len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe=quickstart", "--output=run", "processor.size_=3"], "there is no field 'processor.size_'"),
        (["train", "--recipe=quickstart", "--output=run", "augmentation.flop=3"], "no field 'augmentation.flop'"),
        (["benchmark", "--backbone", "{model_type: x}"], "backbone_config['model_type'] is 'x'"),
        (["benchmark", "--backbone", "3"], "--backbone is 3; it must be dict"),
        (["benchmark", "--device", "nonsense"], "--device nonsense: "),
        (["benchmark", "--device", "meta"], "--device meta: "),
        (["benchmark", "--budgets", "--recipe", "quickstart"], "leave out --recipe"),
        (["benchmark", "--budgets", "--output", "x"], "leave out --budgets and --recipe"),
        (["predict", "--model", "model", "--device", "nonsense", "a.mp4"], "--device nonsense: "),
        (["evaluate", "--model=m", "--annotations=a", "--detections=none/d.json"], "a file in a folder that exists"),
        (["publish", "--repo", "user/name"], "give the folder of a run, or --metric, or --app"),
    ],
)
def test_a_users_error_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert not list(tmp_path.iterdir())


def test_an_error_of_a_data_worker_is_one_line() -> None:
    try:
        raise VideoReadError("a.mp4: cannot be decoded")
    except VideoReadError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(VideoReadError, match="Original Traceback") as raised:
        wrapped.reraise()
    assert one_line(raised.value) == "a.mp4: cannot be decoded"


def test_where_an_error_came_up_is_shown_to_who_asks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recipe 'none'"):
        train.main(["--recipe", "none", "--output", str(tmp_path / "run"), "--traceback"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipee", "x"], "; did you mean --recipe?"),
        (["--training.epochs=3"], "; fields of the recipe are given without dashes, as section.field=value"),
        (["seed=1", "--training.epochs", "3"], "; fields of the recipe are given without dashes"),
        (["--epochs", "3"], "; fields of the recipe are given without dashes"),
    ],
)
def test_arguments_that_are_not_understood_are_told_from_errors(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        train.main(["--recipe", "quickstart", "--output", "run", *arguments])
    assert left.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("re2tal train: error: unrecognized arguments: --") and message in last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["benchmark", "--threads", "0"], "argument --threads: '0' must be a whole number, at least 1"),
        (["benchmark", "--frames", "1.5"], "argument --frames: '1.5' must be a whole number, at least 1"),
        (
            ["predict", "--model", "m", "--threshold", "nan", "a.mp4"],
            "'nan' must be a number, at least 0 and at most 1",
        ),
        (
            ["predict", "--model", "m", "--batch-size", "x", "a.mp4"],
            "argument --batch-size: 'x' must be a whole number",
        ),
        (["evaluate", "--model=m", "--annotations=a", "--tiou", "50"], "'50' must be a number, above 0 and at most 1"),
        (["make_demo_data", "folder", "--longest", "inf"], "argument --longest: 'inf' must be a number, at least 1"),
        (["compare_rewirings", "--output=o", "--seeds", "-1"], "argument --seeds: '-1' must be a whole number"),
    ],
)
def test_numbers_of_options_have_a_range(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]
