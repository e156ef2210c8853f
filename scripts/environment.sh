# Sourced by the other shell scripts: makes the virtual environment .venv and installs the package into it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "Python 3.10 or newer is needed; name one with PYTHON=/path/to/python." >&2
    exit 1
fi
if [ ! -x .venv/bin/python ]; then
    if ! "$PYTHON" -m venv .venv; then
        echo "Making .venv failed; on Debian and Ubuntu: apt install python3-venv." >&2
        rm -rf .venv
        exit 1
    fi
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${EXTRAS:-}"
export PATH="$PWD/.venv/bin:$PATH"
