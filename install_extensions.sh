#!/usr/bin/env bash
# Builds the kernels of csrc/ for the current environment: an active one, else .venv, else python3. PYTHON=path names another.
# USE_CUDA=0/1 skips or demands the CUDA part; setup.py lists the other switches.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() {
  echo "install_extensions: $1" >&2
  exit 1
}

if [[ -n ${PYTHON:-} ]]; then python=$PYTHON
elif [[ -n ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]]; then python=python
elif [[ -x $here/.venv/bin/python ]]; then python=$here/.venv/bin/python
else python=python3
fi
command -v "$python" > /dev/null || fail "$python was not found; install Python 3.10 or newer or set PYTHON"
command -v "${CXX:-c++}" > /dev/null || fail "no C++ compiler (${CXX:-c++}) was found; install g++ 10 or newer, or set CXX"
"$python" -c 'import torch' 2> /dev/null || fail "PyTorch is not installed for $python; install it first (docs/install.md)"
"$python" -c 'import setuptools' 2> /dev/null || fail "setuptools is not installed for $python; run: $python -m pip install 'setuptools>=77' wheel ninja"

cd "$here"
"$python" setup.py --quiet build_ext --inplace
"$python" -m microdreamer.kernels.extension
