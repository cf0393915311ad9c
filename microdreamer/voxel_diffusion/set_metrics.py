"""How alike two sets of grids are: MMD, COV and 1-NNA on Chamfer distance, and histograms of volume and radius.

The Chamfer distance is taken over all surface voxels, without drawing points: distances to a surface are read off an exact
distance transform, so that all pairs of two sets are one matrix product.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from microdreamer.voxel_diffusion.metrics import filled, radius_of

BINS = 16


def surface(solids: Tensor) -> Tensor:
    """Filled voxels of bool grids [N,n,n,n] with an empty neighbour across a face; outside of the grid is empty."""
    padded = torch.nn.functional.pad(solids, (1,) * 6)
    inner = solids.clone()
    for axis in (1, 2, 3):
        for shift in (1, -1):
            inner &= padded.roll(shift, axis)[:, 1:-1, 1:-1, 1:-1]
    return solids & ~inner


def squared_distances(targets: Tensor) -> Tensor:
    """Squared distance [N,n,n,n] in voxels from every voxel to the nearest of the bool `targets`; 3 n^2, more than any distance in the
    grid, where there are none.

    Exact, one axis after another (Felzenszwalb and Huttenlocher 2012, section 2.1, by direct minimisation).
    """
    size = targets.shape[-1]
    far = 3.0 * size**2
    squares = (torch.arange(size, device=targets.device)[:, None] - torch.arange(size, device=targets.device)).square().float()
    rows = []
    # One grid at a time fits the cache of a CPU; a GPU waits for launches rather than for memory.
    for own in targets.split(16 if targets.device.type == "cuda" else 1):
        distance = torch.where(own, 0.0, far)
        for axis in (1, 2, 3):
            lines = distance.movedim(axis, 3)
            lines = torch.stack([(lines + squares[i]).amin(3) for i in range(size)], dim=3)
            distance = lines.movedim(3, axis)
        rows.append(distance.clamp_max(far))
    return torch.cat(rows)


def chamfer_matrix(first: Tensor, second: Tensor) -> Tensor:
    """Chamfer distance [N,M] between the surfaces of all pairs of grids [N,n,n,n] and [M,n,n,n], float64.

    The mean squared distance from one surface's voxels to the other surface plus the same the other way (Achlioptas et al. 2018,
    equation 1, as means), in units of the grid's side. An empty grid is as far from all others as the grid's diagonal, and equal
    to an empty one.
    """
    size = first.shape[-1]
    surfaces = [surface(filled(grids)) for grids in (first, second)]
    shares = [s.flatten(1).float() / s.flatten(1).sum(1, keepdim=True).clamp_min(1) for s in surfaces]
    there = _means(shares[0], surfaces[1])
    back = _means(shares[1], surfaces[0]).T
    empty = [~s.flatten(1).any(1) for s in surfaces]
    result = (there + back) / size**2
    one, both = empty[0][:, None] ^ empty[1], empty[0][:, None] & empty[1]
    return torch.where(one, 6.0, torch.where(both, 0.0, result))


def _means(shares: Tensor, targets: Tensor, batch: int = 32) -> Tensor:
    """Mean [N,M] of the squared distance to each of the targets over each share."""
    return torch.cat([shares @ squared_distances(part).flatten(1).T for part in targets.split(batch)], dim=1).double()


def mmd_cov(between: Tensor) -> tuple[float, float]:
    """Minimum matching distance and coverage of generated against reference sets, from their distances [generated,reference].

    MMD: mean over the references of the distance to the nearest generated one. COV: share of the references that are the nearest
    of some generated one (Achlioptas et al. 2018, section 4.2).
    """
    return float(between.amin(0).mean()), len(between.argmin(1).unique()) / between.shape[1]


def one_nna(among_generated: Tensor, between: Tensor, among_references: Tensor) -> float:
    """Leave-one-out accuracy of a nearest-neighbour classifier that tells the sets apart; 0.5 is best (Yang et al. 2019, equation 12).

    The sets should be of one size, or the larger one wins by chance. Distances [N,N], [N,M], [M,M].
    """
    count = len(between)
    distances = torch.cat([torch.cat([among_generated, between], 1), torch.cat([between.T, among_references], 1)])
    distances = distances + torch.diag(torch.full((len(distances),), torch.inf, device=distances.device))
    is_generated = torch.arange(len(distances), device=distances.device) < count
    return float((is_generated[distances.argmin(1)] == is_generated).double().mean())


def compare_sets(generated: Tensor, references: Tensor) -> dict[str, float]:
    """{"mmd", "cov", "one_nna"} of two sets [N,n,n,n] and [M,n,n,n]; for 1-NNA the longer one is cut to the other's length."""
    between = chamfer_matrix(generated, references)
    mmd, cov = mmd_cov(between)
    count = min(len(generated), len(references))
    own = chamfer_matrix(generated[:count], generated[:count])
    reference = chamfer_matrix(references[:count], references[:count])
    return {"mmd": mmd, "cov": cov, "one_nna": one_nna(own, between[:count, :count], reference)}


def histogram(generated: np.ndarray, references: np.ndarray) -> dict[str, list[float]]:
    """Counts of two lists of numbers in the same bins, and the edges of those."""
    edges = np.histogram_bin_edges(np.concatenate([generated, references]), BINS)
    return {
        "edges": edges.tolist(),
        "generated": np.histogram(generated, edges)[0].tolist(),
        "references": np.histogram(references, edges)[0].tolist(),
    }


def size_histograms(generated: Tensor, references: Tensor) -> dict[str, dict]:
    """Histograms of the volume (filled voxels) and of the radius of the ball of that volume, in voxels."""
    volumes = [filled(grids).flatten(1).sum(1).cpu() for grids in (generated, references)]
    radii = [radius_of(volume).numpy() for volume in volumes]
    return {"volume": histogram(*(volume.numpy() for volume in volumes)), "radius": histogram(*radii)}
