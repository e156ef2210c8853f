"""Names for segments by a tiny CLIP, SigLIP 2 and VideoPrism that are made here."""

import json

import pytest
import torch
import transformers
from run_factory import small_pipeline
from tolerances import assert_close
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Processor,
    Siglip2Tokenizer,
)
from video_factory import numbered_frames, write_video

from re2tal_hf.commands.predict import main
from re2tal_hf.named_segments import TextModel, named
from re2tal_hf.video_source import FramesInMemory

LETTERS = "abcdefghijklmnopqrstuvwxyz."
VOCABULARY = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LABELS = ["jump", "run", "wave"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(3)
    end = len(VOCABULARY) - 1
    of_text = {**SIZES, "vocab_size": end + 1, "max_position_embeddings": 40, "eos_token_id": end}
    of_images = {**SIZES, "image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=of_text, vision_config=of_images, projection_dim=8)).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    tokens = CLIPTokenizer(vocab={token: index for index, token in enumerate(VOCABULARY)}, merges=[])
    CLIPProcessor(image_processor=images, tokenizer=tokens).save_pretrained(folder)
    return str(folder)


def frames(number: int = 40) -> torch.Tensor:
    return torch.randint(0, 256, (number, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))


def test_shares_are_those_of_the_embeddings(clip):
    text_model, pictures = TextModel(clip, torch.device("cpu")), list(frames(4))
    shares = text_model.shares(pictures, LABELS)
    model, processor = text_model.model, text_model.processor
    inputs = processor(images=pictures, text=LABELS, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
        cosines = output.image_embeds @ output.text_embeds.T
        expected = (model.logit_scale.exp() * cosines).mean(0).softmax(0)
    assert_close(torch.tensor(shares), expected, depth=4)
    assert max(shares) - min(shares) > 1e-3


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(3)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocabulary = {token: index for index, token in enumerate([*special, *LETTERS, "\u2581"])}
    of_text = {**SIZES, "vocab_size": len(vocabulary), "max_position_embeddings": 64, "projection_size": 16}
    of_images = {**SIZES, "num_patches": 256, "patch_size": 16}
    model = Siglip2Model(Siglip2Config(text_config=of_text, vision_config=of_images))
    torch.nn.init.constant_(model.logit_scale, 3.0)
    model.save_pretrained(folder)
    images = Siglip2ImageProcessor(patch_size=16, max_num_patches=256)
    Siglip2Processor(images, Siglip2Tokenizer(vocab=vocabulary, merges=[])).save_pretrained(folder)
    return str(folder)


def test_siglip_reads_texts_of_a_fixed_length_padding_included(siglip):
    text_model, pictures = TextModel(siglip, torch.device("cpu")), list(frames(4))
    shares = text_model.shares(pictures, LABELS)
    model, processor = text_model.model, text_model.processor
    pixels = processor.image_processor(pictures, return_tensors="pt")
    padded = processor.tokenizer(LABELS, padding="max_length", max_length=64, return_tensors="pt")
    assert padded.input_ids.shape == (3, 64)
    with torch.no_grad():
        output = model(input_ids=padded.input_ids, **pixels)
        cosines = output.image_embeds @ output.text_embeds.T
        expected = (model.logit_scale.exp() * cosines + model.logit_bias).mean(0).softmax(0)
    assert_close(torch.tensor(shares), expected, depth=4)
    assert max(shares) - min(shares) > 1e-3


@pytest.fixture(scope="module")
def videoprism(tmp_path_factory) -> str:
    library = transformers.models.videoprism
    from transformers import LlavaOnevisionVideoProcessor

    folder = tmp_path_factory.mktemp("videoprism")
    torch.manual_seed(3)
    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((letter, -3.0) for letter in LETTERS)]
    tokens = library.VideoPrismTokenizer(vocab=letters, extra_ids=0, model_max_length=64)
    sizes = {**SIZES, "hidden_size": 32, "intermediate_size": 32}
    del sizes["num_hidden_layers"]
    layers = {"num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 1}
    of_videos = {**sizes, **layers, "image_size": 16, "num_frames": 4, "tubelet_size": [1, 8, 8]}
    of_text = {**sizes, "num_hidden_layers": 1, "vocab_size": len(tokens)}
    model = library.VideoPrismClipModel(library.VideoPrismConfig(text_config=of_text, vision_config=of_videos))
    model.save_pretrained(folder)
    videos = LlavaOnevisionVideoProcessor(size={"height": 16, "width": 16}, do_normalize=False)
    library.VideoPrismProcessor(videos, tokens).save_pretrained(folder)
    return str(folder)


def test_a_model_of_videos_sees_a_segment_as_one(videoprism):
    text_model, video = TextModel(videoprism, torch.device("cpu")), frames(4)
    assert text_model.num_frames == 4
    shares = text_model.shares(list(video), LABELS)
    model, processor = text_model.model, text_model.processor
    pixels = processor.video_processor([video], return_tensors="pt", do_sample_frames=False).pixel_values_videos
    assert pixels.shape == (1, 4, 3, 16, 16) and 0 <= pixels.min() < pixels.max() <= 1
    texts = processor.tokenizer(LABELS, padding="max_length", max_length=64, return_tensors="pt")
    with torch.no_grad():
        of_video = model.get_video_features(pixels).pooler_output.view(-1)
        of_texts = model.get_text_features(texts.input_ids, texts.attention_mask).pooler_output.view(3, -1)
    assert_close(torch.tensor(shares), (of_texts @ of_video / 0.01).softmax(0), depth=4)
    assert max(shares) - min(shares) > 1e-3
    pipe = small_pipeline(id2label={0: "action"}, label2id={"action": 0})
    found = pipe(frames(), frame_rate=10.0, candidate_labels=LABELS, text_model=videoprism)
    assert found and {row["label"] for row in found} <= set(LABELS)


def test_each_segment_gets_the_label_that_fits_its_frames(clip):
    text_model = TextModel(clip, torch.device("cpu"))
    rows = [
        {"label": "action", "score": score, "start": start, "end": start + 1.6} for score, start in ((0.9, 0), (0.5, 2))
    ]
    found = named(rows, FramesInMemory(frames(), 10.0), text_model, LABELS, "a {}.")
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
    for row in rows:
        first = int(10 * row["start"])
        shares = text_model.shares(
            list(frames()[[first + 1 + 2 * i for i in range(8)]]), [f"a {label}." for label in LABELS]
        )
        [own] = [other for other in found if other["start"] == row["start"]]
        assert own["label"] == LABELS[max(range(3), key=shares.__getitem__)]
        assert own["score"] == pytest.approx(row["score"] * max(shares), rel=1e-5)


def test_the_pipeline_names_segments_without_training(clip):
    pipe = small_pipeline(id2label={0: "action"}, label2id={"action": 0})
    bare = pipe(frames(), frame_rate=10.0)
    found = pipe(frames(), frame_rate=10.0, candidate_labels=LABELS, text_model=clip)
    assert {row["label"] for row in found} <= set(LABELS)
    assert sorted((row["start"], row["end"]) for row in found) == sorted((row["start"], row["end"]) for row in bare)
    assert pipe([frames()], frame_rate=10.0, candidate_labels=LABELS, text_model=clip) == [found]
    assert pipe(frames(), frame_rate=10.0, candidate_labels=["run"], text_model=clip)[0]["score"] == bare[0]["score"]


def test_the_threshold_is_for_the_scores_that_are_returned(clip):
    pipe = small_pipeline(id2label={0: "action"}, label2id={"action": 0})
    naming = {"frame_rate": 10.0, "candidate_labels": LABELS, "text_model": clip}
    scores = [row["score"] for row in pipe(frames(), **naming)]
    middle = scores[len(scores) // 2]
    assert scores[-1] < middle
    found = [row["score"] for row in pipe(frames(), threshold=middle, **naming)]
    assert found == [score for score in scores if score >= middle]


@pytest.mark.training
def test_the_command_names_segments(clip, tmp_path, capsys):
    small_pipeline(id2label={0: "action"}, label2id={"action": 0}).save_pretrained(tmp_path / "model")
    video = write_video(tmp_path / "video.mp4", numbered_frames(20), 10)
    common = ["--model", tmp_path / "model", "--output", tmp_path / "out", "--threshold", "0", "--format", "json"]
    naming = ["--candidate-label", "jump", "--candidate-label", "run"]
    assert main(list(map(str, [*common, *naming, video])))
    assert "candidate_labels need text_model" in capsys.readouterr().err
    assert not main(list(map(str, [*common, *naming, "--text-model", clip, video])))
    rows = json.loads((tmp_path / "out/video.json").read_text(encoding="utf-8"))
    assert rows and {row["label"] for row in rows} <= {"jump", "run"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidate_labels": LABELS}, "candidate_labels need text_model"),
        ({"text_model": "x"}, "text_model is of use with candidate_labels only"),
        ({"candidate_labels": [], "text_model": "x"}, "give one label or more"),
        ({"candidate_labels": ["a", "a"], "text_model": "x"}, "each once"),
        ({"candidate_labels": "jump", "text_model": "x"}, "candidate_labels is 'jump'"),
        ({"candidate_labels": LABELS, "text_model": "x", "hypothesis_template": "a"}, "it needs one {}"),
        ({"candidate_labels": LABELS, "text_model": "x", "video_scores": {"a": 1.0}}, "both name the segments"),
        ({"candidate_labels": LABELS, "text_model": "/no/such"}, "'/no/such', which cannot be loaded"),
        ({"candidate_labels": LABELS, "text_models": "x"}, "did you mean 'text_model'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    pipe = small_pipeline(id2label={0: "action"}, label2id={"action": 0})
    with pytest.raises((ValueError, TypeError), match=message):
        pipe(frames(), frame_rate=10.0, **settings)


def test_a_model_with_classes_names_its_own(clip):
    with pytest.raises(ValueError, match="this one names its classes"):
        small_pipeline()(frames(), frame_rate=10.0, candidate_labels=LABELS, text_model=clip)
