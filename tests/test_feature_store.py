"""Stored features in the place of frames: when they stand, training windows, and what is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torchvision.ops import roi_align

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization, TemporalActionLocalizationPipeline
from re2tal_hf.commands.evaluate import main as evaluate
from re2tal_hf.commands.predict import main as predict
from re2tal_hf.commands.train import main as train
from re2tal_hf.data.annotations import read_annotations
from re2tal_hf.data.feature_store import FeatureError, FeatureStore
from re2tal_hf.data.windows import TrainingWindows
from re2tal_hf.training.arguments import load_recipe
from re2tal_hf.training.feature_settings import with_features
from re2tal_hf.video_features import features_at, read_features, whole_features
from re2tal_hf.video_processing_re2tal import Re2TALVideoProcessor
from re2tal_hf.video_reader import VideoReadError

SIZE, STRIDE, OFFSET = 6, 4, 8
SMALL = [
    *("processor.feature_stride=4", "processor.feature_offset=8", f"model.backbone_config.size={SIZE}"),
    *("model.head_config.hidden_size=16", "model.head_config.max_length=144", "processor.num_frames=128"),
    *("model.head_config.num_levels=4", "data.num_workers=0", "training.trackers=null", "data.max_unlearnable=1"),
]


def processor(**settings):
    times = {"feature_stride": STRIDE, "feature_offset": OFFSET, "sampling": "whole", "num_frames": 32}
    return Re2TALVideoProcessor(**times | settings)


@pytest.fixture
def data(tmp_path):
    """Videos of 10 s at 30 frames per second and one of 8 s at 25: the first channel of a feature is its time."""
    (tmp_path / "features").mkdir()
    database = {}
    for number in range(5):
        rate, duration = (25, 8.0) if number == 3 else (30, 10.0)
        times = (np.arange(int(duration * rate / STRIDE) - 3) * STRIDE + OFFSET) / rate
        features = np.random.default_rng(number).normal(size=(len(times), SIZE)).astype(np.float32)
        features[:, 0], features[:, 1] = times, 3 * ((times >= 2) & (times < 4))
        np.save(tmp_path / "features" / f"{'v_' if number else ''}a{number}.npy", features)
        action = {"segment": [2.0, 4.0], "label": "jump"}
        subset = "training" if number < 3 else "validation"
        database[f"a{number}"] = {"subset": subset, "duration": duration, "fps": rate, "annotations": [action]}
    (tmp_path / "annotations.json").write_text(json.dumps({"database": database}), encoding="utf-8")
    return tmp_path


def annotated(data, subset=None):
    return read_annotations(data / "annotations.json", subset=subset, feature_folder=data / "features").videos


def test_features_stand_where_actionformer_has_them(data):
    videos = annotated(data)
    store = FeatureStore(videos, processor(), SIZE)
    for video in videos:
        whole = store.whole(video)
        assert whole.num_frames == len(read_features(video.path)) and whole.duration == video.duration
        found = store.at(video, whole.times)
        assert np.allclose(found[:, 0], whole.times, atol=1e-5)
        assert torch.equal(store.at(video, whole.times[5:9]), found[5:9])
        assert store.timelines.duration(video.path) == video.duration
    assert store.whole(videos[3]).frame_rate == 25 / 4 and store.whole(videos[0]).start == 8 / 30


def test_features_are_spread_over_the_video_where_they_are_resized(data):
    [video, *_] = annotated(data)
    for resizing in ({"feature_stride": None, "feature_offset": 0.5}, {"feature_offset": 2.0}):
        whole = FeatureStore([video], processor(sampling="resized", **resizing), SIZE).whole(video)
        assert (whole.num_frames, whole.frame_rate, whole.start) == (32, 3.2, 0.5 / 3.2)
    store = FeatureStore([video], processor(feature_stride=None, feature_offset=0.5), SIZE)
    assert store.whole(video).frame_rate == len(read_features(video.path)) / 10
    resized = FeatureStore([video], processor(sampling="resized"), SIZE)
    found = resized.at(video, resized.whole(video).times)
    assert found.shape == (32, SIZE) and (found[1:, 0] > found[:-1, 0]).all()


@pytest.mark.parametrize("length", [3, 32, 33, 64, 100])
def test_features_are_averaged_over_shares_of_the_video(length):
    features = torch.randn(length, SIZE, dtype=torch.float64)
    whole = whole_features("v", length, processor(sampling="resized"), duration=10.0)
    box = torch.tensor([[0, 0, 0, 1, length]], dtype=torch.float64)
    expected = roi_align(features.T[None, :, :, None], box, output_size=(32, 1), aligned=True)[0, :, :, 0].T
    found = features_at(features, whole, whole, "averaged")
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    same = torch.allclose(found, features_at(features, whole, whole), rtol=0, atol=1e-12)
    assert same == (length in (3, 32, 64))  # half way between two is their mean


def test_the_store_resizes_as_the_processor_says(data):
    [video, *_] = annotated(data)
    averaged = processor(sampling="resized", feature_resizing="averaged", num_frames=16)
    store = FeatureStore([video], averaged, SIZE)
    whole, features = store.whole(video), read_features(video.path)
    assert len(features) > 16
    assert torch.equal(store.at(video, whole.times), features_at(features, whole, whole, "averaged"))


def test_the_pipeline_resizes_as_the_processor_says():
    averaged = processor(sampling="resized", feature_resizing="averaged", num_frames=16, feature_stride=None)
    backbone = {"model_type": "features", "size": SIZE, "stride": 1}
    config = Re2TALConfig(backbone_config=backbone, head_config={"hidden_size": 16, "num_levels": 2}, rewiring="none")
    model = Re2TALForTemporalActionLocalization(config).eval()
    pipe = TemporalActionLocalizationPipeline(model=model, video_processor=averaged, device="cpu")
    features = torch.randn(40, SIZE)
    whole = whole_features("v", 40, averaged, duration=10.0)
    resized = features_at(features, whole, whole, "averaged")
    found, expected = (pipe({"features": part, "duration": 10.0}) for part in (features, resized))
    assert found == expected and len(found) > 5


def test_training_windows_are_cut_from_features_as_from_frames(data):
    videos = annotated(data, "training")
    store = FeatureStore(videos, processor(), SIZE)
    windows = TrainingWindows(videos, processor(), windows_per_video=20, features=store, max_lost=1)
    for item in (windows[index] for index in range(len(windows))):
        times, (start, end) = item["frames"][:, 0].double(), item["labels"]["segments"][0].tolist()
        assert len(times) == 32
        rate = 30 / STRIDE
        assert abs(times[0] + start / rate - 2) < 1e-4 or start == 0
        assert abs(times[0] + end / rate - 4) < 1e-4 or end == 32
    batch = processor().prepare([windows[0]["frames"], windows[1]["frames"][:9]])
    assert batch["temporal_features"].shape == (2, 32, SIZE) and batch["feature_mask"].sum(1).tolist() == [32, 9]


def test_files_of_every_kind(tmp_path):
    features = np.random.default_rng(0).normal(size=(5, 3))
    np.save(tmp_path / "a.npy", features.astype(np.float16))
    np.savez(tmp_path / "b.npz", feats=features)
    save_file({"features": features, "times": np.arange(5.0)}, tmp_path / "c.safetensors")
    for name in ("a.npy", "b.npz", "c.safetensors"):
        found = read_features(tmp_path / name)
        assert found.dtype == torch.float32 and np.allclose(found, features, atol=1e-2)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4, 5), np.float32), r"features of the shape \[3, 4, 5\]"),
        (np.zeros((0, 4), np.float32), r"shape \[0, 4\]"),
        (np.zeros((3, 4), np.int64), "must be floating-point numbers"),
        (np.full((3, 4), np.nan, np.float32), "holds NaN"),
        (np.array([{}]), "no readable features"),
    ],
)
def test_files_that_hold_no_features(array, message, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(VideoReadError, match=message):
        read_features(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes(b"no array")
    with pytest.raises(VideoReadError, match="no readable features"):
        read_features(tmp_path / "b.npy")


def test_features_that_do_not_fit_are_named(data):
    videos = annotated(data)
    with pytest.raises(FeatureError, match=r"a0.npy: .* have the size 6, and model.backbone_config.size is 2048"):
        FeatureStore(videos, processor(), 2048)
    with pytest.raises(FeatureError, match="4 times the annotated durations .* A feature every 4.* frames would fit"):
        FeatureStore(videos, processor(feature_stride=16), SIZE)
    with pytest.raises(FeatureError, match="a0.npy: .* set processor.feature_rate"):
        FeatureStore([videos[0].__class__(**vars(videos[0]) | {"frame_rate": None})], processor(), SIZE)
    np.save(data / "features" / "a0.npy", np.zeros((SIZE, 70), np.float32))
    with pytest.raises(FeatureError, match="transpose its array"):
        FeatureStore(videos[:1], processor(), SIZE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.features=null"], "data.features is empty"),
        (
            ["model.backbone_config={model_type: video_swin, variant: tiny}"],
            "set model.backbone_config.model_type=features",
        ),
        (["model.backbone_config.stride=4"], "leave it at 1"),
        (["augmentation.flip_probability=0.5"], "leave the section out"),
        (["training.pretrained_backbone=a.pth"], "leave it out"),
        ([], "has no features.json: set processor.feature_stride"),
    ],
)
def test_recipes_that_do_not_go_with_features(changes, message, tmp_path):
    recipe = load_recipe("features_actionformer", [f"data.features={tmp_path}", *changes])
    with pytest.raises(ValueError, match=message):
        with_features(recipe)


def test_a_folder_says_how_its_features_were_cut(tmp_path):
    said = {"size": 6, "feature_stride": 8.0, "feature_offset": 4.0, "feature_rate": 15.0}
    (tmp_path / "features.json").write_text(json.dumps(said), encoding="utf-8")
    recipe = with_features(load_recipe("features_actionformer", [f"data.features={tmp_path}"]))
    assert recipe.model["backbone_config"]["size"] == 6 and recipe.processor["feature_rate"] == 15.0
    with pytest.raises(ValueError, match=r"feature_stride is 4.0, and .*features.json says 8.0: leave it out"):
        with_features(load_recipe("features_actionformer", [f"data.features={tmp_path}", "processor.feature_stride=4"]))


@pytest.mark.training
def test_a_head_is_trained_evaluated_and_predicts_on_features(data, capsys):
    run, source = data / "run", [f"data.annotations={data}/annotations.json", f"data.features={data}/features"]
    lasting = ["training.epochs=30", "training.learning_rate=0.003", "training.ema_decay=null", "evaluation.epochs=0"]
    lasting.append("data.windows_per_video=6")
    recipe = ["--recipe", "features_actionformer", "--output", str(run)]
    assert train([*recipe, *source, *SMALL, *lasting]) == 0
    found = json.loads((run / "best" / "detections.json").read_text(encoding="utf-8"))
    places = ["--model", str(run), "--annotations", str(data / "annotations.json")]
    again = data / "again.json"
    assert evaluate([*places, "--features", str(data / "features"), "--detections", str(again)]) == 0
    assert json.loads(again.read_text(encoding="utf-8"))["results"] == found["results"]
    assert "mAP@0.5                  1.0000" in capsys.readouterr().out
    files = [str(data / "features" / "v_a4.npy"), "--threshold", "0.1", "--frame-rate", "30"]
    assert predict(["--model", str(run), "--output", str(data / "found"), *files]) == 0
    [best, *_] = json.loads((data / "found" / "v_a4.json").read_text(encoding="utf-8"))
    assert best["label"] == "jump" and 1.7 < best["start"] < 2.3 and 3.3 < best["end"] < 4.7
    capsys.readouterr()
    assert evaluate([*places, "--videos", str(data), "--detections", str(again)]) == 1
    for path in data.glob("features/v_a[12].npy"):
        path.unlink()
    assert train([*recipe[:3], str(data / "other"), *source, *SMALL]) == 1
    assert "lacks the features of 2 of 3 annotated videos" in capsys.readouterr().err
