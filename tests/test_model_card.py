import json
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from run_factory import METRICS, write_run

from re2tal_hf.licensing.origins import find_origin
from re2tal_hf.publishing.license_file import license_text
from re2tal_hf.publishing.model_card import CardOptions, insert_notes, make_card, origin_of
from re2tal_hf.publishing.published_run import read_run

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = CardOptions(repo_id="user/kicks-small", tag="v1.2")
TORCHVISION = "Swin3D_T_Weights.KINETICS400_V1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def run_folder(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def change_recipe(folder: Path, section: str, **values: object) -> None:
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe[section] |= values
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def row(card: ModelCard, name: str) -> str:
    """The value in a two-column table of the card."""
    [found] = [line for line in card.text.splitlines() if line.startswith(f"| {name} |")]
    return found.strip("| ").split(" | ")[1]


def headings(text: str) -> list[str]:
    return [line[3:] for line in text.splitlines() if line.startswith("## ")]


def test_front_matter_names_library_task_license_and_results(finished):
    card = make_card(read_run(finished), OPTIONS)
    data = ModelCard(str(card)).data
    assert (data.library_name, data.license) == ("transformers", "apache-2.0")
    assert data.pipeline_tag is None
    assert "temporal-action-localization" in data.tags
    assert "reversible" in data.tags
    assert (data.model_name, data.base_model, data.datasets) == ("kicks-small", None, None)
    results = {result.metric_name: result.metric_value for result in data.eval_results}
    assert results == {"mAP@0.3": 0.6123, "mAP@0.5": 0.4877, "mAP@0.7": 0.27, "average mAP@0.3:0.7": 0.4567}
    assert {result.dataset_split for result in data.eval_results} == {"validation"}
    assert {result.dataset_name for result in data.eval_results} == {"kicks"}


def test_text_holds_what_the_run_wrote(finished):
    card = make_card(read_run(finished), OPTIONS)
    assert headings(card.text) == ["Use", "Data", "Results", "Training", "Limits", "License", "Citation"]
    assert "\n| 0.3 | 0.5 | 0.7 | average |\n" in card.text
    assert "\n| 0.612 | 0.488 | 0.270 | 0.457 |\n" in card.text
    assert (row(card, "jump"), row(card, "run")) == ("0.704", "0.209")
    assert "\n| training | 7 | 41 | 20.6 |\n| validation | 3 | 19 | 5.3 |\n" in card.text
    assert row(card, "machine") == "CPU, Some Processor, 4 cores, 2 threads"
    assert row(card, "peak memory of the process") == "823 MiB"
    assert row(card, "one step").startswith("0.50 s")
    assert row(card, "training without evaluations") == "25 minutes"
    assert row(card, "largest relative reconstruction error of the inversion") == "3e-07"
    assert row(card, "window") == "16 frames at 10 a second, 32x32"
    assert "A window is 1.6 s long" in card.text
    assert "5.23 M parameters, 4,321 of them in the backbone" in card.text
    assert "Recipe `quickstart`" in card.text
    assert "after epoch 2, the best of 3 evaluated" in card.text
    assert "](timeline.png)" in card.text


def test_a_model_that_finds_points_is_measured_as_such(run_folder):
    figures = {"map": 0.5, "loose_map": 0.75, "map@1": 0.4, "map@5": 0.6, "map@60": 0.8}
    path = run_folder / "best" / "metrics.json"
    path.write_text(json.dumps({"per_class": METRICS["per_class"], "epoch": 2, **figures}))
    change_recipe(run_folder, "data", points="start")
    card = make_card(read_run(run_folder), OPTIONS)
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results == {"tight average mAP": 0.5, "loose average mAP": 0.75}
    assert (card.data.metrics, card.data.eval_results[0].task_name) == (["spotting_map"], "Action spotting")
    assert "\n| 1 | 5 | 60 | tight average | loose average |\n" in card.text
    assert "\n| 0.400 | 0.600 | 0.800 | 0.500 | 0.750 |\n" in card.text
    assert "# kicks-small: action spotting on" in card.text and "and at what moment: jump, run." in card.text
    assert "--videos videos --points start\n" in card.text
    assert "tIoU" not in card.text and "action['end']" not in card.text and "seen whole" not in card.text


