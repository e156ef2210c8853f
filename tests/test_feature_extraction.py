"""Features of videos by frozen encoders, and the command that stores them."""

import json

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from run_factory import small_pipeline
from tolerances import assert_close
from transformers import VideoMAEConfig, VideoMAEModel, ViTConfig, ViTModel
from video_factory import numbered_frames, write_video

from re2tal_hf.commands.features import main
from re2tal_hf.training.arguments import load_recipe
from re2tal_hf.training.feature_extraction import BackboneEncoder, FeatureExtractor, LibraryEncoder, _stitched
from re2tal_hf.training.feature_settings import with_features
from re2tal_hf.video_features import read_features
from re2tal_hf.video_processing_re2tal import Re2TALVideoProcessor
from re2tal_hf.video_reader import VideoReader

RATE = 10
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture
def videos(tmp_path):
    (folder := tmp_path / "videos").mkdir()
    for name, count in (("short", 12), ("long", 41)):
        write_video(folder / f"{name}.mp4", numbered_frames(count), RATE)
    return folder


def test_every_step_comes_from_where_it_is_farthest_from_the_edges():
    windows = [torch.full((8, 1), float(number)) for number in range(3)]
    found = _stitched([0, 8, 14], windows, 2, 15)  # of 8, of steps 4 to 11 and 7 to 14
    assert found[:, 0].tolist() == [0.0] * 6 + [1.0] * 4 + [2.0] * 5


def test_a_short_video_has_the_features_of_the_model(videos):
    pipe = small_pipeline()
    extractor = FeatureExtractor(BackboneEncoder(pipe.model.model), pipe.video_processor)
    assert (extractor.stride, extractor.offset, extractor.step) == (2, 1.0, 8)
    with VideoReader(videos / "short.mp4") as reader:
        found = extractor(reader)
        batch = pipe.video_processor.prepare([reader.frames_at([k / RATE for k in range(12)], resize=_resize(pipe))])
        assert_close(found, pipe.model.model(**batch).last_hidden_state[0, :6], depth=4)
        means = FeatureExtractor(BackboneEncoder(pipe.model.model), pipe.video_processor, mean=True)(reader)
    assert_close(means[0], found.mean(0), depth=4)
    with VideoReader(videos / "long.mp4") as reader:
        assert extractor(reader).shape == (21, found.shape[1])
        means = FeatureExtractor(BackboneEncoder(pipe.model.model), pipe.video_processor, mean=True, overlap=0.75)
        assert (means.stride, means.offset) == (4, 8.0) and len(means(reader)) == 7  # that lie inside


def _resize(pipe):
    return pipe.video_processor.resize_and_crop


@pytest.mark.training
def test_the_command_writes_a_folder_to_train_on_and_goes_on_in_it(videos, tmp_path, capsys):
    small_pipeline().save_pretrained(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--videos", str(videos), "--output", str(tmp_path / "features")]
    (videos / "broken.mp4").write_bytes(b"no video")
    assert main(arguments) == 1
    assert "1 of 3 videos cannot be read" in capsys.readouterr().err
    (videos / "broken.mp4").unlink()
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == ["features.json", "long.npy", "short.npy"]
    first = np.load(tmp_path / "features" / "long.npy")
    (tmp_path / "features" / "short.npy").unlink()
    assert main(arguments) == 0 and "1 videos done, 1 were there" in capsys.readouterr().out
    assert np.array_equal(np.load(tmp_path / "features" / "long.npy"), first) and len(first) == 21
    said = json.loads((tmp_path / "features" / "features.json").read_text(encoding="utf-8"))
    assert (said["feature_stride"], said["feature_offset"], said["feature_rate"]) == (2, 1, RATE)
    recipe = with_features(load_recipe("features_actionformer", [f"data.features={tmp_path / 'features'}"]))
    assert recipe.model["backbone_config"]["size"] == first.shape[1] and recipe.processor["feature_rate"] == RATE
    assert main([*arguments, "--mean"]) == 1 and "name a new --output" in capsys.readouterr().err
    other = [*arguments[:-1], str(tmp_path / "other"), "--format", "safetensors", "--overlap", "0"]
    assert main(other) == 0
    assert read_features(tmp_path / "other" / "short.safetensors").shape == (6, first.shape[1])
    assert main([*arguments, "model.rewiring=none"]) == 1 and "only processor.FIELD" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["clips", "frames"])
def test_networks_of_transformers(kind, videos, tmp_path):
    torch.manual_seed(0)
    if kind == "clips":
        network = VideoMAEModel(VideoMAEConfig(**SIZES, image_size=32, patch_size=16, num_frames=8))
    else:
        network = ViTModel(ViTConfig(**SIZES, image_size=32, patch_size=16))
    network.save_pretrained(tmp_path / kind)
    encoder = LibraryEncoder(f"transformers:{tmp_path / kind}").eval()
    processor = Re2TALVideoProcessor(size={"height": 32, "width": 32}, num_frames=8, frame_rate=RATE)
    with VideoReader(videos / "long.mp4") as reader:
        found = FeatureExtractor(encoder, processor)(reader)
        batch = processor.prepare(
            [reader.frames_at([k / RATE for k in range(4, 12)], resize=processor.resize_and_crop)]
        )
    pixels = batch["pixel_values_videos"]
    with torch.no_grad():
        if kind == "clips":
            expected = network.eval()(pixels).last_hidden_state.mean(1)[0]
        else:
            expected = network.eval()(pixels[0]).pooler_output.mean(0)
    assert found.shape == (9, 8)
    assert_close(found[1], expected, depth=2)


@pytest.mark.parametrize("source", ["timm", "torchvision:resnet18", "transformers:no/place", "timm:no_network"])
def test_encoders_that_there_are_not(source, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=f"--encoder {source}"):
        LibraryEncoder(source)
