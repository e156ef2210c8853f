"""The LICENSE file of a published model: the terms of its weights before those of the code."""

from __future__ import annotations

from ..licensing.origins import OWN_LICENSE, Origin


def license_text(origin: Origin, own: str) -> str:
    """Returns the text of the LICENSE file.

    Args:
        origin (`Origin`): Of the weights, its license known.
        own (`str`): Text of the license of the code in the repository.
    """
    if origin.license == OWN_LICENSE and origin.source is None:
        return own
    where = f" Terms: {origin.terms}" if origin.terms else ""
    notice = origin.notice.replace("`", "").replace("**", "")
    return (
        f"WEIGHTS (*.safetensors): {origin.license}\n\n{notice}{where}\n\n"
        f"CODE (*.py): the license below.\n\n{'-' * 72}\n\n{own}"
    )
