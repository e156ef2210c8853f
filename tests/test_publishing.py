"""Uploads against the stand-in for the Hub, and loading what was uploaded without this package."""

import json
import re
import shutil
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Lock, Thread

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi
from run_factory import write_run
from safetensors.torch import load_file, save_file
from video_factory import numbered_frames, write_video

from re2tal_hf.commands.publish import main
from re2tal_hf.publishing.dataset import upload_dataset
from re2tal_hf.publishing.staging import load_checked, stage_app, stage_metric
from re2tal_hf.publishing.upload import Target, UploadError, publish, staged_files

ROOT = Path(__file__).resolve().parents[1]
CODE = "configuration_re2tal.py", "modeling_re2tal.py", "pipeline_re2tal.py", "video_processing_re2tal.py"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "video.mp4", numbered_frames(40), 10)


@pytest.fixture
def api(local_hub, monkeypatch) -> HfApi:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    return HfApi(endpoint=local_hub.url, token="hf_local")


@pytest.fixture
def command(capsys):
    """Runs the command in this process; returns its error message (None for success) and what it printed."""

    def run(*arguments: str | Path) -> tuple[str | None, str]:
        failed = main(list(map(str, arguments)))
        printed = capsys.readouterr()
        return (printed.err if failed else None), printed.out

    return run


@pytest.fixture
def folder(tmp_path) -> Path:
    """Something to upload: two large files and a small one."""
    folder = tmp_path / "staged"
    folder.mkdir()
    for name, size in (("a.safetensors", 1001), ("b.safetensors", 2002)):
        (folder / name).write_bytes(bytes(size))
    (folder / "config.json").write_text("{}")
    return folder


def target(name: str, tag: str = "v1", private: bool = True, repo_type: str = "model") -> Target:
    return Target(f"user/{name}", repo_type, private, tag)


def remote_files(api: HfApi, name: str, repo_type: str = "model", revision: str | None = None) -> set[str]:
    return set(api.list_repo_files(f"user/{name}", repo_type=repo_type, revision=revision)) - {".gitattributes"}


def test_one_commit_and_a_tag(api, local_hub, folder):
    assert publish(folder, target("once"), "first", api).endswith("user/once")
    assert remote_files(api, "once", revision="v1") == set(staged_files(folder))
    commits = [line for line in local_hub.requests() if line.startswith("POST /api/models/user/once/commit/")]
    assert len(commits) == 1


def test_an_upload_replaces_what_was_there(api, folder):
    publish(folder, target("replaced"), "first", api)
    (folder / "a.safetensors").rename(folder / "c.safetensors")
    publish(folder, target("replaced", tag="v2"), "second", api)
    assert remote_files(api, "replaced") == {"b.safetensors", "c.safetensors", "config.json"}
    assert remote_files(api, "replaced", revision="v1") == {"a.safetensors", "b.safetensors", "config.json"}


def test_an_interrupted_upload_goes_on_where_it_was(api, local_hub, folder, monkeypatch):
    (folder / "a.safetensors").write_bytes(b"a" * 3003)
    (folder / "b.safetensors").write_bytes(b"b" * 4004)
    upload, lock, sent = huggingface_hub._commit_api.lfs_upload, Lock(), []

    def upload_one_then_break(*, operation, **arguments):
        with lock:
            if sent:
                raise KeyboardInterrupt
            sent.append(operation.upload_info.size)
            return upload(operation=operation, **arguments)

    before = len(local_hub.uploads())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(huggingface_hub._commit_api, "lfs_upload", upload_one_then_break)
        publish(folder, target("interrupted"), "first", api)
    assert local_hub.uploads()[before:] == sent
    assert remote_files(api, "interrupted") == set()

    publish(folder, target("interrupted"), "first", api)
    assert sorted(local_hub.uploads()[before:]) == [3003, 4004]
    assert remote_files(api, "interrupted", revision="v1") == set(staged_files(folder))


