"""Speed of the parts, one script each, run from the repository's root: `python -m benchmarks.NAME --help`."""
