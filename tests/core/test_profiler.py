"""Profiling: the ranges of each mode and scope, the trace and its bound, its summary, and what is said where it cannot be written."""

import contextlib
import gzip
import json
import re
import signal

import nvtx
import pytest
import torch
from fake_priors import OraclePrior, coloured_ellipsoid

from microdreamer.core import profiler, trace_summary
from microdreamer.core.cuda_graphs import capture
from microdreamer.core.profiler_settings import SCOPES
from microdreamer.pipeline import commands, reconstruction
from microdreamer.pipeline.results import Result

WORDS = ["profiling.mode=torch", "prompt=an egg", "save_path=a", "init_steps=6", "steps_min=3", "steps_max=3", "denoise_steps=6", "cfg=1"]
SMALL = ["num_pts=300", "video_frames=4", "video_size=32", "mesh_resolution=32", "texture_size=64", "eta=1"]
PHASES = {"load", "prior", "fit", "mesh", "write", "video"}
FUNCTIONS = {
    "distillation.sir.repair",
    "guidance.samplers.ddim_sample",
    "distillation.sir.Fitter.fit",
    "gaussians.model.GaussianModel.render",
    "gaussians.extraction.extract_mesh",
    "meshes.cleaning.keep_outer_parts",
    "meshes.baking.bake",
    "meshes.files.write_obj",
}


@profiler.function
def halved(x):
    if len(x) == 1:
        raise ValueError("one")
    return x / 2


class Pair:
    @profiler.function
    def added(self, x):
        """Adds."""
        return halved(x) + x


HALVED, ADDED = f"{__name__}.halved", f"{__name__}.Pair.added"


@pytest.fixture
def ranges(monkeypatch):
    """What is pushed to and popped from NVTX, in order."""
    seen = []
    monkeypatch.setattr(nvtx, "push_range", seen.append)
    monkeypatch.setattr(nvtx, "pop_range", lambda: seen.append(None))
    return seen


@pytest.fixture
def prior(monkeypatch):
    prior = OraclePrior(coloured_ellipsoid(), 32)
    monkeypatch.setattr(reconstruction, "load_prior", lambda *_: prior)
    return prior


def run(tmp_path, *words):
    return commands.make([f"outdir={tmp_path / 'out'}", *WORDS, *SMALL, *words])


def read(folder):
    """Events of the one trace in a folder."""
    (path,) = folder.iterdir()
    assert re.fullmatch(r".+_\d+\.\d+\.pt\.trace\.json\.gz", path.name)
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def named(events):
    """How often each range is in a trace."""
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    return {name: names.count(name) for name in names}


def assert_nothing_is_open():
    assert profiler._phase_range is None and profiler._function_range is None and profiler._recording is None
    assert not torch.autograd.profiler._is_profiler_enabled


def test_without_a_profiler_there_are_no_ranges_and_no_trace(ranges, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.profiler, "profile", None)
    monkeypatch.setattr(torch.profiler, "record_function", None)
    with profiler.session("none", "function"):
        profiler.write_to(tmp_path / "trace")
        with profiler.one_round(0), profiler.phase("a"):
            assert Pair().added(torch.ones(2)).tolist() == [1.5, 1.5]
        assert_nothing_is_open()
    assert ranges == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scope", SCOPES)
def test_nvtx_ranges_nest_by_phase_round_and_function(ranges, scope):
    with profiler.session("nvtx", scope), profiler.one_round(2), profiler.phase("a"):
        Pair().added(torch.ones(2))
    functions = [ADDED, HALVED, None, None] if scope == "function" else []
    assert ranges == ["round 3", "a", *functions, None, None]
    assert_nothing_is_open()


def test_an_error_closes_the_ranges_that_it_passes_and_no_other(ranges):
    with profiler.session("nvtx", "function"), profiler.phase("a"):
        with pytest.raises(ValueError, match="one"), profiler.phase("b"):
            Pair().added(torch.ones(1))
        halved(torch.ones(2))
    assert ranges == ["a", "b", ADDED, HALVED, None, None, None, HALVED, None, None]
    ranges.clear()
    with pytest.raises(ValueError, match="one"), profiler.session("nvtx", "function"), profiler.one_round(0):
        halved(torch.ones(1))
    assert ranges == ["round 1", HALVED, None, None]
    assert_nothing_is_open()


def test_a_decorated_function_stays_what_it_was():
    assert Pair.added.__name__ == "added" and Pair.added.__doc__ == "Adds." and Pair.added.__module__ == __name__
    with pytest.raises(TypeError, match="generator"):

        @profiler.function
        def count():
            yield 1


