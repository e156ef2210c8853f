"""What backbones need, by calculation: nothing runs, and no device has to have the memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import Re2TALConfig, Re2TALModel

# Of devices, in GB, and what of it is left for the head, the batch and the libraries.
MEMORIES = (8, 16, 24, 80)
RESERVE = 2e9
# Of a weight in fp32: itself, its gradient and AdamW's two means; frozen itself.
BYTES_TRAINED, BYTES_FROZEN = 16, 4
MIB = 2**20


def calculate(backbones: Sequence[dict[str, Any]], frames: int, size: int) -> None:
    """Prints parameters, work and what is kept of each backbone, and how long a window fits into how much memory.

    Args:
        backbones: `backbone_config` of each, for frames of this size.
        frames: Of a window.
        size: Height and width of a frame.
    """
    print(f"{frames} frames of {size}, fp32; then the longest window in frames, all weights trained / frozen")
    print(f"{'':36}{'million':>8}{'TFLOP':>8}{'plain MiB':>11}{'leanest':>9}", end="")
    print("".join(f"{f'{memory} GB':>15}" for memory in MEMORIES))
    shape = (1, frames, 3, size, size)
    for backbone in backbones:
        with torch.device("meta"):
            model = Re2TALModel(Re2TALConfig(backbone_config=backbone, backprop="auto")).train()
            with torch.no_grad(), FlopCounterMode(display=False) as work:
                model.backbone.video_features(torch.empty(shape))
        model.to_empty(device="cpu")  # whose memory nobody touches: the plan is made without numbers
        model.memory_budget = 2**62
        plan, weights = model.backbone.plan_for(shape), sum(parameter.numel() for parameter in model.parameters())
        leanest, most = plan.choices[0][0], plan.choices[-1][0]
        name = f"{backbone['model_type']} {backbone.get('variant', '')}"
        print(f"{name:36}{weights / 1e6:8.1f}{work.get_total_flops() / 1e12:8.2f}", end="")
        print(f"{most / MIB:11.0f}{leanest / MIB:9.0f}", end="")
        of_a_frame = (leanest + plan.largest_module) / frames
        for memory in MEMORIES:
            room = (memory * 1e9 - RESERVE - weights * of_one for of_one in (BYTES_TRAINED, BYTES_FROZEN))
            print(f"{' / '.join(str(max(int(free / of_a_frame), 0) // 16 * 16) for free in room):>15}", end="")
        print(flush=True)
