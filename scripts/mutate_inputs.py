"""Feeds wrong inputs to everything that reads one, by the thousand, and lists those that end badly.

python scripts/mutate_inputs.py --cases 5000
python scripts/mutate_inputs.py recipes calls --seed 100000
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
KINDS = sorted(path.stem.removeprefix("mutate_") for path in TESTS.glob("mutate_*.py"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="kind", help=f"of {KINDS}; all by default")
    parser.add_argument("--cases", type=int, default=5000, help="of each kind; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"there are no mutators {sorted(unknown)}; known are {KINDS}")
    total = 0
    sys.path.insert(0, str(TESTS))
    with tempfile.TemporaryDirectory(prefix="re2tal-mutations-") as home:
        os.environ.update({"HF_HOME": home, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""})
        from mutations import bad_ends

        for kind in options.kinds or KINDS:
            mutator = importlib.import_module(f"mutate_{kind}").mutate
            found = bad_ends(mutator, range(options.seed, options.seed + options.cases))
            print("\n".join([*found, f"{kind}: {options.cases} cases, {len(found)} bad ends"]), flush=True)
            total += len(found)
    return min(total, 1)


if __name__ == "__main__":
    raise SystemExit(main())
