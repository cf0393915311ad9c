"""python -m evaluation.amortized --result_dir DIR: see microdreamer/evaluation/amortized.py."""

import sys

from microdreamer.evaluation.amortized import main

if __name__ == "__main__":
    sys.exit(main())
