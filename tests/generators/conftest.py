"""Tests of the generators speak of float32: on a GPU convolutions would round to TF32 otherwise."""

import pytest
import torch


@pytest.fixture(autouse=True)
def float32_convolutions(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
