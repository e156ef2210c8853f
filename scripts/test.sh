#!/usr/bin/env bash
# Environment, installation, lint, types, tests; what compares numbers again as other processors compute them.
# All of it and a tier (-m ...) run on several cores. Further arguments go to pytest, which then runs once.
EXTRAS="[test]"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ruff check .
ruff format --check .
mypy
# Tests side by side, each with one thread.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
cores=(--numprocesses logical --maxprocesses 4 --dist loadfile)
case "${1:-}" in
    "")
        python -m pytest "${cores[@]}"
        echo "As on a processor without AVX:"
        export ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
        python -m pytest "${cores[@]}" -m numeric
        ;;
    -m) python -m pytest "${cores[@]}" "$@" ;;
    *) python -m pytest "$@" ;;
esac
