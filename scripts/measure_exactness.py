"""What a grid for the streams is worth and what it costs: one JSON line for each setting.

python scripts/measure_exactness.py            # 64 channels, tanh branches, at depths 24, 200 and 1000
python scripts/measure_exactness.py --swin     # Swin-T, 1x3x32x112x112: bytes kept, and time of a step
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

from re2tal_hf import Re2TALConfig, Re2TALModel
from re2tal_hf.reversible import Coupling, ReconstructionErrors, Stage, run_stages
from re2tal_hf.stream_grid import GRIDS
from re2tal_hf.training.memory import saved_for_backward

DEPTHS = (24, 200, 1000)
# Autocast, all parameters in bf16, and single precision.
PRECISIONS = ("bf16 autocast", "bf16 parameters", "fp32")
SWIN = {"model_type": "video_swin", "variant": "tiny", "depths": [2, 2, 6, 2], "stochastic_depth_prob": 0.0}
ROUNDS = 5


def gradients(stage: Stage, x: Tensor, mode: Any, bits: int | None, autocast: bool) -> tuple[list[Tensor], float]:
    """Returns the gradients of all parameters and the error of the reconstruction."""
    parameters = [parameter for module in stage.modules for parameter in module.parameters()]
    errors, grid = ReconstructionErrors(), None if bits is None else GRIDS[bits]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        [output] = run_stages([stage], x, Coupling(0.0, 1.0), mode, errors, grid=grid)
    return list(torch.autograd.grad(output.float().square().mean(), parameters)), errors.largest()


def measure_depths() -> None:
    for depth, precision, bits in itertools.product(DEPTHS, PRECISIONS, (None, *GRIDS)):
        torch.manual_seed(0)
        branches = [nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.Tanh()) for _ in range(depth)]
        dtype = torch.bfloat16 if precision == "bf16 parameters" else torch.float32
        stage, x = Stage(nn.Linear(16, 64), branches), torch.randn(4, 16, 16, dtype=dtype)
        for module in stage.modules:
            module.to(dtype)
        exact, _ = gradients(stage, x, "checkpoint", bits, precision == "bf16 autocast")
        found, error = gradients(stage, x, "reversible", bits, precision == "bf16 autocast")
        off = max(float((a - b).float().norm() / b.float().norm()) for a, b in zip(found, exact, strict=True))
        same = all(map(torch.equal, found, exact))
        row = {"depth": depth, "precision": precision, "stream_bits": bits, "reconstruction_error": error}
        print(json.dumps(row | {"largest_gradient_error": off, "equal_to_the_bit": same}), flush=True)


def measure_swin() -> None:
    torch.set_num_threads(1)
    videos = torch.randn(1, 32, 3, 112, 112)
    rows: dict[tuple[str, int | None], list[float]] = {}
    models = {}
    for bits in (None, *GRIDS):
        torch.manual_seed(0)
        models[bits] = Re2TALModel(Re2TALConfig(backbone_config=SWIN, stream_bits=bits)).train()
    kept = {}
    for _, precision, bits in itertools.product(range(ROUNDS), ("bf16 autocast", "fp32"), models):
        model = models[bits]
        start = time.process_time()
        with (
            saved_for_backward([*model.parameters(), *model.buffers()]) as saved,
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "fp32"),
        ):
            loss = model(videos).last_hidden_state.float().square().mean()
        kept[precision, bits] = saved.total() / 2**20
        loss.backward()
        rows.setdefault((precision, bits), []).append(time.process_time() - start)
    for (precision, bits), seconds in rows.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, rows[precision, None], strict=True))
        row = {"precision": precision, "stream_bits": bits, "kept_mib": round(kept[precision, bits], 1)}
        print(json.dumps(row | {"step_s": round(statistics.median(seconds), 2), "ratio": round(ratio, 2)}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swin", action="store_true", help="bytes and time of Swin-T in place of the depths")
    measure_swin() if parser.parse_args().swin else measure_depths()
