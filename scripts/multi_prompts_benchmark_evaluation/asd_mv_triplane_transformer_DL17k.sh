#!/bin/sh
# Films of what Triplane-Transformer makes of the test sentences of DL17k.
#
#   [GPUS=8] sh scripts/multi_prompts_benchmark_evaluation/asd_mv_triplane_transformer_DL17k.sh [resume=FILE] [key=value ...]
#
# The checkpoint is the last of the run that the script of this name in scripts/multi-prompt-benchmark trained, or resume=FILE. GPUS shares
# the sentences among as many processes. Then: python -m evaluation.amortized --result_dir FOLDER. PYTHON names another python.
cd "$(dirname "$0")/../.." || exit
set -- launch.py --config configs/multi-prompt/asd_mv_triplane_transformer_DL17k.yaml --test "$@"
[ "${GPUS:-1}" = 1 ] || set -- -m torch.distributed.run --nproc_per_node "$GPUS" "$@"
exec "${PYTHON:-python}" "$@"
