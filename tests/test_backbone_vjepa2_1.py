"""V-JEPA 2.1 against a plain forward from its stated formulas, and the authors' checkpoints."""

import math

import pytest
import torch
from architecture_cases import CASES
from tolerances import assert_close
from torch import Tensor

from re2tal_hf import Re2TALModel
from re2tal_hf.commands.convert import main as convert
from re2tal_hf.rewired_model import RewiredModel
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.library_weights import backbone_of
from re2tal_hf.training.pretrained import load_backbone_weights

VIDEOS = next(case.config for case in CASES if case.name == "vjepa2_1")
IMAGES = next(case.config for case in CASES if case.name == "vjepa2_1_images")


def backbone(config: dict = VIDEOS, seed: int = 0, **settings) -> RewiredModel:
    torch.manual_seed(seed)
    model = build_backbone({**config, **settings}, "none", "plain").double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def turned(vector: Tensor, position: tuple[float, float, float]) -> Tensor:
    """A query or key of one head at one place: a third of its pairs of channels is turned by each coordinate."""
    result, pairs = vector.clone(), len(vector) // 3 // 2
    for axis in range(3):
        for i in range(pairs):
            at = 2 * (axis * pairs + i)
            angle = position[axis] / 10000 ** (i / pairs)
            a, b = vector[at], vector[at + 1]
            result[at] = a * math.cos(angle) - b * math.sin(angle)
            result[at + 1] = a * math.sin(angle) + b * math.cos(angle)
    return result


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def plain_forward(state: dict[str, Tensor], clip: Tensor, heads: int, side: int) -> Tensor:
    """The encoder on one clip `[T, C, H, W]`, written out: `[tokens, D]`."""
    patches, modality = ("patch_embed_img", "img_mod_embed") if len(clip) == 1 else ("patch_embed", "video_mod_embed")
    kernel = state[f"{patches}.proj.weight"]
    size = kernel.shape[2:]
    grid = [length // step for length, step in zip((clip.shape[0], *clip.shape[2:]), size, strict=True)]
    tokens, positions = [], []
    for t in range(grid[0]):
        for y in range(grid[1]):
            for x in range(grid[2]):
                block = clip.transpose(0, 1)
                for axis, (index, step) in enumerate(zip((t, y, x), size, strict=True), start=1):
                    block = block.narrow(axis, index * step, step)
                tokens.append((kernel * block).sum((1, 2, 3, 4)) + state[f"{patches}.proj.bias"])
                rows, columns = max(grid[1] - 1, 1), max(grid[2] - 1, 1)
                positions.append((float(t), y * (side - 1) / rows, x * (side - 1) / columns))
    x = torch.stack(tokens) + state[modality][0]
    depth = sum(name.endswith("qkv.weight") for name in state)
    for layer in range(depth):
        name = f"blocks.{layer}"
        qkv = linear(state, f"{name}.attn.qkv", norm(state, f"{name}.norm1", x)).chunk(3, dim=-1)
        query, key, value = (part.chunk(heads, dim=-1) for part in qkv)
        outputs = []
        for q, k, v in zip(query, key, value, strict=True):
            q, k = (torch.stack([turned(one, at) for one, at in zip(part, positions, strict=True)]) for part in (q, k))
            weights = (q @ k.T / math.sqrt(q.shape[-1])).softmax(-1)
            outputs.append(weights @ v)
        x = x + linear(state, f"{name}.attn.proj", torch.cat(outputs, dim=-1))
        hidden = linear(state, f"{name}.mlp.fc1", norm(state, f"{name}.norm2", x))
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        x = x + linear(state, f"{name}.mlp.fc2", hidden)
    return norm(state, "norms_block.3", x)


@pytest.mark.parametrize(
    ("config", "shape", "settings"),
    [
        (VIDEOS, (4, 24, 40), {}),
        (VIDEOS, (6, 35, 9), {"hidden_size": 32}),  # channels that are not turned, a single column
        (IMAGES, (1, 24, 33), {"num_attention_heads": 3}),
    ],
)
def test_the_stated_formulas(config, shape, settings):
    model = backbone(config, **settings)
    clips = torch.randn(2, shape[0], 3, *shape[1:], dtype=torch.float64)
    expected = [plain_forward(model.state_dict(), clip, model.config.num_attention_heads, 3) for clip in clips]
    with torch.no_grad():
        assert_close(model(clips).last_hidden_state, torch.stack(expected))


def test_stochastic_depth_grows_with_the_depth():
    model = build_backbone({**VIDEOS, "num_hidden_layers": 5, "drop_path_rate": 0.2})
    assert [block.drop_path.p for block in model.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("shape", [(1, 32, 32), (4, 7, 32), (4, 32, 7)])
def test_clips_that_do_not_fit_are_named(shape):
    with pytest.raises(ValueError, match=f"{shape[0]} frames of {shape[1]}x{shape[2]}.*at least 2 frames of 8x8"):
        backbone()(torch.randn(1, shape[0], 3, *shape[1:], dtype=torch.float64))


def checkpoint(seed: int = 1) -> dict[str, Tensor]:
    """What the authors call the encoder's tensors: of both modalities, with norms at four depths."""
    state = {**backbone(IMAGES, seed).state_dict(), **backbone(VIDEOS, seed).state_dict()}
    for depth in range(3):
        state |= {f"norms_block.{depth}.{part}": torch.ones(24) for part in ("weight", "bias")}
    return {f"module.backbone.{name}": tensor for name, tensor in state.items()}


def save(path, averaged: dict[str, Tensor], name: str = "ema_encoder") -> str:
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    predictor = {"module.backbone.predictor_embed.weight": torch.ones(2, 2)}
    content = {"encoder": checkpoint(2), "predictor": predictor, "opt": optimizer, "scaler": None, "epoch": 3}
    torch.save({**content, name: averaged, "loss": 0.5, "lr": 1e-4}, path)
    return str(path)


@pytest.mark.parametrize("config", [VIDEOS, IMAGES])
@pytest.mark.parametrize("name", ["ema_encoder", "target_encoder"])
def test_the_authors_checkpoint(config, name, tmp_path):
    published = checkpoint()
    model = backbone(config)
    summary = load_backbone_weights(model, save(tmp_path / "vjepa2_1.pt", published, name))
    total = len(model.state_dict())
    assert summary.startswith(f"used {total} of {total} tensors") and "not used: 9 (" in summary
    assert all(torch.equal(t, published[f"module.backbone.{n}"]) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("module.backbone.blocks.1.attn.qkv.bias"), r"lacks 1 \(blocks\.1\.attn\.qkv\.bias\)"),
        (lambda state: state.pop("module.backbone.norms_block.3.bias"), r"lacks 1 \(norms_block\.3\.bias\)"),
        (lambda state: state.pop("module.backbone.video_mod_embed"), r"lacks 1 \(video_mod_embed\)"),
        (lambda state: state.update({"module.backbone.cls_token": torch.ones(1)}), r"no place for 1 \(cls_token\)"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(change, message, tmp_path):
    change(state := checkpoint())
    with pytest.raises(ValueError, match=message):
        load_backbone_weights(backbone(), save(tmp_path / "vjepa2_1.pt", state))


@pytest.mark.training
@pytest.mark.parametrize(("variant", "million_parameters"), [("base", 87), ("large", 304)])
def test_a_file_tells_its_size(variant, million_parameters, tmp_path):
    """As published: 80 M and 300 M, rounded."""
    with torch.device("meta"):
        model = build_backbone({"model_type": "vjepa2_1", "variant": variant})
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(million_parameters, abs=1)
    state = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in model.state_dict().items()}
    path = tmp_path / "vjepa2_1.pt"
    torch.save({"ema_encoder": {f"module.backbone.{name}": tensor for name, tensor in state.items()}}, path)
    assert backbone_of(str(path)) == {"model_type": "vjepa2_1", "variant": variant}


@pytest.mark.training
def test_a_checkpoint_becomes_a_model(tmp_path, capsys, monkeypatch):
    published = checkpoint()
    path = save(tmp_path / "vjepa2_1_vits.pt", published)
    monkeypatch.setattr("re2tal_hf.conversion.library.backbone_of", lambda name: VIDEOS)
    output = tmp_path / "rewired"
    assert convert([path, "--from", "library", "--license", "mit", "--output", str(output)]) == 0
    assert "license: mit" in capsys.readouterr().out
    model = Re2TALModel.from_pretrained(output)
    assert model.config.rewiring == "re2tal"
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, published[f"module.backbone.{name}"].float())
