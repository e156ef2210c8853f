"""What every registered architecture must do, on a small model of each."""

import copy
import pickle

import peft
import pytest
import torch
from architecture_cases import CASES, Case
from tolerances import assert_as_exact, assert_close, assert_gradients_close, depth_of, gradient_noise
from torch import Tensor, nn

from re2tal_hf import Re2TALConfig, Re2TALModel, rewire
from re2tal_hf.architecture import BACKBONES, Architecture, build_library_model, register_backbone
from re2tal_hf.reversible import Stage
from re2tal_hf.rewired_model import RewiredModel
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.memory import saved_for_backward

pytestmark = pytest.mark.usefixtures("exact_softmax")
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
CLIP_MODELS = {"mvit", "videomae", "vivit", "timesformer", "vjepa2", "vjepa2_1", "videoprism"}
every_clip_model = pytest.mark.parametrize(
    "case", [case for case in CASES if case.config["model_type"] in CLIP_MODELS], ids=lambda case: case.name
)


def backbone(case: Case, backprop: str = "plain", rewiring: str = "re2tal", **settings) -> RewiredModel:
    """A model of the case with weights of one seed, none of them zero or next to it."""
    torch.manual_seed(1)
    model = build_backbone({**case.config, **settings}, rewiring, backprop)
    for parameter in model.parameters():
        if parameter.abs().max() < 1e-4:
            nn.init.normal_(parameter, std=0.1)
    return model


def video(shape: tuple[int, int, int], batch: int = 2) -> Tensor:
    frames, height, width = shape
    return torch.randn(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(2))


def clip(model: RewiredModel, case: Case) -> Tensor:
    """Videos in the library's own form, of a length that it takes."""
    frames, height, width = case.shape
    frames = model.architecture.clip_length(model) or frames
    return model.architecture.to_library_input(video((frames, height, width)))


