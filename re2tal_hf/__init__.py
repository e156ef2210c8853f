"""Re2TAL: temporal action localization trained end to end through reversible video backbones."""

from . import auto_classes  # noqa: F401 - importing it registers the models with transformers
from .architecture import Architecture, register_backbone
from .configuration_re2tal import Re2TALConfig, Re2TALVideoClassificationConfig
from .head import register_head
from .modeling_re2tal import Re2TALForTemporalActionLocalization, Re2TALForVideoClassification, Re2TALModel
from .pipeline_re2tal import TemporalActionLocalizationPipeline
from .reversible import Stage
from .rewiring import rewire
from .version import __version__
from .video_processing_re2tal import Re2TALVideoProcessor

__all__ = [
    "Architecture",
    "Re2TALConfig",
    "Re2TALForTemporalActionLocalization",
    "Re2TALForVideoClassification",
    "Re2TALModel",
    "Re2TALVideoClassificationConfig",
    "Re2TALVideoProcessor",
    "Stage",
    "TemporalActionLocalizationPipeline",
    "__version__",
    "register_backbone",
    "register_head",
    "rewire",
]
