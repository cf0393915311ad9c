"""Compiled kernels (csrc/) and, beside each op, its plain-PyTorch twin.

Imports nothing of the project; importing it needs no compiler, no GPU and no built extension.
"""

FIELD_BLOCKS = 16  # blocks a side of a density field, of whose points a side it must be a divisor
FIELD_RELAX_RATIO = 1.5  # how far beyond a block a Gaussian's centre may lie to count in it, in blocks
