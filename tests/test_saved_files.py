"""Files of a saved model that are damaged or something else: refused by name, with what to do, in every door."""

import json
import shutil
import struct

import pytest
import torch
from run_factory import small_pipeline
from safetensors.torch import load_file
from transformers import AutoModel

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization, Re2TALModel, Re2TALVideoProcessor
from re2tal_hf.commands import export, predict
from re2tal_hf.demo.models import ModelError, ModelShelf
from re2tal_hf.pipeline_re2tal import load_pipeline
from re2tal_hf.saved_files import check_folder, check_weights, files_checked, load_torch_file, read_header, read_json
from re2tal_hf.training.pretrained import load_backbone_weights

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
PAGE = b"\n<!DOCTYPE html><html><body>Not found</body></html>"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    small_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model", ignore=shutil.ignore_patterns("*.py"))


def with_header(content, change):
    """Safetensors with another header, and the same tensors."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def as_whole_numbers(header):
    header["model.backbone.features.0.0.attn.qkv.weight"]["dtype"] = "I32"


def without_numbers(content):
    """The same tensors, their numbers overwritten."""
    length = struct.unpack("<Q", content[:8])[0]
    return content[: 8 + length] + b"\xff" * (len(content) - 8 - length)


def as_another_shape(header):
    header["model.backbone.features.0.0.attn.qkv.weight"]["shape"].append(2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "is empty; download it again"),
        (lambda content: b"\0" * 1000, "nothing but zeros"),
        (lambda content: content[:5], "is no safetensors file"),
        (lambda content: content[:500], "is cut: 500 bytes, and its header alone has"),
        (lambda content: content[:-1], r"is cut: \d+ bytes, and by its header it has \d+; download it again"),
        (lambda content: content + b"\0", "is too long"),
        (lambda content: POINTER, "pointer of Git LFS and not the file itself; run `git lfs pull`"),
        (lambda content: PAGE, "is a web page"),
        (lambda content: b'{"error": "not found"}', "is no safetensors file"),
        (lambda content: content.replace(b'":', b"':", 1), "has a broken header"),
        (lambda content: with_header(content, as_another_shape), "has a broken header"),
        (lambda content: with_header(content, as_whole_numbers), "whole numbers in place of others"),
        (without_numbers, "is damaged, or of a training that diverged: .* hold NaN or infinite numbers"),
    ],
)
def test_damaged_weights_are_named_in_every_door(damage, message, folder):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    backbone = Re2TALModel(Re2TALConfig.from_pretrained(folder)).backbone
    for load in (
        Re2TALForTemporalActionLocalization.from_pretrained,
        Re2TALModel.from_pretrained,
        AutoModel.from_pretrained,
        lambda folder: load_pipeline(str(folder)),
        lambda folder: load_backbone_weights(backbone, str(folder)),
        lambda folder: load_backbone_weights(backbone, str(folder), partial=True),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            load(folder)
        assert str(folder) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_the_page_and_the_commands_name_damaged_files(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(ModelError, match=r"model.safetensors is a pointer of Git LFS"):
        ModelShelf(str(folder)).pipeline()
    for command, arguments in ((predict, ["--model", "model", "video.mp4"]), (export, ["model", "--output", "x.pt2"])):
        assert command.main(arguments) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and "git lfs pull" in line


def test_shards_and_their_index(saved, tmp_path):
    model = Re2TALForTemporalActionLocalization.from_pretrained(saved)
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    index = tmp_path / "model.safetensors.index.json"
    right = json.loads(index.read_text())
    assert check_weights(tmp_path).keys() == right["weight_map"].keys()
    name, other = next(
        (n, p) for n in right["weight_map"] for p in set(right["weight_map"].values()) if p != right["weight_map"][n]
    )
    places = right["weight_map"]
    for wrong, message in (
        ([], "holds a list in place of an object"),
        ({"metadata": {}}, "must have a 'weight_map'"),
        ({"weight_map": places}, "must have 'metadata'"),
        ({**right, "weight_map": {**places, name: "../model.safetensors"}}, "no file of weights beside it"),
        ({**right, "weight_map": {**places, name: 5}}, "no file of weights beside it"),
        ({**right, "weight_map": {**places, name: "absent.safetensors"}}, "lacks absent.safetensors"),
        ({**right, "weight_map": {**places, name: other}}, "lacks 1 tensors that model.safetensors.index.json says"),
        ({**right, "weight_map": {n: p for n, p in places.items() if n != name}}, "does not have 1 tensors of"),
    ):
        index.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=message):
            Re2TALForTemporalActionLocalization.from_pretrained(tmp_path)
    index.write_text(json.dumps(right))
    (tmp_path / other).unlink()
    with pytest.raises(ValueError, match=f"is not complete: it lacks {other}"):
        load_pipeline(str(tmp_path))


class Anything:
    """What a pickle must not bring."""


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
def test_files_of_torch_save(suffix, saved, tmp_path):
    path = tmp_path / f"weights{suffix}"
    model = Re2TALModel(Re2TALConfig.from_pretrained(saved))
    state = model.backbone.state_dict()
    for right in (
        state,
        {"state_dict": state, "epoch": 3, "lr": [0.1]},
        {"model": {f"module.{n}": t for n, t in state.items()}},
    ):
        torch.save(right, path)
        load_backbone_weights(model.backbone, str(path))
    torch.save(state, path, _use_new_zipfile_serialization=False)
    load_backbone_weights(model.backbone, str(path))
    itself: dict = {}
    itself["model"] = itself
    for wrong, message in (
        ([state], "holds a list and no weights"),
        ("text", "holds text and no weights"),
        (5, "holds a number and no weights"),
        ({"epoch": 3, "state_dict": {"a": {"b": 1}}}, "holds no weights"),
        (itself, "holds no weights"),
        (
            {"state_dict": state, "hook": Anything()},
            r"holds objects \(.*Anything\).*not loaded. Save the weights alone",
        ),
    ):
        torch.save(wrong, path)
        with pytest.raises(ValueError, match=message):
            load_backbone_weights(model.backbone, str(path))
    torch.save(state, path)
    content = path.read_bytes()
    for damaged, message in (
        (content[:-100], "is cut, or a damaged archive"),
        (b"PK\3\4" + b"x" * 100, "is cut, or a damaged archive"),
        (b"\x80\2not a pickle", "is damaged"),
        (b"some text", "is no file of torch.save"),
        (POINTER, "git lfs pull"),
        ((saved / "model.safetensors").read_bytes(), "is a safetensors file; name it .safetensors"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            load_torch_file(path)
    for other in (b"PK\3\4", b"\x80\2"):
        (tmp_path / "w.safetensors").write_bytes(other + content[4:])
        with pytest.raises(ValueError, match=r"written by torch.save; name it .pth"):
            read_header(tmp_path / "w.safetensors")


def test_the_older_format_of_transformers(saved, folder):
    state = load_file(saved / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    loaded = Re2TALForTemporalActionLocalization.from_pretrained(folder)
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    for wrong, message in (([], "holds a list and no state dict"), ({**state, "epoch": 3}, "holds more than tensors")):
        torch.save(wrong, folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match=message):
            AutoModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"{", "is broken JSON: Expecting property name"),
        (b"[1, 2]", "holds a list in place of an object"),
        (b"5", "holds a number"),
        (b"null", "holds null"),
        (b'{"size": 1, "size": 2}', "is broken JSON: the key 'size' is there twice"),
        ('{"a": 1}'.encode("utf-16"), "is not text in UTF-8"),
        (b"[" * 10**5, "is nested too deep"),
        (POINTER, "git lfs pull"),
        (PAGE, "is a web page"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "video_preprocessor_config.json"])
def test_settings_that_are_no_object(name, content, message, folder):
    (folder / name).write_bytes(content)
    owner = Re2TALConfig if name == "config.json" else Re2TALVideoProcessor
    for load in (
        lambda folder: read_json(folder / name),
        owner.from_pretrained,
        check_folder,
        lambda f: load_pipeline(str(f)),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            load(folder)
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "re2tall"}, "config.json: model_type is 're2tall'; did you mean 're2tal'?"),
        ({"model_type": [1]}, r"config.json: model_type is \[1\]; known are"),
        ({"auto_map": 5}, "auto_map is 5; it must be dict | None"),
        ({"dtype": "float33"}, "dtype is 'float33'; it must be one of .'float32'"),
        ({"architectures": 5}, "architectures is 5; it must be"),
        ({"backbone_confg": {}}, "backbone_confg: there is no such setting; did you mean 'backbone_config'"),
        ({"to_dict": 3}, "'to_dict': there is no such setting"),
        ({"id2label": {"1": "a", "2": "b"}}, "id2label has no class 0; the ids of 2 classes must be 0 to 1"),
    ],
)
def test_a_configuration_is_named_with_its_file_and_setting(change, message, folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as caught:
        load_pipeline(str(folder))
    assert "config.json" in str(caught.value) and str(folder) in str(caught.value)
    if "model_type" not in change:
        with pytest.raises(ValueError, match=message):
            Re2TALConfig.from_pretrained(folder)


def test_files_from_the_hub_are_checked_where_reading_them_fails(folder, monkeypatch):
    path = folder / "config.json"
    monkeypatch.setattr("re2tal_hf.saved_files.try_to_load_from_cache", lambda *place, **settings: str(path))
    for error in (KeyError("model_type"), OSError("no such file")):
        with pytest.raises(type(error)), files_checked("user/model", {}, check_folder):
            raise error
    with files_checked("user/model", {}, check_folder):
        (folder / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(ValueError, match="git lfs pull"), files_checked("user/model", {}, check_folder):
        raise KeyError("model_type")
