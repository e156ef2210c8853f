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

from re2tal_hf import Re2TALConfig, Re2TALModel, Re2TALVideoProcessor
from re2tal_hf.reversible import Coupling, ReconstructionErrors, Stage, run_stages
from re2tal_hf.stream_grid import GRIDS
from re2tal_hf.training.memory import saved_for_backward

DEPTHS = (24, 200, 1000)
# Autocast, all parameters in bf16, and single precision.
PRECISIONS = ("bf16 autocast", "bf16 parameters", "fp32")
SWIN = {"model_type": "video_swin", "variant": "tiny", "depths": [2, 2, 6, 2], "stochastic_depth_prob": 0.0}


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


def measure_swin(rounds: int) -> None:
    torch.set_num_threads(1)
    processor = Re2TALVideoProcessor(num_frames=32, size={"height": 112, "width": 112})
    frames = [torch.randint(0, 256, (32, 3, 112, 112), dtype=torch.uint8)]
    models, batches = {}, {}
    for bits, as_bytes in ((None, False), (24, False), (16, False), (16, True)):
        torch.manual_seed(0)
        model = Re2TALModel(Re2TALConfig(backbone_config=SWIN, stream_bits=bits)).train()
        models[bits, as_bytes] = model
        batches[bits, as_bytes] = processor.prepare(frames, normalized=not as_bytes)
    kept: dict[Any, float] = {}
    seconds: dict[Any, list[float]] = {}
    for _, precision, setting in itertools.product(range(rounds), ("bf16 autocast", "fp32"), models):
        model = models[setting]
        start = time.process_time()
        with (
            saved_for_backward([*model.parameters(), *model.buffers()]) as saved,
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "fp32"),
        ):
            loss = model(**batches[setting]).last_hidden_state.float().square().mean()
        kept[precision, setting] = saved.total() / 2**20
        loss.backward()
        seconds.setdefault((precision, setting), []).append(time.process_time() - start)
    for (precision, (bits, as_bytes)), times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times, seconds[precision, (None, False)], strict=True))
        row = {"precision": precision, "stream_bits": bits, "uint8": as_bytes}
        row["kept_mib"] = round(kept[precision, (bits, as_bytes)], 1)
        print(json.dumps(row | {"step_s": round(statistics.median(times), 2), "ratio": round(ratio, 2)}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swin", action="store_true", help="bytes and time of Swin-T in place of the depths")
    parser.add_argument("--rounds", type=int, default=5, help="of steps of Swin-T")
    arguments = parser.parse_args()
    measure_swin(arguments.rounds) if arguments.swin else measure_depths()
