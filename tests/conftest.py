"""What all tests share: reference data beside a developer's checkout (tests skip where it is absent), the local Hub."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tolerances
import torch
from golden_weights import read_golden
from local_hub import LocalHub, serve

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's job in the background ignores Ctrl-C, and what it starts inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"reference data {name!r} is not beside this checkout")
    return path


@pytest.fixture(scope="session")
def metric_goldens() -> Path:
    return _folder("goldens/metric")


@pytest.fixture(scope="session")
def model_goldens() -> Path:
    return _folder("goldens/models")


@pytest.fixture(scope="session")
def real_videos() -> Path:
    return _folder("data/videos")


@pytest.fixture(scope="session")
def odd_videos() -> Path:
    return _folder("data/odd_videos")


@pytest.fixture(scope="session")
def public_annotations() -> Path:
    return _folder("data/annotations")


@pytest.fixture(scope="session")
def ut_interaction() -> Path:
    return _folder("data/ut_interaction_tal")


@pytest.fixture(scope="session")
def ut_interaction_clips() -> Path:
    return _folder("data/ut_interaction_clips")


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest, model_goldens: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The reference that the module names as its `GOLDEN`."""
    return read_golden(model_goldens / f"{request.module.GOLDEN}.safetensors")


@pytest.fixture(scope="module")
def local_hub() -> Iterator[LocalHub]:
    """A stand-in for the Hub of this module's own."""
    with serve() as hub:
        yield hub


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def exact_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Softmax in double precision where a library asks for single, as VideoPrism's attention does."""
    softmax = torch.nn.functional.softmax

    def exact(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return softmax(x, dim, dtype=None if x.dtype == torch.float64 else dtype)

    monkeypatch.setattr(torch.nn.functional, "softmax", exact)


@pytest.fixture
def fresh_accelerator() -> None:
    """Lets a test that trains begin without the accelerator of another."""
    from accelerate.state import AcceleratorState  # the libraries are imported after pytest_configure

    AcceleratorState._reset_state(reset_partial_state=True)


# Fixtures that say what a test is about.
MARKED = {"local_hub": "hub", "model_goldens": "parity", "metric_goldens": "parity"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests by what they use; `numeric` are the files that import a bound."""
    for item in items:
        names = vars(getattr(item, "module", None) or item).values()
        if any(getattr(value, "__module__", "") == tolerances.__name__ for value in names):
            item.add_marker(pytest.mark.numeric)
        for marker in {MARKED[name] for name in getattr(item, "fixturenames", ()) if name in MARKED}:
            item.add_marker(marker)
        # Recipes of small networks are read and built alike.
        if isinstance(item, pytest.Function) and item.name.endswith(("_base]", "_large]")):
            item.add_marker(pytest.mark.training)


# What a machine or a cluster sets for its user and the tests must not see.
FOREIGN = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "ACCELERATE_", "GRADIO_", "RE2TAL_")
CLUSTER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def pytest_configure(config: pytest.Config) -> None:
    """A home of the libraries for this run alone, before they are imported and read their settings."""
    for name in list(os.environ):
        if name.startswith(FOREIGN) or name in CLUSTER:
            del os.environ[name]
    home = tempfile.TemporaryDirectory(prefix="re2tal-tests-")
    config.add_cleanup(home.cleanup)
    os.environ["HF_HOME"] = home.name
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # whose sums differ from run to run
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
