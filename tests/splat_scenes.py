"""Gaussians of the tests' own making, and files of them as other programs write them."""

import numpy as np

from microdreamer.gaussians.formats.common import sigmoid

PLAIN = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")


def random_parameters(count: int = 60, degree: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Raw parameters of Gaussians of all kinds; colours and harmonics lie in the range that every format holds."""
    rng = np.random.default_rng(seed)
    parameters = {
        "means": rng.normal(size=(count, 3)),
        "sh_dc": rng.uniform(-1.7, 1.7, (count, 1, 3)),
        "sh_rest": rng.uniform(-0.9, 0.9, (count, (degree + 1) ** 2 - 1, 3)),
        "opacity_logits": rng.uniform(-4, 4, count),
        "log_scales": rng.uniform(-6, -1, (count, 3)),
        "quaternions": rng.normal(size=(count, 4)),
    }
    return {name: values.astype(np.float32) for name, values in parameters.items()}


def ball(count: int = 1500, radius: float = 0.4, seed: int = 0) -> dict[str, np.ndarray]:
    """Opaque round Gaussians on a sphere, red above and blue below."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3))
    points *= radius / np.linalg.norm(points, axis=1, keepdims=True)
    parameters = {
        "means": points,
        "sh_dc": np.where(points[:, 1:2] > 0, [1.0, -1.4, -1.4], [-1.4, -1.4, 1.0])[:, None],
        "sh_rest": np.zeros((count, 0, 3)),
        "opacity_logits": np.full(count, 4.0),
        "log_scales": np.full((count, 3), np.log(0.06 * radius)),
        "quaternions": np.tile([1.0, 0, 0, 0], (count, 1)),
    }
    return {name: values.astype(np.float32) for name, values in parameters.items()}


def floor(half_width: float, height: float, count: int = 1500, seed: int = 1) -> dict[str, np.ndarray]:
    """A square of Gaussians in the plane y = height."""
    parameters = ball(count, 1.0, seed)
    spread = np.random.default_rng(seed).uniform(-half_width, half_width, (count, 2))
    parameters["means"] = np.stack([spread[:, 0], np.full(count, height), spread[:, 1]], axis=1).astype(np.float32)
    parameters["log_scales"][:] = np.log(0.03)
    return parameters


def joined(*sets: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([parameters[name] for parameters in sets]) for name in sets[0]}


def changed(parameters: dict[str, np.ndarray], **new: np.ndarray) -> dict[str, np.ndarray]:
    return parameters | {name: np.asarray(values, np.float32) for name, values in new.items()}


def columns(parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The properties of a PLY by name, without normals."""
    rest = parameters["sh_rest"]
    values = {name: parameters["means"][:, axis] for axis, name in enumerate("xyz")}
    values |= {f"f_dc_{channel}": parameters["sh_dc"][:, 0, channel] for channel in range(3)}
    flat = rest.transpose(0, 2, 1).reshape(len(rest), -1) if rest.size else np.zeros((len(rest), 0))
    values |= {f"f_rest_{index}": flat[:, index] for index in range(flat.shape[1])}
    values["opacity"] = parameters["opacity_logits"]
    values |= {f"scale_{axis}": parameters["log_scales"][:, axis] for axis in range(3)}
    return values | {f"rot_{index}": parameters["quaternions"][:, index] for index in range(4)}


def ply_bytes(values: dict[str, np.ndarray], comments: tuple[str, ...] = (), kind: str = "float") -> bytes:
    """A binary PLY of one element `vertex`."""
    code = {"float": "<f4", "double": "<f8"}[kind]
    count = len(next(iter(values.values())))
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {text}" for text in comments), f"element vertex {count}"]
    lines += [f"property {kind} {name}" for name in values] + ["end_header", ""]
    return "\n".join(lines).encode() + np.stack(list(values.values()), axis=1).astype(code).tobytes()


def opacities(parameters: dict[str, np.ndarray]) -> np.ndarray:
    return sigmoid(parameters["opacity_logits"])


def angles(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Angles [N] in degrees between rotations given as quaternions [N,4]."""
    one, other = (q.astype(np.float64) / np.linalg.norm(q.astype(np.float64), axis=1, keepdims=True) for q in (one, other))
    # 1 - |dot| loses half of the digits near 0, the length of the difference does not.
    difference = np.minimum(np.linalg.norm(one - other, axis=1), np.linalg.norm(one + other, axis=1))
    return np.degrees(4 * np.arcsin(np.clip(difference / 2, 0, 1)))
