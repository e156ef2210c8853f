import pytest
import torch

from re2tal_hf import (
    Re2TALConfig,
    Re2TALForTemporalActionLocalization,
    Re2TALForVideoClassification,
    Re2TALVideoProcessor,
)
from re2tal_hf.data.augmentation import Augmentation
from re2tal_hf.training.arguments import load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds(name):
    recipe = load_recipe(name)
    of_clips = "classifier_dropout" in recipe.model
    model_class = Re2TALForVideoClassification if of_clips else Re2TALForTemporalActionLocalization
    with torch.device("meta"):
        model = model_class(Re2TALConfig(**recipe.model, num_labels=3))
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
        ("training.epoch=3", "did you mean 'epochs'"),
        ("trainig.epochs=3", "did you mean 'training'"),
        ("training.epochs=three", "must be int"),
        ("training.epochs=1.5", "must be int"),
        ("training.mixed_precision=16", "must be str"),
        ("training.learning_rate=fast", "must be float"),
        ("training.epochs", "section.field=value"),
        ("training=3", "must be a section"),
    ],
)
def test_wrong_overrides_are_named(override, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("quickstart", [override])


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(ValueError, match="quickstart"):
        load_recipe("quickstrat")
