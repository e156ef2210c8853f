"""Attention over all steps and over a local window."""

import pytest
import torch
from head_cases import prefix_mask
from tolerances import assert_close

from re2tal_hf.head_layers import full_attention, local_attention


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("radius", [1, 4, 9])
@pytest.mark.parametrize("length", [5, 64, 150])
def test_local_attention_equals_dense_attention_with_a_band(radius, length, biased):
    query, key, value = torch.randn(3, 2, 2, length, 8, dtype=torch.float64).unbind()
    mask = prefix_mask([length, length // 2], length)
    steps = torch.arange(length)
    band = (steps[:, None] - steps).abs() <= radius
    allowed = (band & mask[:, None, :]) | torch.eye(length, dtype=torch.bool)
    scores = (query @ key.transpose(2, 3)) / 8**0.5
    bias = torch.randn(2, 2 * radius + 1, dtype=torch.float64) if biased else None
    for step in range(-radius, radius + 1) if bias is not None else ():
        # Of a key so many steps after its query.
        scores += bias[:, step + radius, None, None] * (steps - steps[:, None] == step)
    dense = scores.masked_fill(~allowed[:, None], -torch.inf).softmax(-1) @ value
    found = local_attention(query, key, value, mask, radius, bias)
    assert_close(found, dense)


def test_local_attention_of_a_wide_window_is_full_attention():
    query, key, value = torch.randn(3, 2, 2, 20, 8, dtype=torch.float64).unbind()
    mask = prefix_mask([20, 13], 20)
    local = local_attention(query, key, value, mask, radius=30)
    full = full_attention(query, key, value, mask)
    assert_close(local[0], full[0])
    assert_close(local[1, :, :13], full[1, :, :13])


def test_memory_of_local_attention_is_linear_in_length():
    def saved_numbers(length):
        query = torch.randn(1, 1, length, 8, requires_grad=True)
        count = 0

        def pack(tensor):
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            local_attention(query, query, query, torch.ones(1, length, dtype=torch.bool), 9)
        return count

    assert saved_numbers(8192) < 2.1 * saved_numbers(4096)
