"""The models that the demo page takes: the operator's, those of the Hub, and what they may cost."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from app_factory import APP
from architecture_cases import CASES
from run_factory import LABELS, small_pipeline

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization
from re2tal_hf.demo.model_limits import ModelError, _cost_of_window, check_cost
from re2tal_hf.demo.models import ModelShelf


@pytest.mark.parametrize(
    "name",
    ["../model", "/etc/passwd", "app/../model", "user", "user/name/more", "user/na me", "user/name@../x", "-u/n"],
)
def test_only_hub_ids_are_taken(name: str) -> None:
    with pytest.raises(ModelError, match="is not a model's id"):
        ModelShelf(str(APP / "model")).pipeline(name)


def test_operators_model_is_a_folder_of_a_model_or_a_run(tmp_path: Path) -> None:
    shutil.copytree(APP / "model", tmp_path / "run" / "best")
    shelf = ModelShelf(str(tmp_path / "run"))
    assert shelf.own_name == "run"
    assert shelf.pipeline() is shelf.pipeline("")
    for folder, message in ((tmp_path, "no config.json in it"), (tmp_path / "gone", "neither a folder nor a Hub id")):
        with pytest.raises(ModelError, match=message):
            ModelShelf(str(folder))
    config = tmp_path / "run" / "best" / "config.json"
    config.write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="of type 'bert'; this page runs those of type 're2tal'"):
        ModelShelf(str(tmp_path / "run"))


# Runs where the local hub is the Hub, which libraries learn when they are imported.
HUB_CHECKS = """
import json, os, sys, tempfile
from functools import partial
from pathlib import Path
from re2tal_hf.demo import models
from huggingface_hub import HfApi
api = HfApi()
def publish(name, folder):
    api.create_repo(name, exist_ok=True)
    api.upload_folder(repo_id=name, folder_path=folder)
publish("user/ours", sys.argv[1])
api.create_tag("user/ours", tag="v1")
for name, change in json.loads(sys.argv[2]).items():
    with tempfile.TemporaryDirectory() as folder:
        for file in Path(sys.argv[1]).iterdir():
            Path(folder, file.name).write_bytes(file.read_bytes())
        for file, text in change.items():
            Path(folder, file).unlink() if text is None else Path(folder, file).write_text(text)
        publish(name, folder)
os.makedirs("user/local"); Path("user/local/config.json").write_text('{"model_type": "re2tal"}')
shelf = models.ModelShelf(sys.argv[1])
def outcome(name):
    try:
        return sorted(shelf.pipeline(name).model.config.id2label.values())
    except models.ModelError as error:
        return str(error)
