"""The data renderer: many views of many packed meshes in one call, without gradients, as premultiplied RGBA bytes.

It makes training pictures on the fly, ground truth for evaluations, and test pictures. Light is computed in linear
intensities: `albedo * (hemisphere ambient + sum max(0, n.l) intensity) + gloss * sum (n.h)^exponent intensity`
(Blinn, "Models of light reflection for computer synthesized pictures", SIGGRAPH 1977), clipped to 1 and encoded as sRGB.
Both sides of a triangle are drawn; normals are turned to the viewer. The samples of a pixel are averaged after encoding,
so a picture over white is the box-filtered large picture over white. Triangles with a corner nearer to the camera plane
than `NEAR_PLANE` are not drawn: objects are expected in front of the camera.
"""

from __future__ import annotations

import torch
from torch import Tensor

from microdreamer.kernels import extension

NEAR_PLANE = 0.05
MAX_LIGHTS = 8
_DEFAULT_MAX_FACES = 4096


def render_meshes(
    vertices: Tensor,
    faces: Tensor,
    corner_colors: Tensor,
    corner_normals: Tensor,
    vertex_offset: Tensor,
    face_offset: Tensor,
    mesh_index: Tensor,
    object_to_world: Tensor,
    color_transform: Tensor | None,
    world_to_camera: Tensor,
    intrinsics: Tensor,
    lights: Tensor,
    ambient: Tensor,
    width: int,
    height: int,
    supersample: int = 2,
    max_faces: int | None = None,
    gloss: Tensor | None = None,
) -> Tensor:
    """Draw view b of mesh `mesh_index[b]`: [B,4,height,width] uint8, sRGB premultiplied by coverage, and coverage.

    Over white: `rgb + 255 - alpha`. M meshes are packed one after another; all tensors are contiguous, on one device.

    vertices [V,3] float32; faces [F,3] int32, numbers within the mesh; corner_colors [F,3,3] uint8, sRGB albedo of each
    corner; corner_normals [F,3,3] int8, times 127 (zero: the triangle's own); vertex_offset, face_offset [M+1] int64:
    where each mesh begins and ends; mesh_index [B] int64.
    object_to_world [B,3,4] float32: any affine map, mirroring and unequal scales too (normals go by the inverse transpose).
    color_transform [B,3,4] float32 or None (identity): affine map of the **sRGB** albedo 0..1 (rows: red, green, blue),
    clipped to 0..1 afterwards.
    world_to_camera [B,3,4] or [B,4,4] float32: rigid (mirrored at most), OpenCV axes; intrinsics [B,4] float32: fx, fy,
    cx, cy in pixels, pixel centres at +0.5.
    lights [B,L,6] float32: unit direction to the light in world axes, linear rgb intensity; L at most `MAX_LIGHTS`.
    ambient [B,2,3] float32: linear light on surfaces that face up (+Y) and down; in between by the normal's y.
    gloss [B,2] float32 or None (none): strength and exponent of the highlight.
    supersample: samples a pixel along x and y. max_faces: the largest mesh's number of faces, a hint for how the GPU
    shares out the work; the picture does not depend on it. No host synchronisation: a call can be captured in a CUDA graph.

    On the CPU a mesh_index out of range is an IndexError and a face that names a missing vertex a ValueError; on CUDA,
    where checking would stop the stream, such a view or face stays empty. Wrong shapes and dtypes are ValueErrors.
    """
    color_transform, gloss = _with_defaults(mesh_index, object_to_world, color_transform, gloss)
    arguments = (vertices, faces, corner_colors, corner_normals, vertex_offset, face_offset, mesh_index, object_to_world, color_transform)
    arguments += (world_to_camera, intrinsics, lights, ambient)
    if not extension.use_compiled(vertices.device):
        return render_meshes_reference(*arguments, width, height, supersample, gloss=gloss)
    return torch.ops.microdreamer.render_meshes(*arguments, gloss, width, height, supersample, max_faces or _DEFAULT_MAX_FACES)


def _with_defaults(mesh_index: Tensor, like: Tensor, color_transform: Tensor | None, gloss: Tensor | None) -> tuple[Tensor, Tensor]:
    if color_transform is None:
        color_transform = torch.eye(3, 4, device=like.device).repeat(len(mesh_index), 1, 1)
    if gloss is None:
        gloss = torch.zeros(len(mesh_index), 2, device=like.device)
    return color_transform, gloss


def _fake(vertices, faces, corner_colors, corner_normals, vertex_offset, face_offset, mesh_index, *rest):
    width, height = rest[-4], rest[-3]
    return vertices.new_empty((mesh_index.shape[0], 4, height, width), dtype=torch.uint8)


extension.register("render_meshes", fake=_fake)


def srgb_to_linear(value: Tensor) -> Tensor:
    """Linear intensity of an sRGB value, both 0..1 (IEC 61966-2-1)."""
    return torch.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(value: Tensor) -> Tensor:
    """sRGB value of a linear intensity, both 0..1 (IEC 61966-2-1)."""
    return torch.where(value <= 0.0031308, value * 12.92, 1.055 * value.clamp_min(1e-9) ** (1 / 2.4) - 0.055)


