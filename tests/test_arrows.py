"""Arrows between the rooms of the package go one way."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "re2tal_hf"
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__"): path
    for path in PACKAGE.rglob("*.py")
    if "metrics" not in path.parts  # loadable on its own
}
# Lower ones first; a floor may import from those before it and from its own files.
FLOORS = [
    [""],
    ["data", "data/annotation_formats", "licensing"],
    ["training", "doctor"],
    ["conversion", "publishing", "report"],
    ["streaming"],
    ["serving"],
    ["demo"],
    ["annotate"],
    ["commands"],
]


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of the package that one imports, wherever in the file."""
    found = set()
    folder = MODULES[module].parent
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder.parents[node.level - 2] if node.level > 1 else folder
            start = base.joinpath(*(node.module or "").split(".")).relative_to(PACKAGE).as_posix()
            for name in (f"{start}/{alias.name}".removeprefix("./") for alias in node.names):
                found.add(name if name in MODULES else start)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= {name.partition(".")[2].replace(".", "/") for name in names} & MODULES.keys()
    return frozenset(found & MODULES.keys()) - {module}


def floor(module: str) -> int:
    folder = module.rpartition("/")[0]
    return next(number for number, folders in enumerate(FLOORS) if folder in folders)


def rooms() -> list[str]:
    return [module for module in MODULES if not MODULES[module].name.startswith("__")]


def test_there_are_no_circles():
    assert imports("modeling_re2tal") > {"rewiring", "modeling_pretrained"}
    assert "data/windows" in imports("training/localization")
    TopologicalSorter({module: imports(module) for module in rooms()}).prepare()


def test_no_arrow_goes_up():
    upwards = [(one, other) for one in rooms() for other in imports(one) if "/" in other and floor(other) > floor(one)]
    assert upwards == []


def test_the_ground_knows_nothing_of_ours():
    assert imports("temporal_segments") == frozenset()
    assert imports("reversible") <= {"reversible_replay", "stream_grid"}
    assert imports("reversible_replay") == imports("stream_grid") == frozenset()
