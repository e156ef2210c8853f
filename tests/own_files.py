"""A user's own files: the examples of the documentation, written out as files, and the registries as they were."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import re2tal_hf
from re2tal_hf.architecture import BACKBONES
from re2tal_hf.head import HEADS

PAGE = Path(re2tal_hf.__file__).with_name("README.md")
OWN_FILES = ("my_family.py", "my_head.py", "my_network.py")


def examples() -> tuple[str, str]:
    """The head and the backbone family of the page."""
    head, family = (
        text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if text.startswith('"""')
    )
    return head, family


def write_own_files(folder: Path) -> list[Path]:
    """Writes the head, and the family with its network in a file beside it; returns what a command is to import."""
    head, family = examples()
    network, family = family.split("@register_backbone\n")
    (folder / "my_head.py").write_text(head)
    (folder / "my_network.py").write_text(network.replace("from re2tal_hf import", "# "))
    lines = [
        "from my_network import ResidualVideoModel",
        "",
        "from re2tal_hf import Architecture, Stage, register_backbone",
    ]
    (folder / "my_family.py").write_text("\n".join([*lines, "", "", f"@register_backbone\n{family}"]))
    return [folder / "my_family.py", folder / "my_head.py"]


@contextmanager
def own_registrations() -> Iterator[None]:
    """Whatever is registered and imported within is forgotten afterwards."""
    modules, path, package_path = set(sys.modules), list(sys.path), list(re2tal_hf.__path__)
    registered = [(registry, set(registry)) for registry in (HEADS, BACKBONES)]
    yield
    for registry, names in registered:
        for name in set(registry) - names:
            registry.remove(name)
    for name in set(sys.modules) - modules:
        if name.partition(".")[2].startswith("my_") or name.startswith("my_"):
            del sys.modules[name]
    sys.path[:], re2tal_hf.__path__[:] = path, package_path