def test_the_card_in_the_repository_has_the_same_sections(finished):
    generated = headings(make_card(read_run(finished), OPTIONS).text)
    assert set(generated) == set(headings((ROOT / "MODEL_CARD.md").read_text()))


def test_the_code_of_the_card_is_five_lines_with_the_repository_filled_in(finished):
    text = make_card(read_run(finished), OPTIONS).text
    code = text.partition("```python\n")[2].partition("```")[0]
    lines = [line for line in code.splitlines() if line]
    assert len(lines) <= 5
    assert 'model="user/kicks-small", trust_remote_code=True' in code
    compile(code, "card", "exec")


@pytest.mark.parametrize(
    ("modes", "tagged"), [(["plain", "reversible"], True), (["plain", "plain"], False), (3, False)]
)
def test_a_plan_that_inverts_a_stage_is_reversible(run_folder, modes, tagged):
    change_json(run_folder / "last/config.json", backprop="auto")
    change_json(run_folder / "run.json", backprop_plan={"modes": modes})
    assert ("reversible" in make_card(read_run(run_folder, "last"), OPTIONS).data.tags) == tagged


def test_what_is_not_so_is_not_said(run_folder):
    (run_folder / "last" / "timeline.png").unlink()
    path = run_folder / "recipe.yaml"
    path.write_text(path.read_text().replace("backbone: false", "backbone: true"))
    amount = {"videos": 7, "segments": 41, "seconds": 0}
    change_json(run_folder / "run.json", device="NVIDIA H100", num_processes=2, training=amount)
    card = make_card(read_run(run_folder, "last"), OPTIONS)
    assert "timeline.png" not in card.text
    assert "reconstruction" not in card.text
    assert "reversible" not in card.data.tags
    assert "The backbone is frozen" in card.text
    assert "the best of" not in card.text
    assert row(card, "peak memory allocated on the GPU") == "823 MiB"
    assert row(card, "machine") == "NVIDIA H100, 2 processes"
    assert row(card, "windows in an update") == "4"
    assert "\n| training | 7 | 41 | not recorded |\n" in card.text


def test_a_resized_class_agnostic_model_on_a_hub_dataset(run_folder):
    change_recipe(run_folder, "data", annotations="someone/kicks-videos@v3", videos=None, class_agnostic=True)
    change_json(run_folder / "best" / "video_preprocessor_config.json", sampling="resized")
    card = make_card(read_run(run_folder), OPTIONS)
    assert card.data.datasets == ["someone/kicks-videos"]
    result = card.data.eval_results[0]
    assert (result.dataset_type, result.dataset_revision) == ("someone/kicks-videos", "v3")
    assert "](https://huggingface.co/datasets/someone/kicks-videos)" in card.text
    assert "video_scores" in card.text
    assert "Every video is sampled to 16 frames" in card.text


