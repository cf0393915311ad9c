"""launch.py's configuration: what files and words may hold, stages, and what goes on from an earlier run."""

import pytest

from microdreamer.core.errors import UserError
from microdreamer.core.paths import shipped_folder
from microdreamer.pipeline.launch.commands import config_of
from microdreamer.pipeline.launch.config import OBJECTIVES, SCHEMA, load_launch_config

CONFIGS = sorted(path.stem for path in shipped_folder("configs").glob("*.yaml") if "system:" in path.read_text())


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_that_ship_are_whole(name):
    config = load_launch_config(shipped_folder("configs") / f"{name}.yaml", ["prompt=a red car"])
    assert config.name == name and config.system.prompt_processor.prompt == "a red car"
    assert config.system.guidance.objective in OBJECTIVES


def test_the_published_values_are_the_defaults():
    config = load_launch_config(shipped_folder("configs") / "mvdream_sd21.yaml", [])
    data, system = config.data, config.system
    assert (data.batch_size, data.size, data.resolution_milestones, config.trainer.max_steps) == ([8, 4], [64, 256], [5000], 10_000)
    assert (system.guidance.guidance_scale, system.guidance.recon_std_rescale) == (50, 0.5)
    assert (system.guidance.min_step_percent, system.guidance.max_step_percent) == ([0, 0.98, 0.02, 8000], [0, 0.98, 0.5, 8000])
    assert system.prompt_processor.negative_prompt.startswith("ugly, bad anatomy")


def test_the_words_of_the_published_programs_work():
    words = ["system.guidance.recon_std_rescale=0.3", "system.use_recompute=true", 'system.prompt_processor.prompt=a cat, "sitting"']
    config = load_launch_config(None, words)
    assert config.system.guidance.recon_std_rescale == 0.3 and config.system.use_recompute
    assert config.system.prompt_processor.prompt == 'a cat, "sitting"'
    assert load_launch_config(None, ["prompt=a cat"]).system.prompt_processor.prompt == "a cat"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.size=[64]", "expected 2 numbers, one for each stage"),
        ("data.batch_size=[8,3]", "multiples of data.n_view=4"),
        ("data.batch_size=0", "a whole number from 1 to 256"),
        ("data.fovy_range=[60,15]", r"a list of two numbers from 1 to 150, \[lowest, highest\]"),
        ("data.fovy_range=40", "a list of two numbers"),
        ("data.resolution_milestones=[9,3]", "rising steps"),
        ("system.loss.lambda_sparsity=[0,10,1000]", None),
        ("system.loss.lambda_orient=1", "needs normals"),
        ("system.geometry.type=gaussians system.loss.lambda_z_variance=1", "no term of gaussians"),
        ("system.geometry.type=gaussians system.loss.lambda_opaque=1", None),
        ("system.guidance.objective=sir system.loss.lambda_sparsity=1", "sir fits to pictures"),
        ("system.loss.lambda_orient=[1,2]", "a number from 0 to 1e"),
        ("system.loss.lambda_orient=[0,-1,5,100]", "a number from 0 to 1e"),
        ("system.loss.lambda_orient=much", "a number from 0 to 1e"),
        ("system.guidance.max_step_percent=[0,0.98,1.5,8000]", "a number from 0 to 1"),
        ("system.guidance.objectiv=asd", "the nearest valid key is 'system.guidance.objective'"),
        ("system.guidance=asd", "expected one of system.guidance.objective"),
        ("system.guidance.objective=vsd", "expected one of x0sds, sds, asd, sir"),
        ("export.threshold=-3", "a positive number or auto"),
        ("export.threshold=auto", None),
        ("promt=a cat", "the nearest valid key is 'prompt'"),
    ],
)
def test_what_does_not_fit_is_one_line(word, message):
    if message is None:
        load_launch_config(None, word.split())
        return
    with pytest.raises(UserError, match=message) as caught:
        load_launch_config(None, word.split())
    assert "\n" not in str(caught.value)


def test_one_number_holds_for_all_stages():
    config = load_launch_config(None, ["data.size=48", "data.batch_size=4", "data.resolution_milestones=[10,20]"])
    assert config.data.size == [48, 48, 48] and config.data.batch_size == [4, 4, 4]


def test_an_earlier_run_is_the_base_and_words_override_it(tmp_path):
    stored = {"seed": 5, "data": {"size": [32], "batch_size": [4], "resolution_milestones": []}, "name": "old"}
    config = load_launch_config(None, ["seed=6"], stored)
    assert (config.seed, config.data.size, config.name) == (6, [32], "old")
    with pytest.raises(UserError, match="the earlier run: unknown key 'colour'"):
        load_launch_config(None, [], {"colour": 1})
    with pytest.raises(UserError, match="no such file; a run writes its checkpoints"):
        config_of(None, [f"resume={tmp_path / 'none.ckpt'}"])


def test_help_lists_every_key():
    text = SCHEMA.describe()
    assert all(f"  {key}=" in text for key in SCHEMA.fields)
