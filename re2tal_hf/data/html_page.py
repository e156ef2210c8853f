"""Pages of HTML that need no other file: their templates, and pictures of videos inside them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from .timeline_index import TimelineIndex


def write_html(path: Path, template: Path, **values: Any) -> None:
    """Writes a page; whatever is put into its template is text, unless that says otherwise.

    Args:
        path: Of the page.
        template: Of jinja; what it includes lies beside it or beside this file.
        values: What the template names; all of it must be there.
    """
    folders = [template.parent, Path(__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True
    )
    content = environment.get_template(template.name).render(values)
    path.write_text(content, encoding="utf-8", errors="backslashreplace")


def frames_as_addresses(index: TimelineIndex, video: Path, times: Sequence[float], height: int) -> list[str]:
    """Returns frames of a video as small pictures, each as the data of an address.

    Args:
        index: Of timelines.
        video: The file.
        times: Seconds.
        height: Pixels; the width is three times as many at most.

    Raises:
        VideoReadError: if it cannot be read.
    """
    addresses = []
    with index.open(video) as reader:
        for frame in reader.frames_at(list(times)):
            picture, content = Image.fromarray(frame.permute(1, 2, 0).numpy()), io.BytesIO()
            picture.thumbnail((3 * height, height))
            picture.save(content, "JPEG", quality=80)
            addresses.append(data_address(content.getvalue(), "jpeg"))
    return addresses


def data_address(content: bytes, kind: str) -> str:
    """Returns a picture as the data of an address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
