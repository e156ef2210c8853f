"""A page that finds actions in videos: python app/app.py [--model RUN_FOLDER_OR_HUB_ID]."""

import contextlib
import importlib.util
import sys

# ZeroGPU has to be there before PyTorch.
with contextlib.suppress(ImportError):
    import spaces  # noqa: F401

from settings import FOLDER, read_settings

if importlib.util.find_spec("re2tal_hf") is None:
    # In a repository where nothing is installed the package lies above this folder; in a Space beside this file.
    sys.path.append(str(FOLDER.parent))

from model_limits import ModelError
from page import Page


def main() -> int:
    """Reads the settings and serves the page until it is interrupted."""
    try:
        page = Page(read_settings())
    except ModelError as error:
        print(error, file=sys.stderr)
        return 2
    page.launch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
