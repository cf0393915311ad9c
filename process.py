"""Photo, or a folder of them, to centred cut-outs: see microdreamer.pipeline.cutouts."""

import sys

from microdreamer.pipeline.cutouts import main

if __name__ == "__main__":
    sys.exit(main())
