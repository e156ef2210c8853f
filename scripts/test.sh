#!/usr/bin/env bash
# Environment, installation, lint, types, tests. Further arguments go to pytest.
EXTRAS="[test]"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ruff check .
ruff format --check .
mypy
python -m pytest "$@"
