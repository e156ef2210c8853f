"""transformers' video models as their users hold them: classifiers, keywords, losses, saved checkpoints."""

import io

import pytest
import torch
import transformers
from architecture_cases import CASES
from tolerances import assert_close, assert_gradients_close, depth_of
from torch import nn

from re2tal_hf import rewire
from re2tal_hf.architecture import BACKBONES
from re2tal_hf.rewiring import build_backbone

pytestmark = pytest.mark.usefixtures("exact_softmax")

FAMILIES = {"videomae": "VideoMAE", "vivit": "Vivit", "timesformer": "Timesformer", "vjepa2": "VJEPA2"}
if "videoprism" in BACKBONES:
    FAMILIES["videoprism"] = "VideoPrismVision"
SMALLER = {  # what the backbone's case leaves as it is
    "vjepa2": {
        "num_pooler_layers": 1,
        "pred_hidden_size": 24,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
    },
}


def library_model(model_type: str, kind: str, **settings) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    prefix = FAMILIES[model_type]
    config = next(dict(case.config) for case in CASES if case.name == model_type)
    config.pop("model_type")
    config = getattr(transformers, f"{prefix}Config")(**config, **SMALLER.get(model_type, {}), **settings)
    names = (f"{prefix}{kind}", f"{prefix.removesuffix('Vision')}{kind}")
    model = getattr(transformers, next(name for name in names if hasattr(transformers, name)))(config).eval()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


def inputs(model: transformers.PreTrainedModel) -> dict[str, torch.Tensor]:
    size = getattr(model.config, "crop_size", 32)
    return {model.main_input_name: torch.randn(2, 4, 3, size, size)}


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classifiers_without_rewiring_are_the_librarys(model_type, attention, dtype):
    # These have one implementation of their attention only.
    attention = "eager" if model_type in ("timesformer", "videoprism") else attention
    settings = {"num_labels": 3, "attn_implementation": attention}
    model = library_model(model_type, "ForVideoClassification", **settings).to(dtype)
    videos = {name: tensor.to(dtype) for name, tensor in inputs(model).items()}
    labels = torch.tensor([0, 2])
    expected = model(**videos, labels=labels)
    keys = list(model.state_dict())
    found = rewire(model, "none", "plain")(**videos, labels=labels)
    assert type(found) is type(expected)
    for name in ("logits", "loss"):
        assert_close(found[name], expected[name], depth=depth_of(model), what=name)
    assert list(model.state_dict()) == keys
    rewired = rewire(model)(**videos)
    assert rewired.loss is None
    assert (rewired.logits - expected.logits).abs().max() > 1e-4


@pytest.mark.parametrize("model_type", FAMILIES)
def test_models_return_the_librarys_output(model_type):
    model = library_model(model_type, "Model")
    videos = inputs(model)
    arguments = {"skip_predictor": True} if model_type == "vjepa2" else {}
    expected = model(**videos, **arguments)
    found = rewire(model, "none", "plain")(**videos)
    assert type(found) is type(expected)
    assert expected.keys() - found.keys() <= {"last_temporal_hidden_state", "last_spatial_hidden_state"}
    for name, tensor in found.items():
        assert_close(tensor, expected[name], depth=depth_of(model), what=name)


@pytest.mark.parametrize("mean_pooling", [True, False])
def test_videomae_with_either_pooling(mean_pooling):
    model = library_model("videomae", "ForVideoClassification", use_mean_pooling=mean_pooling)
    assert (model.fc_norm is None) == (model.videomae.layernorm is not None) == (not mean_pooling)
    videos = inputs(model)
    expected = model(**videos).logits
    assert_close(rewire(model, "none", "plain")(**videos).logits, expected, depth=depth_of(model))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_rewired_model_saves_what_the_library_loads(model_type, tmp_path):
    model = library_model(model_type, "ForVideoClassification")
    videos = inputs(model)
    expected = model(**videos).logits
    rewire(model).save_pretrained(tmp_path)
    loaded, info = type(model).original_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert_close(loaded.eval()(**videos).logits, expected, depth=depth_of(model))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    assert torch.equal(again(**videos).logits, model(**videos).logits)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_classifiers_gradients_are_those_of_plain_autograd(model_type):
    model = library_model(model_type, "ForVideoClassification").double().train()
    videos = {name: tensor.double() for name, tensor in inputs(model).items()}
    grads = {}
    for backprop in ("plain", "reversible"):
        rewire(model, "re2tal", backprop).zero_grad()
        torch.manual_seed(5)
        model(**videos, labels=torch.tensor([0, 1])).loss.backward()
        grads[backprop] = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert grads["plain"].keys() == grads["reversible"].keys()
    assert_gradients_close(grads["reversible"], grads["plain"])


@pytest.mark.parametrize("model_type", ["videomae", "vivit"])
@pytest.mark.parametrize("shape", [(5, 32, 32), (4, 7, 32), (4, 32, 7)])
def test_clips_that_do_not_fit_are_named(model_type, shape):
    model = rewire(library_model(model_type, "Model"))
    frames, height, width = shape
    with pytest.raises(ValueError, match=f"{frames} frames of {height}x{width}.*4 frames of at least 8x8"):
        model(torch.randn(1, frames, 3, height, width))


def test_arguments_that_are_not_there_are_named():
    model = rewire(library_model("videomae", "Model"))
    with pytest.raises(TypeError, match="needs pixel_values"):
        model()
    with pytest.raises(TypeError, match="bool_masked_pos"):
        model(**inputs(model), bool_masked_pos=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "enormous"}, "it must be one of"),
        ({"hidden_sise": 24}, "did you mean 'hidden_size'"),
        ({"hidden_size": "wide"}, "hidden_size"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        build_backbone({"model_type": "videomae", **change})


@pytest.mark.parametrize("model_type", FAMILIES)
def test_backbones_have_keys_of_the_library(model_type):
    config = next(case.config for case in CASES if case.name == model_type)
    own, library = build_backbone(config).state_dict(), library_model(model_type, "Model").state_dict()
    left_out = {name.split(".")[0] for name in library.keys() - own.keys()}
    assert left_out <= {"pooler", "predictor"}
    assert all(library[name].shape == tensor.shape for name, tensor in own.items())


@pytest.mark.training
@pytest.mark.parametrize(
    ("model_type", "variant", "million_parameters", "clip_length"),
    [
        ("videomae", "small", 22, 16),
        ("videomae", "base", 86, 16),
        ("videomae", "large", 304, 16),
        ("videomae", "huge", 631, 16),
        ("vivit", "base", 89, 32),
        ("timesformer", "base", 121, 8),
        ("vjepa2", "large", 304, 64),
        ("vjepa2", "huge", 632, 64),
        ("vjepa2", "giant", 1012, 64),
        *[("videoprism", "base", 114, 16), ("videoprism", "large", 354, 8)] * ("videoprism" in BACKBONES),
    ],
)
def test_sizes_of_the_variants(model_type, variant, million_parameters, clip_length):
    """The encoders' sizes as published."""
    with torch.device("meta"):
        model = build_backbone({"model_type": model_type, "variant": variant})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters / 1e6 == pytest.approx(million_parameters, abs=1)
    assert model.architecture.clip_length(model) == clip_length
