import pytest
import torch
from transformers import pipeline
from video_factory import write_video

from re2tal_hf import (
    Re2TALConfig,
    Re2TALForTemporalActionLocalization,
    Re2TALVideoProcessor,
    TemporalActionLocalizationPipeline,
)
from re2tal_hf.video_reader import VideoReadError

RATE = 10.0


@pytest.fixture(scope="module")
def pipe() -> TemporalActionLocalizationPipeline:
    torch.manual_seed(0)
    config = Re2TALConfig(
        backbone_config={"model_type": "video_swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]},
        head_config={"hidden_size": 16, "num_levels": 3},
        id2label={0: "jump", 1: "run"},
        label2id={"jump": 0, "run": 1},
    )
    processor = Re2TALVideoProcessor(size={"height": 32, "width": 32}, num_frames=16, frame_rate=RATE)
    model = Re2TALForTemporalActionLocalization(config)
    return TemporalActionLocalizationPipeline(model=model, video_processor=processor, device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    frames = torch.randint(0, 255, (53, 32, 48, 3), dtype=torch.uint8).numpy()
    return str(write_video(tmp_path_factory.mktemp("videos") / "noise.mp4", frames, RATE))


def test_actions_are_in_seconds_and_best_first(pipe, video):
    rows = pipe(video)
    assert rows
    assert all(row["label"] in ("jump", "run") for row in rows)
    assert all(0 <= row["start"] < row["end"] <= 5.3 + 1e-6 for row in rows)
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert max(row["end"] for row in rows) > 4.0  # windows cover the whole video


def test_batches_of_windows_give_the_same(pipe, video):
    one, several = pipe(video), pipe(video, windows_per_step=3)
    assert len(one) == len(several)
    for a, b in zip(one, several, strict=True):
        assert a["label"] == b["label"]
        assert a["score"] == pytest.approx(b["score"], rel=1e-4)
        assert a["start"] == pytest.approx(b["start"], abs=1e-3)


def test_settings_of_a_call(pipe, video):
    rows = pipe(video)
    threshold = rows[3]["score"]
    assert pipe(video, threshold=threshold) == rows[:4]
    assert len(pipe(video, max_detections=2)) == 2
    assert pipe(video, window_overlap=0.0) != rows
    with pytest.raises(TypeError, match="treshold"):
        pipe(video, treshold=0.1)
    with pytest.raises(ValueError, match="overlap"):
        pipe(video, window_overlap=1.0)


def test_several_videos_and_bytes(pipe, video):
    with open(video, "rb") as file:
        content = file.read()
    first, second = pipe([video, content])
    assert first == second == pipe(video)


def test_a_file_that_is_no_video_is_named(pipe, tmp_path):
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(VideoReadError, match=r"text\.mp4"):
        pipe(str(tmp_path / "text.mp4"))


def test_saved_pipelines_load(pipe, video, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = pipeline(
        "temporal-action-localization", model=str(tmp_path), pipeline_class=TemporalActionLocalizationPipeline
    )
    assert loaded(video) == pipe(video)


def test_half_precision(pipe, video):
    half = TemporalActionLocalizationPipeline(
        model=Re2TALForTemporalActionLocalization(pipe.model.config).to(torch.bfloat16),
        video_processor=pipe.video_processor,
        device="cpu",
    )
    assert all(0 <= row["score"] <= 1 for row in half(video))
