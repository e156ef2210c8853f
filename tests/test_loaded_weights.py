"""`from_pretrained` of our models: all tensors are loaded, or what was not is refused, by every entrance."""

import json
import logging
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from architecture_cases import CASES, Case
from run_factory import small_pipeline
from safetensors.torch import load_file, save_file
from tolerances import assert_close, depth_of
from torch import Tensor, nn
from transformers import AutoModel, pipeline

from re2tal_hf import (
    Architecture,
    Re2TALConfig,
    Re2TALForTemporalActionLocalization,
    Re2TALForVideoClassification,
    Re2TALModel,
    Re2TALVideoClassificationConfig,
    Re2TALVideoProcessor,
)
from re2tal_hf.architecture import BACKBONES
from re2tal_hf.pipeline_re2tal import load_pipeline
from re2tal_hf.reversible import Stage

HEADS = {
    "actionformer": {"hidden_size": 16, "num_levels": 2, "num_stem_layers": 1},
    "tridet": {"hidden_size": 16, "num_levels": 2},
    "vsgn": {"hidden_size": 32, "num_levels": 2},
}
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
TASK = "temporal-action-localization"


def localizer(
    case: Case = CASES[0], head: str = "actionformer", **settings: Any
) -> Re2TALForTemporalActionLocalization:
    head_config = {"model_type": head, **HEADS[head]}
    settings = {"backbone_config": case.config, "head_config": head_config, "num_labels": 2, **settings}
    return Re2TALForTemporalActionLocalization(Re2TALConfig(**settings)).eval()


def rewrite(folder: Path, change) -> None:
    """Gives a tensor of the saved weights another name, or leaves it out."""
    path = folder / "model.safetensors"
    renamed = {change(name): tensor for name, tensor in load_file(path).items()}
    renamed.pop(None, None)
    save_file(renamed, path, metadata={"format": "pt"})


def assert_equal(found: nn.Module, expected: nn.Module) -> None:
    there, here = found.state_dict(), expected.state_dict()
    assert there.keys() == here.keys()
    for name, tensor in here.items():
        assert torch.equal(there[name], tensor), name


@pytest.mark.training
@every_case
def test_names_that_do_not_fit_are_refused_with_counts(case, tmp_path):
    model = localizer(case)
    total = len(model.state_dict())
    model.save_pretrained(tmp_path)
    backbone = sorted(name for name, t in model.model.backbone.state_dict().items() if t.is_floating_point())
    wrong = {f"model.backbone.{name}" for name in backbone[::3]}
    rewrite(tmp_path, lambda name: name.replace("backbone.", "backbone.net.") if name in wrong else name)
    message = rf"used {total - len(wrong)} of {total} tensors.* lacks {len(wrong)} \(.* no place for {len(wrong)} \("
    kinds = (Re2TALForTemporalActionLocalization, AutoModel, Re2TALModel, Re2TALForVideoClassification)
    for kind in kinds[:2]:
        with pytest.raises(ValueError, match=message):
            kind.from_pretrained(tmp_path)
    for kind in kinds[2:]:
        with pytest.raises(ValueError, match=f"lacks {len(wrong)} .* no place for {len(wrong)}"):
            kind.from_pretrained(tmp_path)
    loaded = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path, partial=True)
    assert all(tensor.isfinite().all() for tensor in loaded.state_dict().values())


@pytest.mark.training
@every_case
def test_a_deeper_or_shallower_backbone_is_refused(case, tmp_path):
    localizer(case).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    deeper = {**config, "backbone_config": {**case.config, **case.deeper}}
    (tmp_path / "config.json").write_text(json.dumps(deeper))
    with pytest.raises(ValueError, match=r"used \d+ of \d+ tensors.*lacks"):
        Re2TALForTemporalActionLocalization.from_pretrained(tmp_path)
    localizer(case, backbone_config=deeper["backbone_config"]).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"used \d+ of \d+ tensors.*no place for"):
        Re2TALForTemporalActionLocalization.from_pretrained(tmp_path)


@pytest.mark.parametrize("head", HEADS)
def test_head_and_loss_count(head, tmp_path):
    model = localizer(head=head)
    model.save_pretrained(tmp_path / "whole")
    names = set(model.state_dict())
    normalizers = {name for name in names if name.startswith("criterion.")}
    assert normalizers
    removals = {
        "loss": normalizers,
        "one": {"head.classification.predictor.bias"} & names or {max(n for n in names if n.startswith("head."))},
        "head": {name for name in names if name.startswith(("head.", "criterion."))},
    }
    for what, removed in removals.items():
        folder = tmp_path / what
        shutil.copytree(tmp_path / "whole", folder)
        rewrite(folder, lambda name, removed=removed: None if name in removed else name)
        with pytest.raises(ValueError, match=rf"used {len(names - removed)} of {len(names)} .*lacks {len(removed)} \("):
            Re2TALForTemporalActionLocalization.from_pretrained(folder)
        assert_equal(Re2TALModel.from_pretrained(folder), model.model)
    deeper = localizer(head=head, head_config={"model_type": head, **HEADS[head], "num_levels": 3})
    deeper.save_pretrained(tmp_path / "deeper")
    shutil.copy(tmp_path / "whole" / "config.json", tmp_path / "deeper" / "config.json")
    with pytest.raises(ValueError, match="no place for|other shapes"):
        Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "deeper")


