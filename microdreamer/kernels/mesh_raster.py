"""Differentiable rasterisation of triangle meshes: all images in one call, as compiled ops and as plain PyTorch.

The primitives of Laine et al., "Modular Primitives for High-Performance Differentiable Rendering" (2020): `rasterize` finds
the triangle that every pixel shows, `interpolate` carries vertex attributes to the pixels, `antialias` smooths silhouettes
and is where visibility gets its gradient. Positions are in clip space, with no convention beyond x/w, y/w, z/w in [-1, 1]:
row 0 of a picture is y/w = -1, pixel centres lie at +0.5, both sides of a triangle are drawn.

Coverage follows homogeneous edge functions (Olano and Greer, "Triangle Scan Conversion using 2D Homogeneous Coordinates",
1997). With x' = x - w X and y' = y - w Y for the pixel's centre (X, Y),

    e_0 = x'_1 y'_2 - y'_1 x'_2  (1 and 2 by rotation),   u = e_0 / (e_0 + e_1 + e_2),   v = e_1 / (e_0 + e_1 + e_2)

and the pixel is covered where the three e agree in sign and w = sum e_i w_i / sum e_i is positive; no triangle is clipped,
whichever way it crosses the eye's plane. A centre exactly on an edge counts as moved up by an infinitesimal step (then left by
a smaller one), so an edge shared by two triangles gives each pixel to one of them. Published implementations snap vertices to a
sub-pixel grid first and clamp u and v instead: pixels whose centre is within that step of an edge may show the other triangle.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from microdreamer.kernels import extension
from microdreamer.kernels.extension import Gradient

MAX_FACES = 1 << 24  # face numbers travel as float32, exact up to here
REFERENCE_CHUNK = 1 << 21  # face-pixel pairs the reference holds at a time
EDGE_SLACK = 1 / 16  # px; how far an edge may lie outside the way between two centres and still be taken to cross it
BOX_MARGIN = 0.01  # px; rounding of a projected corner must not cut the box that its pixels are looked for in


def rasterize(
    pos: Tensor,
    tri: Tensor,
    height: int,
    width: int,
    ranges: Tensor | None = None,
    *,
    deterministic: bool | None = None,
    compiled: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Which triangle each pixel shows, where in it, and how that changes across the picture.

    pos [B,V,4] float32 in clip space, tri [F,3] int32: one mesh seen B times. Or pos [V,4] and ranges [B,2] int32: picture b
    shows the ranges[b,1] faces of `tri` from number ranges[b,0] on.

    Returns rast [B,H,W,4] = (u, v, z/w, face + 1) with u and v the weights of the face's corners 0 and 1, and rast_db
    [B,H,W,4] = (du/dX, du/dY, dv/dX, dv/dY) per pixel. All are 0 where nothing is seen. Faces with z/w outside [-1, 1] are cut
    pixel by pixel; of equal depths the lower face number wins. Faces without area, and those with a corner that is not finite,
    are not seen.

    Gradients reach pos from u, v and rast_db, not from z/w, and not where another face becomes visible: see `antialias`.

    `deterministic` gives the same gradients bit for bit on CUDA; None asks torch.are_deterministic_algorithms_enabled(). The
    forward pass, and everything on the CPU whatever its number of threads, always repeats exactly. `compiled` chooses between
    the op and the plain version; None takes the op where there is one. No host synchronisation.

    Wrong shapes and dtypes are ValueErrors. On the CPU a face that names a missing vertex is an IndexError, as is a range that
    leaves `tri`; on CUDA, where looking would stop the stream, such a face is not seen and such a range is cut short.
    """
    _check_picture(pos, tri, ranges, height, width)
    if not extension.use_compiled(pos.device, asked=compiled):
        return rasterize_reference(pos, tri, height, width, ranges)
    ranges = None if ranges is None else ranges.contiguous()
    repeatable = _deterministic(deterministic)
    return torch.ops.microdreamer.rasterize_mesh(pos.contiguous(), tri.contiguous(), ranges, height, width, repeatable)


