from .rewiring import rewire
from . import backbone_swin
