"""Which parameters decay, over all architectures and heads."""

import pytest
import torch
from architecture_cases import CASES
from torch import nn

from re2tal_hf.head import HEADS
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.arguments import OptimizationArguments
from re2tal_hf.training.optimization import parameter_groups

BUILDERS = {case.name: lambda case=case: build_backbone(case.config, "none", "plain") for case in CASES} | {
    name: lambda head=head: head.head_class(16, 1, hidden_size=32) for name, head in HEADS.items()
}


@pytest.mark.parametrize("name", BUILDERS)
def test_weights_of_linear_and_convolution_layers_decay_and_nothing_else(name):
    with torch.device("meta"):
        model = BUILDERS[name]()
    groups = parameter_groups(model, OptimizationArguments(weight_decay=0.1))
    decaying = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]
    assert decaying == {id(layer.weight) for layer in layers}
