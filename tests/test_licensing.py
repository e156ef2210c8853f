"""Where weights come from, and what their terms allow."""

import json
import logging
from pathlib import Path

import pytest
import yaml
from run_factory import small_pipeline, write_run
from test_trainer import TINY
from transformers import TimesformerConfig, TimesformerModel
from video_factory import numbered_frames, write_video

from re2tal_hf.licensing import origins
from re2tal_hf.licensing.families import FAMILIES
from re2tal_hf.licensing.origins import FROM_SCRATCH, find_origin, permitted_origin, recorded_origin, start_line
from re2tal_hf.training.arguments import load_recipe
from re2tal_hf.training.classification import ClassificationTrainer
from re2tal_hf.training.localization import LocalizationTrainer

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch) -> None:
    def refuse(*args: object, **settings: object) -> str:
        raise OSError("no connection")

    monkeypatch.setattr(origins, "hf_hub_download", refuse)


NON_COMMERCIAL = [
    "MCG-NJU/videomae-base-finetuned-kinetics",
    "OpenGVLab/VideoMAEv2-Base",
    "someone/my-VideoMAE-large",
    "facebook/timesformer-base-finetuned-k400",
    "fcakyon/timesformer-large-finetuned-k600",
    "/home/someone/weights/TimeSformer_divST_8x32_224_K400.pth",
    "weights\\video_mae.pth",
    "/home/someone/hub/models--MCG-NJU--videomae-base/snapshots/0123abcd",
]
PERMISSIVE = {
    "facebook/vjepa2-vitg-fpc64-384": "mit",
    "google/videoprism-base-f16r288": "cc-by-4.0",
    "google/vivit-b-16x2": "apache-2.0",
    "Swin3D_B_Weights.KINETICS400_IMAGENET22K_V1": "other",
    "MViT_V2_S_Weights.KINETICS400_V1": "other",
}
UNKNOWN = [
    "someone/vivit-finetuned",
    "someone/vjepa2",
    "vjepa2_1_vitl_dist_vitG_384.pt",
    "vivit/model.pth",
    "weights/Swin3D_T_Weights.pth",
    "x.safetensors",
]


def test_every_row_has_a_source():
    assert all(family.terms.startswith(("https://github.com/", "https://ai.meta.com/")) for family in FAMILIES)


@pytest.mark.parametrize("source", NON_COMMERCIAL)
def test_strict_terms_hold_by_name_and_a_commercial_recipe_refuses_them(source):
    origin = find_origin(source)
    assert (origin.license, origin.non_commercial) == ("cc-by-nc-4.0", True)
    assert "non-commercial use only" in start_line(origin, "videomae")
    assert permitted_origin(source, None, "any", "videomae") == origin
    with pytest.raises(ValueError, match="licence=commercial, and .* for non-commercial use only"):
        permitted_origin(source, None, "commercial", "videomae")
    with pytest.raises(ValueError, match=r"training\.pretrained_license apache-2.0 cannot be"):
        permitted_origin(source, "apache-2.0", "commercial", "videomae")


@pytest.mark.parametrize("source", [None, *PERMISSIVE])
def test_permissive_terms_are_taken_by_a_commercial_recipe(source):
    origin = permitted_origin(source, None, "commercial", "vivit")
    assert origin.license == PERMISSIVE.get(source, "apache-2.0")
    assert not origin.non_commercial
    assert start_line(origin, "vivit") is None


@pytest.mark.parametrize("source", UNKNOWN)
def test_permissive_terms_are_not_believed_of_a_name(source):
    assert find_origin(source).license is None
    assert "is not known: state it with training.pretrained_license=NAME" in start_line(find_origin(source), "vivit")
    with pytest.raises(ValueError, match=r"licence=commercial, and .* is not known: state it"):
        permitted_origin(source, None, "commercial", "vivit")
    assert permitted_origin(source, "mit", "commercial", "vivit").license == "mit"
    with pytest.raises(ValueError, match="for non-commercial use only"):
        permitted_origin(source, "cc-by-nc-4.0", "commercial", "vivit")


def test_who_is_asked_is_told_whose_the_weights_could_be():
    with pytest.raises(ValueError, match=r"mmaction2's are apache-2\.0.*facebookresearch/SlowFast"):
        permitted_origin("slowfast_r101_8x8.pth", None, "commercial", "slowfast")
    with pytest.raises(ValueError, match=r"V-JEPA 2\.1's are mit, .*facebookresearch/vjepa2#license"):
        permitted_origin("vjepa2_1_vitb_dist_vitG_384.pt", None, "commercial", "vjepa2_1")
    with pytest.raises(ValueError, match=r"VideoMAE's are cc-by-nc-4\.0"):
        permitted_origin("weights/base", None, "commercial", "videomae")


def test_values_that_are_none():
    with pytest.raises(ValueError, match="licence is 'comercial'; choose one of any, commercial"):
        permitted_origin(None, None, "comercial", "vivit")
    for stated in ("", "my license", "mit\n# Heading", "`mit`"):
        with pytest.raises(ValueError, match="is no name of a license"):
            find_origin("x.pth", stated)


def test_the_name_of_a_file_tells_of_no_folder_and_is_plain():
    for source in (
        "/home/someone/a b`c\n# d.pth",
        "C:\\Users\\someone\\a b`c\n# d.pth",
        "file:///home/x/a b`c\n# d.pth",
    ):
        assert find_origin(source).source == "a_b_c___d.pth"


