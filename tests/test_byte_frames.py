"""Frames as bytes: the same features and gradients as of normalised ones, and a quarter of the bytes kept."""

import pytest
import torch
from architecture_cases import CASES
from torch import Tensor

from re2tal_hf import Re2TALConfig, Re2TALModel, Re2TALVideoProcessor
from re2tal_hf.training.memory import saved_for_backward


def model_and_processor(case, **settings) -> tuple[Re2TALModel, Re2TALVideoProcessor]:
    torch.manual_seed(1)
    model = Re2TALModel(Re2TALConfig(backbone_config=case.config, **settings)).train()
    frames, height, width = case.shape
    processor = Re2TALVideoProcessor(num_frames=frames, size={"height": height, "width": width})
    return model, processor


def windows(case) -> list[Tensor]:
    """One that fills the window and one that does not."""
    frames, height, width = case.shape
    generator = torch.Generator().manual_seed(2)
    shapes = [(frames, 3, height, width), (frames - 3, 3, height, width)]
    return [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for shape in shapes]


def step(model: Re2TALModel, batch: dict[str, Tensor]) -> list[Tensor]:
    model.zero_grad()
    torch.manual_seed(3)
    features = model(**batch).last_hidden_state
    features.float().square().mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [tensor.detach().clone() for tensor in (features, *gradients)]


@pytest.mark.training
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bytes_give_what_normalised_frames_give(case):
    model, processor = model_and_processor(case)
    found = step(model, processor.prepare(windows(case), normalized=False))
    expected = step(model, processor.prepare(windows(case)))
    assert len(found) == len(expected) > 2
    assert all(map(torch.equal, found, expected))


def test_a_quarter_of_the_bytes_is_kept_of_the_frames():
    case = CASES[0]
    model, processor = model_and_processor(case)
    batches = [processor.prepare(windows(case), normalized=normalized) for normalized in (True, False)]
    kept = []
    for batch in batches:
        with saved_for_backward([*model.parameters(), *model.buffers()]) as saved:
            model(**batch)
        kept.append(saved.total())
    as_floats, as_bytes = (batch["pixel_values_videos"].nbytes for batch in batches)
    assert as_bytes == as_floats / 4
    assert kept[0] - kept[1] == as_floats - as_bytes


def test_all_in_bf16_takes_bytes_too():
    case = CASES[0]
    model, processor = model_and_processor(case, stream_bits=16)
    batch = processor.prepare(windows(case), normalized=False)
    found = step(model.bfloat16(), batch)
    assert found[0].dtype == torch.bfloat16 and model.reconstruction_error() == 0
    model.backprop = "checkpoint"
    assert all(map(torch.equal, found, step(model, batch)))
