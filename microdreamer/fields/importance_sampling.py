"""Where to look again along rays: new intervals whose density follows what a first look found."""

from __future__ import annotations

import torch
from torch import Tensor

FLAT = 1e-10  # less of the distribution than this between two edges has no slope: the middle is taken


def importance_sampling(edges: Tensor, cdf: Tensor, count: int, jitter: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`count` samples [N,count] of rays, and the edges [N,count+1] of intervals around them.

    cdf [N,B+1], which does not fall, at edges [N,B+1]: the inverse of the distribution, linear between edges, at count places spread
    evenly over it. jitter [N] in [0,1] is where in its share each of a ray's places lies; the middle without. Inner edges lie midway
    between samples; outer ones as far beyond, but not outside of the given edges. nerfacc's rule (Li et al. 2023), not differentiable.
    """
    if edges.shape != cdf.shape or edges.dim() != 2 or edges.shape[1] < 2:
        raise ValueError(f"edges, cdf: expected the same shape [N,B+1] with B >= 1, got {list(edges.shape)} and {list(cdf.shape)}")
    if count < 2:
        raise ValueError(f"count={count}: expected at least 2")
    edges, cdf = edges.detach(), cdf.detach().contiguous()
    offset = torch.full_like(cdf[:, :1], 0.5) if jitter is None else jitter.reshape(-1, 1)
    share = (cdf[:, -1:] - cdf[:, :1]) / count
    wanted = cdf[:, :1] + (torch.arange(count, device=cdf.device, dtype=cdf.dtype) + offset) * share
    above = torch.searchsorted(cdf, wanted, right=True)
    below, above = (above - 1).clamp_min(0), above.clamp_max(cdf.shape[1] - 1)
    low, high = cdf.gather(1, below), cdf.gather(1, above)
    near, far = edges.gather(1, below), edges.gather(1, above)
    within = (wanted - low) / (high - low).clamp_min(FLAT)
    samples = torch.where(high - low < FLAT, (near + far) / 2, near + within * (far - near))
    inner = (samples[:, 1:] + samples[:, :-1]) / 2
    first = torch.maximum(samples[:, :1] - (inner[:, :1] - samples[:, :1]), edges[:, :1])
    last = torch.minimum(samples[:, -1:] + (samples[:, -1:] - inner[:, -1:]), edges[:, -1:])
    return samples, torch.cat([first, inner, last], dim=1)
