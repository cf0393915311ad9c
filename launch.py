"""A sentence (or a picture) -> a neural field, by score distillation -> film and textured mesh.

python launch.py --config configs/x0sds_micro.yaml --train --test --export prompt="a red car"

Reads the words, trains, renders, exports: see microdreamer/pipeline/launch.
"""

import sys

from microdreamer.pipeline.launch.commands import launch

if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
