"""Paths of the reference data that lie beside a developer's checkout; tests skip where they are absent."""

from pathlib import Path

import pytest
import torch

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
def public_annotations() -> Path:
    return _folder("data/annotations")


@pytest.fixture(scope="session")
def ut_interaction() -> Path:
    return _folder("data/ut_interaction_tal")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
