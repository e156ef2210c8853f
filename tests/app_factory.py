"""The demo page of app/, which is a folder of scripts and no package, for tests."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

APP = Path(__file__).resolve().parents[1] / "app"
EXAMPLES = sorted((APP / "examples").glob("*.mp4"))

gradio = pytest.importorskip("gradio")
sys.path.insert(0, str(APP))


@contextmanager
def served_page(uploads: Path, **settings: Any) -> Iterator[str]:
    """Serves the page from this process and gives its address; `uploads` is Gradio's temporary folder."""
    from page import Page
    from settings import Settings

    with pytest.MonkeyPatch.context() as patch:
        # Gradio reads it when a block is made, and again for each upload.
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        page = Page(Settings(**settings))
        _, address, _ = page.launch(prevent_thread_lock=True, quiet=True)
        try:
            yield address.rstrip("/")
        finally:
            page.blocks.close(verbose=False)
