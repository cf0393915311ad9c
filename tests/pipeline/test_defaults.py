"""A default that a key of the configuration shares with a function of the library has one home, from which both take it."""

import ast
import dataclasses
import inspect
from pathlib import Path

import pytest
import yaml

import microdreamer
from cam_utils import orbit_cameras
from microdreamer.core.profiler import session
from microdreamer.distillation.schedules import plan_rounds
from microdreamer.distillation.sir import Fitter, ViewRange, repair
from microdreamer.fields.conversion import convert
from microdreamer.gaussians import LearningRates
from microdreamer.gaussians.extraction import extract_fields, extract_mesh
from microdreamer.gaussians.model import GaussianModel
from microdreamer.guidance import load_prior
from microdreamer.guidance.micro.read_off import read_off
from microdreamer.guidance.published.latent import Parts
from microdreamer.meshes.baking import baked, unwrapped
from microdreamer.meshes.unwrap.parametrize import unwrap
from microdreamer.meshes.vertex_fit import RefineSettings
from microdreamer.pipeline.config import SCHEMA, Config

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "microdreamer"
ROOMS = ("gaussians", "meshes", "distillation")  # that the keys of a run are for
OTHERS = {("initial_ball", "radius")}  # has a key's name and means something else: the ball's
SHARED = [
    (GaussianModel.initial_ball, {"count": "num_pts", "sh_degree": "sh_degree"}),
    (GaussianModel.densify_and_prune, {"grad_threshold": "densify_grad_threshold", "percent_dense": "percent_dense"}),
    (GaussianModel.filter_floaters, {"radius": "radius", "fov_y": "fovy"}),
    (LearningRates, {field.name: field.name for field in dataclasses.fields(LearningRates)}),
    (RefineSettings, {"steps": "geometry_steps"}),
    (ViewRange, {"even_view": "even_view", "fewest": "batch_size_min", "most": "batch_size_max"}),
    (Fitter, {"weight": "lambda_sd", "ref_loss": "ref_loss", "ref_mask_loss": "ref_mask_loss"}),
    (repair, {"temperature": "temperature"}),
    (read_off, {"temperature": "temperature"}),
    (plan_rounds, {"steps_schedule": "steps_schedule"}),
    (convert, {"target_faces": "mesh_faces"}),
    (extract_fields, {"resolution": "mesh_resolution"}),
    (extract_mesh, {"resolution": "mesh_resolution", "target_faces": "mesh_faces", "density_threshold": "density_thresh"}),
    (unwrapped, {"method": "unwrap"}),
    (baked, {"method": "unwrap"}),
    (unwrap, {"method": "unwrap", "resolution": "texture_size"}),
    (microdreamer.unwrap, {"method": "unwrap", "resolution": "texture_size"}),
    (orbit_cameras, {"radius": "radius", "fov_y": "fovy"}),
    (load_prior, {"path": "prior_path", "precision": "precision", "memory_gib": "prior_memory"}),
    (Parts.choose, {"precision": "precision", "memory_gib": "prior_memory"}),
    (session, {"scope": "profiling.scope", "rounds": "profiling.rounds"}),
]


@pytest.mark.parametrize(("function", "keys"), SHARED, ids=lambda value: getattr(value, "__qualname__", ""))
def test_a_function_and_the_configuration_have_the_same_default(function, keys):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in keys} == {name: SCHEMA.fields[key].default for name, key in keys.items()}


def literals_of(tree: ast.Module):
    """(function or class, parameter) of each that has a number or a text for its default; 0 only leaves something out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            given = node.args.posonlyargs + node.args.args
            pairs = [*zip(given[len(given) - len(node.args.defaults) :], node.args.defaults, strict=True)]
            pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            found = [(argument.arg, default) for argument, default in pairs]
        elif isinstance(node, ast.ClassDef):
            found = [(entry.target.id, entry.value) for entry in node.body if isinstance(entry, ast.AnnAssign)]
        else:
            continue
        for name, default in found:
            if isinstance(default, ast.Constant) and not isinstance(default.value, bool) and default.value:
                yield node.name, name


def test_no_parameter_of_a_keys_name_has_a_default_of_its_own():
    found = set()
    for path in (path for room in ROOMS for path in sorted((PACKAGE / room).rglob("*.py"))):
        found |= {
            entry for entry in literals_of(ast.parse(path.read_text(encoding="utf-8"))) if entry[1] in SCHEMA.fields.keys() - {"device"}
        }
    homes = {(LearningRates.__name__, field.name) for field in dataclasses.fields(LearningRates)}
    assert found == homes | OTHERS


@pytest.mark.parametrize("path", list(SCHEMA.shipped().values()), ids=lambda path: path.stem)
def test_a_shipped_configuration_names_only_what_differs(path):
    """The prior, which the file is for, is always named."""
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert "prior" in given
    assert [key for key, value in given.items() if key != "prior" and value == getattr(Config(), key)] == []
