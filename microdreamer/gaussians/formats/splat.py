"""The `.splat` layout of antimatter15's web viewer: 32 bytes a Gaussian and nothing else.

Position and scale as three 32-bit floats each, red, green, blue and opacity as bytes, and the quaternion wxyz as bytes
128 + 128 q. Harmonics above degree 0 have no place in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from microdreamer.gaussians.formats.common import RawSplats, base_colors, coefficients_of, log, logit, sigmoid, unit_quaternions

ROW = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 4), ("rotation", "u1", 4)])


def read_splat(path: Path) -> RawSplats:
    """The Gaussians of a .splat file. Raises ValueError for one that is not whole rows."""
    data = path.read_bytes()
    if len(data) % ROW.itemsize:
        raise ValueError(f"not a whole .splat file: {len(data)} bytes are no multiple of {ROW.itemsize}; get a whole copy")
    rows = np.frombuffer(data, ROW)
    return RawSplats(
        means=rows["position"].copy(),
        sh=coefficients_of(rows["color"][:, :3] / 255),
        log_scales=log(rows["scale"]).astype(np.float32),
        quaternions=((rows["rotation"].astype(np.float32) - 128) / 128),
        opacity_logits=logit(rows["color"][:, 3] / 255).astype(np.float32),
    )


def write_splat(path: Path, parameters: dict[str, np.ndarray]) -> None:
    """Write raw parameters (see `ply.write_ply`), the largest and most opaque first, as viewers that load bit by bit expect."""
    opacities = sigmoid(parameters["opacity_logits"])
    order = np.argsort(-opacities * np.exp(parameters["log_scales"].sum(1, dtype=np.float64)), kind="stable")
    rows = np.empty(len(order), ROW)
    rows["position"] = parameters["means"]
    rows["scale"] = np.exp(parameters["log_scales"])
    color = np.concatenate([base_colors(parameters["sh_dc"]), opacities[:, None]], axis=1)
    rows["color"] = np.clip(color * 255, 0, 255).round()
    rows["rotation"] = np.clip(unit_quaternions(parameters["quaternions"]) * 128 + 128, 0, 255).round()
    path.write_bytes(rows[order].tobytes())
