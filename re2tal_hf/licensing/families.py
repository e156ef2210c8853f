"""The table: published weights by family, under which license, and where that was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["hub", "library", "file"]
"""A Hub id, a name of torchvision weights, or a file or folder."""


@dataclass(frozen=True)
class Family:
    """Weights under one license.

    Args:
        name: What a reader calls them.
        pattern: Regular expression, found in the name of the weights in any case.
        kinds: Of what kind the name must be for the pattern to be enough to know them.
        license: Identifier on the Hub; `"other"` where none of them fits.
        terms: Address at which the license was read.
        remark: What else a reader must know.
    """

    name: str
    pattern: str
    kinds: tuple[Kind, ...]
    license: str
    terms: str
    remark: str = ""


_SLOWFAST = r"slow|fast_?only|mmaction"
_ANYWHERE: tuple[Kind, ...] = ("hub", "file")

# The first that fits counts. Strict terms are believed of a mere name, also of a file's or of somebody else's
# repository; permissive ones only of the publisher's own. Where tag and repository differ, the repository counts.
FAMILIES = (
    # "released under the CC-BY-NC 4.0"; so are the V2 weights, by their cards (huggingface.co/OpenGVLab/VideoMAEv2-*).
    Family("VideoMAE", r"video[-_]?mae", _ANYWHERE, "cc-by-nc-4.0", "https://github.com/MCG-NJU/VideoMAE#readme"),
    # "The majority of this work is licensed under CC-NC 4.0".
    Family(
        "TimeSformer", r"time[-_]?sformer", _ANYWHERE, "cc-by-nc-4.0",
        "https://github.com/facebookresearch/TimeSformer#license",
    ),
    # "The majority of V-JEPA 2 is licensed under MIT"; cards of some sizes are tagged apache-2.0.
    Family("V-JEPA 2", r"^facebook/vjepa2", ("hub",), "mit", "https://github.com/facebookresearch/vjepa2#license"),
    # The same sentence, of the repository that publishes both. They come as files, whose names prove nothing.
    Family("V-JEPA 2.1", r"vjepa2_1", (), "mit", "https://github.com/facebookresearch/vjepa2#license"),
    # "All software is licensed under the Apache License [...] All other materials are licensed under [...] CC-BY".
    Family(
        "VideoPrism", r"^google/videoprism", ("hub",), "cc-by-4.0",
        "https://github.com/google-deepmind/videoprism#license",
        remark="Name them and their authors where you pass on this model (CC BY 4.0).",
    ),
    # The license of the repository that published them; the card of their copy on the Hub is tagged mit.
    Family(
        "ViViT", r"^google/vivit", ("hub",), "apache-2.0",
        "https://github.com/google-research/scenic/blob/main/LICENSE",
    ),
    # The license of the repository with the networks and their checkpoints.
    Family(
        "EfficientNet-Lite", r"^timm/tf_efficientnet_lite|^efficientnet-lite\d-\w{8}\.pth$", _ANYWHERE, "apache-2.0",
        "https://github.com/tensorflow/tpu/blob/master/LICENSE",
    ),
    # "DINOv2 code and model weights are released under the Apache License 2.0".
    Family("DINOv2", r"^timm/.*dinov2", ("hub",), "apache-2.0", "https://github.com/facebookresearch/dinov2#license"),
    # Terms of their own, which permit commercial use under conditions.
    Family(
        "DINOv3", r"dinov3", _ANYWHERE, "other", "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
        remark="They are under the DINOv3 License, which whoever passes on this model must pass on too.",
    ),
    Family(
        "SigLIP 2", r"^timm/.*siglip.*\.v2_", ("hub",), "apache-2.0",
        "https://github.com/google-research/big_vision/blob/main/LICENSE",
    ),
    Family(
        "Perception Encoder", r"^timm/vit_pe_", ("hub",), "apache-2.0",
        "https://github.com/facebookresearch/perception_models/blob/main/LICENSE.PE",
    ),
    # BSD-3-Clause is the library's; of weights its README says that they may have terms of their own.
    Family(
        "torchvision", r"^\w+_weights\.\w*kinetics400\w*$", ("library",), "other",
        "https://github.com/pytorch/vision#pre-trained-model-license",
        remark="They were trained on Kinetics-400. torchvision itself is BSD-3-Clause; its weights may carry terms of "
        "the data they were trained on, and whether these permit a use is for the user to determine.",
    ),
    Family(
        "torchvision", r"^\w+_weights\.\w+$", ("library",), "other",
        "https://github.com/pytorch/vision#pre-trained-model-license",
        remark="torchvision itself is BSD-3-Clause; its weights may carry terms of the data they were trained on, and "
        "whether these permit a use is for the user to determine.",
    ),
    # "released under the Apache 2.0 license": all three, whose weights come as files. A file's name proves nothing:
    # it is named to who is asked for the license.
    Family("mmaction2", _SLOWFAST, (), "apache-2.0", "https://github.com/open-mmlab/mmaction2#readme"),
    Family("PySlowFast", _SLOWFAST, (), "apache-2.0", "https://github.com/facebookresearch/SlowFast#license"),
    Family("PyTorchVideo", _SLOWFAST, (), "apache-2.0", "https://github.com/facebookresearch/pytorchvideo#license"),
)  # fmt: skip
