import dataclasses
import re
from typing import Annotated, get_origin

import pytest
import torch

from re2tal_hf import (
    Re2TALConfig,
    Re2TALForTemporalActionLocalization,
    Re2TALForVideoClassification,
    Re2TALVideoProcessor,
)
from re2tal_hf.data.augmentation import Augmentation
from re2tal_hf.head import HEADS
from re2tal_hf.training.arguments import Recipe, load_recipe, recipe_names
from re2tal_hf.value_checks import arguments_of, fields_of
from re2tal_hf.video_settings import VideoSettings


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds(name):
    recipe = load_recipe(name)
    of_clips = "classifier_dropout" in recipe.model
    model_class = Re2TALForVideoClassification if of_clips else Re2TALForTemporalActionLocalization
    with torch.device("meta"):
        model = model_class(model_class.config_class(**recipe.model, num_labels=3))
    processor = Re2TALVideoProcessor(**recipe.processor)
    Augmentation(**recipe.augmentation)
    features = processor.num_frames // model.model.feature_stride
    assert features >= (8 if of_clips else 2 ** (model.head.num_levels - 1))


def test_overrides_reach_nested_fields():
    recipe = load_recipe(
        "quickstart",
        [
            "training.epochs=3",
            "model.backbone_config.depths=[1,1]",
            "training.learning_rate=1e-3",
            "data.cache=/x",
        ],
    )
    assert recipe.training.epochs == 3
    assert recipe.model["backbone_config"]["depths"] == [1, 1]
    assert recipe.training.learning_rate == 1e-3
    assert recipe.data.cache == "/x"


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "own.yaml").write_text("seed: 4\ntraining: {epochs: 2}\nmodel: {rewiring: none}\n")
    recipe = load_recipe(str(tmp_path / "own.yaml"), ["training.ema_decay=null"])
    assert (recipe.seed, recipe.training.epochs, recipe.training.ema_decay) == (4, 2, None)
    assert recipe.training.batch_size == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "did you mean 'training.epochs'"),
        ("trainig.epochs=3", "did you mean 'training'"),
        ("training.epochs=three", "must be int"),
        ("training.epochs=1.5", "must be int"),
        ("training.mixed_precision=16", "must be one of .*'bf16'"),
        ("training.learning_rate=fast", "must be float"),
        ("training.epochs", "section.field=value"),
        ("training=3", "must be a section"),
        ("model=3", "must be a section"),
        ("training.learning_rate=-1e-3", "training.learning_rate is -0.001; it must be above 0"),
        ("training.learning_rate=.nan", "training.learning_rate is nan"),
        ("training.learning_rate='1e-3'", "must be float"),
        ("training.max_gradient_norm=-1", "training.max_gradient_norm is -1; it must be at least 0"),
        ("training.final_learning_rate=1", "training.final_learning_rate is 1; at most training.learning_rate, "),
        ("training.warmup_epochs=1:30", "training.warmup_epochs is '1:30'; it must be float"),
        ("training.epochs=0", "training.epochs is 0; it must be at least 1"),
        ("training.epochs=true", "training.epochs is True; it must be int"),
        ("training.epochs=null", "training.epochs is None; it must be int"),
        ("training.schedule_epochs=soon", "must be int | None"),
        ("training.ema_decay=1", "training.ema_decay is 1; it must be at least 0 and below 1"),
        ("data.streaming=yes", "data.streaming is 'yes'; it must be bool"),
        ("data.cache=2024", "data.cache is 2024; it must be str | None .put it in quotes"),
        ("data.crop_ratio=0.9", "data.crop_ratio is 0.9; it must be list"),
        ("data.crop_ratio=[0.9]", "it must hold 2 numbers"),
        ("data.crop_ratio=[1.0,0.9]", "no number may be below the one before"),
        ("data.crop_ratio=[0.9,1.1]", r"data.crop_ratio\[1\] is 1.1; it must be above 0 and at most 1"),
        ("evaluation.tiou_thresholds=[]", "it must hold one or more numbers"),
        ("evaluation.tiou_thresholds=[0.5,50]", r"tiou_thresholds\[1\] is 50"),
        ("coupling.start=[2,0]", r"coupling.start\[0\] is 2"),
        ("distillation.weight=-1", "distillation.weight is -1"),
        ("seed=-1", "seed is -1; it must be at least 0 and at most 4294967295"),
        (f"training.max_gradient_norm={10**400}", "training.max_gradient_norm is 1000.*; it must be finite"),
        ("processor.image_std=0", "processor.image_std is 0; it must be at least"),
        ("processor.image_std=[0.2,-0.2,0.2]", r"processor.image_std\[1\] is -0.2"),
        ("processor.image_mean=[.inf,0,0]", r"processor.image_mean\[0\] is inf; it must be"),
        ("processor.rescale_factor=0", "processor.rescale_factor is 0"),
        ("processor.size={height: 0, width: 8}", "processor.size.height is 0; it must be at least 1"),
        ("processor.do_center_crop=no", "processor.do_center_crop is 'no'; it must be bool"),
        ("processor.do_pad=off", "processor.do_pad is 'off'; it must be bool"),
        ("augmentation.hue=0.9", "augmentation.hue is 0.9; it must be at least 0 and at most 0.5"),
        ("augmentation.crop_scale=[0.5]", "augmentation.crop_scale is .0.5.; it must be tuple"),
        ("freeze.norms=no", "freeze.norms is 'no'; it must be bool"),
        ("model.freeze_backbone=true", "no field 'model.freeze_backbone'; did you mean 'freeze.backbone'"),
        ("model.rewirring=none", "no field 'model.rewirring'; did you mean 'model.rewiring'"),
        ("model.classifier_dropout=1", "model.classifier_dropout is 1; it must be at least 0 and below 1"),
        ("model.coupling=[.nan,1]", r"model.coupling\[0\] is nan"),
        ("model.loss_config.loss_weight=-1", "model.loss_config.loss_weight is -1; it must be at least 0"),
        ("model.loss_config.center_radius=0", "model.loss_config.center_radius is 0; it must be above 0"),
        ("model.loss_config.initial_normalizer=.nan", "model.loss_config.initial_normalizer is nan"),
        ("model.head_config.drop_path=1.0", "model.head_config.drop_path is 1.0; it must be at least 0 and below 1"),
        ("model.head_config.use_position_embedding=on", "model.head_config.use_position_embedding is 'on'"),
        ("model.backbone_config.stochastic_depth_prob=-0.1", "model.backbone_config.stochastic_depth_prob is -0.1"),
        ("model.num_labels=3", "model.num_labels is set by the training itself: leave it out"),
        ("model.origin={}", "model.origin is set by the training itself"),
        ("model.backbone_config=null", "model.backbone_config is None; it must be dict"),
        ("processor.num_frame=3", "did you mean 'processor.num_frames'"),
        ("training.frame_rate=3", "no field 'training.frame_rate'; did you mean 'processor.frame_rate'"),
        ("processor.device=cuda", "no field 'processor.device'"),
        ("epohcs=3", "no field 'epohcs'; known are .*training"),
        ("--training.epochs=3", "is not of the form section.field=value"),
        ("data.videos=[my] videos", "needs quotes"),
        ("data.seconds_per_window=1e-9", "data.seconds_per_window is 1e-09; it must be at least 0.001"),
        (
            "data.windows_per_video=1000000000000",
            "data.windows_per_video is 1000000000000; it must be at least 1 and at",
        ),
        ("data.truncation_threshold=0", "data.truncation_threshold is 0; it must be above 0"),
        ("data.num_workers=100000", "data.num_workers is 100000"),
        ("training.epochs=1000000000000", "training.epochs is 1000000000000"),
        (
            "training.learning_rate=1e12",
            "training.learning_rate is 1000000000000.0; it must be above 0 and at most 100",
        ),
        (
            "processor.num_frames=1000000",
            "processor: num_frames is 1000000 and the frames are 64x64: a window of 46 GiB",
        ),
        (
            "training.batch_size=100000",
            "training.batch_size is 100000: so many windows take 629 GB at once; at most",
        ),
        ("processor.size={height: 100000, width: 8}", "processor.size.height is 100000; it must be at least 1 and at"),
        ("processor.size={shortest_edge: 8192}", "processor.num_frames and processor.size come to windows of 183 GB"),
        ("processor.frame_rate=1e-9", "processor.frame_rate is 1e-09; it must be at least 0.001 and at most 1000"),
        ("processor.size={hight: 64, width: 64}", "processor.*hight"),
        ("processor.size=null", "processor.size is None; it must be int"),
        ("processor.image_mean=[0.5, 0.5]", "processor"),
        ("processor.resample=9", "processor.resample is 9; it must be at least 0 and at most 3"),
        ("augmentation.crop_ratio=[2, 1]", "no number may be below the one before"),
        ("augmentation.brightness=1e12", "augmentation.brightness is 1000000000000.0"),
        ("model.coupling=[1, 0]", "model: .*coefficients of rewiring='re2tal' are fixed"),
        ("model.rewiring=none2", "model: rewiring is 'none2'; choose one of"),
        ("training.trackers=[tensorbord]", "no tracker 'tensorbord'; did you mean 'tensorboard'"),
        ("training.mixed_precision=fp8", "training.mixed_precision is 'fp8'; it must be one of"),
        ("licence=free", "licence is 'free'; it must be one of"),
        ("coupling.shape=cube", "coupling.shape is 'cube'; it must be one of"),
        (f"evaluation.tiou_thresholds={[0.5] * 101}", "tiou_thresholds holds 101 numbers; at most 100"),
        ("model.backbone_config.window_size=[1,2,.inf]", r"window_size\[2\] is inf; it must be finite"),
        ("model.backbone_config.depth=[1,1]", "model.backbone_config.depth: there is no .* did you mean 'depths'"),
        ("model.backbone_config.depths=[1,2,1]", "model.backbone_config.num_heads has 2 stages, and depths 3"),
        ("model.head_config.num_level=3", "model.head_config.num_level: there is no such .* 'num_levels'"),
        ("model.head_config.num_attention_heads=3", "model.head_config.num_attention_heads is 3, which does not"),
        ("model.backbone_config.model_type=video_swim", "'video_swim'; did you mean 'video_swin'"),
        ("training={epochs: 1, epochs: 2}", "'epochs' is given twice, in line 1"),
        ("training={", "training=.*expected the node content"),
    ],
)
def test_wrong_overrides_are_named(override, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("quickstart", [override])


def test_the_recipe_that_is_found_is_for_training_only(tmp_path, monkeypatch):
    (tmp_path / "auto").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="finds settings for `re2tal train`; .* Or choose one of .*ut_clips"):
        load_recipe("auto")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.epochs=010", 10),
        ("training.learning_rate=2", 2.0),
        ("training.learning_rate=1e-4", 1e-4),
        ("training.backbone_learning_rate=0", 0.0),
        ("training.max_gradient_norm=null", None),
        ("training.trackers=[]", []),
        ("data.crop_ratio=[1.0,1.0]", [1.0, 1.0]),
        ("data.seconds_per_window=4", 4.0),
        ("data.training_subset=no", "no"),
        ("data.training_subset=2024-01-01", "2024-01-01"),
        ("evaluation.tiou_thresholds=[0.5,1]", [0.5, 1]),
        ("model.loss_config={center_radius: 1, loss_weight: 0}", {"center_radius": 1, "loss_weight": 0}),
        ("processor.image_std=0.5", 0.5),
    ],
)
def test_values_at_the_bounds(override, value):
    found = load_recipe("quickstart", [override])
    for name in override.partition("=")[0].split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("part", ["head_config", "loss_config", "backbone_config"])
