"""Stage 2: a mesh -> a refined, textured mesh: see microdreamer.pipeline.refinement."""

import sys

from microdreamer.pipeline.refinement import main

if __name__ == "__main__":
    sys.exit(main())
