"""The nodes for ComfyUI against its interface: a stand-in for its modules, its checks of a node, and files that others read."""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from batch_bench import SMALL, oracle, view_of
from splat_scenes import ball

import microdreamer
from microdreamer.gaussians.splat_files import WRITERS
from microdreamer.meshes.files import read_mesh
from microdreamer.pipeline.config import load_config

FOLDER = Path(__file__).resolve().parents[2] / "integrations" / "comfyui"


class Interrupted(Exception):
    """What ComfyUI raises in a run that its user stopped."""


class Comfy:
    """What of ComfyUI the nodes see."""

    def __init__(self, folder):
        self.folder, self.stopped, self.told = folder, False, []
        comfy = types.ModuleType("comfy")
        comfy.utils, comfy.model_management = types.ModuleType("comfy.utils"), types.ModuleType("comfy.model_management")
        told = self.told

        class ProgressBar:
            def __init__(self, total):
                self.total = total

            def update_absolute(self, value, total=None, preview=None):
                told.append(value / total)

        comfy.utils.ProgressBar = ProgressBar
        comfy.model_management.processing_interrupted = lambda: self.stopped
        comfy.model_management.throw_exception_if_processing_interrupted = self._throw
        paths = types.ModuleType("folder_paths")
        for name in ("input", "output"):
            (folder / name).mkdir()
            setattr(paths, f"get_{name}_directory", lambda name=name: str(folder / name))
        self.modules = {
            "comfy": comfy,
            "comfy.utils": comfy.utils,
            "comfy.model_management": comfy.model_management,
            "folder_paths": paths,
        }

    def _throw(self):
        if self.stopped:
            raise Interrupted

    def load(self):
        """The node pack as ComfyUI imports a folder of custom_nodes."""
        spec = importlib.util.spec_from_file_location("comfyui_pack", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)])
        pack = importlib.util.module_from_spec(spec)
        sys.modules["comfyui_pack"] = pack
        spec.loader.exec_module(pack)
        return pack


