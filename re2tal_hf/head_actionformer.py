"""ActionFormer's localization head: a transformer pyramid.

Zhang, Wu and Li, "ActionFormer: Localizing Moments of Actions with Transformers", arXiv 2202.07925.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from .head import LocalizationHeadOutput, Padding
from .head_layers import TransformerBlock, zero_padding
from .head_pyramid import Neck, PyramidHead
from .value_checks import BELOW_ONE, COUNT, INSIDE_ONE, NOT_NEGATIVE, POSITIVE, Range


class ActionFormerHead(PyramidHead):
    """ActionFormer from features to predictions (arXiv 2202.07925).

    A convolutional embedding, a transformer stem, `num_levels - 1` transformer blocks that each
    halve the sequence, a neck, and classification and boundary branches shared by all levels.

    The public implementations differ in details that trained weights depend on. `norm_eps` is 1e-6
    in OpenTAD and 1e-5 in actionformer_release (the norms inside the transformer blocks have 1e-5
    in both), and `padding` says what convolutions see of the steps behind the end of a sequence:

    - `"isolated"`: zeros, everywhere. What is predicted at real steps does not depend on how much
      padding follows, hence not on the batch. For models trained here.
    - `"opentad"`: inside the transformer blocks the padding that convolutions see is the layer
      norm's bias. Inputs are padded as there, to `max_length` or, if longer, to the next multiple
      of coarsest stride and window.
    - `"actionformer"`: in addition, padding is not set to zero again after the norm and ReLU of
      the embedding and the prediction branches.

    Args:
        input_size: channels of the features.
        num_labels: classes; 1 for class-agnostic localization.
        hidden_size: channels inside the head.
        standardize_input: whether every feature channel gets mean 0 and variance 1 over the window
            before the first convolution. Not in the paper; for backbones trained from scratch, whose
            pooled features differ little from step to step and much from channel to channel.
        num_embedding_layers: convolutions before the transformer.
        num_stem_layers: transformer blocks at full resolution.
        num_levels: pyramid levels; the strides are 1, 2, ..., `2 ** (num_levels - 1)`.
        num_attention_heads: divides `hidden_size`.
        attention_window: width of the local attention in steps of the level, `w // 2` on either
            side of the step; None for full attention.
        max_length: feature steps of a training window. Longer inputs get its position table
            stretched.
        use_position_embedding: whether sinusoidal absolute positions are added after the embedding.
        neck: `"identity"` or `"fpn"`.
        regression_ranges: per level the smallest and largest distance to a boundary, in feature
            steps, that its points are responsible for; by default 0-4, 4-8, ..., the last to 10000.
        num_head_layers: convolutions before the predicting one in each branch.
        dropout: in the transformer blocks.
        drop_path: probability that a sequence skips a branch of a transformer block.
        branch_scale: initial value of the learnable scale of these branches.
        class_prior: initial probability of every class (arXiv 1708.02002, section 3.3).
        norm_eps: see above.
        padding: see above.

    Raises:
        ValueError: if arguments do not go together.
    """

    def __init__(
        self,
        input_size: int,
        num_labels: int,
        *,
        hidden_size: Annotated[int, COUNT] = 512,
        standardize_input: bool = False,
        num_embedding_layers: Annotated[int, NOT_NEGATIVE] = 2,
        num_stem_layers: Annotated[int, NOT_NEGATIVE] = 2,
        num_levels: Annotated[int, COUNT] = 6,
        num_attention_heads: Annotated[int, COUNT] = 4,
        attention_window: Annotated[int | None, Range(low=2)] = None,
        max_length: Annotated[int, COUNT] = 2304,
        use_position_embedding: bool = False,
        neck: Neck = "identity",
        regression_ranges: Annotated[Sequence[Sequence[float]] | None, NOT_NEGATIVE] = None,
        num_head_layers: Annotated[int, NOT_NEGATIVE] = 2,
        dropout: Annotated[float, BELOW_ONE] = 0.0,
        drop_path: Annotated[float, BELOW_ONE] = 0.1,
        branch_scale: Annotated[float, NOT_NEGATIVE] = 1e-4,
        class_prior: Annotated[float, INSIDE_ONE] = 0.01,
        norm_eps: Annotated[float, POSITIVE] = 1e-6,
        padding: Padding = "isolated",
    ):
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"hidden_size={hidden_size} is not a multiple of num_attention_heads={num_attention_heads}."
            )
        if attention_window is not None and attention_window < 2:
            raise ValueError(
                f"attention_window={attention_window} is too narrow; give at least 2, or None for full attention."
            )
        length_multiple = 2 ** (num_levels - 1)
        if padding != "isolated" and attention_window is not None:
            length_multiple *= 2 * (attention_window // 2)
        strides = [1] * num_stem_layers + [2] * (num_levels - 1)
        blocks = [
            TransformerBlock(
                hidden_size,
                num_attention_heads,
                stride=stride,
                window=attention_window,
                dropout=dropout,
                drop_path=drop_path,
                branch_scale=branch_scale,
                isolate_padding=padding == "isolated",
            )
            for stride in strides
        ]
        super().__init__(
            input_size,
            num_labels,
            stem=blocks[:num_stem_layers],
            pyramid=blocks[num_stem_layers:],
            boundary_size=2,
            length_multiple=length_multiple,
            hidden_size=hidden_size,
            standardize_input=standardize_input,
            num_embedding_layers=num_embedding_layers,
            max_length=max_length,
            use_position_embedding=use_position_embedding,
            neck=neck,
            regression_ranges=regression_ranges,
            num_head_layers=num_head_layers,
            class_prior=class_prior,
            norm_eps=norm_eps,
            padding=padding,
        )
        self.initialize_weights()

    def forward(self, features: Tensor, mask: Tensor) -> LocalizationHeadOutput:
        """Predicts classes and boundaries at every point.

        Args:
            features: `[B, input_size, T]`; padded steps may hold anything (with `padding` other than
                `"isolated"` the first convolution sees it).
            mask: bool `[B, T]`, True where a step is real.

        Returns:
            The predictions. Any `T` is accepted; points that the head added at the end to complete
            its coarsest step are masked.

        Raises:
            ValueError: if the shapes do not fit each other.
        """
        levels, masks = self.extract_pyramid(features, mask)
        levels = self.neck(levels, masks)
        logits = [zero_padding(self.classification(x, m), m) for x, m in zip(levels, masks, strict=True)]
        offsets = [
            F.relu(self.level_scales(zero_padding(self.boundary(x, m), m), level))
            for level, (x, m) in enumerate(zip(levels, masks, strict=True))
        ]
        return LocalizationHeadOutput(
            logits=torch.cat(logits, dim=1),
            offsets=torch.cat(offsets, dim=1),
            points=self._points([m.shape[1] for m in masks], features.device),
            point_mask=torch.cat(masks, dim=1),
        )