def render_meshes_reference(
    vertices: Tensor,
    faces: Tensor,
    corner_colors: Tensor,
    corner_normals: Tensor,
    vertex_offset: Tensor,
    face_offset: Tensor,
    mesh_index: Tensor,
    object_to_world: Tensor,
    color_transform: Tensor | None,
    world_to_camera: Tensor,
    intrinsics: Tensor,
    lights: Tensor,
    ambient: Tensor,
    width: int,
    height: int,
    supersample: int = 2,
    max_faces: int | None = None,
    gloss: Tensor | None = None,
) -> Tensor:
    """`render_meshes` in plain PyTorch and float64, every sample against every triangle: for small pictures."""
    color_transform, gloss = _with_defaults(mesh_index, object_to_world, color_transform, gloss)
    views = []
    for b, mesh in enumerate(mesh_index.tolist()):
        if not 0 <= mesh < len(vertex_offset) - 1:
            raise IndexError(f"mesh_index: expected 0..{len(vertex_offset) - 2}, got {mesh} for view {b}")
        own_vertices = vertices[vertex_offset[mesh] : vertex_offset[mesh + 1]].double()
        own = slice(int(face_offset[mesh]), int(face_offset[mesh + 1]))
        to_world, to_camera = object_to_world[b].double(), world_to_camera[b, :3].double()
        rotation = to_camera[:, :3]
        object_to_camera = rotation @ to_world[:, :3]
        translation = rotation @ to_world[:, 3] + to_camera[:, 3]
        corners = (own_vertices @ object_to_camera.T + translation)[faces[own].long()]
        normal_matrix = torch.linalg.inv(object_to_camera).T
        colors = corner_colors[own].double() / 255 @ color_transform[b, :, :3].double().T + color_transform[b, :, 3].double()
        normals = corner_normals[own].double() / 127 @ normal_matrix.T
        scene = lights[b].double(), ambient[b].double(), gloss[b].double()
        views.append(_render_view(corners, colors, normals, rotation, intrinsics[b].double(), scene, width, height, supersample))
    return torch.stack(views) if views else vertices.new_zeros((0, 4, height, width), dtype=torch.uint8)


def _render_view(corners, colors, normals, rotation, intrinsics, scene, width, height, supersample) -> Tensor:
    ys, xs = torch.meshgrid(torch.arange(height * supersample), torch.arange(width * supersample), indexing="ij")
    points = torch.stack([xs, ys], dim=-1).reshape(-1, 2).to(corners) / supersample + 0.5 / supersample
    face, shares = _nearest_faces(corners, points, intrinsics)
    rgba = points.new_zeros(len(points), 4)
    hit = face >= 0
    if bool(hit.any()):
        rgba[hit, :3] = _shade(
            corners[face[hit]], colors[face[hit]], normals[face[hit]], shares[hit], points[hit], rotation, intrinsics, scene
        )
        rgba[hit, 3] = 1.0
    rgba = rgba.reshape(height, supersample, width, supersample, 4).mean(dim=(1, 3))
    return (rgba * 255 + 0.5).floor().to(torch.uint8).permute(2, 0, 1)


def _nearest_faces(corners: Tensor, points: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Which face each point [S,2] (pixels) sees, or -1 [S], and the perspective-correct shares of its corners [S,3]."""
    face = points.new_full((len(points),), -1, dtype=torch.long)
    shares, nearest = points.new_zeros(len(points), 3), points.new_zeros(len(points))
    projected = corners[..., :2] / corners[..., 2:] * intrinsics[:2] + intrinsics[2:]
    for index in range(len(corners)):
        if not bool((corners[index, :, 2] >= NEAR_PLANE).all()):
            continue
        a, b, c = projected[index]
        edges = torch.stack([_signed_area(b, c, points), _signed_area(c, a, points), _signed_area(a, b, points)], dim=-1)
        area = _signed_area(a, b, c)
        if area == 0:
            continue
        weighted = edges / area / corners[index, :, 2]
        inverse_depth = weighted.sum(-1)
        wins = (edges / area >= 0).all(-1) & (inverse_depth > nearest)
        face[wins], nearest[wins] = index, inverse_depth[wins]
        shares[wins] = weighted[wins] / inverse_depth[wins, None]
    return face, shares


def _signed_area(a: Tensor, b: Tensor, point: Tensor) -> Tensor:
    return (b[0] - a[0]) * (point[..., 1] - a[1]) - (b[1] - a[1]) * (point[..., 0] - a[0])


def _shade(corners, colors, normals, shares, points, rotation, intrinsics, scene) -> Tensor:
    lights, ambient, gloss = scene
    albedo = srgb_to_linear((shares[..., None] * colors).sum(1).clamp(0, 1))
    face_normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    face_normal = torch.where((face_normal * corners[:, 0]).sum(-1, keepdim=True) > 0, -face_normal, face_normal)
    normal = (shares[..., None] * normals).sum(1)
    normal = torch.where(normal.norm(dim=-1, keepdim=True) > 1e-10, normal, face_normal)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    normal = torch.where((normal * face_normal).sum(-1, keepdim=True) < 0, -normal, normal)
    upward = (normal @ rotation[:, 1:2]) * 0.5 + 0.5
    received = ambient[1] + upward * (ambient[0] - ambient[1])
    to_viewer = torch.cat([(intrinsics[2:] - points) / intrinsics[:2], -torch.ones_like(points[:, :1])], dim=-1)
    to_viewer = torch.nn.functional.normalize(to_viewer, dim=-1)
    highlight = torch.zeros_like(received)
    for light in lights:
        direction, intensity = rotation @ light[:3], light[3:]
        cosine = (normal @ direction).clamp_min(0)[:, None]
        half = torch.nn.functional.normalize(direction + to_viewer, dim=-1)
        received = received + cosine * intensity
        shine = (normal * half).sum(-1, keepdim=True).clamp_min(1e-6) ** gloss[1]
        highlight = highlight + (cosine > 0) * gloss[0] * shine * intensity
    return linear_to_srgb((albedo * received + highlight).clamp(0, 1))
