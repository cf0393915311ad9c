"""The wheel's request for the PyTorch that its kernels were built with."""

import pytest

from scripts.build_wheel import pin_torch

METADATA = """Name: microdreamer-optimized
Requires-Dist: torch>=2.8
Requires-Dist: torch-tb-profiler>=0.4.3; extra == "tensorboard"

torch is named in the text as well
"""


def test_one_minor_version_of_torch_is_asked_for_and_nothing_else_changes():
    assert pin_torch(METADATA, "2.13.0+cpu") == METADATA.replace("torch>=2.8", "torch==2.13.*")


def test_metadata_that_does_not_ask_for_torch_is_refused():
    with pytest.raises(ValueError, match="expected one line that asks for torch, got 0"):
        pin_torch(METADATA.replace("Requires-Dist: torch>=2.8\n", ""), "2.13.0")