@pytest.mark.parametrize("mode", ["none", "nvtx", "torch"])
def test_torch_compile_takes_a_decorated_function_whole(ranges, mode):
    compiled = torch.compile(lambda x: Pair().added(x), backend="eager", fullgraph=True)
    with profiler.session(mode, "function"):
        assert compiled(torch.ones(2)).tolist() == [1.5, 1.5]
    assert ranges == []  # of what is compiled; the call itself is no decorated function


def test_a_trace_leaves_out_later_rounds_and_has_what_follows_them(tmp_path):
    operations = (torch.sin, torch.cos, torch.tan, torch.exp)
    with profiler.session("torch", "broad", rounds=2):
        profiler.write_to(tmp_path / "trace")
        for index, operation in enumerate(operations):
            with profiler.one_round(index), profiler.phase(operation.__name__):
                operation(torch.ones(4))
        with profiler.phase("after"):
            halved(torch.ones(4))
    events = read(tmp_path / "trace")
    assert named(events) == dict.fromkeys(("round 1", "sin", "round 2", "cos", "after"), 1)
    found = {event["name"] for event in events if event.get("cat") == "cpu_op"}
    assert {"aten::sin", "aten::cos", "aten::div"} <= found and not {"aten::tan", "aten::exp"} & found


def test_an_error_or_a_missing_folder_leaves_no_trace_and_the_profiler_free(tmp_path):
    with pytest.raises(ValueError, match="one"), profiler.session("torch"):
        profiler.write_to(tmp_path / "trace")
        halved(torch.ones(1))
    with profiler.session("torch"):
        halved(torch.ones(2))
    assert list(tmp_path.iterdir()) == []
    assert_nothing_is_open()


@pytest.mark.parametrize("scope", SCOPES)
def test_the_trace_of_a_run_has_its_phases_and_at_function_scope_its_functions(tmp_path, prior, capsys, scope):
    assert run(tmp_path, "total_steps=3", f"profiling.scope={scope}") == 0
    counts = named(read(tmp_path / "out" / "a_trace"))
    assert counts.keys() >= PHASES | {"round 1", "round 2"} and "round 3" not in counts
    assert counts["fit"] == counts["prior"] == 2
    assert counts.keys() & FUNCTIONS == (FUNCTIONS if scope == "function" else set())
    said = capsys.readouterr().err
    assert "ranges by total time" in said and "aten::" in said
    assert said.splitlines()[-1].startswith(f"trace: {tmp_path / 'out' / 'a_trace'}") and "2 of 3 rounds recorded" in said
    assert json.loads((tmp_path / "out" / "a.json").read_text())["config"]["profiling"] == {"mode": "torch", "scope": scope, "rounds": 2}


def test_ctrl_c_leaves_a_trace_of_what_was_done(tmp_path, prior):
    decode = prior.decode
    calls = []

    def decode_and_press(latents):
        calls.append(None)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return decode(latents)

    prior.decode = decode_and_press
    assert run(tmp_path, "total_steps=3", "--quiet") == 130
    counts = named(read(tmp_path / "out" / "a_trace"))
    assert counts["round 1"] == counts["round 2"] == counts["mesh"] == 1
    assert json.loads((tmp_path / "out" / "a.json").read_text())["complete"] is False
    assert_nothing_is_open()


