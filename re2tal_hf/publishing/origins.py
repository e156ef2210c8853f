"""Where pretrained weights come from, and what that means for the license of a model trained from them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

OWN_LICENSE = "apache-2.0"


@dataclass(frozen=True)
class Origin:
    """One kind of origin.

    Args:
        pattern (`str`): Regular expression, found in `training.pretrained_backbone` in any case.
        license (`str`): Identifier of the license on the Hub; `"other"` where none of them fits.
        notice (`str`): What a reader must know; `{source}` is the recipe's value.
        link (`str`, *optional*): Where the terms are written.
        may_be_stated (`bool`): Whether the publisher may state the license in our place.
    """

    pattern: str
    license: str
    notice: str
    link: str | None = None
    may_be_stated: bool = False


FROM_SCRATCH = Origin(
    pattern=r"",
    license=OWN_LICENSE,
    notice="All weights were trained from scratch; no pretrained weights went into them.",
    may_be_stated=True,
)

# The first that fits counts.
ORIGINS = (
    # README of github.com/MCG-NJU/VideoMAE, and the cards of MCG-NJU/videomae-* on the Hub.
    Origin(
        pattern=r"videomae",
        license="cc-by-nc-4.0",
        notice="The backbone started from the VideoMAE weights `{source}`, which are published under CC BY-NC 4.0: "
        "**non-commercial use only**, with attribution. The weights of this model are derived from them and carry "
        "the same terms.",
        link="https://creativecommons.org/licenses/by-nc/4.0/legalcode",
    ),
    # BSD-3-Clause for the code; its README, "Pre-trained Model License", for the weights.
    Origin(
        pattern=r"^\w+_weights\.\w*kinetics400\w*$",
        license="other",
        notice="The backbone started from torchvision's `{source}`, trained on Kinetics-400. torchvision itself is "
        "BSD-3-Clause; its weights may carry terms of the data they were trained on, and whether these permit a "
        "use is for the user to determine.",
        link="https://github.com/pytorch/vision#pre-trained-model-license",
    ),
    Origin(
        pattern=r"^\w+_weights\.\w+$",
        license="other",
        notice="The backbone started from torchvision's `{source}`. torchvision itself is BSD-3-Clause; its weights "
        "may carry terms of the data they were trained on, and whether these permit a use is for the user to "
        "determine.",
        link="https://github.com/pytorch/vision#pre-trained-model-license",
    ),
    Origin(
        pattern=r"",
        license="other",
        notice="The backbone started from `{source}`, whose license applies to the weights of this model too.",
        may_be_stated=True,
    ),
)


def find_origin(source: str | None, stated: str | None = None) -> Origin:
    """Returns the origin of a model's weights, its notice filled in.

    Args:
        source (`str`, *optional*): `training.pretrained_backbone` of the recipe; None for training from scratch.
        stated (`str`, *optional*): License that the publisher states, an identifier of the Hub.

    Raises:
        ValueError: if a license is stated other than that of the weights' known origin.
    """
    origin = FROM_SCRATCH if source is None else next(o for o in ORIGINS if re.search(o.pattern, source, re.I))
    origin = replace(origin, notice=origin.notice.format(source=source))
    if stated is None or stated == origin.license:
        return origin
    if not origin.may_be_stated:
        raise ValueError(
            f"--license {stated} cannot be: the weights come from {source}, whose terms make it {origin.license!r}. "
            "Leave the option out."
        )
    return replace(origin, license=stated, notice=f"{origin.notice} The publisher states: `{stated}`.")


def license_text(origin: Origin, own: str) -> str:
    """Returns the text of the LICENSE file.

    Args:
        origin (`Origin`): Of the weights.
        own (`str`): Text of the license of the code in the repository.
    """
    if origin.license == OWN_LICENSE:
        return own
    where = f" Terms: {origin.link}" if origin.link else ""
    notice = origin.notice.replace("`", "").replace("**", "")
    return (
        f"WEIGHTS (*.safetensors): {origin.license}\n\n{notice}{where}\n\n"
        f"CODE (*.py): the license below.\n\n{'-' * 72}\n\n{own}"
    )
