"""The result on the page: a player, a lane of bars per class and a table, drawn in the browser by timeline.js."""

from pathlib import Path
from typing import Any

import gradio as gr

from .localization import Localization

# The controls that Gradio draws take the place of @children. Labels never go through a template: timeline.js writes
# them as text.
TEMPLATE = """
<video controls playsinline preload="metadata" aria-label="The video"></video>
<p class="now"></p>
<div class="lanes" role="group" aria-label="Timeline: actions by class; a bar plays the video from its start"></div>
@children
<div class="rows"></div>
"""
# Runs in the browser when a control changes; nothing is sent to the server for it.
FILTER = """(threshold, labels) => {
    const detail = {threshold, labels};
    document.getElementById("timeline")?.dispatchEvent(new CustomEvent("filter", {detail}));
}"""


def make_timeline() -> gr.HTML:
    """A block whose children stand between the lanes and the table; its value comes from `timeline_value`."""
    return gr.HTML(
        html_template=TEMPLATE,
        css_template=Path(__file__).with_name("timeline.css").read_text(encoding="utf-8"),
        js_on_load=Path(__file__).with_name("timeline.js").read_text(encoding="utf-8"),
        elem_id="timeline",
        apply_default_css=False,
    )


def timeline_value(result: Localization, threshold: float) -> dict[str, Any]:
    """What timeline.js draws; Gradio turns the file into an address.

    Args:
        result: of a video.
        threshold: the lowest score shown at first.
    """
    video = gr.FileData(path=result.playable, orig_name=Path(result.playable).name)
    return {
        "video": video.model_dump(),
        "duration": result.duration,
        "threshold": threshold,
        "labels": result.labels,
        "ticked": result.first_labels,
        "detections": result.detections,
    }
