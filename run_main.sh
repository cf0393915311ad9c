#!/usr/bin/env bash
# Runs main.py with the arguments given, in the current environment: an active one, else .venv, else python3.
#   ./run_main.sh --config configs/micro.yaml input=photo_rgba.png save_path=name
#   ./run_main.sh -profile --config ...      the same under NVIDIA Nsight Systems; writes profile_<time>.nsys-rep (docs/profiling.md)
# NSYS_OPTIONS holds more options for nsys, such as --cuda-graph-trace=node.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ -n ${PYTHON:-} ]]; then python=$PYTHON
elif [[ -n ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]]; then python=python
elif [[ -x $here/.venv/bin/python ]]; then python=$here/.venv/bin/python
else python=python3
fi
if ! command -v "$python" > /dev/null; then
  echo "run_main: $python was not found; install Python 3.10 or newer, or set PYTHON to its path" >&2
  exit 2
fi

if [[ ${1:-} == -profile ]]; then
  shift
  if ! command -v nsys > /dev/null; then
    echo "run_main: nsys was not found; install NVIDIA Nsight Systems and put its bin folder on PATH" >&2
    exit 2
  fi
  read -r -a options <<< "${NSYS_OPTIONS:-}"
  # Of two words for one key the later one counts, so profiling.mode=... among the arguments overrides ours.
  exec nsys profile --trace=cuda,nvtx,osrt --output="profile_$(date +%Y%m%d_%H%M%S)" ${options[@]+"${options[@]}"} \
    "$python" "$here/main.py" profiling.mode=nvtx "$@"
fi
exec "$python" "$here/main.py" "$@"
