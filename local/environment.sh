# shellcheck shell=bash
# Sourced by run.sh and tests/run.sh from the root of the project: `. local/environment.sh EXTRAS`.
# Uses the active virtual or conda environment, else makes .venv; installs the tested versions of
# constraints.txt once. Conda's base is always active and used for much else: .venv in its place.
extras=$1
active=${VIRTUAL_ENV:-}
[ "${CONDA_DEFAULT_ENV:-base}" = base ] || active+=${CONDA_PREFIX:-}
if [ -z "$active" ]; then
    if ! .venv/bin/python -c '' 2>/dev/null; then
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
            printf '%s is too old\n  remedy: put a Python >= 3.10 first on PATH\n' \
                "$(python3 --version)" >&2
            exit 2
        }
        echo "creating .venv"
        # Debian's Python has no ensurepip without its package python3-venv: then the pip outside
        # installs one inside.
        python3 -m venv --clear .venv >/dev/null 2>&1 || {
            python3 -m venv --clear --without-pip .venv
            python3 -m pip --python .venv/bin/python install --quiet pip
        }
    fi
    export VIRTUAL_ENV="$PWD/.venv"
    export PATH="$VIRTUAL_ENV/bin:$PATH"
fi

stamp=$(python -c 'import sys; print(sys.prefix)')/.mvqkd-installed
wanted="$PWD $(cat pyproject.toml constraints.txt | cksum)"
# One line for each set of extras that is installed; another checkout or other versions begin anew.
if ! { [ -f "$stamp" ] && grep -qxF "$wanted [$extras]" "$stamp"; }; then
    package=.${extras:+[$extras]} # pip before 24 refuses empty brackets
    echo "installing mvqkd${extras:+[$extras]} with the versions of constraints.txt (some gigabytes with torch)"
    python -m pip install -qq --disable-pip-version-check \
        --constraint constraints.txt --editable "$package"
    { [ -f "$stamp" ] && grep -F "$wanted" "$stamp" || true; } >"$stamp.partial"
    echo "$wanted [$extras]" >>"$stamp.partial"
    mv "$stamp.partial" "$stamp"
fi
