"""Port the published U^2-Net-p from ONNX to weights/u2netp/u2netp.safetensors: `python scripts/convert_u2netp.py u2netp.onnx`.

The file is the one that rembg downloads (xuebinqin/U-2-Net, Apache-2.0). Needs `pip install onnx`. Its convolutions, with
normalisation folded in, come in the order in which they run.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from microdreamer.core.files import atomic_write
from microdreamer.images.u2net import WEIGHTS, U2Net

SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"


def convolutions_in_order(network: U2Net) -> list[str]:
    """Names of the convolutions in the order in which they run."""
    blocks = [(f"encoder.{level}", block) for level, block in enumerate(network.encoder)]
    blocks += reversed([(f"decoder.{level}", block) for level, block in enumerate(network.decoder)])
    names = []
    for name, block in blocks:
        levels = range(len(block.down))
        inner = ["first", *(f"down.{level}" for level in levels), "bottom", *(f"up.{level}" for level in reversed(levels))]
        names += [f"{name}.{part}.0" for part in inner]
    return [*names, *(f"side.{level}" for level in range(len(network.side))), "fuse"]


def port(source: Path, target: Path) -> None:
    """Write the weights at `source` (ONNX) to `target` in float16. Raises ValueError for a file that is not the published one."""
    import onnx

    data = source.read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != SHA256:
        raise ValueError(f"{source}: expected the published u2netp.onnx (sha256 {SHA256}), got {digest}")
    graph = onnx.load_model_from_string(data).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    network = U2Net()
    names = convolutions_in_order(network)
    steps = [node for node in graph.node if node.op_type == "Conv"]
    state = {}
    for name, step in zip(names, steps, strict=True):
        convolution = network.get_submodule(name)
        assert isinstance(convolution, nn.Conv2d)
        for key, value in zip(("weight", "bias"), step.input[1:], strict=True):
            assert arrays[value].shape == getattr(convolution, key).shape, f"{name}.{key}"
            state[f"{name}.{key}"] = torch.from_numpy(arrays[value].astype(np.float16))
    with atomic_write(target) as temporary:
        temporary.write_bytes(save(state, {"source": f"u2netp.onnx of xuebinqin/U-2-Net, Apache-2.0, sha256 {SHA256}"}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="u2netp.onnx")
    parser.add_argument("target", type=Path, nargs="?", default=WEIGHTS, help="default: where it ships")
    options = parser.parse_args()
    try:
        port(options.source, options.target)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
