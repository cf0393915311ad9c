"""What the tests of the Gaussian model share."""

import numpy as np
import pytest


@pytest.fixture
def golden(parity):
    return np.load(parity("priors/gaussians.npz"))