@pytest.mark.parametrize("head", HEADS)
def test_a_model_refuses_what_a_recipe_does(head, part):
    settings = {"head_config": {"num_levels": 0}, "loss_config": {"loss_weight": -1}, "backbone_config": {"dropout": 2}}
    config = {
        "head_config": {"model_type": head},
        "backbone_config": {"model_type": "video_swin", "variant": "tiny"},
        "loss_config": {},
    }
    [(name, value)] = settings[part].items()
    with torch.device("meta"), pytest.raises(ValueError, match=rf"{part}.{name} is {value}; it must be"):
        Re2TALForTemporalActionLocalization(Re2TALConfig(**config | {part: config[part] | settings[part]}))


NUMBER = re.compile(r"\b(int|float)\b")


@pytest.mark.parametrize(
    "hints",
    [
        *(fields_of(type(part)) for part in vars(Recipe()).values() if dataclasses.is_dataclass(part)),
        *(fields_of(cls) for cls in (Recipe, Augmentation, VideoSettings)),
        *(arguments_of(cls) for head in HEADS.values() for cls in (head.head_class, head.loss_class)),
    ],
)
def test_every_number_has_a_range(hints):
    # The last is a number of bytes or text with a unit, which `read_bytes` reads.
    derived = {"input_size", "num_labels", "unflippable_labels", "options", "memory_budget"}
    without = {name for name, hint in hints.items() if NUMBER.search(str(hint)) and get_origin(hint) is not Annotated}
    assert not without - derived
    assert len(hints) > 1


