"""What is published holds no stray file, nothing behind a link, and nothing of the machine it was made on."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard, HfApi, ModelCard
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from run_factory import LOG, METRICS, RECORD, write_run

from re2tal_hf.data.annotation_set import AnnotatedVideo
from re2tal_hf.publishing.dataset import HubDataset, upload_dataset, write_dataset
from re2tal_hf.publishing.listed_files import copy_listed, is_regular, listed_files
from re2tal_hf.publishing.markdown import code, escape, render
from re2tal_hf.publishing.model_card import CardOptions
from re2tal_hf.publishing.places import file_name, parent_name, without_places
from re2tal_hf.publishing.published_run import read_run
from re2tal_hf.publishing.staging import APP_FILES, METRIC_FILES, stage_app, stage_metric, stage_model
from re2tal_hf.publishing.upload import Target, staged_files

ROOT = Path(__file__).resolve().parents[1]

PLACES = {
    "/home/someone/kicks/annotations.json": "annotations.json",
    "/home/Some One/my kicks/annotations v2.json": "annotations v2.json",
    "/home/someone": "~",
    "/Users/someone/": "~",
    "/mnt/disk": "disk",
    "/data": "data",
    "C:\\Users\\someone\\kicks\\a.mp4": "a.mp4",
    "D:/kicks/a.mp4": "a.mp4",
    "C:\\Users\\someone": "~",
    "\\\\server\\share\\someone\\a.mp4": "a.mp4",
    "file:///home/someone/a.mp4": "a.mp4",
    "file://localhost/home/someone/a.mp4": "a.mp4",
    "~/kicks/a.mp4": "a.mp4",
    "~someone/kicks": "kicks",
    "$HOME/kicks/a.mp4": "a.mp4",
    "%USERPROFILE%\\kicks\\a.mp4": "a.mp4",
    "../../someone/kicks": "kicks",
    "runs/../../someone/kicks": "kicks",
    "No such file: '/mnt/disk 1/someone/a.mp4'": "No such file: 'a.mp4'",
    "--videos=/mnt/someone/kicks --cache=/tmp/someone": "--videos=kicks --cache=someone",
    "/home/someone/a.json and C:\\someone\\b.json": "a.json and b.json",
    "https://host/a and /home/someone/b": "https://host/a and b",
}
KEPT = [
    "", "/", "push/pull", "1/2/3", "A / B", "w/o", "km/h", "</b>", "user/name", "data/kicks.json", "~ 3", "a~b", "a\\b",
    "https://host/home/someone/a.mp4", "hf://datasets/user/name@0/a.mp4", "s3://bucket/someone/a.mp4", "x: y", "..",
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PLACES.items())
def test_local_paths_are_shortened_to_names(text, expected):
    assert without_places(text) == expected
    assert without_places({text: [text, 3, None, {"a": text}]}) == {expected: [expected, 3, None, {"a": expected}]}


@pytest.mark.parametrize("text", KEPT)
def test_what_is_no_local_path_stays(text):
    assert without_places(text) == text


def test_names_that_become_the_same_are_an_error():
    with pytest.raises(ValueError, match="the same without their folders"):
        without_places({"/a/b/x": 1, "/a/c/x": 2})


def test_long_text_takes_no_long_time():
    for piece in ("/a", "a/", "a ", "../", "~", "C:\\", "file:", "$a/", "\\"):
        without_places(piece * 50_000)


def test_names_of_files_and_folders():
    assert [file_name(path) for path in ("a/b.json", "a\\b.json", "a/b/", "..", "b")] == ["b.json"] * 2 + [
        "b",
        ".",
        "b",
    ]
    assert parent_name("/home/someone/kicks/annotations.json") == parent_name("kicks\\annotations.json") == "kicks"
    assert parent_name("/home/someone/annotations.json") == parent_name("annotations.json") == ""


HOSTILE = {
    "jump\n\n# Free weights\n\n[click](https://evil.example)": "\n# Free",
    "a | b | c": None,
    "`rm -rf`": None,
    "<script>alert(1)</script>": "<script",
    "<img src=x onerror=alert(1)>": "<img",
    "---\nlicense: mit\n---": "license: mit\n",
    "- item": None,
    "1. item": None,
    "\u202egnirts\x00\x1b[31m": "\u202e",
    "![x](https://evil.example/x.png)": None,
    "{{ 7 * 7 }}{% raw %}": None,
    "/home/someone/secret/label": "/home",
    "&lt;script&gt;": None,
    "\r\n## License\r\n\r\nmit": "\n## License\r\n",
}


@pytest.mark.parametrize(("text", "forbidden"), HOSTILE.items())
def test_markdown_shows_a_text_and_does_not_do_what_it_says(text, forbidden):
    cell = render("# {{ x }}\n\n| {{ x }} | end |\n\n- {{ x }}\n\n{{ code(x) }}\n", x=text)
    lines = cell.splitlines()
    assert len(lines) == 7
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", lines[2])) == 3
    assert lines[6].count("`") == 2
    assert not re.search(r"(?<!\\)[<>`\[\]]", cell.replace(lines[6], "").replace("&lt;", "").replace("&gt;", ""))
    assert forbidden is None or forbidden not in cell
    assert re.match(r"- (?:\\[-+]|\d+\\\.|[^-+\d])", lines[4])


def test_plain_text_looks_as_it_is():
    for text in ("CricketShot", "long_jump", "Weitwurf über", "CPU, 2.5 GHz (4 cores)", "mAP@0.5", "👩‍🚀", "-0.5", "2"):
        assert escape(text) == text and code(text) == f"`{text}`"


@pytest.fixture
def tree(tmp_path) -> Path:
    root = tmp_path / "tree"
    (root / "model").mkdir(parents=True)
    (root / "venv" / "lib").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    for path in (root / "app.py", root / "model" / "config.json", root / "venv/lib/x.py", outside / "secret.py"):
        path.write_text(path.name)
    for name in ("token.txt", "secrets.json", ".env", "model/optimizer.bin", "model/.hidden.json"):
        (root / name).write_text("secret")
    (root / "link.py").symlink_to(outside / "secret.py")
    (root / "examples").symlink_to(outside)
    (root / "broken.py").symlink_to(outside / "nowhere")
    os.mkfifo(root / "pipe.py")
    return root


def test_only_what_is_listed_is_copied_and_the_rest_is_named_in_a_line(tree, tmp_path, caplog):
    patterns = ("*.py", "model/*.json", "examples/*.py", "examples/*")
    assert listed_files(tree, patterns) == ["app.py", "model/config.json"]
    [line] = [record.message for record in caplog.records]
    strays = ("token.txt", "secrets.json", ".env", "model/optimizer.bin", "model/.hidden.json", "venv/", "pipe.py")
    assert all(f" {name}" in line for name in strays)
    assert all(f"{name} (a link)" in line for name in ("link.py", "examples", "broken.py"))
    copy_listed(tree, tmp_path / "copy", patterns)
    assert set(staged_files(tmp_path / "copy")) == {"app.py", "model/config.json"}
    assert is_regular(tree, "app.py")
    assert not any(is_regular(tree, name) for name in ("link.py", "examples/secret.py", "pipe.py", "model", "no.py"))
    assert not is_regular(tree / "model", "../app.py")


@pytest.fixture
def checkout(tmp_path) -> Path:
    """This project's Spaces, and strays and links in them."""
    root = tmp_path / "checkout"
    for folder in ("app", "re2tal_hf"):
        shutil.copytree(ROOT / folder, root / folder)
    shutil.copy(ROOT / "LICENSE", root / "LICENSE")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "diary.mp4").write_text("private")
    for space in ("app", "app/model", "app/examples", "re2tal_hf", "re2tal_hf/recipes", "re2tal_hf/metrics/tal_map"):
        for name in ("token.txt", "secrets.json", "optimizer.bin", ".env", "mine.yaml"):
            (root / space / name).write_text("/home/someone/secret")
        (root / space / "passwd.py").symlink_to("/etc/passwd")
        (root / space / "linked").symlink_to(tmp_path / "private")
    (root / "app" / "examples" / "diary.mp4").symlink_to(tmp_path / "private" / "diary.mp4")
    config = json.loads((root / "app/model/config.json").read_text())
    (root / "app/model/config.json").write_text(json.dumps({**config, "_name_or_path": "/home/someone/runs/best"}))
    return root


