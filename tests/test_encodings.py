"""Names outside the code page of a console or a machine: printed, written and read all the same."""

import ast
import codecs
import io
import sys
from pathlib import Path

import pytest
from run_factory import small_pipeline
from video_factory import numbered_frames, write_video

from re2tal_hf.commands import predict

ROOT = Path(__file__).resolve().parents[1]
OPENERS = ("open", "read_text", "write_text", "fdopen", "NamedTemporaryFile")
# Of libraries, or of bytes.
OTHERS = (
    "av.open",
    "Image.open",
    "urlopen",
    "os.open",
    "self.timelines.open",
    "self._timelines.open",
    "timelines.open",
    "index.open",  # of a TimelineIndex
    "self.open",
    "HfFileSystem().open",
)


def opens_as_the_machine_does(call: ast.Call) -> bool:
    """Whether a call opens a text in the machine's own encoding."""
    name = ast.unparse(call.func)
    if (
        name in ("read_text", *OTHERS)
        or name.rpartition(".")[2] not in OPENERS
        or name.endswith(("self.write_text", "run_folder.write_text"))
    ):
        return False
    modes = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    binary = any(isinstance(mode, str) and "b" in mode and len(mode) <= 3 for mode in modes)
    return not binary and not any(keyword.arg == "encoding" for keyword in call.keywords)


def test_every_text_is_read_and_written_in_an_encoding_of_its_own():
    files = [path for folder in ("re2tal_hf", "app", "scripts") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and opens_as_the_machine_does(node)
    ]
    assert not found


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii"])
def test_predict_prints_and_writes_any_name_and_goes_on_after_a_bad_video(tmp_path, monkeypatch, encoding):
    labels = {0: "漢字", 1: "Föhn \u202e"}
    model = tmp_path / "model"
    small_pipeline(id2label=labels, label2id={name: number for number, name in labels.items()}).save_pretrained(model)
    first, last = (write_video(tmp_path / f"{name}.mp4", numbered_frames(20)) for name in ("視頻", "b"))
    bad = [tmp_path / name for name in ("音.mp4", "gone.mp4", "folder.mp4")]
    bad[0].write_bytes(b"not a video")
    bad[2].mkdir()
    console, errors = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setattr(sys, "stderr", errors)
    formats = [part for kind in ("json", "csv", "srt", "vtt") for part in ("--format", kind)]
    arguments = ["--model", str(model), "--output", str(tmp_path / "out"), *formats, "--threshold", "0.01"]
    assert predict.main([*arguments, str(bad[0]), str(first), *map(str, bad[1:]), str(last)]) == 1
    for stream in (console, errors):
        stream.flush()
    said = errors.buffer.getvalue().decode(encoding)
    assert "not a video" in said and "there is no such file" in said and "this is a folder" in said
    assert "error: 3 of 5 videos cannot be read: " in said and "the results of the others are in" in said
    assert console.buffer.getvalue().count(b" actions, in ") == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{name}.{kind}" for name in ("視頻", "b") for kind in ("json", "csv", "srt", "vtt")
    }
    table = (tmp_path / "out/視頻.csv").read_bytes()
    assert table.startswith(codecs.BOM_UTF8) and "漢字" in table.decode()
    assert "漢字" in (tmp_path / "out/視頻.json").read_text(encoding="utf-8")