@pytest.mark.parametrize("source", [None, "MCG-NJU/videomae-base", *PERMISSIVE, "weights/mine.pth"])
def test_a_record_says_the_same(source):
    origin = find_origin(source, "mit" if source == "weights/mine.pth" else None)
    assert recorded_origin(json.loads(json.dumps({"origin": origin.record()}))) == origin


@pytest.mark.parametrize(
    "record", [{"source": "a\n# b", "kind": "hub", "license": "mit\n# c"}, {"source": 1, "kind": [], "license": {}}]
)
def test_a_record_is_not_believed_blindly(record):
    origin = recorded_origin({"origin": record})
    assert (origin.kind, origin.license) == ("file", None)
    assert "\n" not in origin.notice


def chain_folder(folder: Path, source: str | None) -> Path:
    """A run of an earlier version, whose model records no origin."""
    run = write_run(folder)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["training"]["pretrained_backbone"] = source
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return run / "best"


@pytest.mark.training
def test_runs_of_earlier_versions_are_followed_by_their_recipes(tmp_path):
    first = chain_folder(tmp_path / "first", "MCG-NJU/videomae-base")
    second = chain_folder(tmp_path / "second", str(first))
    assert find_origin(str(second)) == find_origin("MCG-NJU/videomae-base")
    assert find_origin(str(chain_folder(tmp_path / "scratch", None))) == FROM_SCRATCH
    itself = chain_folder(tmp_path / "itself", str(tmp_path / "itself" / "best"))
    assert find_origin(str(itself)).license is None
    assert find_origin(str(first / "model.safetensors")) == find_origin("MCG-NJU/videomae-base")
    alone = tmp_path / "alone"
    small_pipeline().save_pretrained(alone)
    assert find_origin(str(alone)).license is None


def test_a_model_of_ours_on_the_hub_says_its_origin(tmp_path, monkeypatch):
    origin = find_origin("MCG-NJU/videomae-base")
    small_pipeline(origin=origin.record()).save_pretrained(tmp_path / "model")
    asked = []

    def download(repository, name, local_files_only=False):
        asked.append((repository, local_files_only))
        if repository == "someone/gone":
            raise OSError("no such repository")
        return str(tmp_path / "model" / name)

    monkeypatch.setattr(origins, "hf_hub_download", download)
    with pytest.raises(ValueError, match="for non-commercial use only"):
        permitted_origin("someone/localizer", None, "commercial", "videomae")
    assert find_origin("someone/localizer") == origin
    assert find_origin("someone/gone").license is None
    assert asked == [("someone/localizer", False), ("someone/localizer", True), ("someone/gone", True)]


SIZES = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SIZES |= {"image_size": 16, "patch_size": 8, "num_frames": 4}


@pytest.fixture
def clips(tmp_path) -> Path:
    for subset in ("train", "validation"):
        for label, value in (("bright", 1.0), ("dark", 0.3)):
            path = tmp_path / "clips" / subset / label / "clip.mp4"
            path.parent.mkdir(parents=True)
            write_video(path, (numbered_frames(16) * value).astype("uint8"), 8)
    return tmp_path / "clips"


def test_non_commercial_weights_are_known_behind_a_run(clips, tmp_path, caplog):
    """TimeSformer's weights, fine-tuned on clips, then given to a localizer that is for commercial use."""
    weights = tmp_path / "timesformer-base"
    TimesformerModel(TimesformerConfig(**SIZES)).save_pretrained(weights)
    backbone = ["model.backbone_config=" + json.dumps({"model_type": "timesformer", **SIZES})]
    backbone += ["processor.size={height: 16, width: 16}", "processor.num_frames=16", "processor.frame_rate=8"]
    backbone += ["training.epochs=1", "data.num_workers=0", "training.warmup_epochs=0", "training.trackers=[]"]
    settings = [*backbone, f"data.annotations={clips}", f"training.pretrained_backbone={weights}"]
    with pytest.raises(ValueError, match=r"timesformer-base, cc-by-nc-4\.0 \(https.* for non-commercial use only"):
        ClassificationTrainer(load_recipe("ut_clips", [*settings, "licence=commercial"]), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    with caplog.at_level(logging.WARNING):
        ClassificationTrainer(load_recipe("ut_clips", settings), tmp_path / "backbone").run()
    said = [record.message for record in caplog.records if "commercial" in record.message]
    assert len(said) == 1 and "the model is for non-commercial use only" in said[0]

    tuned = tmp_path / "backbone" / "best"
    assert json.loads((tuned / "config.json").read_text())["origin"]["license"] == "cc-by-nc-4.0"
    moved = tuned.rename(tmp_path / "tuned")
    database = {"clip": {"subset": "training", "annotations": [{"segment": [0, 1], "label": "kick"}]}}
    database["also"] = {**database["clip"], "subset": "validation"}
    (tmp_path / "videos").mkdir()
    for name in database:
        write_video(tmp_path / "videos" / f"{name}.mp4", numbered_frames(16), 8)
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    settings = [*TINY, *backbone, f"data.annotations={tmp_path / 'a.json'}", f"data.videos={tmp_path / 'videos'}"]
    settings.append(f"training.pretrained_backbone={moved}")
    with pytest.raises(ValueError, match=r"timesformer-base, cc-by-nc-4\.0"):
        LocalizationTrainer(load_recipe("quickstart", [*settings, "licence=commercial"]), tmp_path / "refused")
    LocalizationTrainer(load_recipe("quickstart", settings), tmp_path / "run").run()
    assert find_origin(str(tmp_path / "run" / "last")).license == "cc-by-nc-4.0"