@pytest.mark.parametrize(("stage", "space"), [(stage_app, "app"), (stage_metric, "re2tal_hf/metrics/tal_map")])
def test_a_space_is_what_the_project_holds_and_nothing_else(stage, space, checkout, tmp_path):
    stage(checkout, tmp_path / "staged")
    stage(ROOT, tmp_path / "expected")
    assert set(staged_files(tmp_path / "staged")) == set(staged_files(tmp_path / "expected"))
    assert scan(tmp_path / "staged") == []
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", space, "re2tal_hf"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    if not listed:
        pytest.skip("not a git checkout")
    kept = [Path(name) for name in listed.splitlines() if name.startswith(f"{space}/") or stage is stage_app]
    names = {path.relative_to(space).as_posix() if path.is_relative_to(space) else path.as_posix() for path in kept}
    assert set(staged_files(tmp_path / "staged")) == names | {"LICENSE"}
    assert len(set(APP_FILES)) == len(APP_FILES) and len(set(METRIC_FILES)) == len(METRIC_FILES)


@pytest.mark.parametrize("name", ["app", "app/README.md", "app/app.py", "LICENSE"])
def test_what_a_space_needs_must_not_be_a_link(name, checkout, tmp_path):
    (checkout / name).rename(tmp_path / "moved")
    (checkout / name).symlink_to(tmp_path / "moved")
    with pytest.raises(ValueError, match="is a link or lies behind one"):
        stage_app(checkout, tmp_path / "staged")


