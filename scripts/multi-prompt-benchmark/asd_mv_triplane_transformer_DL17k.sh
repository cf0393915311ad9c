#!/bin/sh
# Triplane-Transformer learns the 17 000 sentences of DL17k by ASD with MVDream.
#
#   [GPUS=8] sh scripts/multi-prompt-benchmark/asd_mv_triplane_transformer_DL17k.sh [key=value ...]
#
# GPUS shares each step's sentences among as many processes. A run that was stopped goes on with resume=FILE. PYTHON names another python.
cd "$(dirname "$0")/../.." || exit
set -- launch.py --config configs/multi-prompt/asd_mv_triplane_transformer_DL17k.yaml --train "$@"
[ "${GPUS:-1}" = 1 ] || set -- -m torch.distributed.run --nproc_per_node "$GPUS" "$@"
exec "${PYTHON:-python}" "$@"