def test_a_tag_that_exists_is_an_error_before_anything_is_sent(api, local_hub, folder):
    publish(folder, target("tagged"), "first", api)
    (folder / "config.json").write_text('{"changed": true}')
    before = len(local_hub.requests())
    with pytest.raises(UploadError, match="user/tagged already has the tag v1"):
        publish(folder, target("tagged"), "second", api)
    assert all(line.startswith("GET ") for line in local_hub.requests()[before:])


def test_a_dataset_is_checked_as_a_model_is(api, local_hub, tmp_path, monkeypatch):
    (tmp_path / "train").mkdir()
    (tmp_path / "README.md").write_text("# Kicks\n")
    (tmp_path / "train/metadata.jsonl").write_text('{"file_name": "a.mp4"}\n')
    (tmp_path / "train/a.mp4").write_bytes(b"a")
    kicks = target("kicks", repo_type="dataset")
    upload_dataset(tmp_path, kicks, api)
    assert {"README.md", "train/a.mp4"} < set(api.list_repo_files("user/kicks", repo_type="dataset", revision="v1"))
    before = len(local_hub.requests())
    with pytest.raises(UploadError, match="user/kicks already has the tag v1"):
        upload_dataset(tmp_path, kicks, api)
    assert all(line.startswith("GET ") for line in local_hub.requests()[before:])
    upload_dataset(tmp_path, Target("user/kicks", "dataset", private=True, tag=None), api)
    monkeypatch.setattr(huggingface_hub.hf_api, "get_token", lambda: None)
    with pytest.raises(UploadError, match="Nobody is logged in"):
        upload_dataset(tmp_path, kicks, HfApi(endpoint=local_hub.url))


def test_visibility_is_asked_for_and_a_repository_that_exists_keeps_its_own(api, folder, monkeypatch, caplog):
    asked = []
    create = HfApi.create_repo
    monkeypatch.setattr(
        HfApi,
        "create_repo",
        lambda self, *a, **k: asked.append((k["private"], k["space_sdk"])) or create(self, *a, **k),
    )
    publish(folder, target("hidden"), "first", api)
    publish(folder, target("shown", private=False, repo_type="space"), "first", api)
    assert asked == [(True, None), (False, "gradio")]
    assert not caplog.records
    publish(folder, target("hidden", tag="v2"), "second", api)  # the stand-in says of all that they are public
    assert "user/hidden exists and is public" in caplog.text


def test_nobody_logged_in_and_no_connection(local_hub, folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub.hf_api, "get_token", lambda: None)
    before = len(local_hub.requests())
    with pytest.raises(UploadError, match="Nobody is logged in"):
        publish(folder, target("nobody"), "first", HfApi(endpoint=local_hub.url))
    assert len(local_hub.requests()) == before
    away = HfApi(endpoint="http://127.0.0.1:9", token="hf_local")
    with pytest.raises(UploadError, match="http://127.0.0.1:9 cannot be reached"):
        publish(folder, target("away"), "first", away)


@pytest.mark.parametrize(
    ("status", "message"), [(401, "does not accept the token"), (403, "may not write to user/name"), (500, "refused")]
)
def test_a_refusal_is_explained(folder, status, message):
    class Refusing(BaseHTTPRequestHandler):
        def answer(self):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = answer

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        api = HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token="hf_local")
        with pytest.raises(UploadError, match=message):
            publish(folder, target("name"), "first", api)
        server.shutdown()


def test_a_file_that_could_not_be_sent_is_named(api, folder, monkeypatch):
    def refuse(**arguments):
        raise ConnectionResetError("reset")

    monkeypatch.setattr(huggingface_hub._commit_api, "lfs_upload", refuse)
    (folder / "a.safetensors").write_bytes(b"never sent before")
    with pytest.raises(UploadError, match=r"a\.safetensors.*reset.*Run this again"):
        publish(folder, target("broken"), "first", api)
    assert remote_files(api, "broken") == set()


