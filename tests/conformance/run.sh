#!/usr/bin/env bash
# Runs the conformance suite: a client in another language against the real binary.
#
#   tests/conformance/run.sh [pytest arguments, relative to this folder]
#
# CONVERGE_BIN names the binary; without it target/debug/converge-ledger is built and used.
# The Python packages go into a virtual environment under target/, pinned by requirements.txt.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
venv=$target/conformance-venv

skip() { printf 'skipped: conformance suite: %s\n' "$1"; exit 0; }
command -v python3 >/dev/null || skip "python3 is not installed"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || skip "python3 is older than 3.10: $(python3 --version)"

if [ -z "${CONVERGE_BIN:-}" ]; then
    cargo build --quiet --bin converge-ledger
    CONVERGE_BIN=$target/debug/converge-ledger
fi
export CONVERGE_BIN

# The stamp holds what is installed, so that a second run installs nothing and a new pin does.
if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv" || skip "python3 cannot make a virtual environment (python3-venv is missing)"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/installed.txt"
fi
CONVERGE_BIN=$(realpath "$CONVERGE_BIN")
cd "$here"
# No .pyc files in the work tree.
PYTHONDONTWRITEBYTECODE=1 exec "$venv/bin/python" -m pytest -p no:cacheprovider "$@"