def interpolate(
    attr: Tensor,
    rast: Tensor,
    tri: Tensor,
    rast_db: Tensor | None = None,
    *,
    deterministic: bool | None = None,
    compiled: bool | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Vertex attributes at the pixels.

    attr [B,V,C] or [1,V,C] float32; rast and rast_db [B,H,W,4] of `rasterize`; tri [F,3] int32, which may index other vertices
    than those rasterised (texture coordinates with seams). Returns out [B,H,W,C] = u a_0 + v a_1 + (1 - u - v) a_2, and with
    rast_db also out_da [B,H,W,2C] = (da/dX, da/dY) of each attribute in turn, per pixel; else None. Empty pixels are 0.

    Gradients reach attr, rast (its u and v) and rast_db. Switches and errors as of `rasterize`.
    """
    _check_attributes(attr, rast, tri, rast_db)
    if not extension.use_compiled(attr.device, asked=compiled):
        return interpolate_reference(attr, rast, tri, rast_db)
    rast_db = None if rast_db is None else rast_db.contiguous()
    repeatable = _deterministic(deterministic)
    out, out_da = torch.ops.microdreamer.interpolate_mesh(attr.contiguous(), rast.contiguous(), tri.contiguous(), rast_db, repeatable)
    return out, None if rast_db is None else out_da


class Topology(NamedTuple):
    """Which triangles meet: opposite [F,3] int32, the third vertex of the face across the edge that faces corner k, or -1."""

    opposite: Tensor


def mesh_topology(tri: Tensor) -> Topology:
    """The `Topology` of tri [F,3] int32, by vertex numbers, on its device and without host synchronisation.

    Of more than two faces at an edge, each takes the next one by face number, the last the first. A face that has two
    corners in common has no neighbours there.
    """
    _check_faces(tri, tri)
    ends = torch.stack([tri.roll(-1, 1), tri.roll(-2, 1)], -1).reshape(-1, 2).long()
    key, order = (ends.amin(1) * (1 << 31) + ends.amax(1)).sort(stable=True)
    place = torch.arange(len(key), device=tri.device)
    same_as_next = key[:-1] == key[1:]
    starts = torch.cat([same_as_next.new_ones(1), ~same_as_next]) if len(key) else same_as_next.new_zeros(0)
    first = torch.where(starts, place, 0).cummax(0).values if len(key) else place
    last = torch.cat([~same_as_next, same_as_next.new_ones(1)]) if len(key) else starts
    other = order[torch.where(last, first, place + 1)]
    third = tri.reshape(-1)
    alone = (other == order) | (ends[order, 0] == ends[order, 1])
    opposite = torch.empty_like(third)
    opposite[order] = torch.where(alone, -1, third[other])
    return Topology(opposite.reshape(-1, 3))


def antialias(
    color: Tensor,
    rast: Tensor,
    pos: Tensor,
    tri: Tensor,
    topology: Topology | None = None,
    *,
    deterministic: bool | None = None,
    compiled: bool | None = None,
) -> Tensor:
    """Blend pixels across silhouettes by where the edge lies between their centres.

    color [B,H,W,C] float32; rast, pos (either form) and tri as given to and by `rasterize`; topology of `mesh_topology(tri)`,
    made anew in each call where it is None. Returns [B,H,W,C].

    Two neighbours in a row that show different faces are a candidate. Of the nearer face's edges, the last one that the line from
    its pixel's centre to the other one crosses is looked at, at distance t from the nearer centre. If it lies between the two
    centres (-1/16 < t < 17/16, for rounding), is steeper than 45 degrees (flatter, for neighbours in a column), and is a silhouette
    - no face across it, or one whose third vertex is projected to the same side - it moves t - 1/2 of the nearer pixel's colour to
    the other one; where that is negative, 1/2 - t of the other's colour to the nearer. t counts as 0 to 1 there.

    Gradients reach color, and pos by way of t: this is how a loss moves silhouettes. Switches and errors as of `rasterize`.
    """
    _check_antialias(color, rast, pos, tri)
    opposite = (mesh_topology(tri) if topology is None else topology).opposite
    if opposite.shape != tri.shape or opposite.dtype != torch.int32 or opposite.device != tri.device:
        raise ValueError(
            f"topology: expected that of tri, {list(tri.shape)} int32 on {tri.device}, "
            f"got {list(opposite.shape)} {opposite.dtype} on {opposite.device}"
        )
    if not extension.use_compiled(color.device, asked=compiled):
        return antialias_reference(color, rast, pos, tri, Topology(opposite))
    tensors = (color, rast, pos, tri, opposite)
    return torch.ops.microdreamer.antialias_mesh(*(tensor.contiguous() for tensor in tensors), _deterministic(deterministic))


def _deterministic(asked: bool | None) -> bool:
    return torch.are_deterministic_algorithms_enabled() if asked is None else asked


# ---- Checks ----


def _check_faces(tri: Tensor, like: Tensor) -> None:
    if tri.dim() != 2 or tri.shape[1] != 3 or tri.dtype != torch.int32 or tri.device != like.device:
        raise ValueError(f"tri: expected [F,3] int32 on {like.device}, got {list(tri.shape)} {tri.dtype} on {tri.device}")
    if tri.shape[0] > MAX_FACES:
        raise ValueError(f"tri: expected at most {MAX_FACES} faces, got {tri.shape[0]}; draw the mesh in parts or simplify it")


def _check_floats(name: str, tensor: Tensor, shape: tuple, like: Tensor) -> None:
    fits = tensor.dim() == len(shape) and all(isinstance(want, str) or want == got for want, got in zip(shape, tensor.shape, strict=True))
    if not fits or tensor.dtype != like.dtype or tensor.device != like.device:
        text = ",".join(str(size) for size in shape)
        raise ValueError(
            f"{name}: expected [{text}] {like.dtype} on {like.device}, got {list(tensor.shape)} {tensor.dtype} on {tensor.device}"
        )


def _check_picture(pos: Tensor, tri: Tensor, ranges: Tensor | None, height: int, width: int) -> None:
    _check_faces(tri, pos)
    if ranges is None:
        _check_floats("pos", pos, ("B", "V", 4), pos)
    else:
        _check_floats("pos", pos, ("V", 4), pos)
        if ranges.dim() != 2 or ranges.shape[1] != 2 or ranges.dtype != torch.int32 or ranges.device != pos.device:
            raise ValueError(f"ranges: expected [B,2] int32 on {pos.device}, got {list(ranges.shape)} {ranges.dtype} on {ranges.device}")
    if not pos.is_floating_point():
        raise ValueError(f"pos: expected float32, got {pos.dtype}")
    if height < 1 or width < 1:
        raise ValueError(f"picture of {width}x{height}: expected at least 1x1")


def _check_attributes(attr: Tensor, rast: Tensor, tri: Tensor, rast_db: Tensor | None) -> None:
    _check_faces(tri, attr)
    _check_floats("attr", attr, ("B or 1", "V", "C"), attr)
    _check_floats("rast", rast, ("B", "H", "W", 4), attr)
    if attr.shape[0] not in (1, rast.shape[0]):
        raise ValueError(f"attr: expected {rast.shape[0]} sets of attributes like the pictures of rast, or 1, got {attr.shape[0]}")
    if rast_db is not None:
        _check_floats("rast_db", rast_db, tuple(rast.shape), attr)


def _check_antialias(color: Tensor, rast: Tensor, pos: Tensor, tri: Tensor) -> None:
    _check_faces(tri, color)
    _check_floats("color", color, ("B", "H", "W", "C"), color)
    _check_floats("rast", rast, (*color.shape[:3], 4), color)
    _check_floats("pos", pos, ("V", 4) if pos.dim() == 2 else (color.shape[0], "V", 4), color)


# ---- The ops: shapes for torch.compile, and autograd ----


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _fake_rasterize_mesh(pos, tri, ranges, height, width, deterministic):
    pictures = pos.shape[0] if ranges is None else ranges.shape[0]
    return pos.new_empty((pictures, height, width, 4)), pos.new_empty((pictures, height, width, 4))


def _fake_rasterize_mesh_bwd(v_rast, v_rast_db, rast, pos, tri, deterministic):
    return torch.empty_like(pos)


def _rasterize_mesh_save(ctx, inputs, output) -> None:
    pos, tri, _, _, _, ctx.deterministic = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[0], pos, tri)


def _rasterize_mesh_bwd(ctx, v_rast, v_rast_db):
    v_pos = None
    if v_rast is not None or v_rast_db is not None:
        v_rast, v_rast_db = _contiguous(v_rast), _contiguous(v_rast_db)
        v_pos = torch.ops.microdreamer.rasterize_mesh_bwd(v_rast, v_rast_db, *ctx.saved_tensors, ctx.deterministic)
    return v_pos, None, None, None, None, None


def _fake_interpolate_mesh(attr, rast, tri, rast_db, deterministic):
    channels = attr.shape[2]
    return attr.new_empty((*rast.shape[:3], channels)), attr.new_empty((*rast.shape[:3], 0 if rast_db is None else 2 * channels))


def _fake_interpolate_mesh_bwd(v_out, v_out_da, attr, rast, tri, rast_db, deterministic):
    return torch.empty_like(attr), torch.empty_like(rast), rast.new_empty((0,)) if rast_db is None else torch.empty_like(rast_db)


def _interpolate_mesh_save(ctx, inputs, output) -> None:
    *tensors, ctx.deterministic = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _interpolate_mesh_bwd(ctx, v_out, v_out_da):
    rast_db = ctx.saved_tensors[3]
    v_out_da = None if rast_db is None else v_out_da
    if v_out is None and v_out_da is None:
        return None, None, None, None, None
    v_out, v_out_da = _contiguous(v_out), _contiguous(v_out_da)
    v_attr, v_rast, v_rast_db = torch.ops.microdreamer.interpolate_mesh_bwd(v_out, v_out_da, *ctx.saved_tensors, ctx.deterministic)
    return v_attr, v_rast, None, None if rast_db is None else v_rast_db, None


def _fake_antialias_mesh(color, rast, pos, tri, opposite, deterministic):
    return torch.empty_like(color)


def _fake_antialias_mesh_bwd(v_out, color, rast, pos, tri, opposite, deterministic):
    return torch.empty_like(color), torch.empty_like(pos)


def _antialias_mesh_save(ctx, inputs, output) -> None:
    *tensors, ctx.deterministic = inputs
    ctx.save_for_backward(*tensors)


def _antialias_mesh_bwd(ctx, v_out):
    v_color, v_pos = torch.ops.microdreamer.antialias_mesh_bwd(v_out.contiguous(), *ctx.saved_tensors, ctx.deterministic)
    return v_color, None, v_pos, None, None, None


extension.register("rasterize_mesh", fake=_fake_rasterize_mesh, gradient=Gradient(_rasterize_mesh_bwd, _rasterize_mesh_save))
extension.register("rasterize_mesh_bwd", fake=_fake_rasterize_mesh_bwd)
extension.register("interpolate_mesh", fake=_fake_interpolate_mesh, gradient=Gradient(_interpolate_mesh_bwd, _interpolate_mesh_save))
extension.register("interpolate_mesh_bwd", fake=_fake_interpolate_mesh_bwd)
extension.register("antialias_mesh", fake=_fake_antialias_mesh, gradient=Gradient(_antialias_mesh_bwd, _antialias_mesh_save))
extension.register("antialias_mesh_bwd", fake=_fake_antialias_mesh_bwd)


# ---- The plain-PyTorch twins ----


def rasterize_reference(pos: Tensor, tri: Tensor, height: int, width: int, ranges: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`rasterize` in plain PyTorch, for any floating dtype: the definition that the op is compared with."""
    vertices = pos.shape[-2]
    missing = ((tri < 0) | (tri >= vertices)).any(1)
    if bool(missing.any()):
        face = int(missing.nonzero()[0])
        raise IndexError(f"tri: face {face} names a vertex outside 0..{vertices - 1}")
    spans = [(0, len(tri))] * len(pos) if ranges is None else _spans(ranges, tri)
    pictures = [
        _rasterize_picture(pos[b] if ranges is None else pos, tri, start, count, height, width) for b, (start, count) in enumerate(spans)
    ]
    if not pictures:
        return pos.new_zeros((0, height, width, 4)), pos.new_zeros((0, height, width, 4))
    rast, rast_db = zip(*pictures, strict=True)
    return torch.stack(rast), torch.stack(rast_db)


def _spans(ranges: Tensor, tri: Tensor) -> list[list[int]]:
    spans = ranges.tolist()
    for b, (start, count) in enumerate(spans):
        if start < 0 or count < 0 or start + count > len(tri):
            raise IndexError(f"ranges: those of picture {b} are faces {start}..{start + count - 1}, but there are {len(tri)}")
    return spans


def _rasterize_picture(pos: Tensor, tri: Tensor, start: int, count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    face = _visible_faces(pos.detach(), tri[start : start + count].long(), height, width)
    shown = (face >= 0).nonzero()[:, 0]
    own = tri[start + face[shown]].long()
    edges, slopes, _ = _edge_functions(pos[own], shown, height, width)
    total, total_slope = edges.sum(1, keepdim=True), slopes.sum(1, keepdim=True)
    weights = edges / total
    with torch.no_grad():
        depth = (weights * pos[own][..., 2]).sum(1) / (weights * pos[own][..., 3]).sum(1)
        number = (start + face[shown] + 1).to(pos.dtype)
    per_pixel = (slopes - weights[..., None] * total_slope) / total[..., None] * pos.new_tensor([2 / width, 2 / height])
    found = torch.cat([weights[:, :2], depth[:, None], number[:, None], per_pixel[:, :2].flatten(1)], 1)
    picture = pos.new_zeros(height * width, 8).index_put((shown,), found).reshape(height, width, 8)
    return picture[..., :4], picture[..., 4:]


def _edge_functions(corners: Tensor, pixel: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """e [N,3], its slopes (de/dX, de/dY) [N,3,2] in clip units, and clip-space centres [N,2], of corners [N,3,4] at pixels [N]."""
    column, row = pixel % width, torch.div(pixel, width, rounding_mode="floor")
    center = torch.stack([(column.to(corners) + 0.5) * (2 / width) - 1, (row.to(corners) + 0.5) * (2 / height) - 1], -1)
    w = corners[..., 3]
    x, y = (corners[..., :2] - w[..., None] * center[:, None]).unbind(-1)
    (x1, x2), (y1, y2), (w1, w2) = ((value.roll(-1, 1), value.roll(-2, 1)) for value in (x, y, w))
    return x1 * y2 - y1 * x2, torch.stack([y1 * w2 - y2 * w1, x2 * w1 - x1 * w2], -1), center


def _visible_faces(pos: Tensor, tri: Tensor, height: int, width: int) -> Tensor:
    """The face that each pixel [H*W] shows, or -1."""
    corners = pos[tri]
    x0, x1, y0, y1 = _bounding_boxes(corners, height, width)
    across, area = x1 - x0 + 1, (x1 - x0 + 1) * (y1 - y0 + 1)
    depth = pos.new_full((height * width,), float("inf"))
    hits = []
    first = 0
    ends = area.cumsum(0)
    while first < len(tri):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(torch.searchsorted(ends, done + REFERENCE_CHUNK, right=True)))
        own = torch.repeat_interleave(torch.arange(first, last, device=pos.device), area[first:last])
        place = torch.arange(len(own), device=pos.device) - (ends - area)[own] + done
        pixel = (y0[own] + torch.div(place, across[own], rounding_mode="floor")) * width + x0[own] + place % across[own]
        e, slopes, _ = _edge_functions(corners[own], pixel, height, width)
        z, w = (e * corners[own][..., 2]).sum(1), (e * corners[own][..., 3]).sum(1)
        # A centre on an edge takes the side that it would be on a little higher up, or else a little to the left.
        on_edge = torch.where(slopes[..., 1] != 0, slopes[..., 1], -slopes[..., 0])
        side = torch.where(e != 0, e, on_edge)
        inside = ((side > 0).all(1) | (side < 0).all(1)) & (w / e.sum(1) > 0) & ((z / w).abs() <= 1)
        hits.append((pixel[inside], (z / w)[inside], own[inside]))
        depth.scatter_reduce_(0, pixel[inside], (z / w)[inside], "amin")
        first = last
    face = torch.full((height * width,), len(tri), dtype=torch.long, device=pos.device)
    for pixel, z, own in hits:
        nearest = z == depth[pixel]
        face.scatter_reduce_(0, pixel[nearest], own[nearest], "amin")
    return torch.where(face < len(tri), face, -1)


def _bounding_boxes(corners: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
    """First and last column and row [F] of the pixels that each face may cover; empty (last = first - 1) for those unseen."""
    w = corners[..., 3]
    in_front = w > 0
    boxes = []
    for axis, size in ((0, width), (1, height)):
        screen = (corners[..., axis] / torch.where(in_front, w, 1) * 0.5 + 0.5) * size - 0.5
        # A face that crosses the eye's plane has no bounds worth computing here.
        low = torch.where(in_front.all(1), screen.amin(1), 0.0) - BOX_MARGIN
        high = torch.where(in_front.all(1), screen.amax(1), size - 1.0) + BOX_MARGIN
        seen = in_front.any(1) & (low <= size - 1) & (high >= 0) & corners.isfinite().all((1, 2))
        first = torch.where(seen, low, 1).clamp(0, size - 1).ceil().long()
        boxes.append((first, torch.where(seen, high, 0).clamp(0, size - 1).floor().long()))
    (x0, x1), (y0, y1) = boxes
    seen = (x0 <= x1) & (y0 <= y1)
    return x0, torch.where(seen, x1, x0 - 1), y0, torch.where(seen, y1, y0 - 1)


def interpolate_reference(attr: Tensor, rast: Tensor, tri: Tensor, rast_db: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """`interpolate` in plain PyTorch, for any floating dtype."""
    face = rast[..., 3].detach().long() - 1
    covered = (face >= 0)[..., None]
    if tri.shape[0] == 0:
        own = tri.new_zeros((*face.shape, 3), dtype=torch.long)
        attr = torch.cat([attr, attr.new_zeros(attr.shape[0], 1, attr.shape[2])], 1)
    else:
        own = tri[face.clamp_min(0)].long()
    picture = torch.arange(rast.shape[0], device=attr.device) if attr.shape[0] > 1 else attr.new_zeros(rast.shape[0], dtype=torch.long)
    a0, a1, a2 = (attr[picture[:, None, None], own[..., corner]] for corner in range(3))
    u, v = rast[..., :1], rast[..., 1:2]
    out = torch.where(covered, u * a0 + v * a1 + (1 - u - v) * a2, 0)
    if rast_db is None:
        return out, None
    du, dv = rast_db[..., None, :2], rast_db[..., None, 2:]
    out_da = torch.where(covered[..., None], du * (a0 - a2)[..., None] + dv * (a1 - a2)[..., None], 0)
    return out, out_da.flatten(-2)


def antialias_reference(color: Tensor, rast: Tensor, pos: Tensor, tri: Tensor, topology: Topology | None = None) -> Tensor:
    """`antialias` in plain PyTorch, for any floating dtype."""
    opposite = (mesh_topology(tri) if topology is None else topology).opposite.long()
    pictures, height, width, channels = color.shape
    if color.numel() == 0:
        return color.clone()
    rast = rast.detach().reshape(-1, 4)
    flat = color.reshape(-1, channels)
    numbers = torch.arange(len(flat), device=color.device).reshape(pictures, height, width)
    blended = flat
    for axis in (0, 1):
        here, there = (numbers[:, :, :-1], numbers[:, :, 1:]) if axis == 0 else (numbers[:, :-1], numbers[:, 1:])
        here, there = here.reshape(-1), there.reshape(-1)
        mixed = (rast[here, 3] != rast[there, 3]).nonzero()[:, 0]
        here, there = here[mixed], there[mixed]
        depth = torch.where(rast[:, 3] > 0, rast[:, 2], float("inf"))
        here_is_nearer = depth[here] < depth[there]
        near, far = torch.where(here_is_nearer, here, there), torch.where(here_is_nearer, there, here)
        step = torch.where(here_is_nearer, 1.0, -1.0).to(color.dtype)
        t, crossed = _silhouette_crossing(pos, tri.long(), opposite, rast[near, 3].long() - 1, near, step, axis, height, width)
        weight = torch.where(crossed, t - 0.5, 0)[:, None]
        difference = flat[near] - flat[far]
        blended = blended.index_add(0, far, weight.clamp_min(0) * difference)
        blended = blended.index_add(0, near, weight.clamp_max(0) * difference)
    return blended.reshape(color.shape)


def _silhouette_crossing(pos, tri, opposite, face, near, step, axis, height, width) -> tuple[Tensor, Tensor]:
    """Distance t [N] in pixels from the centres of `near` to the edge by which the way to the next pixel along `axis` leaves their
    faces, and whether that is a silhouette between the two [N]."""
    pixel = near % (height * width)
    vertices = pos if pos.dim() == 2 else pos.reshape(-1, 4)
    before = 0 if pos.dim() == 2 else torch.div(near, height * width, rounding_mode="floor")[:, None] * pos.shape[1]
    across = opposite[face]
    corners = torch.stack([tri[face], across.clamp_min(0)], -1)
    corners = vertices[before + corners.flatten(1)].reshape(-1, 3, 2, 4)
    column, row = pixel % width, torch.div(pixel, width, rounding_mode="floor")
    center = torch.stack([(column.to(pos) + 0.5) * (2 / width) - 1, (row.to(pos) + 0.5) * (2 / height) - 1], -1)
    w = corners[..., 3]
    along, aside = (corners[..., :2] - w[..., None] * center[:, None, None]).unbind(-1)
    pixels_along, pixels_aside = width, height
    if axis == 1:
        along, aside, pixels_along, pixels_aside = aside, along, height, width
    # The line through the edge that faces corner k, (a, b, c) with a x + b y + c w = 0, x along the axis; from a = k + 1 to k + 2.
    (xa, xb), (ya, yb), (wa, wb) = ((value[..., 0].roll(-1, 1), value[..., 0].roll(-2, 1)) for value in (along, aside, w))
    a, b, c = ya * wb - yb * wa, xb * wa - xa * wb, xa * yb - ya * xb
    crossed = ((ya >= 0) != (yb >= 0)) & (a * (ya - yb) > 0)  # and not behind the eye
    t = -torch.where(crossed, c, 0) / torch.where(crossed, a, 1) * (step[:, None] * pixels_along / 2)
    t, last = torch.where(crossed, t, -torch.inf).max(1)
    rise, run = a.abs() * pixels_aside, b.abs() * pixels_along
    steep = run <= rise if axis == 0 else run < rise
    sides = a[..., None] * along + b[..., None] * aside + c[..., None] * w
    silhouette = (across < 0) | (sides[..., 0] * sides[..., 1] > 0)
    parts = (silhouette & steep).gather(1, last[:, None])[:, 0] & (t > -EDGE_SLACK) & (t < 1 + EDGE_SLACK)
    return torch.where(parts, t, 0.5).clamp(0, 1), parts
