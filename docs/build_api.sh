#!/usr/bin/env bash
# The API reference from docstrings: `docs/build_api.sh [FOLDER]` (default docs/api), with the extra `docs`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mapfile -t modules < <(
    find mvqkd -name __init__.py -o -path mvqkd/recognizer.py -o -path mvqkd/errors.py -o -path mvqkd/geometry.py |
        sed -e 's|/__init__\.py$||' -e 's|\.py$||' -e 's|/|.|g' | sort
)
python -m pdoc --docformat google --output-directory "${1:-docs/api}" "${modules[@]}"