names = ["user/ours", "user/ours@v1", "user/ours@v9", "user/none", "user/local", *json.loads(sys.argv[2])]
result = {name: outcome(name) for name in names}
own = models.ModelShelf("user/ours@v1")
result["own"] = sorted(own.pipeline().model.config.id2label.values())
result["again"] = shelf.pipeline("user/ours") is shelf.pipeline("user/ours")
result["kept"] = len(shelf._pipelines)
shelf._max_megabytes = 0.1
shelf._pipelines.clear()
result["large"] = outcome("user/ours")
models.HfApi = partial(HfApi, endpoint="http://127.0.0.1:9")
result["away"] = outcome("user/ours")
print(json.dumps(result))
"""


@pytest.mark.training
def test_models_of_the_hub(local_hub: Any, tmp_path: Path) -> None:
    small_pipeline().save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    huge = json.loads(json.dumps(config))
    huge["backbone_config"] |= {"embed_dim": 1024, "depths": [1, 4], "mlp_ratio": 16.0}
    window = json.loads((tmp_path / "model" / "video_preprocessor_config.json").read_text()) | {
        "num_frames": 60_000,
        "size": {"height": 128, "width": 128},
    }
    changes = {
        "user/bert": {"config.json": '{"model_type": "bert"}'},
        "user/nothing": {"config.json": None},
        "user/broken": {"model.safetensors": "x"},
        "user/pickled": {"model.safetensors": None, "pytorch_model.bin": "x"},
        "user/huge": {"config.json": json.dumps(huge)},
        "user/window": {"video_preprocessor_config.json": json.dumps(window)},
        "user/coded": {"modeling_re2tal.py": "open('ran', 'w')", "pipeline_re2tal.py": "open('ran', 'w')"},
    }
    (tmp_path / "checks.py").write_text(HUB_CHECKS)
    arguments = (tmp_path / "checks.py", tmp_path / "model", json.dumps(changes))
    done = local_hub.run(*arguments, home=tmp_path / "home", cwd=tmp_path)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["own"] == result["user/ours"] == result["user/ours@v1"] == result["user/coded"] == sorted(LABELS)
    assert not (tmp_path / "ran").exists()
    assert "has no revision 'v9'" in result["user/ours@v9"]
    assert "no public model" in result["user/none"] and "no public model" in result["user/local"]
    assert "of type 'bert'" in result["user/bert"]
    assert "no config.json" in result["user/nothing"]
    assert "hold 1 bytes" in result["user/broken"] and "hold 0 bytes" in result["user/pickled"]
    assert "MB of memory" in result["user/huge"] and "a window of" in result["user/window"]
    assert result["again"] is True and result["kept"] == 2
    assert "takes up to 0.1 MB" in result["large"]
    assert "could not be fetched" in result["away"]


COSTS: list[tuple[dict[str, Any], str]] = [
    ({"num_labels": 10**9, "id2label": None}, "num_labels is 1000000000"),
    ({"backbone_config.depths": [10**6, 2]}, "depths.0. is 1000000"),
    ({"backbone_config.depths": [60, 60]}, "asks for .* weights, and its safetensors files hold"),
    ({"head_config.num_levels": 20}, "num_levels is 20"),
    ({"head_config.hidden_size": 4096}, "the network takes .* MB of memory; this page allows 1000"),
    ({"num_frames": 10**9}, "num_frames is 1000000000"),
    ({"num_frames": 60_000}, "a window takes 2812 MB"),
    ({"num_frames": float("nan")}, "num_frames is nan"),
    ({"size": {"height": 10**6, "width": 10**6}}, "size.height is 1000000"),
    ({"size": {"height": 5000, "width": 1}}, "a frame takes 5000 pixels a side"),
    ({"do_center_crop": True, "crop_size": {"height": 4096, "width": 4096}}, "a window of 24 GiB"),
    ({"frame_rate": 1000, "window_overlap": 0.999999}, "the longest video takes 600000 windows"),
    ({"frame_rate": 1000, "num_frames": 1}, "the longest video takes 600000 windows"),
    ({"max_candidates": 60_000}, "max_candidates takes 60000 segments"),
    ({"x": [[[[[[[[[[1]]]]]]]]]]}, "nested more than"),
]


@pytest.mark.parametrize(("change", "message"), COSTS, ids=lambda value: str(value)[:40])
def test_models_that_cost_too_much_are_refused_first(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = shutil.copytree(APP / "model", tmp_path / "model")
    of_config = {"num_labels", "id2label", "backbone_config", "head_config"}
    for key, value in change.items():
        section, _, name = key.partition(".")
        file = folder / ("config.json" if section in of_config else "video_preprocessor_config.json")
        values = json.loads(file.read_text())
        (values[section] if name else values)[name or section] = value
        file.write_text(json.dumps(values))
    start = time.process_time()
    with pytest.raises(ValueError, match=message):
        check_cost(folder, "user/model", max_megabytes=1000, max_seconds=600)
    assert time.process_time() - start < 30  # a hundredth of it here; what it refuses takes hours


@pytest.mark.training
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_window_of_every_architecture_is_counted(case: Any) -> None:
    heads = ("actionformer", "spotting", "tridet", "vsgn")
    head = {"model_type": heads[CASES.index(case) % len(heads)], "hidden_size": 32, "num_levels": 3}
    with torch.device("meta"):
        config = Re2TALConfig(backbone_config=case.config, head_config=head)
        network = Re2TALForTemporalActionLocalization(config).eval()
    megabytes, teraflops = _cost_of_window(network, case.shape)
    assert megabytes >= 4 * 3 * np.prod(case.shape) / 2**20 * 0.99 and 1e-6 < teraflops < 0.1
