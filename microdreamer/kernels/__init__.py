"""Compiled kernels (csrc/) and, beside each op, its plain-PyTorch twin.

Imports nothing of the project; importing it needs no compiler, no GPU and no built extension.
"""
