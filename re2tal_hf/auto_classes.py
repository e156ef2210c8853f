"""What transformers' Auto classes and `pipeline()` are told of the models of this package."""

from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoVideoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_re2tal import Re2TALConfig, Re2TALVideoClassificationConfig
from .modeling_re2tal import Re2TALForTemporalActionLocalization, Re2TALForVideoClassification, Re2TALModel
from .pipeline_re2tal import TemporalActionLocalizationPipeline
from .video_processing_re2tal import Re2TALVideoProcessor

for config in (Re2TALConfig, Re2TALVideoClassificationConfig):
    AutoConfig.register(config.model_type, config)
    AutoVideoProcessor.register(config, Re2TALVideoProcessor)
    config.register_for_auto_class()
AutoModel.register(Re2TALConfig, Re2TALForTemporalActionLocalization)
AutoModel.register(Re2TALVideoClassificationConfig, Re2TALForVideoClassification)
AutoModelForVideoClassification.register(Re2TALVideoClassificationConfig, Re2TALForVideoClassification)
PIPELINE_REGISTRY.register_pipeline(
    "temporal-action-localization",
    pipeline_class=TemporalActionLocalizationPipeline,
    pt_model=AutoModel,
)

# Saved models carry their code, so that `trust_remote_code=True` loads them without this package.
Re2TALModel.register_for_auto_class("AutoModel")
Re2TALForTemporalActionLocalization.register_for_auto_class("AutoModel")
Re2TALForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")
Re2TALVideoProcessor.register_for_auto_class("AutoVideoProcessor")
