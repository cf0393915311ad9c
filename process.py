"""Photo, or a folder of them, to centred cut-outs: `python process.py photo.jpg` writes photo_rgba.png beside it.

See microdreamer/pipeline/cutouts.py.
"""

import sys

from microdreamer.pipeline.cutouts import main

if __name__ == "__main__":
    sys.exit(main())
