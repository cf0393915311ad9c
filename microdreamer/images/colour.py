"""The curve of sRGB (IEC 61966-2-1): between the values of picture files and intensities of light."""

from __future__ import annotations

import numpy as np

LEAST_OF_255 = 1.5  # a colour above this is one of a scale to 255


def srgb_to_linear(colors: np.ndarray) -> np.ndarray:
    """Light intensities of sRGB values, both in [0,1]."""
    return np.where(colors <= 0.04045, colors / 12.92, ((np.maximum(colors, 0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(colors: np.ndarray) -> np.ndarray:
    """sRGB values of light intensities, both in [0,1]."""
    return np.where(colors <= 0.0031308, colors * 12.92, 1.055 * np.maximum(colors, 0.0031308) ** (1 / 2.4) - 0.055)


LINEAR_OF_BYTE = srgb_to_linear(np.arange(256) / 255).astype(np.float32)
"""Light intensities of the 256 sRGB bytes."""


def unit_range(values: np.ndarray) -> np.ndarray:
    """Colours, which programs write as floats from 0 to 1 or to 255, as float64 in [0,1]; NaN stays. A little above 1 is rounding."""
    values = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore"):
        scale = 255.0 if (values > LEAST_OF_255).any() else 1.0
        return (values / scale).clip(0, 1)