@pytest.fixture
def comfy(tmp_path, monkeypatch):
    stand_in = Comfy(tmp_path)
    for name, module in stand_in.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("comfyui_pack", "comfyui_pack.nodes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return stand_in


@pytest.fixture
def quick(monkeypatch):
    """A prior that knows an object, and settings that take a moment, whatever configuration a node names."""
    prior = oracle()
    monkeypatch.setattr(microdreamer, "load_prior", lambda *_: prior, raising=False)
    small = [f"{key}={value}" for key, value in (SMALL | {"refine_size": 32, "refine_steps": 2, "geometry_steps": 2}).items()]
    monkeypatch.setattr(microdreamer, "load_config", lambda name, words: load_config(name, [*small, *words]), raising=False)
    return prior


def run(pack, name, **inputs):
    """As ComfyUI runs a node: by its class, its inputs checked against what it declares, its outputs against what it says it gives."""
    node = pack.NODE_CLASS_MAPPINGS[name]
    declared = node.INPUT_TYPES()
    allowed = declared["required"] | declared.get("optional", {})
    given = {key: kind[1]["default"] if len(kind) > 1 else kind[0][0] for key, kind in declared["required"].items()}
    given |= inputs
    assert set(given) <= set(allowed)
    outputs = getattr(node(), node.FUNCTION)(**given)
    assert isinstance(outputs, tuple) and len(outputs) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    for value, kind in zip(outputs, node.RETURN_TYPES, strict=True):
        assert isinstance(value, torch.Tensor if kind == "IMAGE" else str)
    return outputs


def test_every_node_says_what_comfyui_asks_of_one(comfy):
    pack = comfy.load()
    assert set(pack.NODE_CLASS_MAPPINGS) == set(pack.NODE_DISPLAY_NAME_MAPPINGS)
    for node in pack.NODE_CLASS_MAPPINGS.values():
        declared = node.INPUT_TYPES()
        assert set(declared) <= {"required", "optional", "hidden"} and callable(getattr(node, node.FUNCTION)) and node.CATEGORY
        for kind in (declared["required"] | declared.get("optional", {})).values():
            assert isinstance(kind, tuple) and (
                kind[0] in ("IMAGE", "MASK", "STRING", "INT", "FLOAT", "BOOLEAN") or isinstance(kind[0], list)
            )
            if len(kind) > 1 and "min" in kind[1]:
                assert kind[1]["min"] <= kind[1]["default"] <= kind[1]["max"]
    assert pack.NODE_CLASS_MAPPINGS["MicroDreamerPictureTo3D"].INPUT_TYPES()["required"]["config"][0][0] == "micro"


@pytest.mark.parametrize("refine", [False, True])
def test_a_picture_with_its_mask_becomes_a_mesh_gaussians_and_views(comfy, quick, refine):
    rgba = torch.from_numpy(np.asarray(view_of(quick)).copy()).float() / 255
    image, mask = rgba[None, ..., :3], 1 - rgba[None, ..., 3]
    pack = comfy.load()
    mesh, gaussians, views = run(pack, "MicroDreamerPictureTo3D", image=image, mask=mask, faces=400, refine=refine, seed=2)
    assert views.shape == (8, 32, 32, 3) and views.min() >= 0 and views.max() <= 1 and views.std() > 0.02
    out = comfy.folder / "output"
    assert len(trimesh.load(out / mesh, force="mesh").faces) <= 400
    assert mesh.startswith("microdreamer/") and len(microdreamer.GaussianModel.load_ply(out / gaussians)) > 10
    assert comfy.told and comfy.told[-1] == pytest.approx(1, abs=0.01) and all(0 <= share <= 1 for share in comfy.told)
    again, _, same = run(pack, "MicroDreamerPictureTo3D", image=image, mask=mask, faces=400, refine=refine, seed=2)
    assert again != mesh and torch.equal(same, views)  # another file, the same object


def test_the_mask_is_the_picture_s_alpha_and_zeros_are_none(comfy):
    nodes = sys.modules["comfyui_pack.nodes"] if comfy.load() else None
    image = torch.rand(2, 6, 8, 3)
    mask = torch.zeros(1, 6, 8)
    assert nodes.rgba_of(image, None).shape == nodes.rgba_of(image, mask).shape == (6, 8, 3)
    mask[0, :3] = 1
    found = nodes.rgba_of(image, mask)
    assert found.shape == (6, 8, 4) and (found[:3, :, 3] == 0).all() and (found[3:, :, 3] == 1).all()
    np.testing.assert_array_equal(found[..., :3], image[0].numpy())
    assert nodes.rgba_of(image, torch.ones(64, 64)).shape == (6, 8, 4)  # Load Image's mask of another size


def test_a_sentence_alone(comfy, quick):
    mesh, _, _ = run(comfy.load(), "MicroDreamerPictureTo3D", prompt="an egg", faces=200)
    assert "an egg" in mesh and (comfy.folder / "output" / mesh).is_file()


def test_a_run_that_is_stopped_ends_as_comfyui_wants_it(comfy, quick):
    comfy.stopped = True
    with pytest.raises(Interrupted):
        run(comfy.load(), "MicroDreamerPictureTo3D", prompt="an egg")
    assert list((comfy.folder / "output").rglob("*.*")) == []


def test_gaussians_become_a_mesh(comfy):
    WRITERS["spz"](comfy.folder / "input" / "ball.spz", ball(1500))
    (mesh,) = run(comfy.load(), "MicroDreamerSplatsToMesh", gaussians="ball.spz", faces=300, texture_size=64)
    read = read_mesh(comfy.folder / "output" / mesh)
    assert len(read.faces) <= 300 and read.texture.shape == (64, 64, 3)


def test_a_mesh_is_unwrapped_anew_and_keeps_its_colours(comfy):
    shape = trimesh.creation.icosphere(2, 0.5)
    shape.visual.vertex_colors = np.where(shape.vertices[:, 1:2] > 0, [255, 0, 0, 255], [0, 0, 255, 255]).astype(np.uint8)
    shape.export(comfy.folder / "output" / "ball.glb")
    (mesh,) = run(comfy.load(), "MicroDreamerUnwrap", mesh="ball.glb", texture_size=128)
    read = read_mesh(comfy.folder / "output" / mesh)
    assert len(read.faces) == len(shape.faces) and read.texture.shape == (128, 128, 3)
    assert read.texture[..., 0].max() > 0.9 and read.texture[..., 2].max() > 0.9 and read.texture[..., 1].max() < 0.1


@pytest.mark.parametrize("name", ["../secret.ply", "/etc/passwd", "none.ply", "", ".", "link.ply"])
def test_files_elsewhere_are_not_read(comfy, name):
    (comfy.folder / "secret.ply").write_text("secret")
    (comfy.folder / "input" / "link.ply").symlink_to(comfy.folder / "secret.ply")
    pack = comfy.load()
    for node, key in (("MicroDreamerSplatsToMesh", "gaussians"), ("MicroDreamerUnwrap", "mesh")):
        with pytest.raises(ValueError, match="expected a file in ComfyUI's input or output folder"):
            run(pack, node, **{key: name})
