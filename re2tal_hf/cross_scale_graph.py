"""Steps of a sequence that exchange features with the steps most like them, in their own scale and a finer one.

The cross-scale graph network of VSGN (arXiv 2011.14598). There the two scales are a clip
and its magnified copy, stitched into one sequence; here, where sequences are not stitched, they are
the two levels that a step of the encoder lies between.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .temporal_layers import zero_padding


class CrossScaleGraph(nn.Module):
    """Edge convolution (arXiv 1801.07829) from every second step to its nearest neighbours in feature space.

    Args:
        size: channels.
        num_neighbours: edges of a step: half to other steps of the halved sequence, half to steps of
            the full one.
    """

    def __init__(self, size: int, num_neighbours: int):
        super().__init__()
        self.num_neighbours = num_neighbours
        self.own = nn.Linear(size, size)
        self.difference = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, T, C]` and its mask -> `[B, T / 2, C]`, zero where a step is padding or has no neighbour."""
        coarse, coarse_mask = x[:, ::2], mask[:, ::2]
        messages = self.difference(x)
        best = torch.maximum(
            self._aggregate(coarse, coarse, coarse_mask, messages[:, ::2], step=1),
            self._aggregate(coarse, x, mask, messages, step=2),
        )
        connected = coarse_mask & ~torch.isneginf(best).any(dim=-1)
        out = self.own(coarse) + best.masked_fill(~connected.unsqueeze(-1), 0) - messages[:, ::2]
        return zero_padding(out, connected)

    def _aggregate(self, nodes: Tensor, others: Tensor, mask: Tensor, messages: Tensor, step: int) -> Tensor:
        """Largest message `[B, N, C]` of each node's nearest others; node `i` itself is `others[i * step]`."""
        with torch.no_grad():
            distance = torch.cdist(nodes.float(), others.float()).masked_fill(~mask.unsqueeze(1), torch.inf)
            index = torch.arange(nodes.shape[1], device=nodes.device)
            distance[:, index, index * step] = torch.inf
            count = min(self.num_neighbours // 2, others.shape[1])
            nearest, neighbours = distance.topk(count, dim=-1, largest=False)  # [B, N, count]
        batch = torch.arange(len(nodes), device=nodes.device)[:, None, None]
        found = messages[batch, neighbours].masked_fill(torch.isinf(nearest).unsqueeze(-1), -torch.inf)
        return found.amax(dim=2)
