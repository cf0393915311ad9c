"""SIR, SDS, x0-SDS and ASD on Gaussians and on fields: quality over time, on objects that the micro prior was not trained on.

    python -m benchmarks.distillation tune     --objects val.npz --out FOLDER     quality of every candidate setting on a few objects
    python -m benchmarks.distillation evaluate --objects val.npz --out FOLDER     the best setting of each method on the others
    python -m benchmarks.distillation captions --objects val.npz --out FOLDER     the same from sentences alone
    python -m benchmarks.distillation time     --objects val.npz --out FOLDER     seconds of each method, alone on the machine
    python -m benchmarks.distillation report   --out FOLDER --plot FILE.png       the table, and curves of quality over time
    python -m benchmarks.distillation sheet    --objects val.npz --out FOLDER --plot FILE.jpg   truth and all methods, side by side

Every method starts from the same picture (512 px, from 15 degrees above, at azimuth 0), gets it as one more view, and is tuned over the
same number of settings on the same objects. Quality is measured at 16 cameras that no method has seen, 256 px, on white. `--part K/N`
does every N-th piece of the work, so that several processes may share it; only `time` wants to be alone. From a sentence there is no
truth: `agreement` is the PSNR, in dB, between four views of the result and what the prior makes of them when it has added noise.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from cam_utils import orbit_cameras
from microdreamer.core.errors import UserError
from microdreamer.core.files import atomic_write
from microdreamer.core.machine import choose_device, provenance
from microdreamer.distillation.sds import add_noise, predict_x0
from microdreamer.evaluation.image_to_3d import Scene, make_scene, mesh_scores, object_seed
from microdreamer.fields.field_mesh import mesh_from_field
from microdreamer.fields.volume_model import VolumeModel
from microdreamer.gaussians.extraction import extract_mesh
from microdreamer.guidance import load_prior
from microdreamer.guidance.base import Prior
from microdreamer.images.reference import reference_view
from microdreamer.images.writing import write_sheet
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import MeshModel
from microdreamer.metrics.pictures import psnr, ssim
from microdreamer.pipeline.config import load_config
from microdreamer.pipeline.launch.config import LaunchConfig, load_launch_config
from microdreamer.pipeline.launch.trainer import Trainer
from microdreamer.shapes.packed import PackedMeshes, load_packed

ELEVATION_UP = 15.0  # of the picture, degrees
LOOKS = 10  # at a run's quality, on its way
TUNING_OBJECTS, OBJECTS = 2, 16
SHOWN_VIEWS, SHEET_VIEW = [1, 5, 9, 13], 1  # of a scene, kept as pictures; the one in the sheet
LEVELS, DRAWS = (0.4, 0.6), 2  # of noise, as shares of the prior's; noises of each
BASE = ["input=", "elevation=15", "data.elevation_range=[-10,40]", "trainer.checkpoint_every=1000000", "trainer.preview_every=1000000"]
FALLING = ["system.guidance.min_step_percent=[0,0.9,0.02,{0}]", "system.guidance.max_step_percent=[0,0.98,0.4,{0}]"]
WIDE = ["system.guidance.min_step_percent=0.02", "system.guidance.max_step_percent=0.98"]
FASTER = ["system.optimizer.lr_density=0.005", "system.optimizer.lr_feature=0.005"]
STEPS = 400
LONG = [f"trainer.max_steps={2 * STEPS}"]


def _guided(objective: str, scale: float, *words: str) -> list[str]:
    return [f"system.guidance.objective={objective}", f"system.guidance.guidance_scale={scale}", f"trainer.max_steps={STEPS}", *words]


def _falling(steps: int = STEPS) -> list[str]:
    return [word.format(steps) for word in FALLING]


def _rounds(rounds: int, first: int, later: int, end: float = 0.4) -> list[str]:
    words = {"total_steps": rounds, "denoise_steps": 8, "t_start": 0.8, "t_end": end, "inv_r": 1, "eta": 1}
    words |= {"init_steps": first, "steps_min": later, "steps_max": later}
    return [
        "system.guidance.objective=sir",
        "system.guidance.guidance_scale=1",
        "data.batch_size=8",
        f"trainer.max_steps={first + (rounds - 1) * later}",
    ] + [f"system.sir.{key}={value}" for key, value in words.items()]


# Five settings of each method on each representation.
CANDIDATES: dict[str, dict[str, list[list[str]]]] = {
    "field": {
        "x0sds": [
            _guided("x0sds", 1, *_falling(), *FASTER),
            _guided("x0sds", 3, *_falling(), *FASTER),
            _guided("x0sds", 3, *WIDE, *FASTER),
            _guided("x0sds", 7.5, *_falling(), *FASTER),
            _guided("x0sds", 3, *_falling(2 * STEPS), *FASTER, *LONG),
        ],
        "sds": [
            _guided("sds", 3, *_falling(), *FASTER),
            _guided("sds", 7.5, *_falling(), *FASTER),
            _guided("sds", 7.5, *WIDE, *FASTER),
            _guided("sds", 25, *_falling(), *FASTER),
            _guided("sds", 7.5, *_falling(2 * STEPS), *FASTER, *LONG),
        ],
        "asd": [
            _guided("asd", 1, *_falling(), *FASTER),
            _guided("asd", 3, *_falling(), *FASTER),
            _guided("asd", 7.5, *_falling(), *FASTER),
            _guided("asd", 7.5, *WIDE, *FASTER),
            _guided("asd", 7.5, *_falling(2 * STEPS), *FASTER, *LONG),
        ],
        "sir": [
            _rounds(10, 80, 24) + FASTER,
            _rounds(6, 80, 40) + FASTER,
            _rounds(16, 60, 20) + FASTER,
            _rounds(10, 120, 40) + FASTER,
            _rounds(10, 80, 24, 0.2) + FASTER,
        ],
    }
}
_COARSE, _FINE = "system.geometry.num_pts=2000", "system.geometry.num_pts=5000"
CANDIDATES["gaussians"] = {
    "x0sds": [
        _guided("x0sds", 1, *_falling(), _FINE),
        _guided("x0sds", 3, *_falling(), _FINE),
        _guided("x0sds", 3, *WIDE, _FINE),
        _guided("x0sds", 7.5, *_falling(), _FINE),
        _guided("x0sds", 3, *_falling(2 * STEPS), _FINE, *LONG),
    ],
    "sds": [
        _guided("sds", 3, *_falling(), _FINE),
        _guided("sds", 7.5, *_falling(), _FINE),
        _guided("sds", 7.5, *WIDE, _FINE),
        _guided("sds", 25, *_falling(), _FINE),
        _guided("sds", 7.5, *_falling(2 * STEPS), _FINE, *LONG),
    ],
    "asd": [
        _guided("asd", 1, *_falling(), _FINE),
        _guided("asd", 3, *_falling(), _FINE),
        _guided("asd", 7.5, *_falling(), _FINE),
        _guided("asd", 7.5, *WIDE, _FINE),
        _guided("asd", 7.5, *_falling(2 * STEPS), _FINE, *LONG),
    ],
    "sir": [
        [*_rounds(10, 80, 24), "data.size=128"],
        [*_rounds(6, 80, 40), "data.size=128"],
        [*_rounds(16, 60, 20), "data.size=128"],
        [*_rounds(10, 80, 24), "data.size=128", _COARSE],
        [*_rounds(10, 80, 24, 0.2), "data.size=128"],
    ],
}
METHODS = [(kind, objective) for kind, methods in CANDIDATES.items() for objective in methods]
TICKS = (0.3, 0.5, 1, 2, 5)  # seconds
NAMES = {"x0sds": "x0-SDS", "sds": "SDS", "asd": "ASD", "sir": "SIR"}


def configuration(kind: str, words: list[str]) -> LaunchConfig:
    return load_launch_config(Path("configs") / "x0sds_micro.yaml", [*BASE, f"system.geometry.type={kind}", *words])


def trainer_of(config: LaunchConfig, prior: Prior, picture: Tensor | None, caption: str | None) -> Trainer:
    """A run from a straight RGBA picture [4,S,S], or from a sentence."""
    condition = prior.condition(picture, caption, None, -ELEVATION_UP)
    fov_y, distance = config.data.fovy_range[0], config.data.camera_distance_range[0]

    def view(size: int):
        camera = orbit_cameras(-ELEVATION_UP, 0.0, distance, fov_y=fov_y, width=size, height=size, device=prior.device)
        return reference_view(picture, camera)

    return Trainer(config, prior, condition, None if picture is None else view)


def run(trainer: Trainer, look: Callable[[float], None] | None = None) -> int:
    """All of a run, looked at LOOKS times on its way with the share that is done; returns evaluations of the prior."""
    gc.collect()  # the graphs of the last run
    torch.cuda.empty_cache()
    before = trainer.prior.evaluations
    total = len(trainer.rounds) or trainer.config.trainer.max_steps
    one = trainer.step if trainer.objective else trainer.round
    marks = {max(1, round(total * k / LOOKS)) for k in range(1, LOOKS + 1)}
    for index in range(total):
        one(index)
        if look and index + 1 in marks:
            look((index + 1) / total)
    return trainer.prior.evaluations - before


@torch.no_grad()
def seen(trainer: Trainer, cameras) -> Tensor:
    """Pictures [V,3,H,W] on white of what a run has made."""
    model = trainer.learner.model.eval()
    pictures = torch.cat([model.render(cameras[index], 1.0).image for index in range(len(cameras))]).clamp(0, 1)
    model.train()
    return pictures


def mesh_of(trainer: Trainer) -> Mesh:
    model = trainer.learner.model
    if isinstance(model, VolumeModel):
        model.eval()
        return mesh_from_field(
            model.geometry.density,
            lambda points: model.material(model.geometry(points).features),
            resolution=128,
            threshold=10.0,
            texture_size=None,
            device=model.device,
        )
    return extract_mesh(model)


def chosen_objects(meshes: PackedMeshes) -> tuple[list[int], list[int]]:
    """Objects to measure, evenly over the pack, and others to tune on."""
    measured = [round(k * (len(meshes) - 1) / (OBJECTS - 1)) for k in range(OBJECTS)]
    others = [index for index in range(len(meshes)) if index not in measured]
    return measured, [others[round((k + 0.5) * len(others) / TUNING_OBJECTS)] for k in range(TUNING_OBJECTS)]


class Bench:
    """What all parts share: the prior, the objects and the results' folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.out, self.plot = Path(options.out), options.plot
        self.device = choose_device(options.device)
        self.prior = load_prior("micro", None, self.device, "float32")
        self.meshes = load_packed(options.objects).to(self.device)
        self.measured, self.tuning = chosen_objects(self.meshes)
        self.part, self.parts = (int(number) for number in options.part.split("/"))
        self.shown_config = load_config(None, [])

    def scene(self, index: int) -> Scene:
        seed = object_seed(self.shown_config, self.meshes.ids[index])
        return make_scene(self.meshes, index, self.shown_config, torch.Generator().manual_seed(seed))

    def mine(self, pieces: list) -> Iterator:
        yield from pieces[self.part :: self.parts]

    def write(self, name: str, record: dict | list) -> None:
        with atomic_write(self.out / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def tune(self) -> None:
        pieces = [(kind, way, number) for kind, way in METHODS for number in range(len(CANDIDATES[kind][way]))]
        for kind, way, number in self.mine(pieces):
            if (self.out / f"tune_{kind}_{way}_{number}.json").is_file():
                continue
            scores = []
            for index in self.tuning:
                scene = self.scene(index)
                trainer = trainer_of(configuration(kind, CANDIDATES[kind][way][number]), self.prior, scene.picture, None)
                evaluations = run(trainer)
                scores.append(float(psnr(seen(trainer, scene.cameras), scene.views).mean()))
            self.write(f"tune_{kind}_{way}_{number}", {"psnr_db": scores, "evaluations": evaluations})
            print(kind, way, number, [round(score, 2) for score in scores], flush=True)

    def best(self) -> dict[tuple[str, str], int]:
        """The candidate of each method with the highest mean PSNR on the tuning objects."""
        return {method: _best(self.out, *method) for method in METHODS}

    def evaluate(self) -> None:
        best = self.best()
        for kind, way, index in self.mine([(*method, index) for index in self.measured for method in METHODS]):
            scene = self.scene(index)
            trainer = trainer_of(configuration(kind, CANDIDATES[kind][way][best[kind, way]]), self.prior, scene.picture, None)
            curve = []

            def look(share: float, trainer=trainer, scene=scene, curve=curve) -> None:
                curve.append((share, float(psnr(seen(trainer, scene.cameras), scene.views).mean())))

            evaluations = run(trainer, look)
            pictures = seen(trainer, scene.cameras)
            record = {
                "psnr_db": curve[-1][1],
                "ssim": float(ssim(pictures, scene.views).mean()),
                "curve": curve,
                "evaluations": evaluations,
            }
            try:
                record |= {
                    "chamfer": mesh_scores(scene, MeshModel(mesh_of(trainer), self.device), torch.Generator().manual_seed(0))["chamfer"]
                }
            except ValueError as error:
                record |= {"no_mesh": str(error)}
            self.write(f"evaluate_{kind}_{way}_{index}", record)
            torch.save((pictures[SHOWN_VIEWS] * 255).byte().cpu(), self.out / f"evaluate_{kind}_{way}_{index}.pt")
            print(kind, way, index, {key: value for key, value in record.items() if key != "curve"}, flush=True)

    def captions(self) -> None:
        best = self.best()
        for kind, way, index in self.mine([(*method, index) for index in self.measured for method in METHODS]):
            caption = next(iter(self.meshes.captions[index]), None)
            if caption is None:
                continue
            try:
                trainer = trainer_of(configuration(kind, CANDIDATES[kind][way][best[kind, way]]), self.prior, None, caption)
            except ValueError as error:
                print(kind, way, caption, error, flush=True)
                continue
            evaluations = run(trainer)
            self.write(
                f"captions_{kind}_{way}_{index}", {"caption": caption, "agreement_db": self.agreement(trainer), "evaluations": evaluations}
            )

    @torch.no_grad()
    def agreement(self, trainer: Trainer) -> float:
        """PSNR between four views of a result and what the prior makes of them after noise was added."""
        prior = self.prior
        cameras = orbit_cameras(
            -ELEVATION_UP, [0.0, 90.0, 180.0, 270.0], 2.0, width=prior.resolution, height=prior.resolution, device=self.device
        )
        views, generator, found = seen(trainer, cameras), torch.Generator().manual_seed(0), []
        latents = prior.encode(views)
        for level in LEVELS:
            t = int(level * prior.schedule.timesteps)
            alpha = torch.tensor(prior.schedule.alpha(t), device=self.device)
            for _ in range(DRAWS):
                noisy = add_noise(latents, torch.randn(latents.shape, generator=generator).to(self.device), alpha)
                noise = prior.predict_noise(noisy, t, cameras, trainer.condition, 1.0)
                found.append(float(psnr(prior.decode(predict_x0(noisy, noise, alpha)).clamp(0, 1), views).mean()))
        return statistics.mean(found)

    def time(self) -> None:
        best, scene = self.best(), self.scene(self.tuning[0])
        for kind, way in METHODS:
            config = configuration(kind, CANDIDATES[kind][way][best[kind, way]])
            seconds = []
            for _ in range(2):  # the second is warm
                trainer = trainer_of(config, self.prior, scene.picture, None)
                self._wait()
                start = time.perf_counter()
                evaluations = run(trainer)
                self._wait()
                seconds.append(time.perf_counter() - start)
            self.write(
                f"time_{kind}_{way}",
                {"seconds": seconds[-1], "first": seconds[0], "evaluations": evaluations, "environment": provenance(self.device)},
            )
            print(kind, way, [round(second, 2) for second in seconds], evaluations, flush=True)

    def sheet(self) -> None:
        """A row for each of some objects: the truth, then the methods on fields and on Gaussians, from a side that no method has seen."""
        rows = []
        for index in self.measured[1::3]:
            rows.append(self.scene(index).views[SHEET_VIEW].cpu())
            for kind, way in METHODS:
                shown = torch.load(self.out / f"evaluate_{kind}_{way}_{index}.pt", weights_only=True)
                rows.append(shown[SHOWN_VIEWS.index(SHEET_VIEW)].float() / 255)
        pictures = torch.nn.functional.avg_pool2d(torch.stack(rows), 2)
        write_sheet(self.plot, pictures, columns=1 + len(METHODS))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _best(folder: Path, kind: str, way: str) -> int:
    files = {number: folder / f"tune_{kind}_{way}_{number}.json" for number in range(len(CANDIDATES[kind][way]))}
    scores = {number: statistics.mean(json.loads(path.read_text())["psnr_db"]) for number, path in files.items() if path.is_file()}
    if not scores:
        raise UserError(f"{folder}: no tuning of {kind} {way} there; run tune first")
    return max(scores, key=lambda number: scores[number])


def _records(folder: Path, pattern: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(pattern))]


