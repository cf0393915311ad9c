"""Stage 2: a mesh, or Gaussians -> a refined, textured mesh.

python main2.py --config configs/micro.yaml input=photo_rgba.png save_path=name     refines what main.py wrote under that name
python main2.py --from-splats gaussians.ply save_path=name                          a textured mesh of any Gaussians (docs/splats.md)
python main2.py --from-mesh chair.glb --config configs/micro.yaml prompt="a chair"  refines a mesh of your own

Reads the words, calls `microdreamer.refine`, saves the result: see `refine` in microdreamer/pipeline/commands.py.
"""

import sys

from microdreamer.pipeline.commands import refine

if __name__ == "__main__":
    sys.exit(refine(sys.argv[1:]))
