"""The classification stage: model, clips, views."""

import pytest
import torch
from architecture_cases import CASES
from huggingface_hub import ModelCard, ModelCardData
from tolerances import assert_close, depth_of
from transformers import AutoModel, AutoModelForVideoClassification, PreTrainedModel, pipeline
from video_factory import write_video

from re2tal_hf import (
    Re2TALForTemporalActionLocalization,
    Re2TALForVideoClassification,
    Re2TALVideoClassificationConfig,
    Re2TALVideoProcessor,
)
from re2tal_hf.data.annotations import AnnotationError
from re2tal_hf.data.labelled_clips import ClipWindows, read_clips, views
from re2tal_hf.data.windows import collate

SWIN = next(case for case in CASES if case.name == "video_swin").config
SIZE = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for split, label, name, frames in [
        ("train", "jump", "a", 24), ("train", "run", "b", 6), ("train", "run", "c", 24), ("test", "jump", "d", 30),
    ]:  # fmt: skip
        (folder / split / label).mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 255, (frames, 32, 48, 3), dtype=torch.uint8).numpy()
        write_video(folder / split / label / f"{name}.mp4", pixels, 10.0)
    (folder / "train/run/notes.txt").write_text("no clip")
    (folder / "train/run/broken.mp4").write_text("no clip")
    return folder


@pytest.fixture
def processor():
    return Re2TALVideoProcessor(size=SIZE, num_frames=8, frame_rate=10.0)


def test_clips_of_a_folder(folder, caplog):
    found = read_clips(folder, "train")
    assert found.label_names == ["jump", "run"]
    assert [clip.labels for clip in found.videos] == [[0], [1], [1]]
    assert "broken.mp4" in caplog.text
    assert read_clips(folder, "test").label_names == ["jump", "run"]
    with pytest.raises(AnnotationError, match=r"no split 'validation'.*test.*train"):
        read_clips(folder, "validation")


def test_training_windows_of_clips(folder, processor):
    clips = read_clips(folder, "train").videos
    windows = ClipWindows(clips, processor, windows_per_video=2, seed=3)
    assert len(windows) == 6
    batch = collate([windows[index] for index in range(6)], processor)
    assert batch["pixel_values_videos"].shape == (6, 8, 3, 32, 32)
    assert batch["labels"].tolist() == [0, 0, 1, 1, 1, 1]
    assert batch["frame_mask"].sum(1).tolist() == [8, 8, 6, 6, 8, 8]
    windows.set_epoch(1)
    assert not torch.equal(collate([windows[0]], processor)["pixel_values_videos"], batch["pixel_values_videos"][:1])


def test_views_are_spread_over_the_clip(folder, processor):
    [clip] = read_clips(folder, "test").videos
    first, middle, last = views(clip, processor, 3)
    [center] = views(clip, processor, 1)
    assert torch.equal(center, middle)
    assert not torch.equal(first, last)
    short = next(clip for clip in read_clips(folder, "train").videos if clip.duration < 0.8)
    assert len(views(short, processor, 3)) == 1


def test_the_pipeline_of_transformers_runs_it(folder, processor, tmp_path):
    torch.manual_seed(0)
    config = Re2TALVideoClassificationConfig(
        backbone_config=SWIN, id2label={0: "jump", 1: "run"}, label2id={"jump": 0, "run": 1}, classifier_norm=True
    )
    model = Re2TALForVideoClassification(config).eval()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for auto_class in (AutoModel, AutoModelForVideoClassification):
        loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is Re2TALForVideoClassification and not any(report.values())
    pipe = pipeline("video-classification", model=str(tmp_path), device="cpu")
    clips = [str(folder / "test/jump/d.mp4"), str(folder / "train/run/b.mp4"), str(folder / "train/run/c.mp4")]
    found = pipe(clips)
    for path, rows in zip(clips, found, strict=True):
        [clip] = [c for s in ("train", "test") for c in read_clips(folder, s).videos if str(c.path) == path]
        with torch.no_grad():
            scores = model(**processor.prepare(views(clip, processor, 1))).logits.softmax(-1)[0]
        assert {row["label"]: row["score"] for row in rows} == pytest.approx(
            {"jump": float(scores[0]), "run": float(scores[1])}, abs=1e-5
        )


@pytest.mark.parametrize(("model_class", "tag"), [
    (Re2TALForVideoClassification, "video-classification"), (Re2TALForTemporalActionLocalization, None)
])  # fmt: skip
def test_the_card_names_the_pipeline_that_runs_the_model(model_class, tag, tmp_path, monkeypatch):
    model = model_class(model_class.config_class(backbone_config=SWIN))
    ModelCard.from_template(ModelCardData(tags=list(model.model_tags))).save(tmp_path / "README.md")
    monkeypatch.setattr(PreTrainedModel, "_upload_modified_files", lambda *arguments: None)
    model._upload_modified_files(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == tag
    assert ("video-classification" in card.data.tags) == (tag is not None)


@pytest.mark.training
@pytest.mark.parametrize("rewiring", ["re2tal", "none", "dr2net"])
def test_the_model_learns_and_loads(rewiring, tmp_path):
    torch.manual_seed(0)
    config = Re2TALVideoClassificationConfig(
        backbone_config=SWIN, rewiring=rewiring, num_labels=2, classifier_norm=True
    )
    model = Re2TALForVideoClassification(config)
    videos, labels = torch.randn(4, 8, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(15):
        loss = model(videos, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    model.eval().save_pretrained(tmp_path)
    loaded, report = Re2TALForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert_close(loaded.eval()(videos).logits, model(videos).logits, depth=depth_of(model))


def test_padding_does_not_count():
    torch.manual_seed(0)
    model = Re2TALForVideoClassification(Re2TALVideoClassificationConfig(backbone_config=SWIN, num_labels=2)).eval()
    features = model(torch.randn(1, 8, 3, 32, 32), frame_mask=torch.arange(8)[None] < 4)
    expected = model.classifier(features.last_hidden_state[:, :2].mean(1))
    assert_close(features.logits, expected)
