"""A file of Gaussians -> a textured mesh, in three lines of the library.

python examples/mesh_from_splats.py splats.ply [--faces 20000] [--out logs/mesh.glb]
"""

import argparse

import microdreamer
from mesh_renderer import write_glb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("splats", help="a PLY of 3D Gaussians")
    parser.add_argument("--faces", type=int, default=20_000)
    parser.add_argument("--texture", type=int, default=1024, help="texels a side")
    parser.add_argument("--out", default="logs/mesh.glb")
    options = parser.parse_args()

    mesh = microdreamer.mesh_from_gaussians(options.splats, {"mesh_faces": options.faces, "texture_size": options.texture})
    write_glb(mesh, options.out)
    print(f"{len(mesh.faces)} faces; wrote {options.out}")


if __name__ == "__main__":
    main()