def test_a_local_folder_is_no_dataset_of_the_hub(run_folder, tmp_path, monkeypatch):
    (tmp_path / "someone" / "kicks-videos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    change_recipe(run_folder, "data", annotations="someone/kicks-videos", videos=None)
    card = make_card(read_run(run_folder), OPTIONS)
    assert card.data.datasets is None
    assert "huggingface.co/datasets" not in card.text
    assert card.data.eval_results[0].dataset_name == "kicks-videos"


@pytest.mark.parametrize(
    ("source", "stated", "license", "base_model", "said"),
    [
        (None, None, "apache-2.0", None, "from scratch"),
        (None, "mit", "mit", None, "The publisher states: `mit`"),
        (TORCHVISION, None, "other", None, "Kinetics-400"),
        ("Other_Weights.IMAGENET1K_V1", None, "other", None, "torchvision"),
        ("MCG-NJU/videomae-base", None, "cc-by-nc-4.0", "MCG-NJU/videomae-base", "Non-commercial use only"),
        ("facebook/timesformer-base-finetuned-k400", None, "cc-by-nc-4.0", ..., "Non-commercial use only"),
        ("facebook/vjepa2-vitl-fpc64-256", None, "mit", ..., "published under `mit`"),
        ("google/vivit-b-16x2-kinetics400", None, "apache-2.0", ..., "published under `apache-2.0`"),
        ("weights/VideoMAE_base.pth", None, "cc-by-nc-4.0", None, "Non-commercial use only"),
        ("weights/mine.safetensors", "cc-by-4.0", "cc-by-4.0", None, "The publisher states: `cc-by-4.0`"),
        ("someone/backbone", "cc-by-nc-sa-4.0", "cc-by-nc-sa-4.0", "someone/backbone", "Non-commercial use only"),
    ],
)
def test_license_follows_the_origin_of_the_weights(run_folder, source, stated, license, base_model, said):
    change_recipe(run_folder, "training", pretrained_backbone=source)
    run, options = read_run(run_folder), CardOptions("user/kicks-small", "v1", license=stated)
    card = make_card(run, options)
    assert (card.data.license, card.data.base_model) == (license, source if base_model is ... else base_model)
    assert said in card.text
    assert ("on-commercial" in card.text) == ("nc" in license)
    assert (card.data.license_link is not None) == (license == "other")
    text = license_text(origin_of(run, options), "OUR LICENSE\n")
    assert text.endswith("OUR LICENSE\n")
    assert (text == "OUR LICENSE\n") == (source is None and license == "apache-2.0")
    assert text == "OUR LICENSE\n" or text.startswith(f"WEIGHTS (*.safetensors): {license}\n")


@pytest.mark.parametrize("source", ["weights/mine.safetensors", "someone/backbone", "slowfast_r101_8x8.pth"])
def test_a_license_that_nobody_knows_is_asked_for(run_folder, source):
    change_recipe(run_folder, "training", pretrained_backbone=source)
    with pytest.raises(ValueError, match="is not known: state it with --license NAME"):
        make_card(read_run(run_folder), OPTIONS)
    change_recipe(run_folder, "training", pretrained_license="mit")
    assert make_card(read_run(run_folder), OPTIONS).data.license == "mit"


@pytest.mark.parametrize("source", ["MCG-NJU/videomae-base", TORCHVISION])
def test_a_license_that_the_origin_does_not_allow_is_refused(run_folder, source):
    change_recipe(run_folder, "training", pretrained_backbone=source)
    with pytest.raises(ValueError, match="--license apache-2.0 cannot be"):
        make_card(read_run(run_folder), CardOptions("user/kicks-small", "v1", license="apache-2.0"))


def test_the_origin_that_the_model_records_counts(run_folder):
    """A run that started from the result of another: its recipe names a folder only."""
    change_recipe(run_folder, "training", pretrained_backbone="runs/backbone/best")
    origin = find_origin("MCG-NJU/videomae-base").record()
    change_json(run_folder / "best" / "config.json", origin=origin)
    card = make_card(read_run(run_folder), OPTIONS)
    assert (card.data.license, card.data.base_model) == ("cc-by-nc-4.0", "MCG-NJU/videomae-base")
    assert "starting from `MCG-NJU/videomae-base`" in card.text
    assert "runs/backbone" not in card.text


def test_notes_go_into_their_sections(finished):
    notes = "Written by hand.\n\n## Data\n\nTwo scenes.\n\n## Ethics\n\n```bash\n## a comment\n```\n"
    card = make_card(read_run(finished), CardOptions("user/kicks-small", "v1", data_name="Kicks", notes=notes))
    expected = ["Use", "Data", "Results", "Training", "Limits", "Ethics", "License", "Citation"]
    assert [name for name in headings(card.text) if name != "a comment"] == expected
    intro, data = card.text.partition("## Use")[0], card.text.partition("## Data")[2].partition("## Results")[0]
    assert intro.rstrip().endswith("Written by hand.")
    assert data.rstrip().endswith("Two scenes.")
    assert "```bash\n## a comment\n```\n\n## License" in card.text
    assert "temporal action localization on Kicks" in card.text


def test_without_notes_a_card_stays_as_it_is(finished):
    text = str(make_card(read_run(finished), OPTIONS))
    assert insert_notes(text, "") == text


@pytest.mark.parametrize(
    "missing",
    [
        "recipe.yaml",
        "run.json",
        "log.jsonl",
        "best",
        "best/config.json",
        "best/model.safetensors",
        "best/video_preprocessor_config.json",
        "best/metrics.json",
        "best/detections.json",
    ],
)
def test_a_missing_file_is_named(run_folder, missing):
    path = run_folder / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(ValueError, match=rf"{missing} is missing: \w+"):
        read_run(run_folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("best/metrics.json", json.dumps({"epoch": 1, "per_class": {}}), "has no 'map'"),
        ("best/metrics.json", json.dumps(METRICS | {"map@0.5": float("nan")}), "'map@0.5' is nan"),
        ("best/metrics.json", "{", "is damaged"),
        ("run.json", "{}", "has no 'versions'"),
        ("log.jsonl", "", "is empty"),
        ("log.jsonl", "{", "is damaged"),
        ("log.jsonl", '{"epoch": 1}', "has an epoch without 'seconds_per_step'"),
        ("recipe.yaml", "model: {}", "has no 'processor'"),
    ],
)
def test_a_damaged_file_is_named(run_folder, name, content, message):
    (run_folder / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} {message}|{name}: {message}"):
        read_run(run_folder)


