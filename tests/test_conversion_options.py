"""Options files of other projects: read as they mean it, never executed, and refused in one line."""

from pathlib import Path

import pytest

from re2tal_hf.conversion.opentad_options import opentad_settings
from re2tal_hf.conversion.options_file import read_options

BASE = """
# What others build on.
steps = 3
model = dict(
    projection=dict(arch=(2, 2, 5), attn_cfg=dict(n_head=4, n_mha_win_size=19), max_seq_len=2304, use_abs_pe=False),
    rpn_head=dict(prior_generator=dict(strides=[1, 2], regression_range=[(0, 4), (4, 10000)]), num_convs=2),
)
"""
CONFIG = """
_base_ = ["base.py"]
window_size = 256 * 2
lengths = [n for n in range(3)]
dataset = dict(
    test=dict(
        window_size=window_size,
        window_overlap_ratio=0.5,
        pipeline=[
            dict(type="LoadFrames", num_clips=1, method="sliding_window", scale_factor=2),
            dict(type="mmaction.Resize", scale=(-1, 224)),
            dict(type="mmaction.CenterCrop", crop_size=224),
        ],
    )
)
model = dict(
    backbone=dict(
        backbone=dict(type="SwinTransformer3D_inv", patch_size=(2, 4, 4), window_size=(8, 7, 7), drop_path_rate=0.2),
        data_preprocessor=dict(mean=[127.5, 127.5, 0.0], std=[255.0, 255.0, 51.0]),
    ),
    projection=dict(max_seq_len=window_size, attn_cfg=dict(n_mha_win_size=-1)),
    rpn_head={"loss_normalizer": 200, "label_smoothing": 0.1, "loss_weight": 2.0},
)
post_processing = dict(nms=dict(use_soft_nms=True, sigma=0.7, max_seg_num=2000, multiclass=True, voting_thresh=0.7))
"""


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder / "config.py"


def test_a_config_and_what_it_builds_on(tmp_path):
    options = read_options(written(tmp_path, base=BASE, config=CONFIG))
    assert options.get("model.projection.arch", list[int]) == [2, 2, 5]
    assert options.get("steps", int) == 3 and options.get("lengths", int, 7) == 7
    assert opentad_settings(options, "actionformer") == {
        "backbone_config.patch_size": [2, 4, 4],
        "backbone_config.window_size": [8, 7, 7],
        "backbone_config.stochastic_depth_prob": 0.2,
        "head_config.num_attention_heads": 4,
        "head_config.attention_window": None,
        "head_config.max_length": 512,
        "head_config.use_position_embedding": False,
        "head_config.num_head_layers": 2,
        "head_config.regression_ranges": [[0, 4], [4, 10000]],
        "loss_config.initial_normalizer": 200.0,
        "loss_config.label_smoothing": 0.1,
        "loss_config.loss_weight": 2.0,
        "processor.sampling": "sliding",
        "processor.num_frames": 1024,
        "processor.window_overlap": 0.5,
        "processor.size": {"shortest_edge": 224},
        "processor.do_center_crop": True,
        "processor.crop_size": {"height": 224, "width": 224},
        "processor.image_mean": [0.5, 0.5, 0.0],
        "processor.image_std": [1.0, 1.0, 0.2],
        "processor.nms_method": "soft",
        "processor.nms_sigma": 0.7,
        "processor.max_detections": 2000,
        "processor.nms_per_class": True,
        "processor.voting_threshold": None,
    }


STORED = """
dataset = dict(
    test=dict(feature_stride=4, sample_stride=1, offset_frames=8, %s pipeline=[dict(type="LoadFeats"), %s])
)
model = dict(projection=dict(max_seq_len=2304, sgp_win_size=[15, 15, 15]))
"""


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("", {"sampling": "whole", "feature_rate": None}),
        ("fps=15,", {"sampling": "whole", "feature_rate": 15}),
        ("window_size=2304, window_overlap_ratio=0.5,", {"sampling": "sliding", "num_frames": 2304}),
    ],
)
def test_features_that_are_stored(test, expected, tmp_path):
    options = read_options(written(tmp_path, config=STORED % (test, "")))
    found = opentad_settings(options, "tridet")
    expected |= {"feature_stride": 4, "feature_offset": 8}
    assert {name: found[f"processor.{name}"] for name in expected} == expected
    assert found.get("processor.window_overlap") == (0.5 if "overlap" in test else None)
    assert found["head_config.window"] == [1, 15, 15]


def test_features_that_are_stored_and_resized(tmp_path):
    config = STORED % ("resize_length=192,", 'dict(type="ResizeFeat", tool="%s")')
    for tool, resizing in (("interpolate", "interpolated"), ("torchvision_align", "averaged")):
        found = opentad_settings(read_options(written(tmp_path, config=config % tool)), "tridet")
        assert (found["processor.sampling"], found["processor.num_frames"]) == ("resized", 192)
        assert found["processor.feature_resizing"] == resizing and "processor.feature_stride" not in found
    with pytest.raises(ValueError, match="resized by 'bmn_align'; ours by interpolate or torchvision_align"):
        opentad_settings(read_options(written(tmp_path, config=config % "bmn_align")), "tridet")
    thinned = STORED.replace("sample_stride=1", "sample_stride=2") % ("", "")
    with pytest.raises(ValueError, match="keep every 2th feature"):
        opentad_settings(read_options(written(tmp_path, config=thinned)), "tridet")


