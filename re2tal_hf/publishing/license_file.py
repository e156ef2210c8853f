"""The LICENSE file of a published model: the terms of its weights before those of the code."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ..licensing.origins import OWN_LICENSE, Origin
from .listed_files import is_regular

PACKAGE = Path(__file__).resolve().parents[1]


def code_license(repository: Path) -> Path:
    """Returns the file with the license of the code.

    Args:
        repository: A checkout of this project, or the folder that this package is installed in.

    Raises:
        ValueError: if it is missing, or is a link.
    """
    if is_regular(repository, "LICENSE"):
        return repository / "LICENSE"
    if repository == PACKAGE.parent:
        try:
            installed = [path for path in distribution(PACKAGE.name).files or [] if path.name == "LICENSE"]
        except PackageNotFoundError:
            installed = []
        if installed:
            return Path(str(installed[0].locate()))
    raise ValueError(f"{repository / 'LICENSE'} is missing, is a link or lies behind one: put the file itself there.")


def license_text(origin: Origin, own: str) -> str:
    """Returns the text of the LICENSE file.

    Args:
        origin: Of the weights, its license known.
        own: Text of the license of the code in the repository.
    """
    if origin.license == OWN_LICENSE and origin.source is None:
        return own
    where = f" Terms: {origin.terms}" if origin.terms else ""
    notice = origin.notice.replace("`", "").replace("**", "")
    return (
        f"WEIGHTS (*.safetensors): {origin.license}\n\n{notice}{where}\n\n"
        f"CODE (*.py): the license below.\n\n{'-' * 72}\n\n{own}"
    )
