from .rewiring import rewire
from . import backbone_swin
from .configuration_re2tal import Re2TALConfig
from .modeling_re2tal import Re2TALForTemporalActionLocalization, Re2TALModel