@pytest.mark.parametrize(
    ("repo", "tag", "message"),
    [
        ("name", "v1", "user/name"),
        ("user/na me", "v1", "alphanumeric"),
        ("user/na--me", "v1", "--"),
        ("a/b/c", "v1", "namespace/repo_name"),
        ("user/name", "v 1", "--tag 'v 1'"),
        ("user/name", "", "--tag ''"),
    ],
)
def test_names_are_checked(repo, tag, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Target(repo, "model", True, tag)


def test_only_a_sound_model_is_staged(run_folder, tmp_path):
    model = Path(shutil.copytree(run_folder / "best", tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    save_file({**weights, "other.weight": torch.zeros(1)}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="other.weight"):
        load_checked(model)
    weights["head.boundary.predictor.bias"].fill_(torch.nan)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="predictor.bias. hold NaN or infinite numbers"):
        load_checked(model)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout with two Spaces, and with what must not be uploaded."""
    root = tmp_path / "checkout"
    for space in ("app", "re2tal_hf/metrics/tal_map"):
        (root / space / "__pycache__").mkdir(parents=True)
        (root / space / "__pycache__" / "app.pyc").write_text("")
        (root / space / ".cache").write_text("")
        (root / space / "README.md").write_text("---\ntitle: Space\nsdk: gradio\n---\n")
        (root / space / "app.py").write_text("")
        (root / space / "requirements.txt").write_text("gradio\n")
    (root / "re2tal_hf" / "reversible.py").write_text("")
    (root / "LICENSE").write_text("terms")
    return root


def test_spaces_are_staged_without_caches(checkout, tmp_path):
    stage_metric(checkout, tmp_path / "metric")
    space = {"LICENSE", "README.md", "app.py", "requirements.txt"}
    assert set(staged_files(tmp_path / "metric")) == space
    stage_app(checkout, tmp_path / "app")
    metric = {f"re2tal_hf/metrics/tal_map/{name}" for name in space - {"LICENSE"}}
    assert set(staged_files(tmp_path / "app")) == space | metric | {"re2tal_hf/reversible.py"}


@pytest.mark.parametrize("stage", [stage_app, stage_metric])
def test_a_space_that_would_not_start_is_not_staged(checkout, tmp_path, stage):
    place = checkout / ("app" if stage is stage_app else "re2tal_hf/metrics/tal_map")
    (place / "README.md").write_text("---\nsdk: static\n---\n")
    with pytest.raises(ValueError, match="sdk: gradio"):
        stage(checkout, tmp_path / "space")
    (place / "requirements.txt").unlink()
    with pytest.raises(ValueError, match=r"requirements\.txt is missing"):
        stage(checkout, tmp_path / "space")
    assert not (tmp_path / "space").exists()


@pytest.mark.parametrize("stage", [stage_app, stage_metric])
def test_the_spaces_of_this_repository_can_be_staged(stage, tmp_path):
    stage(ROOT, tmp_path / "space")
    files = staged_files(tmp_path / "space")
    assert {"README.md", "app.py", "requirements.txt", "LICENSE"} <= set(files)
    assert ("re2tal_hf/modeling_re2tal.py" in files) == (stage is stage_app)
    assert ("tal_map.py" in files) == (stage is stage_metric)
    assert not [name for name in files if "__pycache__" in name or name.startswith("tests")]


def test_a_dry_run_prints_what_would_be_sent_and_contacts_nothing(command, run_folder, monkeypatch, tmp_path):
    contacts = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: contacts.append(address))
    error, printed = command(run_folder, "--repo", "user/name", "--dry-run", "--tag", "v7")
    assert (error, contacts) == (None, [])
    assert printed.endswith("model user/name, private, tag v7\n")
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in printed.splitlines()[:-2]}
    assert listed["model.safetensors"] == (run_folder / "best" / "model.safetensors").stat().st_size
    results = {"README.md", "LICENSE", "metrics.json", "detections.json", "recipe.yaml", "log.jsonl", "timeline.png"}
    assert {*results, *CODE, "config.json", "video_preprocessor_config.json"} <= set(listed)
    error, printed = command(run_folder, "--repo", "user/name", "--dry-run", "--public")
    assert f"model user/name, public, tag v{version('re2tal_hf')}\n" in printed


def test_output_holds_what_would_be_sent(command, run_folder, tmp_path):
    (tmp_path / "notes.md").write_text("## Limits\n\nKnown to fail at night.\n")
    arguments = (run_folder, "--repo", "user/name", "--output", tmp_path / "out", "--max-shard-size", "100KB")
    error, printed = command(*arguments, "--notes", tmp_path / "notes.md", "--data-name", "Kicks")
    assert error is None
    files = staged_files(tmp_path / "out")
    assert f"bytes in {len(files)} files" in printed
    assert sum(name.endswith(".safetensors") for name in files) > 1
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Known to fail at night." in card
    assert (tmp_path / "out" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert "/home/someone" not in (tmp_path / "out" / "recipe.yaml").read_text()
    error, _ = command(*arguments)
    assert re.search("out is not empty: name a new folder", error)


def test_a_model_on_features_is_published_as_one(tmp_path, command):
    backbone = {"model_type": "features", "size": 8}
    overrides = ("data.features=features", "data.videos=null", "augmentation={}")
    run = write_run(tmp_path / "run", overrides=overrides, backbone_config=backbone, rewiring="none")
    error, _ = command(run, "--repo", "user/name", "--output", tmp_path / "out")
    assert error is None and "It takes features, not videos" in (tmp_path / "out" / "README.md").read_text("utf-8")
    features = torch.randn(1, 8, 8)
    models = [load_checked(folder).model for folder in (run / "best", tmp_path / "out")]
    with torch.no_grad():
        assert torch.equal(*(model(temporal_features=features).logits for model in models))


def test_errors_of_the_command_leave_nothing_behind(command, run_folder, tmp_path):
    broken = Path(shutil.copytree(run_folder, tmp_path / "run"))
    (broken / "best" / "metrics.json").unlink()
    error, _ = command(broken, "--repo", "user/name", "--output", tmp_path / "out")
    assert error.startswith("error: ")
    assert "metrics.json is missing" in error
    assert not (tmp_path / "out").exists()
    error, _ = command(run_folder, "--repo", "name", "--dry-run")
    assert error == "error: --repo name must be of the form user/name.\n"


WITHOUT_PACKAGE = r"""
import json, sys
sys.modules["re2tal_hf"] = None  # an import of it fails as if it were not installed
import torch
from huggingface_hub import hf_hub_download
from transformers import AutoConfig, AutoModel, AutoVideoProcessor, pipeline

results = {}
for repo, revision in (("published", "v9"), ("parts", "main"), ("whole", "main"), ("again", "main")):
    if repo == "again":  # saved anew by a process without the package, from what it loaded
        model.save_pretrained("again")
        processor.save_pretrained("again")
    options = {"trust_remote_code": True, "revision": revision}
    source = "again" if repo == "again" else f"user/{repo}"
    config = AutoConfig.from_pretrained(source, **options)
    model, report = AutoModel.from_pretrained(source, output_loading_info=True, **options)
    processor = AutoVideoProcessor.from_pretrained(source, **options)
    frames = torch.arange(16 * 3 * 32 * 32).reshape(16, 3, 32, 32).remainder(251).to(torch.uint8)
    with torch.no_grad():
        output = model.eval()(**processor(frames, return_tensors="pt"))
    results[repo] = {
        "labels": list(config.id2label.values()),
        "report": [str(key) for kind in report.values() for key in kind],
        "sum": output.logits.sum().item(),
    }
    pipe = pipeline("temporal-action-localization", model=source, **options)
    results[repo]["actions"] = pipe("video.mp4")
try:
    pipeline("temporal-action-localization", model="user/alone", trust_remote_code=True)
except ValueError as error:
    results["alone"] = str(error)
backbone, report = AutoModel.from_pretrained("user/backbone", trust_remote_code=True, output_loading_info=True)
results["backbone"] = [type(backbone).__name__, *(str(key) for kind in report.values() for key in kind)]
assert type(model).__module__.startswith("transformers_modules.")
card = open(hf_hub_download("user/published", "README.md", revision="v9")).read()
print(json.dumps(results))
exec(card.partition("```python\n")[2].partition("```")[0])
"""

WITH_PACKAGE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from run_factory import small_pipeline
from transformers import AutoModel, AutoVideoProcessor, pipeline

pipe = small_pipeline()
pipe.model.push_to_hub("user/parts")
pipe.video_processor.push_to_hub("user/parts")
pipe.push_to_hub("user/whole", max_shard_size="100KB")
pipe.model.push_to_hub("user/alone")
pipe.model.model.push_to_hub("user/backbone")
model = AutoModel.from_pretrained("user/whole")
processor = AutoVideoProcessor.from_pretrained("user/whole")
loaded = pipeline("temporal-action-localization", model="user/whole")
classes = [type(part).__module__ for part in (model, processor, loaded)]
print(json.dumps([classes, loaded("video.mp4")]))
"""


@pytest.mark.training
def test_from_a_run_to_a_process_without_the_package(local_hub, api, run_folder, video, tmp_path):
    shutil.copy(video, tmp_path / "video.mp4")
    places = {"home": tmp_path / "home", "cwd": tmp_path}
    arguments = ("--repo", "user/published", "--tag", "v9", "--max-shard-size", "100KB")
    done = local_hub.run("-m", "re2tal_hf.commands.publish", run_folder, *arguments, **places)
    assert done.stdout.endswith("/user/published\n")
    assert "model.safetensors.index.json" in remote_files(api, "published", revision="v9")
    expected = load_checked(run_folder / "best")(str(video))
    assert expected

    done = local_hub.run("-c", WITH_PACKAGE, ROOT / "tests", **places)
    classes, actions = json.loads(done.stdout.splitlines()[-1])
    assert all(name.startswith("re2tal_hf.") for name in classes)
    assert "model.safetensors.index.json" in remote_files(api, "whole")
    assert_same(actions, expected)

    done = local_hub.run("-c", WITHOUT_PACKAGE, **places)
    first, *printed = [line for line in done.stdout.splitlines() if line]
    results = json.loads(first)
    assert "no video processor with the model" in results.pop("alone")
    assert results.pop("backbone") == ["Re2TALModel"]
    assert set(results) == {"published", "parts", "whole", "again"}
    assert all(found["report"] == [] for found in results.values())
    assert all(found["labels"] == ["jump", "run"] for found in results.values())
    assert len({round(found["sum"], 3) for found in results.values()}) == 1
    for found in results.values():
        assert_same(found["actions"], expected)
    assert len(printed) == sum(action["score"] >= 0.3 for action in expected) > 0
    assert all(re.fullmatch(r"\d\.\d s to \d\.\d s: (jump|run) \(0\.\d\d\)", line) for line in printed)


def assert_same(actions: list[dict], expected: list[dict]) -> None:
    assert [action["label"] for action in actions] == [action["label"] for action in expected]
    for key in ("start", "end", "score"):
        assert [action[key] for action in actions] == pytest.approx([action[key] for action in expected], abs=1e-4)


def test_the_metric_is_published_as_a_space(local_hub, api, checkout, tmp_path):
    stage_metric(checkout, tmp_path / "staged")
    publish(tmp_path / "staged", target("tal_map", repo_type="space"), "first", api)
    assert remote_files(api, "tal_map", repo_type="space", revision="v1") == set(staged_files(tmp_path / "staged"))
    assert api.space_info("user/tal_map").sdk == "gradio"
