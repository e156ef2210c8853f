"""SlowFast of PySlowFast and PyTorchVideo: converted ones give the logits of a network written with their names."""

import re
from pathlib import Path

import pytest
import torch
from conversion_cases import refusal, write
from tolerances import assert_close
from torch import Tensor
from torch.nn import functional

from re2tal_hf import Re2TALForVideoClassification, Re2TALModel
from re2tal_hf.commands.convert import main

BLOCKS, BASE, FAST, KERNEL, ALPHA, CLASSES = (2, 1, 3, 1), 8, 2, 5, 4, 7
RATES = [f"backbone_config.resample_rate={ALPHA}", f"backbone_config.speed_ratio={ALPHA}"]
CONFIG = f"""
MODEL: {{ARCH: slowfast, NUM_CLASSES: {CLASSES}}}
SLOWFAST: {{ALPHA: {ALPHA}, BETA_INV: {BASE // FAST}, FUSION_KERNEL_SZ: {KERNEL}}}
RESNET: {{WIDTH_PER_GROUP: {BASE}, STRIDE_1X1: false}}
"""
# Blocks of the fourth stage with kernels over time, as in PySlowFast's SLOWFAST_16x8_R101_50_50.
TEMPORAL = {3: 2}


def pyslowfast() -> dict[str, Tensor]:
    """A small SlowFast by PySlowFast's names; kernels and widths as its `video_model_builder.py` has them."""
    state: dict[str, Tensor] = {}

    def conv(name: str, norm: str, inner: int, outer: int, *kernel: int) -> None:
        state[f"{name}.weight"] = (
            torch.randn(outer, inner, *kernel) / (inner * kernel[0] * kernel[1] * kernel[2]) ** 0.5
        )
        for part in ("weight", "bias", "running_mean"):
            state[f"{norm}.{part}"] = torch.randn(outer) / 4 + (part == "weight")
        state[f"{norm}.running_var"] = torch.rand(outer) + 0.5
        state[f"{norm}.num_batches_tracked"] = torch.tensor(3)

    widths = [BASE, FAST]
    for path, frames in enumerate((1, 5)):
        conv(f"s1.pathway{path}_stem.conv", f"s1.pathway{path}_stem.bn", 3, widths[path], frames, 7, 7)
    conv("s1_fuse.conv_f2s", "s1_fuse.bn", FAST, 2 * FAST, KERNEL, 1, 1)
    channels = [BASE + 2 * FAST, FAST]
    for stage, blocks in enumerate(BLOCKS, 2):
        for path, width in enumerate(widths):
            inner = width * 2 ** (stage - 2)
            for number in range(blocks):
                frames = 3 if (path or stage > 3) and number < TEMPORAL.get(stage - 1, blocks) else 1
                name = f"s{stage}.pathway{path}_res{number}"
                if not number:
                    conv(f"{name}.branch1", f"{name}.branch1_bn", channels[path], 4 * inner, 1, 1, 1)
                conv(f"{name}.branch2.a", f"{name}.branch2.a_bn", channels[path], inner, frames, 1, 1)
                conv(f"{name}.branch2.b", f"{name}.branch2.b_bn", inner, inner, 1, 3, 3)
                conv(f"{name}.branch2.c", f"{name}.branch2.c_bn", inner, 4 * inner, 1, 1, 1)
                channels[path] = 4 * inner
        if stage < 5:
            fast = channels[1]
            conv(f"s{stage}_fuse.conv_f2s", f"s{stage}_fuse.bn", fast, 2 * fast, KERNEL, 1, 1)
            channels[0] += 2 * fast
    state["head.projection.weight"] = torch.randn(CLASSES, sum(channels))
    state["head.projection.bias"] = torch.randn(CLASSES)
    return state


