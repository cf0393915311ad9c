"""White before white costs nothing: a shape may stay in a fog of its background's colour, which the term of sparsity clears."""

import json
from pathlib import Path

import pytest
import torch
from library_bench import DrawnStores, Listener

from cam_utils import orbit_cameras
from microdreamer.pipeline.launch import run, views
from microdreamer.pipeline.launch.config import load_launch_config

STEPS = 150
SMALL = (
    *("system.generator.width=48", "system.generator.token_side=8", "system.generator.layers=2", "system.generator.attention_heads=2"),
    *("system.generator.plane_channels=12", "data.size=14", "data.batch_size=8", f"trainer.max_steps={STEPS}", "device=cpu"),
    *("system.optimizer.lr_geometry=0.003", "system.renderer.num_proposals=24", "system.renderer.num_fine_samples=12"),
    *(f"system.guidance.min_step_percent=[0,0.9,0.1,{STEPS}]", f"system.guidance.max_step_percent=[0,0.98,0.5,{STEPS}]"),
)


def trained(folder, monkeypatch, *words):
    """Mean opacity where the object that the prior knows is, and where it is not; the picture's squared error."""
    monkeypatch.setattr(run, "SentenceStore", DrawnStores)
    library = folder / "words.json"
    library.write_text(json.dumps({"train": ["a", "b"], "val": ["c"], "test": ["d"]}))
    yaml = Path(__file__).resolve().parents[3] / "configs" / "multi-prompt" / "triplane_transformer_micro.yaml"
    config = load_launch_config(yaml, [*SMALL, f"system.prompt_processor.library={library}", f"exp_root_dir={folder}", *words])
    prior = Listener(resolution=14)
    trainer = run.make_trainer(config, prior)
    for step in range(STEPS):
        trainer.step(step)
    cameras = orbit_cameras(-15.0, [0.0, 90.0, 180.0, 270.0], 2.0, fov_y=49.1, width=40, height=40)
    model, store = trainer.learner.model, trainer.sentences.store
    with views.evaluating(model), torch.no_grad():
        shape = model.shape(model.condition(*(store.text([0], kind, "cpu") for kind in (model.geometry.text, "global"))))
        seen, truth = shape.render(cameras, 1.0, normals=False), prior.truth.render(cameras, torch.ones(3))
    inside, outside = (float(seen.alpha[where].mean()) for where in (truth.alpha > 0.95, truth.alpha < 0.01))
    return inside, outside, float((seen.image - truth.image).square().mean())


@pytest.mark.slow
def test_sparsity_clears_the_fog(tmp_path, monkeypatch):
    foggy = trained(tmp_path, monkeypatch, "system.loss.lambda_sparsity=0")
    clear = trained(tmp_path, monkeypatch, "system.loss.lambda_sparsity=200")
    assert foggy[0] > 0.95 and clear[0] > 0.95  # the object is there
    assert foggy[1] > 0.5 and clear[1] < 0.05
    assert clear[2] < foggy[2]
