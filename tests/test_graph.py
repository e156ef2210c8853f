import importlib.util

import pytest
import torch
from tolerances import assert_close, depth_of, rounding

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization, Re2TALModel, Re2TALVideoProcessor
from re2tal_hf.commands.export import main
from re2tal_hf.publishing.graph import (
    check_format,
    export_graph,
    largest_differences,
    load_graph,
    random_windows,
    save_graph,
    window_shape,
)

SHAPE = (16, 24, 32)


def make_model(rewiring: str = "re2tal") -> Re2TALForTemporalActionLocalization:
    config = Re2TALConfig(
        # Frames of 6 x 8 patches: windows are padded, shifted and, after the merging, cut.
        backbone_config={
            "model_type": "video_swin",
            "embed_dim": 8,
            "depths": [2, 2],
            "num_heads": [1, 2],
            "window_size": [4, 4, 4],
        },
        head_config={
            "hidden_size": 16,
            "num_levels": 2,
            "num_stem_layers": 1,
            "num_head_layers": 1,
            "attention_window": 4,
        },
        rewiring=rewiring,
        num_labels=2,
    )
    model = Re2TALForTemporalActionLocalization(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model() -> Re2TALForTemporalActionLocalization:
    torch.manual_seed(0)
    return make_model()


@pytest.fixture(scope="module")
def program(model) -> torch.export.ExportedProgram:
    return export_graph(model, SHAPE)


def check(graph, model, runtimes: int = 1) -> None:
    """Against the model itself; another runtime has kernels of its own, with roundings of their own."""
    limit = runtimes * rounding(torch.float32, depth_of(model))
    for batch in (1, 2, 3):
        differences = largest_differences(graph, model, random_windows(model, SHAPE, batch))
        assert differences.keys() == {"logits", "pred_segments", "point_mask"}
        assert differences.pop("point_mask") == 0
        assert max(differences.values()) < limit, (batch, differences)


@pytest.mark.training
def test_graph_of_a_rewired_model(model, program):
    check(program.module(), model)


@pytest.mark.training
def test_graph_of_a_model_that_is_not_rewired():
    model = make_model("none")
    check(export_graph(model, SHAPE).module(), model)


@pytest.mark.training
def test_a_difference_shows(model, program):
    torch.manual_seed(1)
    other = make_model()
    assert largest_differences(program.module(), other, random_windows(model, SHAPE))["logits"] > 1e-2


@pytest.mark.training
def test_onnx(model, program, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    save_graph(program, tmp_path / "model.onnx", "onnx")
    check(load_graph(tmp_path / "model.onnx", "onnx"), model, runtimes=2)
    assert (tmp_path / "model.onnx").is_file()


@pytest.mark.training
@pytest.mark.parametrize("rewiring", ["re2tal", "none"])
def test_compiled_inference_is_one_graph(rewiring):
    torch.compiler.reset()  # sizes that changed in tests before would be symbols here
    model = make_model(rewiring).eval()
    videos, frame_mask = random_windows(model, SHAPE)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.inference_mode():
        found, expected = compiled(videos, frame_mask=frame_mask), model(videos, frame_mask=frame_mask)
    for name in ("logits", "pred_segments"):
        assert_close(found[name], expected[name], depth=depth_of(model), what=name)


def test_window_shape():
    settings = {"num_frames": 8, "size": {"height": 24, "width": 32}}
    assert window_shape(Re2TALVideoProcessor(**settings)) == (8, 24, 32)
    crop = {"do_center_crop": True, "crop_size": {"height": 16, "width": 20}}
    assert window_shape(Re2TALVideoProcessor(num_frames=8, size={"shortest_edge": 32}, **crop)) == (8, 16, 20)
    for size in ({"size": {"shortest_edge": 32}}, {"do_resize": False}):
        with pytest.raises(ValueError, match="no fixed size"):
            window_shape(Re2TALVideoProcessor(**size))


def test_formats(monkeypatch):
    with pytest.raises(ValueError, match="'tflite'; choose one of torch, onnx"):
        check_format("tflite")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_format("torch")
    with pytest.raises(ImportError, match=r"onnx and onnxscript; install .*\[export\]"):
        check_format("onnx")


@pytest.mark.training
def test_the_script(model, tmp_path, monkeypatch, capsys):
    model.save_pretrained(tmp_path / "model")
    size = {"height": SHAPE[1], "width": SHAPE[2]}
    Re2TALVideoProcessor(num_frames=SHAPE[0], size=size).save_pretrained(tmp_path / "model")
    arguments = [str(tmp_path / "model"), "--output", str(tmp_path / "model.pt2")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "windows of 16 frames, 24 x 32" in printed
    assert "largest difference" in printed
    assert {file.name for file in tmp_path.iterdir()} == {"model", "model.pt2"}

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([*arguments, "--format", "onnx"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: Export to ONNX needs")


@pytest.mark.parametrize(
    ("model_class", "backbone", "message"),
    [
        (Re2TALForTemporalActionLocalization, {"model_type": "features", "size": 8}, "is a model on stored features;"),
        (Re2TALModel, {"model_type": "video_swin", "embed_dim": 8, "depths": [2], "num_heads": [1]}, "holds ['Re2TALM"),
    ],
)
def test_what_has_no_graph_of_videos_is_refused_before_its_weights_are_loaded(
    model_class, backbone, message, tmp_path, capsys
):
    rewiring = "none" if backbone["model_type"] == "features" else "re2tal"
    config = Re2TALConfig(backbone_config=backbone, rewiring=rewiring, architectures=[model_class.__name__])
    config.save_pretrained(tmp_path / "model")  # without weights
    Re2TALVideoProcessor().save_pretrained(tmp_path / "model")
    assert main([str(tmp_path / "model"), "--output", str(tmp_path / "model.pt2")]) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert {file.name for file in tmp_path.iterdir()} == {"model"}
