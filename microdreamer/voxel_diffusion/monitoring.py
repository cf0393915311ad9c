"""What a training run shows: a progress bar, TensorBoard scalars and profiler traces, and a file of losses."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from microdreamer.core.files import atomic_write
from microdreamer.core.profiler import make_profile, write_trace

HINT = "no TensorBoard here, so no scalars are written; install it by pip install 'microdreamer-optimized[tensorboard]'"
WAIT, WARM_UP, ACTIVE = 2, 2, 4  # steps of a trace: left out, profiled and thrown away, kept
MEAN_OVER = 20  # steps between two looks at the device, which wait for it


class Losses:
    """The mean loss of every step so far, read from the device in blocks; kept in `losses.json` of the run."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path = path
        self.values: list[float] = []
        if steps and path.is_file():
            self.values = json.loads(path.read_text(encoding="utf-8"))["losses"][:steps]
        self._waiting: list[Tensor] = []

    def add(self, losses: Tensor) -> None:
        self._waiting.append(losses.detach().mean())

    def settle(self) -> float:
        """Read what waits on the device; the mean of it (or of the last value there is)."""
        new = torch.stack(self._waiting).tolist() if self._waiting else self.values[-1:]
        self.values += new if self._waiting else []
        self._waiting.clear()
        return sum(new) / max(len(new), 1)

    def save(self) -> None:
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps({"losses": self.values}) + "\n", encoding="utf-8")


class Monitor:
    """The bar and TensorBoard of one run. `folder`: <profiling>/<run>/<time>, which TensorBoard reads as it is; None: neither."""

    def __init__(self, folder: Path | None, device: torch.device, steps: int, total: int | None, quiet: bool) -> None:
        self.device, self.folder = device, folder
        self._bar = tqdm(total=total, initial=steps, unit="it", desc="training", disable=quiet or None)
        self._writer = _writer(folder, quiet) if folder else None
        self._last, self._last_steps = time.perf_counter(), steps

    def show(self, steps: int, loss: float) -> None:
        now = time.perf_counter()
        rate = (steps - self._last_steps) / max(now - self._last, 1e-9)
        self._bar.update(steps - self._last_steps)
        self._last, self._last_steps = now, steps
        peak = peak_memory(self.device)
        self._bar.set_postfix_str(f"loss {loss:.4f}" + (f", peak {peak / 2**30:.2f} GiB" if peak else ""))
        if self._writer:
            self._writer.add_scalar("loss/train", loss, steps)
            self._writer.add_scalar("speed/steps per second", rate, steps)
            if peak:
                self._writer.add_scalar("memory/peak GiB", peak / 2**30, steps)

    def scalar(self, name: str, value: float, steps: int) -> None:
        if self._writer:
            self._writer.add_scalar(name, value, steps)

    def close(self) -> None:
        self._bar.close()
        if self._writer:
            self._writer.close()


def peak_memory(device: torch.device) -> int:
    """Most bytes held at a time: of tensors on a GPU, of the whole process on the CPU; 0 where that is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _writer(folder: Path, quiet: bool):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        if not quiet:
            print(HINT, file=sys.stderr)
        return None
    return SummaryWriter(str(folder))


class Profiler:
    """A torch.profiler trace of some of the first steps, in `<folder>/plugins/profile/`, where TensorBoard's plugin looks for it.

    `tensorboard --logdir` of any folder above shows it.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder = folder / "plugins" / "profile"
        self._left = WAIT + WARM_UP + ACTIVE
        self._profile = make_profile(
            device.type == "cuda",
            schedule=torch.profiler.schedule(wait=WAIT, warmup=WARM_UP, active=ACTIVE, repeat=1),
            on_trace_ready=lambda profile: write_trace(profile, self.folder),
            record_shapes=True,
            profile_memory=True,
        )
        self._profile.start()

    def step(self) -> bool:
        """After each step; False once the trace is written."""
        self._profile.step()
        self._left -= 1
        if self._left == 0:
            self._profile.stop()
        return self._left > 0

    def close(self) -> None:
        """For a run that ends before the trace is complete."""
        if self._left > 0:
            self._left = 0
            self._profile.stop()
