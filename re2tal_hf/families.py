"""The families of backbones and the heads that there are: whoever imports one of these files registers it.

No other file imports them. Saved with a model, this one names what the model uses; see `saved_code`.
"""

from .backbone_features import StoredFeaturesArchitecture
from .backbone_image import ImageNetwork
from .backbone_mvit import MultiscaleViT
from .backbone_resnet import VideoResNetArchitecture
from .backbone_slowfast import FastOnlyArchitecture, SlowFastArchitecture, SlowOnlyArchitecture
from .backbone_swin import VideoSwin
from .backbone_timesformer import TimeSformer
from .backbone_videomae import VideoMAE
from .backbone_videoprism import VideoPrism
from .backbone_vivit import ViViT
from .backbone_vjepa2 import VJEPA2
from .backbone_vjepa2_1 import VJEPA21
from .head_actionformer import ActionFormerHead
from .head_spotting import SpottingHead
from .head_tridet import TriDetHead
from .head_vsgn import VSGNHead

FAMILIES = [
    StoredFeaturesArchitecture,
    ImageNetwork,
    MultiscaleViT,
    VideoResNetArchitecture,
    FastOnlyArchitecture,
    SlowFastArchitecture,
    SlowOnlyArchitecture,
    VideoSwin,
    TimeSformer,
    VideoMAE,
    VideoPrism,
    ViViT,
    VJEPA2,
    VJEPA21,
    ActionFormerHead,
    SpottingHead,
    TriDetHead,
    VSGNHead,
]