def tensors(output) -> list[Tensor]:
    """The tensors of what a library's forward returns."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [value for value in values if isinstance(value, Tensor)]


def gradients(model: nn.Module, videos: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(7)
    model.video_features(videos).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_every_architecture_has_a_case():
    tested = {case.config["model_type"] for case in CASES}
    # Stored features are no network.
    assert tested == set(BACKBONES) - {ResidualVideo.model_type, "features"}


@every_case
def test_rewiring_and_training_keep_the_keys(case):
    model = backbone(case)
    original = copy.deepcopy(model)
    original.__class__ = type(model).original_class
    keys, parameters = list(original.state_dict()), list(original.parameters())
    rewired = rewire(original)
    assert rewired is original
    for backprop in ("reversible", "checkpoint", "plain"):
        rewired.backprop = backprop
        rewired.train().video_features(video(case.shape, batch=1)).sum().backward()
        rewired.eval()
        assert list(rewired.state_dict()) == keys
    assert all(a is b for a, b in zip(rewired.parameters(), parameters, strict=True))


@pytest.mark.training
@every_case
@pytest.mark.parametrize("backprop", ["plain", "checkpoint"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_rewiring_is_the_librarys_forward(case, backprop, dtype):
    model = backbone(case, backprop, "none").to(dtype).eval()
    library_model = build_library_model(case.config).to(dtype).eval()
    library_model.load_state_dict(model.state_dict())
    inputs = clip(model, case).to(dtype)
    found = tensors(model(inputs))
    expected = tensors(library_model(inputs, **case.library_arguments))
    truths = tensors(library_model.double()(inputs.double(), **case.library_arguments))
    expected, truths = (values[: len(values) - case.left_out] for values in (expected, truths))
    assert len(found) == len(expected) == len(truths) > 0
    for one, other, truth in zip(found, expected, truths, strict=True):
        assert_as_exact(one, other, truth, depth=depth_of(model))
    rewired = tensors(rewire(model)(inputs))[0]
    assert (rewired - expected[0]).abs().max() > 1e-3 * expected[0].abs().max()


@every_case
@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.training), torch.float64])
def test_gradients_are_those_of_plain_autograd(case, dtype):
    model = backbone(case, **case.stochastic).to(dtype).train()
    videos = video(case.shape).to(dtype)
    expected = gradients(model, videos)
    assert expected.keys() == dict(model.named_parameters()).keys()
    if case.stochastic:
        torch.manual_seed(8)
        assert not torch.equal(model.video_features(videos), model.video_features(videos))
    # Networks of small batch norms amplify rounding a thousandfold; that of the inversion is one more of them.
    truth = gradients(copy.deepcopy(model).double(), videos.double())
    bound = min(gradient_noise(expected, truth), 2e-4)
    for backprop in ("reversible", "checkpoint"):
        model.backprop = backprop
        assert_gradients_close(gradients(model, videos), expected, depth=depth_of(model), bound=bound)
    if dtype == torch.float32:
        assert 0 <= model.reconstruction_errors.largest() < 1e-5
    assert model.reconstruction_errors.by_stage


@every_case
@pytest.mark.parametrize("backprop", ["plain", "checkpoint", "reversible"])
def test_every_module_with_weights_is_called(case, backprop):
    """Nothing is read past a module, so that what a user puts in its place or hooks onto it counts."""
    model = backbone(case, backprop).train()
    owners = {name: module for name, module in model.named_modules() if module._parameters}
    owners.pop("", None)
    calls = dict.fromkeys(owners, 0)
    for name, module in owners.items():
        module.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    model.video_features(video(case.shape)).sum().backward()
    assert min(calls.values()) > 0, [name for name, count in calls.items() if not count]


@pytest.mark.training
@every_case
def test_adapters(case, tmp_path):
    model = backbone(case).double().train()
    targets = [name for name, module in model.named_modules() if type(module) in (nn.Linear, nn.Conv2d, nn.Conv3d)]
    targets = [name for name in targets if getattr(model.get_submodule(name), "groups", 1) == 1]
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, lora_dropout=0.1)
    adapted = peft.get_peft_model(model, config).base_model.model
    assert adapted is model
    videos = video(case.shape).double()
    expected = gradients(model, videos)
    assert len(expected) == 2 * len(targets)
    assert all(grad.any() for grad in expected.values())
    for backprop in ("reversible", "checkpoint"):
        model.backprop = backprop
        assert_gradients_close(gradients(model, videos), expected)


@every_case
def test_bytes_kept_do_not_depend_on_the_depth(case):
    kept = {}
    for backprop in ("plain", "reversible"):
        for depth, settings in (("config", {}), ("deeper", case.deeper)):
            model = backbone(case, backprop, **settings).train()
            with saved_for_backward([*model.parameters(), *model.buffers()]) as saved:
                model.video_features(video(case.shape, batch=1))
            kept[backprop, depth] = saved.total()
    assert kept["reversible", "config"] == kept["reversible", "deeper"]
    assert kept["plain", "config"] < kept["plain", "deeper"]


@every_case
@pytest.mark.parametrize("attribute", ["shape", "odd_shape"])
def test_features_and_masks(case, attribute):
    model = Re2TALModel(Re2TALConfig(backbone_config=case.config)).eval()
    videos = video(getattr(case, attribute))
    frame_mask = torch.ones(videos.shape[:2], dtype=torch.bool)
    frame_mask[1, 3:] = False
    with torch.no_grad():
        output = model(videos, frame_mask)
    num_features = -(-videos.shape[1] // model.feature_stride)
    assert output.last_hidden_state.shape == (2, num_features, model.feature_size)
    assert output.feature_mask.shape == (2, num_features)
    assert output.last_hidden_state.isfinite().all()


@every_clip_model
def test_each_clip_is_seen_alone(case):
    model = backbone(case).double().eval()
    length = model.architecture.clip_length(model)
    videos = video((3 * length - 1, *case.shape[1:])).double()
    with torch.no_grad():
        features = model.video_features(videos)
        second = model.video_features(videos[:, length : 2 * length])
    per_clip = second.shape[1]
    assert_close(features[:, per_clip : 2 * per_clip], second)


@every_case
def test_saves_and_loads(case, tmp_path):
    torch.manual_seed(3)
    model = Re2TALModel(Re2TALConfig(backbone_config=case.config)).eval()
    model.save_pretrained(tmp_path)
    loaded, info = Re2TALModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    videos = video(case.odd_shape)
    with torch.no_grad():
        found, expected = loaded.eval()(videos).last_hidden_state, model(videos).last_hidden_state
    assert_close(found, expected, depth=depth_of(model))


@pytest.mark.training
@every_case
def test_weights_on_a_disk(case, tmp_path):
    torch.manual_seed(3)
    model = Re2TALModel(Re2TALConfig(backbone_config=case.config)).eval()
    model.save_pretrained(tmp_path / "model")
    offloaded = Re2TALModel.from_pretrained(
        tmp_path / "model", device_map={"": "disk"}, offload_folder=tmp_path / "offloaded"
    )
    assert all(parameter.is_meta for parameter in offloaded.parameters())
    with torch.no_grad():
        expected = model(video(case.shape)).last_hidden_state
        found = offloaded.eval()(video(case.shape)).last_hidden_state
    assert_close(found, expected, depth=depth_of(model))


@every_case
def test_copies_and_pickles(case):
    model = backbone(case).eval()
    videos = video(case.shape)
    with torch.no_grad():
        expected = model.video_features(videos)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other.video_features(videos), expected)


@every_case
def test_initialization_draws_what_the_constructor_draws(case):
    torch.manual_seed(4)
    model = build_backbone(case.config)
    constructed = {name: (p.mean(), p.std(unbiased=False)) for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
        model.architecture.initialize(model)
    for name, parameter in model.named_parameters():
        mean, std = constructed[name]
        assert parameter.isfinite().all(), name
        spread = std * (12 / parameter.numel() ** 0.5 + 0.02)
        assert (parameter.mean() - mean).abs() <= spread, name
        assert (parameter.std(unbiased=False) - std).abs() <= spread, name


@every_case
@pytest.mark.parametrize(("setting", "value"), [("no_such_setting", 1), ("variant", "no such variant")])
def test_wrong_settings_are_named(case, setting, value):
    with pytest.raises(ValueError, match=setting):
        build_backbone({**case.config, setting: value})


class ResidualVideoModel(nn.Module):
    """Some user's own model."""

    def __init__(self, width: int, depth: int, num_classes: int | None = None):
        super().__init__()
        self.stem = nn.Conv3d(3, width, kernel_size=(2, 4, 4), stride=(2, 4, 4))
        blocks = [nn.Sequential(nn.GroupNorm(1, width), nn.Conv3d(width, width, 3, padding=1)) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3, 4)))