def test_what_does_not_go_together():
    with pytest.raises(ValueError, match="weight and label_weight are both 0"):
        load_recipe("ut_clips", ["distillation.label_weight=0"])
    path = ["coupling.start_epoch=20", "training.epochs=30"]
    load_recipe("quickstart", path)
    with pytest.raises(ValueError, match="start_epoch is 20.0 and end_epoch 15"):
        load_recipe("quickstart", [*path, "model.rewiring=dr2net"])
    random_crop = ["augmentation.crop_scale=[0.5, 1]", "processor.size={shortest_edge: 64}"]
    with pytest.raises(ValueError, match="augmentation.crop_scale needs frames of one size"):
        load_recipe("quickstart", random_crop)
    load_recipe(
        "quickstart", [*random_crop, "processor.do_center_crop=true", "processor.crop_size={height: 64, width: 64}"]
    )


def test_head_annotations_and_suppression_are_all_of_points_or_none():
    points = ["model.head_config={model_type: spotting, hidden_size: 16}", "data.points=middle"]
    with pytest.raises(ValueError, match="'spotting' finds points in time: set data.points and processor.point_window"):
        load_recipe("quickstart", points)
    assert load_recipe("quickstart", [*points, "processor.point_window=1"]).data.points == "middle"
    for given in ("data.points=start", "processor.point_window=1"):
        with pytest.raises(ValueError, match=rf"{given.partition('=')[0]} is for a head .* in time \(spotting\)"):
            load_recipe("quickstart", [given])
    with pytest.raises(ValueError, match="data.points is 'end'; it must be one of"):
        load_recipe("quickstart", [*points, "data.points=end"])
