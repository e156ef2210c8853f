"""Where a model is: what stands for its folder, and what is said of a name that is none."""

import pytest
from huggingface_hub import constants

from re2tal_hf.commands.__main__ import main
from re2tal_hf.training.model_source import find_model, model_folder, near_folder


def write_model(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")


def test_a_run_stands_for_its_best_model(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "first"
    write_model(run / "last")
    assert model_folder(run) == run / "last"
    write_model(run / "best.old")  # what a kill in the middle of a replacement leaves
    assert model_folder(run) == run / "best.old"
    write_model(run / "best")
    assert model_folder(run) == model_folder(run / "best") == run / "best"
    assert find_model(str(run), "--model") == str(run / "best")
    monkeypatch.chdir(run)
    assert find_model(".", "--model") == "best"


def test_hub_ids_are_taken_as_they_are():
    assert find_model("user/name", "--model") == "user/name"
    assert find_model("user/name@v1", "--model", revision=True) == "user/name@v1"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("runs/first/best/config.json", "is a file; name the folder"),
        ("runs", "no config.json in it, in best/ or in last/"),
        ("runs/frist/best", r"neither a folder nor a Hub id, user/name .did you mean runs/first/best?"),
        ("./runs/first/bst", r"neither a folder nor a Hub id, user/name .did you mean runs/first/best?"),
        ("a model", "neither a folder nor a Hub id"),
        ("user/name@v1", "neither a folder nor a Hub id"),
        ("", "no config.json"),
        ("x" * 300 + "/y/z", "neither a folder nor a Hub id"),
    ],
)
def test_what_is_no_model_is_named(source, message, tmp_path, monkeypatch):
    write_model(tmp_path / "runs" / "first" / "best")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^--model .*{message}"):
        find_model(source, "--model")


def test_near_folders(tmp_path):
    write_model(tmp_path / "first" / "best")
    assert near_folder(str(tmp_path / "firts" / "best" / "x")) == f" (did you mean {tmp_path / 'first/best'}?)"
    assert near_folder(str(tmp_path / "other")) == near_folder("x") == ""


@pytest.mark.parametrize("command", [["predict", "a.mp4", "--model"], ["export", "--output", "m.pt2"]])
def test_a_misspelt_folder_ends_a_command_in_one_line(command, tmp_path, monkeypatch, capfd):
    write_model(tmp_path / "runs" / "first" / "best")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # a name of the form user/name is asked for
    for name, message in (("runs/frist", "there is no such folder (did you mean runs/first?)"), ("a/b/c", "neither")):
        assert main([*command, name]) == 1
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line and "model" in line