# As the README shows it.
@register_backbone
class ResidualVideo(Architecture):
    model_type = "small_residual_video"
    model_class = ResidualVideoModel

    def build(self, width=16, depth=4):
        return ResidualVideoModel(width, depth)

    def stages(self, model, size=None):
        return [Stage(model.stem, list(model.blocks))]

    def norm(self, model, x):  # [B, C, T', H', W'] -> [B, T', H', W', C]
        return x.permute(0, 2, 3, 4, 1)

    def classify(self, model, features):
        return model.head(features.mean((1, 2, 3)))

    def initialize(self, model):
        model.apply(lambda module: getattr(module, "reset_parameters", lambda: None)())

    def feature_size(self, model):
        return model.stem.out_channels

    def feature_stride(self, model):
        return model.stem.stride[0]


class BranchOfOnesOwn(nn.Module):
    """Made anew at every pass; its dropout is no module."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.block(x), 0.5, self.training)


def test_branches_follow_the_mode_of_what_they_hold(monkeypatch):
    def stages(self, model, size=None):
        return [Stage(model.stem, [nn.Sequential(BranchOfOnesOwn(block)) for block in model.blocks])]

    monkeypatch.setattr(ResidualVideo, "stages", stages)
    model, inputs = rewire(ResidualVideoModel(width=8, depth=3)), torch.randn(1, 3, 8, 16, 16)
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))
    model.train()
    model.blocks.eval()
    assert torch.equal(model(inputs), model(inputs))
    model.blocks[1].train()
    assert not torch.equal(model(inputs), model(inputs))


def test_an_architecture_of_ones_own():
    inputs = torch.randn(1, 3, 8, 16, 16)
    users_model = ResidualVideoModel(width=8, depth=3, num_classes=5)
    expected = users_model(inputs)
    assert_close(rewire(users_model, "none", "plain")(inputs), expected, depth=depth_of(users_model))
    assert rewire(users_model)(inputs).shape == (1, 5)

    config = {"model_type": ResidualVideo.model_type, "depth": 6}
    model = Re2TALModel(Re2TALConfig(backbone_config=config)).double()
    videos = torch.randn(2, 8, 3, 16, 16, dtype=torch.float64)
    assert model(videos).last_hidden_state.shape == (2, 4, 16)
    grads = {}
    for backprop in ("plain", "reversible"):
        model.backprop = backprop
        grads[backprop] = gradients(model.backbone, videos)
    assert len(grads["plain"]) == len(list(model.parameters()))
    assert_gradients_close(grads["reversible"], grads["plain"])
