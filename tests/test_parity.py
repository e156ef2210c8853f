"""Parity that can be tested anywhere: what models filled from a seed compute, against numbers in the repository.

The numbers are of this package, frozen while it agreed with the reference implementations (see `about` in the file).
The tests named after a reference compare with its own files where those are at hand.
"""

import json

import pytest
import torch
from golden_weights import SLOWFAST, SWIN
from reference_numbers import CASES, FILE, Case, draw, names_of, summary
from tolerances import CANCELLED, SMALLEST, rounding

pytestmark = pytest.mark.parity
NUMBERS = json.loads(FILE.read_text())


def assert_summaries(case: Case, dtype: torch.dtype, mode: str) -> None:
    found, expected = case.compute(dtype, mode), NUMBERS[case.name]
    depth = int(found.pop("depth", 1))
    assert found.keys() == expected.keys()
    largest = max((row["norm"] for name, row in expected.items() if name.startswith("gradient.")), default=0.0)
    for name, tensor in found.items():
        is_gradient = name.startswith("gradient.")
        if is_gradient and dtype == torch.float32:
            continue  # a ReLU near zero may decide otherwise, which moves gradients by more than rounding
        row, truth = summary(tensor), expected[name]
        assert row["shape"] == truth["shape"], name
        # As in tolerances.py: a gradient is held to four times the rounding, and against the largest where it cancels.
        size = max(truth["norm"], CANCELLED * largest if is_gradient else 0.0, SMALLEST)
        allowed = rounding(dtype, depth) * size * (4 if is_gradient else 1)
        for key in ("norm", "checksum"):
            assert abs(row[key] - truth[key]) <= allowed, (name, key, row[key], truth[key])
        assert row["values"] == pytest.approx(truth["values"], rel=0, abs=allowed), name


@pytest.mark.parametrize(("case", "mode"), [pytest.param(c, m, id=f"{c.name}-{m}") for c in CASES for m in c.modes])
def test_frozen_numbers(case, mode):
    assert_summaries(case, torch.float64, mode)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES if case.single])
def test_frozen_numbers_in_single_precision(case):
    assert_summaries(case, torch.float32, case.modes[0])


def test_names_of_weights():
    assert NUMBERS["names"] == {"slowfast": names_of(SLOWFAST), "swin": names_of(SWIN)}


def test_every_number_belongs_to_a_case():
    assert NUMBERS.keys() == {"about", "names", *(case.name for case in CASES)}


def test_drawn_numbers_are_the_same_everywhere():
    assert draw("weight", 3).tolist() == NUMBERS["about"]["drawn"]


@pytest.mark.parametrize("change", [1e-9, -1e-9])
def test_a_summary_sees_what_a_norm_does_not(change):
    tensor = draw("seen", 50)
    swapped = tensor.clone()
    swapped[3], swapped[40] = tensor[40], tensor[3]
    assert summary(swapped)["norm"] == pytest.approx(summary(tensor)["norm"], rel=1e-14)
    assert abs(summary(swapped)["checksum"] - summary(tensor)["checksum"]) > 1e-3
    moved = tensor.clone()
    moved[20] += change
    assert abs(summary(moved)["checksum"] - summary(tensor)["checksum"]) > 1e-12 * summary(tensor)["norm"]