def test_the_second_stage_writes_a_trace_of_its_own(tmp_path, prior, capsys):
    coloured_ellipsoid().save_ply(tmp_path / "thing.ply")
    words = ["--quiet", f"outdir={tmp_path / 'out'}", "profiling.mode=torch", "profiling.scope=function", *SMALL]
    assert commands.refine([*words, "--from-ply", str(tmp_path / "thing.ply")]) == 0
    counts = named(read(tmp_path / "out" / "thing_refined_trace"))
    assert counts.keys() >= {
        "load",
        "mesh",
        "refine",
        "write",
        "video",
        "meshes.files.write_mesh",
        "gaussians.extraction.extract_mesh",
    }
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_hold_the_trace_is_told_before_the_run(tmp_path, prior, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_trace").touch()
    assert run(tmp_path, "--quiet") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "a_trace: cannot hold the trace (File exists); remove it" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_trace"]
    assert_nothing_is_open()


def test_a_trace_that_cannot_be_written_in_the_end_costs_no_result(tmp_path, prior, capsys, monkeypatch):
    save = Result.save

    def write_and_block(*given, **more):
        save(*given, **more)
        (tmp_path / "out" / "a_trace").touch()

    monkeypatch.setattr(Result, "save", write_and_block)
    assert run(tmp_path, "total_steps=1", "--quiet") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "the trace could not be written" in said and "results of the run are not affected" in said
    assert {"a.json", "a_model.ply", "a_model.obj", "a.mp4"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert_nothing_is_open()


@contextlib.contextmanager
def largest_file(size):
    """Files cannot grow beyond `size` bytes in the block, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_trace_cut_short_is_noticed_and_removed(tmp_path):
    with largest_file(1500), pytest.raises(profiler.TraceError, match="could not be written whole; free space"), profiler.session("torch"):
        profiler.write_to(tmp_path / "trace")
        halved(torch.ones(4))
    assert not (tmp_path / "trace").exists()
    assert_nothing_is_open()


def test_a_pytorch_without_its_profiler_is_one_line(tmp_path, prior, capsys, monkeypatch):
    monkeypatch.setattr(torch.profiler, "kineto_available", lambda: False)
    assert run(tmp_path, "--quiet") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "built without its profiler" in said and "profiling.mode=none" in said
    assert not (tmp_path / "out").exists()
    assert_nothing_is_open()


def test_the_summary_adds_up_total_and_own_time():
    def event(kind, name, start, duration, thread=1):
        return {"cat": kind, "name": name, "ts": start, "dur": duration, "pid": 1, "tid": thread}

    events = [
        event("cpu_op", "mul", 12, 3),
        event("user_annotation", "fit", 0, 100),
        event("user_annotation", "render", 10, 40),
        event("cpu_op", "blend", 20, 20),
        event("cpu_op", "blend", 22, 15),  # handed on from autograd to the device
        event("cpu_op", "mul", 25, 5),
        event("user_annotation", "render", 60, 30),
        event("user_annotation", "render", 70, 10),  # called by itself
        event("cpu_op", "mul", 0, 7, thread=2),
        event("kernel", "blend_kernel", 30, 50, thread=7),
        {"ph": "M", "name": "process_name"},
    ]
    rows = {(row.name, row.within): row for row in trace_summary.rows(events)}
    micro = {key: (row.calls, round(row.total * 1e6, 6), round(row.own * 1e6, 6)) for key, row in rows.items()}
    assert micro == {
        ("fit", ""): (1, 100, 30),
        ("render", ""): (3, 70, 47),
        ("blend", "render"): (1, 20, 15),
        ("mul", "render"): (2, 8, 8),
        ("mul", ""): (1, 7, 7),
        ("blend_kernel", ""): (1, 50, 50),
    }
    text = trace_summary.summary(events)
    assert "blend in render\n" in text
    assert text.index(" fit") < text.index(" render") < text.index("operations by own") < text.index("kernels by own")


def test_tensorboards_plugin_finds_and_reads_the_trace(tmp_path):
    pytest.importorskip("torch_tb_profiler")
    from torch_tb_profiler.consts import WORKER_PATTERN
    from torch_tb_profiler.profiler.data import RunProfileData

    with profiler.session("torch"):
        profiler.write_to(tmp_path / "trace")
        with profiler.phase("a phase"):
            torch.ones(64, 64) @ torch.ones(64, 64)
    (path,) = (tmp_path / "trace").iterdir()
    assert WORKER_PATTERN.match(path.name)
    data = RunProfileData.parse("worker", None, str(path), str(tmp_path))
    assert "aten::mm" in {operation.name for operation in data.op_list_groupby_name}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_are_in_the_trace_where_their_round_is_and_graphs_replay(tmp_path):
    x = torch.full((4096,), 0.5, device="cuda")

    @profiler.function
    def squashed(values):
        return values.tanh()

    with profiler.session("torch", "function", rounds=1):
        profiler.write_to(tmp_path / "trace")
        squashed(x)
        graph, result = capture(lambda: squashed(x), "cuda")
        for index, operation in enumerate((torch.sin, torch.cos)):
            with profiler.one_round(index):
                operation(x)
                graph.replay()
                torch.cuda.synchronize()
        with profiler.phase("after"):
            x.exp()
            torch.cuda.synchronize()
    torch.testing.assert_close(result, x.tanh())
    events = read(tmp_path / "trace")
    kernels = " ".join(event["name"] for event in events if event.get("cat") == "kernel")
    assert "sin_kernel" in kernels and "exp_kernel" in kernels and "tanh_kernel" in kernels
    assert not re.search(r"\bcos_kernel", kernels)
    assert named(events).keys() >= {"round 1", "after"} and "round 2" not in named(events)
    assert "kernels by own time" in trace_summary.summary(events)
