"""What transformers' Auto classes and `pipeline()` are told of the models of this package."""

from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoVideoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_re2tal import Re2TALConfig
from .modeling_re2tal import Re2TALForTemporalActionLocalization, Re2TALForVideoClassification, Re2TALModel
from .pipeline_re2tal import TemporalActionLocalizationPipeline
from .video_processing_re2tal import Re2TALVideoProcessor

AutoConfig.register(Re2TALConfig.model_type, Re2TALConfig)
AutoModel.register(Re2TALConfig, Re2TALForTemporalActionLocalization)
AutoModelForVideoClassification.register(Re2TALConfig, Re2TALForVideoClassification)
AutoVideoProcessor.register(Re2TALConfig, Re2TALVideoProcessor)
PIPELINE_REGISTRY.register_pipeline(
    "temporal-action-localization",
    pipeline_class=TemporalActionLocalizationPipeline,
    pt_model=AutoModel,
)

# Saved models carry their code, so that `trust_remote_code=True` loads them without this package.
Re2TALConfig.register_for_auto_class()
Re2TALModel.register_for_auto_class("AutoModel")
Re2TALForTemporalActionLocalization.register_for_auto_class("AutoModel")
Re2TALForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")
Re2TALVideoProcessor.register_for_auto_class("AutoVideoProcessor")
