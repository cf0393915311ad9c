"""A picture and/or a sentence -> 3D Gaussians -> a coarse coloured mesh: see microdreamer.pipeline.reconstruction."""

import sys

from microdreamer.pipeline.reconstruction import main

if __name__ == "__main__":
    sys.exit(main())
