#!/usr/bin/env bash
# Install what the tests need and run them: `./tests/run.sh [--unit] [pytest options]`.
#   --unit   lint, types and the unit tests only (two minutes); default: those that run recipes and programs too
# Set MVQKD_SHARED to a folder with `corpus/` and `teachers/` to run the tests marked `shared`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

options=()
if [ "${1:-}" = --unit ]; then
    options=(-m "not slow")
    shift
fi
. local/environment.sh torchaudio,mini,onnx,hf,serve,dev

if [ $# -eq 0 ]; then
    python -m ruff check .
    python -m ruff format --check --quiet .
    python -m mypy
    # A process for each core, up to four, with one thread each: half the time of one with two.
    options+=(-n auto --maxprocesses 4 --dist loadgroup)
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
fi
exec python -m pytest "${options[@]}" "$@"
