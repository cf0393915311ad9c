"""python evaluation/CLIP/evaluation_amortized.py --result_dir DIR: see microdreamer/evaluation/amortized.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from microdreamer.evaluation.amortized import main

if __name__ == "__main__":
    sys.exit(main(program="evaluation_amortized.py"))
