#!/bin/sh
# Hyper-iNGP learns the 15 sentences of MG15 by ASD with Stable Diffusion 2.1 base.
#
#   [GPUS=8] sh scripts/multi-prompt-benchmark/asd_sd_hyper_iNGP_MG15.sh [key=value ...]
#
# GPUS shares each step's sentences among as many processes. A run that was stopped goes on with resume=FILE. PYTHON names another python.
cd "$(dirname "$0")/../.." || exit
set -- launch.py --config configs/multi-prompt/asd_sd_hyper_iNGP_MG15.yaml --train "$@"
[ "${GPUS:-1}" = 1 ] || set -- -m torch.distributed.run --nproc_per_node "$GPUS" "$@"
exec "${PYTHON:-python}" "$@"
