"""A run of two processes that was cut and resumed ends with the same weights, whichever rank's random numbers are looked at."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from microdreamer.guidance.micro.network import MultiViewNetwork, NetworkConfig
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.shapes.packed import pack
from microdreamer.shapes.procedural.catalogue import generate
from microdreamer.training.micro_prior import loop
from microdreamer.training.micro_prior.bank import Bank

TINY = NetworkConfig(resolution=32, channels=(16, 32, 64), depth=(1, 1, 1, 1, 1), head_width=16, condition_width=32, text_width=32)


def run(rank: int, port: int, folder: str, stop: int, resume: bool) -> None:
    """One rank of six steps that stops after a checkpoint at step `stop`; leaves its last weights in `folder`."""
    from pathlib import Path

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    loop.REPORT_STEPS = 2
    shapes = [generate(seed) for seed in range(4)]
    meshes = pack([(s.vertices, s.faces, s.corner_colors, s.corner_normals) for s in shapes], list("abcd"))
    bank = Bank.build(meshes, torch.ones(4), Vocabulary(["a"]), TINY.text_tokens, "cpu", deform_seed=rank)
    torch.manual_seed(5)
    network = MultiViewNetwork(TINY)
    config = loop.TrainingConfig(steps=6, batch=2, warmup_steps=2, compile=False, graph=False, deform_steps=2)
    place = Path(folder) / "training.safetensors"

    def report(metrics: dict) -> None:
        if metrics["step"] == stop:
            raise KeyboardInterrupt

    try:
        optimiser, _ = loop.train(network, bank, config, report, checkpoint_minutes=0, state_file=place, resume=resume)
        torch.save(optimiser.flat, Path(folder) / f"rank{rank}.pt")
    except (KeyboardInterrupt, RuntimeError):  # rank 0 goes; the other one may find it gone
        if not stop:
            raise
    if not stop:
        dist.barrier()
    dist.destroy_process_group()


def start(folder, stop: int = 0, resume: bool = False) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run, (port, str(folder), stop, resume), nprocs=2)


@pytest.mark.slow
def test_two_processes_resume_exactly(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    start(whole)
    start(cut, stop=6)
    assert not (cut / "rank0.pt").exists()
    start(cut, resume=True)
    expected = [torch.load(whole / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(expected[0], expected[1])
    for rank in range(2):
        assert torch.equal(torch.load(cut / f"rank{rank}.pt", weights_only=True), expected[rank])
