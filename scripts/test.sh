#!/usr/bin/env bash
# Environment, installation, lint, types, tests; what compares numbers again as other processors compute them.
# Further arguments go to pytest, which then runs once; a tier (-m ...) on several cores.
EXTRAS="[test]"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ruff check .
ruff format --check .
mypy
if [ "${1:-}" = -m ]; then
    set -- --numprocesses logical --maxprocesses 4 --dist loadfile "$@"
fi
python -m pytest "$@"
if [ $# -eq 0 ]; then
    echo "As on a processor without AVX, with one thread:"
    ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=1 python -m pytest -m numeric
fi
