"""Small detectors of other projects' kinds, their checkpoints, and the command that converts them."""

import json
from pathlib import Path

import pytest
import torch

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization
from re2tal_hf.commands.convert import main

SWIN = {"model_type": "video_swin", "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "window_size": [2, 3, 3]}
SLOWFAST = {
    "model_type": "slowfast",
    "stage_blocks": [1, 2],
    "base_channels": 8,
    "channel_ratio": 4,
    "resample_rate": 4,
    "speed_ratio": 2,
    "fusion_kernel": 3,
    "feature_stride": 2,
}
PYRAMID = {"hidden_size": 16, "num_levels": 2, "max_length": 8, "padding": "opentad", "use_position_embedding": False}
ACTIONFORMER = {**PYRAMID, "num_attention_heads": 2, "attention_window": None, "norm_eps": 1e-6}
TRIDET = {**PYRAMID, "model_type": "tridet", "mlp_size": 24, "num_bins": 4}
VSGN = {
    "model_type": "vsgn",
    "hidden_size": 32,
    "num_levels": 2,
    "num_neighbours": 0,
    "num_head_layers": 1,
    "anchor_scales": [1.0, 2.0],
    "boundary_reach": 4.0,
    "max_length": 8,
    "padding": "opentad",
}
# Detectors of other sizes than published, each setting moved in one of them at least.
DETECTORS = {
    "swin": (SWIN, "re2tal", ACTIONFORMER),
    "swin plain": (SWIN | {"depths": [1, 3], "patch_size": [4, 2, 2], "mlp_ratio": 2.0}, "none", ACTIONFORMER),
    "one stage": (SWIN | {"depths": [2], "num_heads": [1], "window_size": [4, 2, 5]}, "re2tal", ACTIONFORMER),
    "fewer features": (SWIN | {"feature_stride": 4}, "re2tal", ACTIONFORMER),
    "slowfast": (SLOWFAST, "re2tal", ACTIONFORMER | {"num_levels": 3, "num_stem_layers": 1}),
    "slowfast plain": (SLOWFAST | {"stage_blocks": [2, 1, 1]}, "none", ACTIONFORMER | {"num_head_layers": 3}),
    "slowfast 50": (SLOWFAST | {"stage_blocks": [3, 4, 6, 3], "base_channels": 4}, "re2tal", ACTIONFORMER),
    "local attention": (SWIN, "none", ACTIONFORMER | {"attention_window": 3, "use_position_embedding": True}),
    "windows by level": (SWIN, "re2tal", ACTIONFORMER | {"attention_window": [None, 3], "input_dropout": 0.2}),
    "shallow head": (SWIN, "re2tal", ACTIONFORMER | {"num_embedding_layers": 1, "num_head_layers": 0, "num_levels": 1}),
    "tridet": (SWIN, "re2tal", TRIDET),
    "tridet windows": (SWIN, "none", TRIDET | {"window": [3, 5], "window_factor": 2, "boundary_kernel_size": 1}),
    "vsgn": (SWIN, "re2tal", VSGN),
}
NEEDED = ("num_attention_heads", "attention_window", "use_position_embedding", "max_length", "anchor_scales")
NEEDED += ("boundary_reach",)


def drawn(model: torch.nn.Module) -> torch.nn.Module:
    """Weights and statistics as after training, none of them as it began."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                spread = 0.5 + torch.rand_like(tensor) if name.endswith("running_var") else torch.randn_like(tensor) / 8
                tensor.copy_(spread)
    return model.eval()


def detector(case: str, num_labels: int = 3) -> Re2TALForTemporalActionLocalization:
    backbone, rewiring, head = DETECTORS[case]
    config = Re2TALConfig(backbone_config=backbone, head_config=head, rewiring=rewiring, num_labels=num_labels)
    return drawn(Re2TALForTemporalActionLocalization(config))


def told(model: Re2TALForTemporalActionLocalization) -> list[str]:
    """What the weights of a detector do not tell, as the command takes it."""
    config = model.config
    told = {f"head_config.{name}": config.head_config.get(name) for name in NEEDED if name in config.head_config}
    if config.backbone_config["model_type"] == "slowfast":
        told |= {f"backbone_config.{n}": SLOWFAST[n] for n in ("resample_rate", "speed_ratio", "feature_stride")}
    elif "feature_stride" in config.backbone_config:
        told["backbone_config.feature_stride"] = config.backbone_config["feature_stride"]
    return [f"{name}={json.dumps(value)}" for name, value in told.items()]


def write(path: Path, state: dict) -> Path:
    torch.save({"epoch": 3, "state_dict_ema": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    return path


def converted(source: Path, folder: Path, *arguments: str) -> Path:
    assert main([str(source), "--from", "opentad", "--output", str(folder), *arguments]) == 0
    return folder


def refusal(capsys: pytest.CaptureFixture[str], source: Path, *arguments: str, kind: str = "opentad") -> str:
    """The line in which a conversion ends that leaves nothing behind."""
    before = sorted(source.parent.iterdir())
    assert main([str(source), "--from", kind, "--output", str(source.parent / "out"), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert sorted(source.parent.iterdir()) == before
    return error
