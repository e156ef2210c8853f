"""No network: features that were computed before take the place of a video, and only the head is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor, nn

from .architecture import Architecture, register_backbone
from .reversible import Stage
from .value_checks import COUNT


class StoredFeatures(nn.Module):
    """Stands where a network would.

    Args:
        size: Channels of the features.
        stride: Frames of the video for each feature.
    """

    def __init__(self, size: int, stride: int):
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x: Tensor) -> Tensor:
        """Returns the features."""
        return x


@register_backbone
class StoredFeaturesArchitecture(Architecture):
    """Features of any network, given to the model as `temporal_features`."""

    model_type = "features"
    model_class = StoredFeatures

    def build(self, *, size: Annotated[int, COUNT] = 2048, stride: Annotated[int, COUNT] = 1) -> StoredFeatures:
        """Builds what stands where a network would; arguments as of [`StoredFeatures`]."""
        return StoredFeatures(size, stride)

    def stages(self, model: StoredFeatures, size: Sequence[int] | None = None) -> list[Stage]:
        return [Stage(nn.Identity(), [])]

    def to_library_input(self, videos: Tensor) -> Tensor:
        raise ValueError(
            "This model has no network for videos (backbone_config.model_type is 'features'): give temporal_features "
            "in place of pixel_values_videos."
        )

    def norm(self, model: StoredFeatures, *outputs: Tensor) -> Tensor:
        return outputs[0]

    def classify(self, model: StoredFeatures, features: Tensor) -> Tensor:
        return features

    def initialize(self, model: StoredFeatures) -> None:
        pass

    def feature_size(self, model: StoredFeatures) -> int:
        return model.size

    def feature_stride(self, model: StoredFeatures) -> int:
        return model.stride
