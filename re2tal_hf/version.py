"""The version of the package: that of its installation, or, in a checkout alone, that of `pyproject.toml`."""

import re
from importlib import metadata
from pathlib import Path


def _read() -> str:
    try:
        return metadata.version("re2tal_hf")
    except metadata.PackageNotFoundError:
        settings = Path(__file__).parents[1] / "pyproject.toml"
        return re.findall(r'^version = "(.+)"$', settings.read_text(encoding="utf-8"), re.MULTILINE)[0]


__version__ = _read()