def report(folder: Path, plot: Path | None) -> str:
    """The table, and curves of PSNR over seconds as a picture."""
    lines = [
        "| on | method | setting | evaluations | seconds | PSNR dB | SSIM | Chamfer | from sentences: agreement dB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    curves = {}
    for kind, way in METHODS:
        found, timed = _records(folder, f"evaluate_{kind}_{way}_*.json"), _records(folder, f"time_{kind}_{way}.json")
        told = _records(folder, f"captions_{kind}_{way}_*.json")
        if not found or not timed:
            continue
        seconds, number = timed[0]["seconds"], _best(folder, kind, way)

        def mean(name: str, records: list[dict] = found) -> str:
            values = [record[name] for record in records if name in record]
            return f"{statistics.mean(values):.3f}" if values else "-"

        lines.append(
            f"| {kind} | {NAMES[way]} | {number + 1} of {len(CANDIDATES[kind][way])} | {found[0]['evaluations']} | {seconds:.2f} | "
            f"{mean('psnr_db')} | {mean('ssim')} | {mean('chamfer')} | {mean('agreement_db', told)} |"
        )
        shares = [share for share, _ in found[0]["curve"]]
        curves[kind, way] = [
            (share * seconds, statistics.mean(record["curve"][k][1] for record in found)) for k, share in enumerate(shares)
        ]
    if plot:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
        for axis, kind in zip(axes, CANDIDATES, strict=True):
            for way in CANDIDATES[kind]:
                if (kind, way) in curves:
                    axis.plot(*zip(*curves[kind, way], strict=True), marker=".", label=NAMES[way])
            axis.set(title="neural field" if kind == "field" else "Gaussians", xlabel="seconds", xscale="log")
            axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS], minor=False)
            axis.xaxis.set_minor_formatter("")
            axis.grid(alpha=0.3)
            axis.legend()
        axes[0].set_ylabel("PSNR at unseen cameras, dB")
        figure.tight_layout()
        with atomic_write(plot) as temporary:
            figure.savefig(temporary, dpi=120)
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tune", "evaluate", "captions", "time", "report", "sheet"))
    parser.add_argument("--objects", metavar="FILE.npz", help="pack of true objects")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where results are kept")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--part", default="0/1", metavar="K/N", help="do every N-th piece, from the K-th on")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    options = parser.parse_args()
    if options.what == "report":
        print(report(Path(options.out), options.plot))
        return 0
    if not options.objects:
        parser.error("--objects FILE.npz is needed")
    getattr(Bench(options), options.what)()
    return 0


if __name__ == "__main__":
    sys.exit(main())
