"""The faces at the root: what their first lines promise."""

import os

import pytest
import torch
from fake_priors import coloured_ellipsoid

import gs_renderer
import mesh_renderer
import nerf_renderer
from microdreamer.kernels import extension, gaussian_field


def test_switches_choose_the_way_of_the_field_for_a_block(monkeypatch):
    monkeypatch.delenv("USE_CUDA_GAUSS", raising=False)
    monkeypatch.setenv("USE_CUDA_EXTRACT", "")
    plain, calls = gaussian_field.extract_fields_reference, []
    monkeypatch.setattr(gaussian_field, "extract_fields_reference", lambda *given: (calls.append(1), plain(*given))[1])
    model = coloured_ellipsoid()
    usual = gs_renderer.extract_fields(model, 32).values
    before = len(calls)
    with gs_renderer.switches(extract=False, gauss=False):
        assert os.environ["USE_CUDA_GAUSS"] == os.environ["USE_CUDA_EXTRACT"] == "0"
        slow = gs_renderer.extract_fields(model, 32).values
    assert len(calls) == before + 1 and os.environ["USE_CUDA_EXTRACT"] == "" and "USE_CUDA_GAUSS" not in os.environ
    torch.testing.assert_close(usual, slow, rtol=0, atol=1e-5)


def test_a_demanded_kernel_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(extension, "available", lambda _: False)
    with gs_renderer.switches(extract=True), pytest.raises(RuntimeError, match="USE_CUDA_EXTRACT=1 but there is no compiled cpu kernel"):
        gs_renderer.extract_fields(coloured_ellipsoid(), 32)


@pytest.mark.parametrize("face", [gs_renderer, mesh_renderer, nerf_renderer])
def test_faces_have_what_they_name(face):
    assert all(getattr(face, name) is not None for name in face.__all__)
