"""A user's own architecture and head in every command: named, trained, published, loaded again."""

import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from own_files import OWN_FILES, own_registrations, write_own_files

import re2tal_hf
from re2tal_hf.architecture import BACKBONES
from re2tal_hf.commands import predict, publish, train
from re2tal_hf.data.synthetic import generate
from re2tal_hf.head import HEADS
from re2tal_hf.training.arguments import load_recipe
from re2tal_hf.training.own_files import import_files

SETTINGS = [
    "model.backbone_config={model_type: residual_video, width: 8, depth: 2}",
    "model.head_config={model_type: single_level, hidden_size: 16}",
    "processor.size={height: 32, width: 32}",
    "processor.num_frames=64",
    "data.num_workers=0",
    "training.batch_size=2",
    "training.epochs=1",
    "training.warmup_epochs=0",
    "evaluation.epochs=0",
]


@pytest.fixture(autouse=True)
def _as_before():
    AcceleratorState._reset_state(reset_partial_state=True)
    with own_registrations():
        yield


@pytest.fixture
def own(tmp_path) -> list[Path]:
    (tmp_path / "own").mkdir()
    return write_own_files(tmp_path / "own")


@pytest.mark.training
def test_from_a_file_of_ones_own_to_a_published_model(own, tmp_path, monkeypatch, capsys):
    family, head = own
    generate(tmp_path / "data", num_training=2, num_validation=1, num_test=1, durations=(20, 22))
    places = [f"data.annotations={tmp_path / 'data/annotations.json'}", f"data.videos={tmp_path / 'data/videos'}"]
    run = tmp_path / "run"
    recipe = tmp_path / "mine.yaml"
    text = (Path(re2tal_hf.__file__).parent / "recipes/quickstart.yaml").read_text()
    recipe.write_text(f"imports: [{head}]\n{text}")
    arguments = ["--recipe", str(recipe), "--output", str(run), "--import", str(family), *SETTINGS, *places]
    assert train.main(arguments) == 0, capsys.readouterr().err
    assert set(OWN_FILES) < {path.name for path in (run / "best").iterdir()}
    assert load_recipe(str(run / "recipe.yaml")).imports == [str(head), str(family)]
    # The run goes on where the files lay elsewhere before.
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace(str(head), "/gone/my_head.py"))
    assert train.main([*arguments, "--resume", "training.save_epochs=2"]) == 0, capsys.readouterr().err

    imports = [option for path in own for option in ("--import", str(path))]
    published = tmp_path / "published"
    options = ["--repo", "user/mine", "--output", str(published), *imports]
    assert publish.main([str(run), *options]) == 0, capsys.readouterr().err
    assert set(OWN_FILES) < {path.name for path in published.iterdir()}
    assert "`single_level`" in (published / "README.md").read_text()
    assert str(tmp_path) not in (published / "recipe.yaml").read_text()

    video = sorted((tmp_path / "data/videos").glob("*.mp4"))[0]
    capsys.readouterr()
    output = ["--output", str(tmp_path / "detections"), "--threshold", "0", "--top-k", "3", str(video)]
    assert predict.main(["--model", str(run / "best"), *imports, *output]) == 0
    expected = capsys.readouterr().out
    # Another process has the published files only, and names those.
    files = [option for path in own for option in ("--import", str(published / path.name))]
    command = [sys.executable, "-m", "re2tal_hf.commands.predict", "--model", str(published), *files, *output]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == expected, done.stderr[-2000:]


def test_a_model_of_ones_own_asks_for_its_file(own, tmp_path):
    with own_registrations():
        import_files(own)
        config = re2tal_hf.Re2TALConfig(
            backbone_config={"model_type": "residual_video"}, head_config={"model_type": "single_level"}, num_labels=2
        )
        re2tal_hf.Re2TALForTemporalActionLocalization(config).save_pretrained(tmp_path / "model")
    assert "residual_video" not in BACKBONES and "single_level" not in HEADS
    with pytest.raises(
        ValueError, match=r"is 'residual_video'; .*One of your own is known once its file is imported .--import"
    ):
        re2tal_hf.Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "model")
    import_files([tmp_path / "model" / path.name for path in own])
    re2tal_hf.Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such Python file"),
        ("x = 1", "registers nothing"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError"),
        ("x = 1\0", "SyntaxError"),
        ("import sys\nsys.exit()", "SystemExit"),
        ("x = '\udce9'", "UnicodeDecodeError"),
        ("import re2tal_hf", "line 1: `import re2tal_hf` cannot be saved with a model"),
        ("from my_absent import x", "my_absent"),
    ],
)
def test_a_file_that_brings_nothing_ends_the_command_with_one_line(text, message, tmp_path, capsys):
    path = tmp_path / "my_file.py"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    arguments = ["--recipe", "quickstart", "--output", str(tmp_path / "run"), "--import", str(path)]
    assert train.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error and "my_file.py" in error
    assert not (tmp_path / "run").exists()


def test_names_are_given_once(own, tmp_path):
    import_files(own)
    import_files(own)
    (tmp_path / "my_head.py").write_text("")
    with pytest.raises(ValueError, match=r"own/my_head.py has the same name"):
        import_files([tmp_path / "my_head.py"])
    for name, source in (("my_other", own[1]), ("my_taken", own[1])):
        text = source.read_text().replace("single_level", "actionformer" if name == "my_taken" else "single_level")
        (tmp_path / f"{name}.py").write_text(text)
        with pytest.raises(ValueError, match=r"the name '\w+' of SingleLevelHead belongs to"):
            import_files([tmp_path / f"{name}.py"])
