"""Every setting of USE_CUDA_GAUSS and USE_CUDA_EXTRACT on every device, in one table: `python -m benchmarks.switches`, under the name that
the course gave it. The headline table of all parts is `python -m benchmarks.all`.

python scripts/benchmark_all.py [--counts 5000 20000 100000] [--resolution 128] [--out results.json]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.switches import main

if __name__ == "__main__":
    main()