def test_what_is_no_run_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no model 'first'"):
        read_run(tmp_path, "first")


def test_a_model_on_features_is_said_to_be_one(tmp_path):
    overrides = ("data.features=/home/someone/kicks/features", "data.videos=null", "augmentation={}")
    backbone = {"model_type": "features", "size": 8}
    folder = write_run(tmp_path / "run", overrides=overrides, backbone_config=backbone, rewiring="none")
    cut = {"feature_stride": 4, "feature_offset": 8, "sampling": "whole"}
    change_json(folder / "best" / "video_preprocessor_config.json", **cut)
    encoder = {"encoder": "image_lite0 training.pretrained_backbone=/home/someone/lite0.pth", "window": 16, "step": 4}
    change_json(folder / "run.json", features=encoder | {"mean": True})
    text = make_card(read_run(folder), OPTIONS).text
    assert "Only the head was trained, on stored features" in text and "in the backbone" not in text
    assert "`[N, 8]`, one every 4 frames, the first one at frame 8, as `re2tal features` computed them with `im" in text
    assert "training.pretrained_backbone=lite0.pth`, windows of 16 frames, a step of 4, one feature for each." in text
    assert '"features": np.load("video.npy"), "duration": 62.5, "frame_rate": 30.0}' in text
    assert "data.features=features\n" in text and "--annotations annotations.json --features features\n" in text
    assert "trained from scratch, on features of another network, `image_lite0" in text
    for wrong in ("from pixels", "Frames are", "video.mp4", "someone", "backpropagation", "of the backbone"):
        assert wrong not in text
    card = make_card(read_run(folder), OPTIONS)
    assert row(card, "window") == "16 features, tested on whole videos"
    assert row(card, "features") == "size 8, feature_stride 4, feature_offset 8, feature_rate None"

    change_json(folder / "run.json", features={})
    change_json(folder / "best" / "video_preprocessor_config.json", feature_rate=30)
    text = make_card(read_run(folder), OPTIONS).text
    assert "at 30 frames a second, as another program computed them" in text and '"frame_rate"' not in text
