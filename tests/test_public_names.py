"""What `import re2tal_hf` brings: our names and nothing else."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import re2tal_hf
from re2tal_hf.version import __version__

ROOT = Path(__file__).resolve().parents[1]


def test_the_namespace_holds_our_names_only():
    strangers = {
        name
        for name in dir(re2tal_hf)
        if name not in re2tal_hf.__all__
        and not (name.startswith("__") and name.endswith("__"))
        and not (isinstance(value := getattr(re2tal_hf, name), ModuleType) and value.__name__.startswith("re2tal_hf."))
    }
    assert strangers == set()
    everything: dict = {}
    exec("from re2tal_hf import *", everything)
    assert everything.keys() - {"__builtins__"} == set(re2tal_hf.__all__)
    for name in everything.keys() - {"__builtins__", "__version__"}:
        assert everything[name].__module__.startswith("re2tal_hf."), name


def test_the_version_is_that_of_the_project_also_where_it_is_not_installed():
    [version] = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert re2tal_hf.__version__ == __version__ == version
    code = (
        "import importlib.metadata as m\n"
        "def absent(name): raise m.PackageNotFoundError(name)\n"
        "m.version = absent\n"
        "import runpy; print(runpy.run_path('re2tal_hf/version.py')['__version__'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == version
