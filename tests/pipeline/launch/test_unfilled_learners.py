"""Networks that a checkpoint fills get no first values, and nothing of them is left without its own."""

import pytest
import torch

from microdreamer.core.paths import shipped_configurations
from microdreamer.pipeline.launch.config import load_launch_config
from microdreamer.pipeline.launch.learners import make_learner

SMALL = ["system.geometry.log2_hashmap_size=8", "system.geometry.n_levels=2", "device=cpu"]
NAMES = ["hyper_iNGP_micro", "3dconv_net_micro", "triplane_transformer_micro", "sir_nerf_micro", "asd_sd_nerf"]


@pytest.fixture
def nan_where_nothing_was_written():
    """Memory as it is found is then full of NaN (torch.utils.deterministic.fill_uninitialized_memory)."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_fills_all_of_a_network_that_was_made_without_values(nan_where_nothing_was_written, name):
    folder = next(iter(shipped_configurations().values())).parent
    path = next(folder.rglob(f"{name}.yaml"))
    library = path.parent.name == "multi-prompt"
    config = load_launch_config(path, SMALL if library else [*SMALL, "prompt=a chair"])

    def learner(seed, unfilled):
        return make_learner(config, torch.Generator().manual_seed(seed), torch.device("cpu"), 64, unfilled=unfilled)

    source, empty = learner(1, False), learner(2, True)
    assert any(bool(parameter.isnan().any()) for parameter in empty.model.parameters())
    empty.load_model(source.state())
    for kind in ("named_parameters", "named_buffers"):
        for (key, expected), (_, actual) in zip(getattr(source.model, kind)(), getattr(empty.model, kind)(), strict=True):
            assert torch.equal(actual, expected), key