def logits(state: dict[str, Tensor], video: Tensor) -> Tensor:
    """What that network makes of `[B, 3, T, H, W]`, with every fourth frame for the slow pathway."""

    def conv(x: Tensor, name: str, norm: str, stride: tuple[int, int, int] = (1, 1, 1), relu: bool = True) -> Tensor:
        weight = state[f"{name}.weight"]
        x = functional.conv3d(x, weight, stride=stride, padding=[side // 2 for side in weight.shape[2:]])
        mean, var, scale, bias = (state[f"{norm}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        x = functional.batch_norm(x, mean, var, scale, bias)
        return x.relu() if relu else x

    def fuse(paths: list[Tensor], stage: int) -> list[Tensor]:
        lateral = conv(paths[1], f"s{stage}_fuse.conv_f2s", f"s{stage}_fuse.bn", (ALPHA, 1, 1))
        return [torch.cat((paths[0], lateral), 1), paths[1]]

    paths = [video[:, :, ::ALPHA], video]
    for path, name in enumerate(("s1.pathway0_stem", "s1.pathway1_stem")):
        stem = conv(paths[path], f"{name}.conv", f"{name}.bn", (1, 2, 2))
        paths[path] = functional.max_pool3d(stem, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for stage, blocks in enumerate(BLOCKS, 2):
        paths = fuse(paths, stage - 1)
        for path in range(2):
            for number in range(blocks):
                name, x = f"s{stage}.pathway{path}_res{number}", paths[path]
                side = 2 if stage > 2 and not number else 1
                branch = conv(x, f"{name}.branch2.a", f"{name}.branch2.a_bn")
                branch = conv(branch, f"{name}.branch2.b", f"{name}.branch2.b_bn", (1, side, side))
                branch = conv(branch, f"{name}.branch2.c", f"{name}.branch2.c_bn", relu=False)
                if not number:
                    x = conv(x, f"{name}.branch1", f"{name}.branch1_bn", (1, side, side), relu=False)
                paths[path] = (x + branch).relu()
    pooled = torch.cat([x.mean((2, 3, 4)) for x in paths], 1)
    return functional.linear(pooled, state["head.projection.weight"], state["head.projection.bias"])


def pytorchvideo(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as PyTorchVideo calls them."""

    def name(old: str) -> str:
        if old.startswith("head."):
            return old.replace("head.projection", "blocks.6.proj")
        stage, where, rest = re.fullmatch(r"s(\d)(_fuse|\.pathway\d_\w+)\.(.+)", old).groups()
        block = f"blocks.{int(stage) - 1}"
        if where == "_fuse":
            return f"{block}.multipathway_fusion.{rest.replace('conv_f2s', 'conv_fast_to_slow').replace('bn', 'norm')}"
        path, part = re.fullmatch(r"\.pathway(\d)_(\w+)", where).groups()
        block += f".multipathway_blocks.{path}"
        if part == "stem":
            return f"{block}.{rest.replace('bn', 'norm')}"
        rest = rest.replace("branch1_bn", "branch1_norm").replace("branch1.", "branch1_conv.")
        rest = re.sub(r"branch2\.([abc])_bn", r"branch2.norm_\1", rest)
        rest = re.sub(r"branch2\.([abc])\.", r"branch2.conv_\1.", rest)
        return f"{block}.res_blocks.{part.removeprefix('res')}.{rest}"

    return {name(old): tensor for old, tensor in state.items()}


def convert(folder: Path, state: dict[str, Tensor], kind: str, *settings: str) -> Path:
    source, output = write(folder / "a.pyth", state), folder / "model"
    assert main([str(source), "--from", kind, "--output", str(output), *settings]) == 0
    return output


@pytest.mark.parametrize("kind", ["pyslowfast", "pytorchvideo"])
def test_a_classifier(kind, tmp_path):
    state = pyslowfast()
    theirs = state if kind == "pyslowfast" else pytorchvideo(state)
    model = Re2TALForVideoClassification.from_pretrained(convert(tmp_path, theirs, kind, *RATES)).double()
    assert model.config.rewiring == "none" and model.config.backbone_config["lateral_norm"] is True
    video = torch.randn(2, 3, 12, 24, 32, dtype=torch.float64)
    expected = logits({name: tensor.double() for name, tensor in state.items()}, video)
    with torch.no_grad():
        assert_close(model(video.transpose(1, 2)).logits, expected, depth=sum(BLOCKS))


def test_settings_of_a_config(tmp_path):
    (config := tmp_path / "slowfast.yaml").write_text(CONFIG, encoding="utf-8")
    folder = convert(tmp_path, pyslowfast(), "pyslowfast", "--options", str(config))
    settings = Re2TALForVideoClassification.from_pretrained(folder).config.backbone_config
    rates = [settings[name] for name in ("resample_rate", "speed_ratio", "feature_stride", "fusion_kernel")]
    assert rates == [ALPHA, ALPHA, 1, KERNEL] and settings["stage_blocks"] == list(BLOCKS)


def test_a_backbone_rewired(tmp_path):
    state = {name: tensor for name, tensor in pyslowfast().items() if not name.startswith("head.")}
    model = Re2TALModel.from_pretrained(convert(tmp_path, state, "pyslowfast", *RATES, "rewiring=re2tal"))
    assert model.config.rewiring == "re2tal" and model.backprop == "reversible"
    video = torch.randn(1, 8, 3, 24, 32)
    assert torch.isfinite(model(video).last_hidden_state).all()


def test_what_does_not_fit_is_refused(tmp_path, capsys):
    state = pyslowfast()
    source = write(tmp_path / "a.pyth", state)
    message = refusal(capsys, source, kind="pyslowfast")
    assert "does not say backbone_config.resample_rate, backbone_config.speed_ratio: both are the ratio" in message
    assert "is no SlowFast of PyTorchVideo" in refusal(capsys, source, *RATES, kind="pytorchvideo")
    (config := tmp_path / "c.yaml").write_text(CONFIG.replace("STRIDE_1X1: false", "STRIDE_1X1: true"))
    message = refusal(capsys, source, "--options", str(config), kind="pyslowfast")
    assert "RESNET.STRIDE_1X1 is True; ours is False" in message
    (config := tmp_path / "c.yaml").write_text(CONFIG.replace("ALPHA: 4", "ALPHA: fast"))
    assert "SLOWFAST.ALPHA is 'fast'" in refusal(capsys, source, "--options", str(config), kind="pyslowfast")
    source = write(tmp_path / "a.pyth", state | {"s4.pathway0_nonlocal1.conv_theta.weight": torch.ones(3)})
    assert "no place for 1 tensors" in refusal(capsys, source, *RATES, kind="pyslowfast")
    # Kernels over time must begin a stage: elsewhere the network is another.
    frames = state["s4.pathway0_res0.branch2.a.weight"][:, :, 1:2]
    source = write(tmp_path / "a.pyth", state | {"s4.pathway0_res0.branch2.a.weight": frames})
    assert "has the shape" in refusal(capsys, source, *RATES, kind="pyslowfast")
    # A slow pathway alone.
    slow = {name: tensor for name, tensor in state.items() if "pathway1" not in name and "fuse" not in name}
    assert "is no SlowFast of PySlowFast" in refusal(
        capsys, write(tmp_path / "a.pyth", slow), *RATES, kind="pyslowfast"
    )
    # MViT, which torchvision has.
    mvit = write(tmp_path / "a.pyth", {"patch_embed.proj.weight": torch.ones(2, 3, 3, 7, 7)})
    assert "MViT" in refusal(capsys, mvit, kind="pyslowfast")
