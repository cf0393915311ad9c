"""What the tests of the page and the HTTP API share: a server's parts with a prior that knows an object."""

import dataclasses

import pytest
from batch_bench import SMALL, config_for, oracle

from microdreamer.web.jobs import Jobs
from microdreamer.web.making import Maker


@pytest.fixture(scope="session")
def prior():
    return oracle()


@pytest.fixture(scope="session")
def maker(prior):
    config = dataclasses.replace(config_for("", "unused"), input=None, refine_size=32, refine_steps=2, geometry_steps=2, iters_refine=1)
    assert config.total_steps == SMALL["total_steps"]
    return Maker(config, prior)


@pytest.fixture
def jobs(maker, tmp_path):
    jobs = Jobs(maker, tmp_path / "jobs", most_waiting=8)
    yield jobs
    jobs.close(20)
