#!/bin/sh
# One sentence -> a neural field by ASD with MVDream, through all stages.
#
#   sh scripts/single-prompt-benchmark/asd_mv_nerf.sh [prompt="a sentence"] [key=value ...]
#
# A sentence or a checkpoint (resume=FILE) is asked for by its word; without either there is one to see it run. PYTHON names another python.
given=
cd "$(dirname "$0")/../.." || exit
for word in "$@"; do
    case $word in prompt=* | system.prompt_processor.prompt=* | input=* | resume=*) given=yes ;; esac
done
[ "$given" ] || set -- prompt="a wooden rocking horse" "$@"
exec "${PYTHON:-python}" launch.py --config configs/asd_mv_nerf.yaml --train --train_highres "$@"
