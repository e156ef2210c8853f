"""The demo page with the model and the examples of its Space, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

APP = Path(__file__).resolve().parents[1] / "app"
EXAMPLES = sorted((APP / "examples").glob("*.mp4"))

gradio = pytest.importorskip("gradio")
HOME = {"model": str(APP / "model"), "examples": str(APP / "examples")}


@contextmanager
def served_page(uploads: Path, **settings: Any) -> Iterator[str]:
    """Serves the page from this process and gives its address; `uploads` is Gradio's temporary folder."""
    from re2tal_hf.demo.page import Page
    from re2tal_hf.demo.settings import Settings

    with pytest.MonkeyPatch.context() as patch:
        # Gradio reads it when a block is made, and again for each upload.
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        page = Page(Settings(**{**HOME, **settings}))
        _, address, _ = page.launch(prevent_thread_lock=True, quiet=True)
        try:
            yield address.rstrip("/")
        finally:
            page.blocks.close(verbose=False)