def scan(folder: Path) -> list[str]:
    """Files that tell of a machine: its folders, its user, forms of paths. Python code is the project's own."""
    forms = ["/home/", "/Users/", "/mnt/", "/root/", "/tmp/", r"\b[A-Z]:\\", "file:/", "someone", "private", "secret"]
    forms += [re.escape(str(path)) for path in (Path.home(), Path.cwd(), ROOT) if len(path.parts) > 1]
    found = []
    for name in staged_files(folder):
        content = (folder / name).read_bytes()
        if name.endswith(".safetensors"):
            content = content[8 : 8 + int.from_bytes(content[:8], "little")]
        if not name.endswith((".py", ".mp4", ".png")):
            found += [f"{name}: {place}" for place in re.findall("|".join(forms), content.decode())]
    return found


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory) -> Path:
    """A run in which every text names places of the machine, or tries to write into the card."""
    base = tmp_path_factory.mktemp("private") / "someone"
    base.mkdir()
    labels = list(HOSTILE)
    run = write_run(
        base / "secret run",
        overrides=(
            f"data.annotations={base}/kicks/annotations.json",
            "data.videos='C:\\Users\\someone\\videos'",
            "data.cache=relative/someone/cache",
            "data.validation_subset='val\n# x'",
            "training.pretrained_backbone=/home/someone/weights/mine.pth",
        ),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["name"] = "mine`\n# Recipe"
    recipe["model"]["backbone_config"]["weights"] = "/home/someone/weights/mine.pth"
    recipe["augmentation"]["lookup"] = "~/someone/tables"
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    record = {**RECORD, "device": "CPU | GPU\n# Free, at /home/someone", "host": "file:///home/someone/x"}
    record["arguments"] = [f"--output={run}/best", {f"{base}/x": "~/someone/y"}]
    (run / "run.json").write_text(json.dumps(record))
    log = [{**entry, "map": 0.3, "note": f"from {base}/log.txt"} for entry in LOG]
    (run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    metrics = {**METRICS, "per_class": dict.fromkeys(labels, 0.5), "source": str(run / "best")}
    found = {
        "results": {f"{base}/videos/v1": [{"label": labels[0], "score": 1, "segment": [0, 1]}]},
        "from": str(base / "x"),
    }
    secret = base / "id_rsa"
    secret.write_text("private key")
    for which in ("best", "last"):
        model = run / which
        (model / "metrics.json").write_text(json.dumps(metrics))
        (model / "detections.json").write_text(json.dumps(found))
        config = json.loads((model / "config.json").read_text())
        config |= {
            "_name_or_path": str(base),
            "trained_by": "/home/someone",
            "backbone_config": config["backbone_config"],
        }
        (model / "config.json").write_text(json.dumps(config))
        for name in ("token.txt", "optimizer.bin", "notes.md", "events.out.tfevents.1"):
            (model / name).write_text("secret")
        written = PngInfo()
        written.add_text("Source", "/home/someone/secret.py")
        Image.new("RGB", (4, 4)).save(model / "timeline.png", pnginfo=written)
    (run / "last" / "timeline.png").unlink()
    (run / "last" / "timeline.png").symlink_to(secret)
    (run / "tracking").mkdir()
    (run / "tracking" / "events.out.tfevents.1").write_text(str(base))
    return run


OPTIONS = CardOptions(
    "user/hostile", "v1", license="mit", notes="Made in /home/someone/lab.\n\n## Data\n\nSee C:\\someone\\x.txt.\n"
)
STAGED = {
    "README.md", "LICENSE", "recipe.yaml", "run.json", "log.jsonl", "metrics.json", "detections.json", "config.json",
    "model.safetensors", "video_preprocessor_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def staged(hostile_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("staged")
    stage_model(read_run(hostile_run), OPTIONS, ROOT / "LICENSE", folder)
    return folder


def test_a_model_is_staged_without_strays_links_and_places(staged, hostile_run, tmp_path, caplog):
    assert {name for name in staged_files(staged) if not name.endswith(".py")} == {*STAGED, "timeline.png"}
    assert scan(staged) == []
    assert "annotations.json" in (staged / "recipe.yaml").read_text()
    recipe = yaml.safe_load((staged / "recipe.yaml").read_text())
    assert (recipe["data"]["videos"], recipe["data"]["cache"]) == ("videos", "cache")
    assert recipe["training"]["pretrained_backbone"] == "mine.pth"
    assert list(json.loads((staged / "detections.json").read_text())["results"]) == ["v1"]
    stage_model(read_run(hostile_run, "last"), OPTIONS, ROOT / "LICENSE", tmp_path)
    assert {name for name in staged_files(tmp_path) if not name.endswith(".py")} == STAGED
    assert "timeline.png is a link" in caplog.text
    assert "](timeline.png)" not in (tmp_path / "README.md").read_text()


def test_nothing_depends_on_where_the_run_lies(staged, hostile_run, tmp_path, monkeypatch):
    moved = shutil.copytree(hostile_run, tmp_path / "elsewhere", symlinks=True)
    (tmp_path / "mine.pth").write_text("")
    monkeypatch.chdir(tmp_path)
    stage_model(read_run(moved), OPTIONS, ROOT / "LICENSE", tmp_path / "again")
    for name in staged_files(staged):
        assert (tmp_path / "again" / name).read_bytes() == (staged / name).read_bytes(), name


def test_the_card_of_a_hostile_run_says_what_every_card_says(staged):
    card = ModelCard.load(staged / "README.md")
    headings = [line for line in card.text.splitlines() if line.startswith("#")]
    sections = ["Use", "Data", "Results", "Training", "Limits", "License", "Citation"]
    assert headings[0].startswith("# hostile: temporal action localization on ")
    assert headings[1:] == [f"## {name}" for name in sections]
    assert (card.data.license, card.data.pipeline_tag) == ("mit", None)
    assert {result.dataset_split for result in card.data.eval_results} == {"val # x"}
    rows = [line for line in card.text.splitlines() if line.startswith("| ") and line.endswith("| 0.500 |")]
    assert len(rows) == len(HOSTILE)
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3 for row in rows)
    assert not [forbidden for forbidden in HOSTILE.values() if forbidden and forbidden in card.text]
    assert "49" not in card.text.partition("## Results")[2].partition("## Training")[0]


@pytest.mark.parametrize(
    "name", ["best", "recipe.yaml", "run.json", "log.jsonl", "best/config.json", "best/model.safetensors",
             "best/metrics.json", "best/detections.json", "best/video_preprocessor_config.json"],
)  # fmt: skip
def test_what_a_model_needs_must_not_be_a_link(name, hostile_run, tmp_path):
    run = Path(shutil.copytree(hostile_run, tmp_path / "run", symlinks=True))
    (run / name).rename(tmp_path / "moved")
    (run / name).symlink_to(tmp_path / "moved")
    with pytest.raises(ValueError, match=f"{name} is a link"):
        read_run(run)


@pytest.fixture
def dataset_folder(tmp_path) -> Path:
    """A data set with hostile labels and ids."""
    labels = list(HOSTILE)
    videos = []
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_text(f"a video {name}")
        place, times = tmp_path / f"{name}.mp4", np.array([[0.0, 1.0]] * len(labels))
        videos.append(AnnotatedVideo(f"/home/someone/{name}", "train", place, 6.0, times, list(range(len(labels)))))
    problems = ["missing_file: 1 videos; first: /home/someone/x | y\n# z"]
    made = HubDataset({"train": videos[:1], "test": videos[1:]}, labels, problems, [])
    return write_dataset(made, tmp_path / "made", name="Made\n\n## by <script>", repo_id="user/made", license="mit")


def test_the_card_of_a_dataset_says_what_every_card_says(dataset_folder):
    card = DatasetCard.load(dataset_folder / "README.md")
    sections = ["Use", "Format", "Classes", "Limits"]
    headings = [line for line in card.text.splitlines() if line.startswith("#")]
    assert headings == ["# Made \\#\\# by &lt;script&gt;", *(f"## {name}" for name in sections)]
    rows = card.text.partition("## Classes")[2].partition("## Limits")[0].strip().splitlines()[2:]
    assert len(rows) == len(HOSTILE)
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 4 for row in rows)
    assert card.data.license == "mit"
    names = card.data.to_dict()["configs"][0]["features"][3]["list"][1]["dtype"]["class_label"]["names"]
    assert list(names.values()) == without_places(list(HOSTILE))
    assert scan(dataset_folder) == []
    rows = [json.loads(line) for line in (dataset_folder / "train" / "metadata.jsonl").read_text().splitlines()]
    assert [row["video_id"] for row in rows] == ["a"]
    assert [action["label"] for action in rows[0]["annotations"]] == without_places(list(HOSTILE))


@pytest.fixture
def sent(monkeypatch) -> list[str]:
    """Paths of what is added to and deleted from a pretended Hub."""
    sent: list[str] = []

    def commit(self, repo_id, operations, **settings):
        sent.extend(f"{type(operation).__name__[15:]} {operation.path_in_repo}" for operation in operations)

    monkeypatch.setattr(HfApi, "whoami", lambda *args, **settings: None)
    monkeypatch.setattr(HfApi, "repo_info", lambda *args, **settings: SimpleNamespace(private=True))
    monkeypatch.setattr(HfApi, "create_repo", lambda *args, **settings: None)
    monkeypatch.setattr(
        HfApi, "list_repo_files", lambda *args, **settings: ["train/old.mp4", "train/a.mp4", "other.txt"]
    )
    monkeypatch.setattr(HfApi, "create_commit", commit)
    return sent


def test_of_a_dataset_only_what_its_metadata_names_is_sent(dataset_folder, sent, caplog):
    for name in ("token.txt", "train/secrets.json", "train/other.mp4", "test/.env"):
        (dataset_folder / name).write_text("secret")
    (dataset_folder / "train" / "passwd").symlink_to("/etc/passwd")
    (dataset_folder / "linked").symlink_to(dataset_folder.parent)
    upload_dataset(dataset_folder, Target("user/made", "dataset", private=True, tag=None))
    files = ["README.md", "test/b.mp4", "test/metadata.jsonl", "train/a.mp4", "train/metadata.jsonl"]
    assert sorted(sent) == [*(f"Add {name}" for name in files), "Delete train/old.mp4"]
    [line] = [record.message for record in caplog.records]
    for name in ("token.txt", "train/secrets.json", "train/other.mp4", "test/.env", "train/passwd (a link)", "linked"):
        assert f" {name}" in line


@pytest.mark.parametrize("name", ["../../private.mp4", "/etc/passwd", "gone.mp4", "linked.mp4", "folder/a.mp4"])
def test_a_dataset_whose_metadata_names_what_is_not_in_it_is_not_sent(name, dataset_folder, sent):
    (dataset_folder.parent / "private.mp4").write_text("secret")
    (dataset_folder / "train" / "linked.mp4").symlink_to(dataset_folder.parent / "private.mp4")
    (dataset_folder / "train" / "folder").symlink_to(dataset_folder / "train")
    with (dataset_folder / "train" / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": name}) + "\n")
    with pytest.raises(FileNotFoundError, match="is missing, or is a link"):
        upload_dataset(dataset_folder, Target("user/made", "dataset", private=True, tag=None))
    assert sent == []
