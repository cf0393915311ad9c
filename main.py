"""A picture and/or a sentence -> 3D Gaussians -> a coarse textured mesh.

python main.py --config configs/micro.yaml input=photo_rgba.png save_path=name
python main.py --config configs/micro.yaml prompt="a red apple"
python main.py --config configs/micro.yaml input=folder/ outdir=results resume=true

Reads the words, calls `microdreamer.reconstruct`, saves the result: see `make` in microdreamer/batch/commands.py.
"""

import sys

from microdreamer.batch.commands import make

if __name__ == "__main__":
    sys.exit(make(sys.argv[1:]))
