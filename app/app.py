"""A page that finds actions in videos: python app/app.py [--model RUN_FOLDER_OR_HUB_ID]; `re2tal demo` elsewhere."""

import contextlib
import importlib.util
import sys
from pathlib import Path

# ZeroGPU has to be there before PyTorch.
with contextlib.suppress(ImportError):
    import spaces  # noqa: F401

HOME = Path(__file__).resolve().parent
if importlib.util.find_spec("re2tal_hf") is None:
    # In a repository where nothing is installed the package lies above this folder; in a Space beside this file.
    sys.path.append(str(HOME.parent))

from re2tal_hf.demo.model_limits import ModelError
from re2tal_hf.demo.page import Page
from re2tal_hf.demo.settings import read_settings


def main() -> int:
    """Reads the settings and serves the page until it is interrupted."""
    try:
        page = Page(read_settings(home=HOME))
    except ModelError as error:
        print(error, file=sys.stderr)
        return 2
    page.launch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