@pytest.mark.parametrize("head", HEADS)
def test_another_number_of_classes_by_transformers_own_door(head, tmp_path, caplog):
    model = localizer(head=head)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"other shapes for \d+ .*ignore_mismatched_sizes=True"):
        Re2TALForTemporalActionLocalization.from_pretrained(tmp_path, num_labels=5)
    with caplog.at_level(logging.WARNING):
        loaded, info = Re2TALForTemporalActionLocalization.from_pretrained(
            tmp_path, num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True
        )
    anew = {name for name, *_ in info["mismatched_keys"]}
    assert anew and all(name.startswith("head.") for name in anew)
    assert f"begun anew: {len(anew)} (" in caplog.text and min(anew) in caplog.text
    state = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        assert name in anew or torch.equal(state[name], tensor), name
        assert state[name].isfinite().all(), name
    with pytest.raises(ValueError, match="other shapes"):  # the door is for the head
        config = {**CASES[0].config, "embed_dim": 16}
        Re2TALForTemporalActionLocalization.from_pretrained(
            tmp_path, backbone_config=config, ignore_mismatched_sizes=True
        )


def test_from_one_task_to_another(tmp_path, caplog):
    classifier = Re2TALForVideoClassification(
        Re2TALVideoClassificationConfig(backbone_config=CASES[0].config, classifier_norm=True)
    )
    classifier.save_pretrained(tmp_path / "classifier")
    detector = localizer()
    detector.save_pretrained(tmp_path / "detector")
    with caplog.at_level(logging.WARNING):
        loaded = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "classifier", num_labels=2)
    assert_equal(loaded.model, classifier.model)
    assert "begun anew" in caplog.text and "criterion.normalizer" in caplog.text
    assert_equal(Re2TALForVideoClassification.from_pretrained(tmp_path / "detector").model, detector.model)
    assert_equal(Re2TALModel.from_pretrained(tmp_path / "classifier"), classifier.model)
    rewrite(tmp_path / "classifier", lambda name: None if name.endswith("patch_embed.norm.bias") else name)
    for kind in (Re2TALForTemporalActionLocalization, Re2TALModel, Re2TALForVideoClassification):
        with pytest.raises(ValueError, match="patch_embed.norm.bias"):
            kind.from_pretrained(tmp_path / "classifier")


def test_a_pipeline_has_no_use_for_a_head_that_was_not_trained(tmp_path):
    Re2TALForVideoClassification(Re2TALVideoClassificationConfig(backbone_config=CASES[0].config)).save_pretrained(
        tmp_path
    )
    processor = Re2TALVideoProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    for load in (load_pipeline, partial(pipeline, TASK)):
        with pytest.raises(ValueError, match="is a Re2TALForVideoClassification, which localizes nothing"):
            load(model=str(tmp_path))
    localizer_class = Re2TALForTemporalActionLocalization
    with pytest.raises(ValueError, match=r"no trained head: 230 tensors .*criterion.normalizer"):
        pipeline(TASK, model=localizer_class.from_pretrained(tmp_path), video_processor=processor)
    with pytest.raises(ValueError, match=r"used 65 of .*lacks .*criterion.normalizer"):
        localizer_class.from_pretrained(tmp_path, partial=False)
    model = localizer_class.from_pretrained(tmp_path)
    pipeline(TASK, model=model.train(), video_processor=processor)
    model = localizer_class.from_pretrained(tmp_path)
    model.load_state_dict(model.state_dict())
    pipeline(TASK, model=model, video_processor=processor)
    pipeline(TASK, model=localizer_class.from_pretrained(tmp_path, partial=True), video_processor=processor)
    with pytest.raises(ValueError, match="is a Re2TALModel, which localizes nothing"):
        pipeline(TASK, model=model.model, video_processor=processor)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_wrapped_names_are_unwrapped_and_not_saved_again(prefix, max_shard_size, tmp_path):
    model = localizer()
    wrapped = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    wrapped["n_averaged"] = torch.tensor(3)
    model.save_pretrained(tmp_path / "wrapped", state_dict=wrapped, max_shard_size=max_shard_size)
    loaded = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "wrapped")
    assert_equal(loaded, model)
    loaded.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == model.state_dict().keys()


