"""A few hundred wrong inputs of each kind; `scripts/mutate_inputs.py` runs as many as one likes."""

import importlib
import random
from pathlib import Path

import mutations
import pytest
from mutations import Case, bad_ends

KINDS = sorted(path.stem.removeprefix("mutate_") for path in Path(__file__).parent.glob("mutate_*.py"))


@pytest.mark.training
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_inputs_end_well(kind):
    mutator = importlib.import_module(f"mutate_{kind}").mutate
    assert bad_ends(mutator, range(300)) == []


def refuse(error):
    raise error


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda: refuse(ValueError("data.videos is 3; it must be str.")), None),
        (lambda: refuse(ValueError("not a number")), "names none of"),
        (lambda: refuse(ValueError("data.videos:\nTraceback")), "2 lines"),
        (lambda: refuse(KeyError("data.videos")), "KeyError"),
        (lambda: 5, None),
        (lambda: 6, "no five"),
        (lambda: bytearray(768 * 2**20) and 5, "MiB"),
        (lambda: open("../here", "w").close() or 5, "outside"),
    ],
)
def test_the_judge_tells_good_ends_from_bad(run, expected, monkeypatch):
    # 768 MiB are 256 more than this and 256 less than the limit, twice this: a machine short of memory takes mapped
    # files away while the case runs, so that less seems to be taken.
    monkeypatch.setattr(mutations, "MAX_MEBIBYTES", 512)

    def check(result):
        assert result == 5, "no five"

    def mutate(draw: random.Random, folder):
        return Case("a case", run, ("data.videos",), check)

    found = bad_ends(mutate, range(1))
    assert not found if expected is None else expected in found[0]
