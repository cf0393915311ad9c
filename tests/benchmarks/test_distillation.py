"""The comparison of objectives in small: what it measures is kept, the best setting goes on, the report holds every method."""

import json
import sys
from pathlib import Path

import pytest
from fake_priors import OraclePrior, coloured_ellipsoid

from benchmarks import distillation
from microdreamer.evaluation import image_to_3d

OBJECTS = str(Path(__file__).resolve().parents[2] / "test_data" / "objects_small.npz")
TINY = [
    "data.size=16",
    "data.batch_size=4",
    "system.geometry.n_levels=4",
    "system.geometry.log2_hashmap_size=12",
    "system.geometry.num_pts=200",
    "system.renderer.num_samples_per_ray=32",
]
ROUNDS = [
    "system.sir.total_steps=2",
    "system.sir.denoise_steps=2",
    "system.sir.init_steps=2",
    "system.sir.steps_min=2",
    "system.sir.steps_max=2",
]


@pytest.fixture
def small(monkeypatch, tmp_path):
    step = [*TINY, "trainer.max_steps=2", "system.guidance.guidance_scale=1"]
    candidates = {
        "field": {"x0sds": [step, [*step, "trainer.max_steps=4"]]},
        "gaussians": {"sir": [[*TINY, *ROUNDS, "system.guidance.objective=sir", "system.guidance.guidance_scale=1"]]},
    }
    monkeypatch.setattr(distillation, "CANDIDATES", candidates)
    monkeypatch.setattr(distillation, "METHODS", [("field", "x0sds"), ("gaussians", "sir")])
    monkeypatch.setattr(distillation, "TUNING_OBJECTS", 1)
    monkeypatch.setattr(distillation, "LOOKS", 1)
    monkeypatch.setattr(distillation, "MESH_RESOLUTION", 16)
    monkeypatch.setattr(image_to_3d, "VIEW_SIZE", 32)
    monkeypatch.setattr(distillation, "OBJECTS", 2)
    monkeypatch.setattr(distillation, "load_prior", lambda *_: OraclePrior(coloured_ellipsoid(), 16))

    def run(what, *words):
        monkeypatch.setattr(sys, "argv", ["x", what, "--objects", OBJECTS, "--out", str(tmp_path), "--device", "cpu", *words])
        assert distillation.main() == 0

    return run


def test_all_parts_follow_one_another(small, tmp_path, capsys):
    small("tune")
    tuned = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("tune_*.json")}
    assert tuned.keys() == {"tune_field_x0sds_0", "tune_field_x0sds_1", "tune_gaussians_sir_0"}
    assert [tuned[f"tune_field_x0sds_{number}"]["evaluations"] for number in range(2)] == [4, 8]
    best = max(range(2), key=lambda number: tuned[f"tune_field_x0sds_{number}"]["psnr_db"])
    small("evaluate", "--part", "0/2")
    small("evaluate", "--part", "1/2")
    small("time")
    found = [json.loads(path.read_text()) for path in tmp_path.glob("evaluate_field_*.json")]
    assert len(found) == 2 and all(record["evaluations"] == 4 * (best + 1) for record in found)
    assert all(record["curve"][-1] == [1.0, record["psnr_db"]] and 0 < record["ssim"] < 1 for record in found)
    small("sheet", "--plot", str(tmp_path / "sheet.png"))
    capsys.readouterr()
    small("report", "--plot", str(tmp_path / "curves.png"))
    table = capsys.readouterr().out
    assert f"| field | x0-SDS | {best + 1} of 2 | {4 * (best + 1)} |" in table and "| gaussians | SIR | 1 of 1 |" in table
    assert (tmp_path / "curves.png").stat().st_size > 1000 and (tmp_path / "sheet.png").stat().st_size > 1000


def test_a_report_of_nothing_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="run tune first"):
        distillation._best(tmp_path, "field", "x0sds")