def test_shards_types_and_a_device_map(tmp_path):
    model = localizer()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_equal(Re2TALForTemporalActionLocalization.from_pretrained(tmp_path, device_map="cpu"), model)
    half = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path, dtype=torch.bfloat16)
    expected = localizer().to(torch.bfloat16)
    expected.load_state_dict(model.state_dict())
    expected.criterion.float().load_state_dict(model.criterion.state_dict())
    assert_equal(half, expected)
    config = Re2TALConfig.from_pretrained(tmp_path)
    given = Re2TALForTemporalActionLocalization.from_pretrained(None, config=config, state_dict=model.state_dict())
    assert_equal(given, model)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    save_file({}, shard, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{shard.name} lacks \d+ tensors that model.safetensors.index.json says"):
        Re2TALForTemporalActionLocalization.from_pretrained(tmp_path)


def test_an_index_that_was_not_saved_is_computed(tmp_path):
    model = localizer()
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda name: None if name.endswith("relative_position_index") else name)
    before = torch.get_rng_state()
    for kind, expected in ((Re2TALForTemporalActionLocalization, model), (Re2TALModel, model.model)):
        assert_equal(kind.from_pretrained(tmp_path), expected)
    assert torch.equal(torch.get_rng_state(), before)


class BufferedModel(nn.Module):
    """Some user's own model, with buffers that are saved and not, and a norm that counts."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, width, (2, 4, 4), stride=(2, 4, 4)), nn.BatchNorm3d(width))
        self.blocks = nn.ModuleList(nn.Conv3d(width, width, 3, padding=1) for _ in range(2))
        self.register_buffer("scale", torch.linspace(1, 2, width).view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("order", torch.arange(width))
        self.register_buffer("shift", torch.full((width, 1, 1, 1), 0.5))


class Buffered(Architecture):
    model_type = "buffered"
    model_class = BufferedModel

    def build(self, **settings):
        return BufferedModel(**settings)

    def stages(self, model, size=None):
        return [Stage(model.stem, list(model.blocks))]

    def norm(self, model, x):
        return (x * model.scale + model.shift)[:, model.order].permute(0, 2, 3, 4, 1)

    def classify(self, model, features):
        return features

    def initialize(self, model):  # as the README shows it: of buffers of one's own it knows nothing
        model.apply(lambda module: getattr(module, "reset_parameters", lambda: None)())

    def feature_size(self, model):
        return 8

    def feature_stride(self, model):
        return 2


@pytest.fixture
def buffered(monkeypatch) -> Re2TALModel:
    monkeypatch.setitem(BACKBONES, "buffered", Buffered())
    model = Re2TALModel(Re2TALConfig(backbone_config={"model_type": "buffered"})).train()
    model(torch.randn(2, 8, 3, 16, 16))  # moves the statistics
    return model.eval()


def features(model: Re2TALModel) -> Tensor:
    videos = torch.randn(1, 8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(videos).last_hidden_state


def test_buffers_of_ones_own_architecture(buffered, tmp_path):
    buffered.save_pretrained(tmp_path)
    assert_close(features(Re2TALModel.from_pretrained(tmp_path)), features(buffered), depth=depth_of(buffered))
    # What lacks a weight is drawn by the user's own initialize(), which must leave alone what was loaded.
    rewrite(tmp_path, lambda name: None if name in ("backbone.blocks.0.weight", "backbone.shift") else name)
    with pytest.raises(ValueError, match=r"lacks 2 \(backbone.blocks.0.weight, backbone.shift\)"):
        Re2TALModel.from_pretrained(tmp_path)
    loaded = Re2TALModel.from_pretrained(tmp_path, partial=True)
    assert not torch.equal(loaded.backbone.blocks[0].weight, buffered.backbone.blocks[0].weight)
    with torch.no_grad():
        loaded.backbone.blocks[0].weight.copy_(buffered.backbone.blocks[0].weight)
    assert_close(features(loaded), features(buffered), depth=depth_of(buffered))


@pytest.mark.training
def test_without_this_package(tmp_path):
    small_pipeline().save_pretrained(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "renamed")
    rewrite(tmp_path / "renamed", lambda name: name.replace("features", "layers"))
    code = r"""
import re
import sys
from functools import partial
from transformers import AutoModel, pipeline
outcomes = []
for folder in ("model", "renamed"):
    for load in (AutoModel.from_pretrained, lambda name, **s: pipeline("temporal-action-localization", name, **s)):
        try:
            load(folder, trust_remote_code=True)
            outcomes.append("loaded")
        except ValueError as error:
            counted = re.search(r"renamed does not fit Re2TAL\w+: used \d+ of \d+ tensors of renamed", str(error))
            outcomes.append("counted" if counted else error)
assert "re2tal_hf" not in sys.modules
print(*outcomes)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["loaded", "loaded", "counted", "counted"]
