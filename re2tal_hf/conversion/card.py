"""The card of a converted model: where its weights come from, and under which license."""

from __future__ import annotations

from huggingface_hub import ModelCardData

from ..licensing.origins import Origin
from ..publishing.markdown import Markdown, render

_TEXT = """# A converted model

{{ notice }}

The weights are another project's, under other names: `conversion.json` says what became of each, and where each setting
comes from. Published figures are that project's; none was measured here.
"""


def card_of(origin: Origin) -> str:
    """Returns the text of `README.md`; without a known license the card has none, and says so."""
    known = origin.license is not None
    data = ModelCardData(license=origin.license, library_name="transformers", tags=["re2tal", "video"])
    notice = origin.notice if known else f"{origin.notice} **Nobody has said which that is.**"
    return f"---\n{data.to_yaml()}\n---\n\n{render(_TEXT, notice=Markdown(notice))}\n"