def test_features_that_are_interpolated(tmp_path):
    slow = CONFIG.replace("SwinTransformer3D_inv", "ResNet3dSlowFast_inv").replace("patch_size=(2, 4, 4), ", "")
    slow = slow.replace("window_size=(8, 7, 7), drop_path_rate=0.2", "resample_rate=4, slow_pathway=dict(depth=101)")
    found = opentad_settings(read_options(written(tmp_path, base=BASE, config=slow)), "actionformer")
    backbone = {name: value for name, value in found.items() if name.startswith("backbone_config.")}
    assert backbone == {
        "backbone_config.resample_rate": 4,
        "backbone_config.speed_ratio": 8,
        "backbone_config.depth": 101,
        "backbone_config.feature_stride": 2,
    }


def test_features_of_swin_that_are_interpolated(tmp_path):
    config = CONFIG.replace("scale_factor=2", "scale_factor=4")
    found = opentad_settings(read_options(written(tmp_path, base=BASE, config=config)), "actionformer")
    assert found["backbone_config.feature_stride"] == 4 and found["processor.num_frames"] == 2048


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("[9, 9, -1]", [9, 9, None]), ("[9, 9]", 9), ("[-1, 1]", None), ("7", 7), ("-1", None), ("[1, 5]", [None, 5])],
)
def test_attention_windows(theirs, ours, tmp_path):
    config = f"model = dict(projection=dict(attn_cfg=dict(n_mha_win_size={theirs}), input_pdrop=0.2))\n"
    found = opentad_settings(read_options(written(tmp_path, config=config)), "actionformer")
    assert found["head_config.attention_window"] == ours and found["head_config.input_dropout"] == 0.2


def test_how_tridet_is_trained(tmp_path):
    config = "model = dict(projection=dict(input_noise=0.2, init_conv_vars=0))\n"
    found = opentad_settings(read_options(written(tmp_path, config=config)), "tridet")
    assert (found["head_config.input_noise"], found["head_config.conv_std"]) == (0.2, 0.0)


@pytest.mark.parametrize("shortest", [True, False])
def test_which_classes_are_positive(shortest, tmp_path):
    options = read_options(written(tmp_path, config=f"model = dict(rpn_head=dict(filter_similar_gt={shortest}))\n"))
    assert opentad_settings(options, "actionformer")["loss_config.all_classes"] is not shortest


def test_a_mapping_that_replaces_another(tmp_path):
    config = '_base_ = "base.py"\nmodel = dict(projection=dict(_delete_=True, arch=(1, 1, 1)))\n'
    options = read_options(written(tmp_path, base=BASE, config=config))
    assert options.get("model.projection", dict) == {"arch": [1, 1, 1]}
    assert options.get("model.rpn_head.num_convs", int) == 2


def test_nothing_is_executed(tmp_path):
    path = written(tmp_path, config=f"x = open({str(tmp_path / 'made')!r}, 'w')\ny = 9 ** 9 ** 9\nmodel = dict()\n")
    assert read_options(path).values == {"model": {}} and not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("import os\n", "line 1 is no assignment"),
        ("model = dict(a=f())\n", "line 1: model is no plain value (f() in it)"),
        ("model = dict(\n", "is no Python (line 1"),
        ('_base_ = "config.py"\n', "names itself as its _base_"),
        ('_base_ = "other.py"\n', "which is not there"),
        ("a = " + "(" * 5000 + ")" * 5000, "is no Python"),
        ("model = " + "-" * 5000 + "1", "nested too deep"),
        ("\0", "is no Python"),
        ("model = dict(projection=dict(max_seq_len='long'))\n", "model.projection.max_seq_len is 'long'"),
        ("model = dict(rpn_head=dict(prior_generator=dict(strides=[1, 3])), projection={})\n", "strides are [1, 3]"),
        ("model = dict(projection=dict(attn_cfg=dict(n_mha_win_size=[5, 'all'])))\n", "n_mha_win_size is [5, 'all']"),
        ("model = dict(projection=dict(input_pdrop='some'))\n", "model.projection.input_pdrop is 'some'"),
        ("model = dict(rpn_head=dict(center_sample='none'))\n", "center_sample is 'none'"),
    ],
)
def test_configs_that_are_refused(config, message, tmp_path):
    path = written(tmp_path, config=config)
    with pytest.raises(ValueError) as refused:
        opentad_settings(read_options(path), "actionformer")
    assert message in str(refused.value) and "\n" not in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "", "give a .py, .yaml or .json file"),
        ("a.json", "[", "a.json"),
        ("a.yaml", "- 1", "it must hold settings by name"),
        ("none.py", None, "there is no such file"),
    ],
)
def test_files_that_are_none(name, text, message, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_options(tmp_path / name)
