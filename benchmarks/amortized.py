"""Networks that learn a library of sentences: each kind by each method, against SIR sentence by sentence, with the micro prior.

    python -m benchmarks.amortized sir    --out FOLDER                              SIR's Gaussians of every sentence
    python -m benchmarks.amortized train  --out FOLDER [--runs KIND:METHOD ...]      every kind by every method
    python -m benchmarks.amortized sir_recall --out FOLDER                          what is measured of SIR's
    python -m benchmarks.amortized report --out FOLDER                              the table; sheets lie in the folder

Kinds are the networks; methods are objectives of score distillation, and `sir`, plain regression: the network learns to draw what SIR
made of its training sentences. What is measured is recall, by `evaluation.denoising_recall`: whether the prior, of 32 sentences of the
list, takes the renders to be of theirs, plain and calibrated; on the training sentences and on the held-out ones. Evaluations of the
prior are counted for each sentence, group of four views and branch. Fog is the mean opacity where renders of held-out sentences are white
before white: of what a colour behind them would show. Products of matrices are rounded to TF32. `--part K/N` does every N-th piece of the
work, so that several processes may share it; `--seen N` has SIR make, and measures, only the first N training sentences of the blocks
that all are compared in.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cam_utils import Cameras, orbit_cameras
from microdreamer.core.files import atomic_write
from microdreamer.core.machine import choose_device, provenance
from microdreamer.distillation.sds import Loss
from microdreamer.evaluation import denoising_recall
from microdreamer.gaussians.model import GaussianModel
from microdreamer.generators.library import load_library
from microdreamer.generators.text_to_shape import ShapeRendering
from microdreamer.guidance import load_prior
from microdreamer.images.writing import write_sheet
from microdreamer.pipeline import reconstruction
from microdreamer.pipeline.config import load_config
from microdreamer.pipeline.launch import checkpoint, run, views
from microdreamer.pipeline.launch.config import LaunchConfig, load_launch_config
from microdreamer.pipeline.launch.trainer import Trainer
from microdreamer.pipeline.progress import Progress, Watch

KINDS = {"hyper_ingp": "hyper_iNGP_micro", "conv3d": "3dconv_net_micro", "triplane": "triplane_transformer_micro"}
BRANCHES = {"x0sds": 2, "sds": 2, "asd": 3, "sir": 0}
GUIDANCE = {
    "x0sds": ["system.guidance.objective=x0sds", "system.guidance.guidance_scale=5"],
    "sds": ["system.guidance.objective=sds", "system.guidance.guidance_scale=7.5"],
    "asd": ["system.guidance.objective=asd", "system.guidance.guidance_scale=7.5"],
    "sir": ["system.guidance.objective=x0sds"],  # in whose place the regression stands
}
FALLING = (("min", 0.9, 0.1), ("max", 0.98, 0.5))  # levels of noise, as shares of all, at the first step and the last
WINDOWS = {"x0sds": FALLING, "sds": FALLING, "asd": (("min", 0.5, 0.02), ("max", 0.98, 0.5)), "sir": FALLING}
QUIET = ["trainer.checkpoint_every=1000000", "trainer.preview_every=1000000"]
STEPS = 832
ELEVATION_UP, CANDIDATES, LEVELS, DRAWS = 15.0, 32, 3, 1
SHOWN = 8  # sentences of each list in the sheet
WHITE = 0.97  # least value of what is taken for white


class Regression:
    """In an objective's place: squared differences to pictures of what SIR made of each sentence. The condition is sentences."""

    def __init__(self, truths: dict[str, GaussianModel], views: int) -> None:
        self.truths, self.views = truths, views
        self.condition: Any = ()

    def __call__(self, images: Tensor, cameras: Cameras, step: int, epoch: int = 0) -> Loss:
        with torch.no_grad():
            groups = range(len(self.condition))
            parts = [cameras[index * self.views : (index + 1) * self.views] for index in groups]
            wanted = torch.cat([self.truths[one].render(part, 1.0).image for one, part in zip(self.condition, parts, strict=True)])
        return Loss(0.5 * (images - wanted).square().sum() / len(images), {})


class Bench:
    """What all parts share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, Path(options.out)
        self.device = choose_device(options.device)
        self.library = load_library(options.library)
        self.part, self.parts = (int(number) for number in options.part.split("/"))
        self._prior: Any = None

    @property
    def prior(self) -> Any:
        self._prior = self._prior or load_prior("micro", None, self.device, "float32")
        return self._prior

    def mine(self, pieces: Sequence[Any]) -> Iterator[Any]:
        yield from pieces[self.part :: self.parts]

    def write(self, name: str, record: Any) -> None:
        with atomic_write(self.out / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")

    # ---- Sentence by sentence ----

    def sir(self) -> None:
        """The rounds of main.py on each sentence, with guidance, as no picture says what it is."""
        self._make("a red car")  # what only the first run waits for
        for sentence in self.mine([*self.library.test, *self.seen()]):
            model, evaluations, seconds = self._make(sentence)
            name = f"sir_{self.library.sentences.index(sentence)}"
            checkpoint.save(self.out / f"{name}.ckpt", model.state_dict())
            self.write(name, {"sentence": sentence, "evaluations": evaluations, "seconds": seconds, "gaussians": len(model)})

    def _make(self, sentence: str) -> tuple[GaussianModel, int, float]:
        config = load_config(Path("configs") / "micro.yaml", [f"prompt={sentence}", f"cfg={self.options.cfg}"])
        job = reconstruction.prepare(config, self.prior, [])
        before, began = self.prior.evaluations, time.perf_counter()
        with Progress(job.prior, job.rounds, config.cfg, Watch(self.device)) as progress:
            reconstruction.run_rounds(job, progress)
        reconstruction.clean(job)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds, groups = time.perf_counter() - began, config.batch_size_min // self.prior.views
        return job.model, groups * (self.prior.evaluations - before), seconds

    def seen(self) -> list[str]:
        """The training sentences that SIR is measured on: whole blocks of candidates, or all in their order."""
        if self.options.seen is None:
            return list(self.library.train)
        blocks = denoising_recall.blocks_of(self.library.train, CANDIDATES, 0)
        return [one for asked, _ in blocks for one in asked][: self.options.seen]

    def truths(self, sentences: Sequence[str]) -> dict[str, GaussianModel]:
        """What SIR made of them."""
        numbers = {sentence: self.library.sentences.index(sentence) for sentence in sentences}
        states = {one: checkpoint.load(self.out / f"sir_{number}.ckpt", self.device) for one, number in numbers.items()}
        return {one: GaussianModel(state).to(self.device) for one, state in states.items()}

    # ---- All at once ----

    def train(self) -> None:
        runs = self.options.runs or [f"{kind}:{method}" for method in BRANCHES for kind in KINDS]
        for chosen in self.mine(runs):
            kind, method = chosen.split(":")
            self._train(kind, method)

    def _train(self, kind: str, method: str) -> None:
        name = f"train_{kind}_{method}{self.options.tag}"
        config = self.configuration(kind, method)
        trainer = run.make_trainer(config, self.prior)
        assert trainer.sentences is not None
        groups, total = config.data.batch_size[0] // config.data.n_view, config.trainer.max_steps
        spent_before = 0.0
        if method == "sir":
            records = [json.loads((self.out / f"sir_{self.library.sentences.index(one)}.json").read_text()) for one in self.library.train]
            spent_before = sum(record["evaluations"] for record in records) / len(records)
            objective: Any = Regression(self.truths(self.library.train), config.data.n_view)
            trainer.objective = objective
            trainer.sentences.condition = lambda rows: [self.library.train[row] for row in rows]
        marks = {max(1, round(total * k / self.options.looks)) for k in range(1, self.options.looks + 1)}
        record: dict[str, Any] = {"kind": kind, "method": method, "parameters": _parameters(trainer), "curve": []}
        seconds, began = 0.0, time.perf_counter()
        for step in range(total):
            trainer.step(step)
            if step + 1 in marks:
                self._wait()
                seconds += time.perf_counter() - began
                evaluations = spent_before + BRANCHES[method] * groups * (step + 1) / len(self.library.train)
                self._show(trainer, name)
                look = {"steps": step + 1, "evaluations": evaluations, "seconds": seconds, "fog": self.fog(trainer)}
                record["curve"].append(look | self.recall(trainer))
                record["answer_seconds"] = self.answer(trainer)
                if self.device.type == "cuda":
                    record["peak_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
                self.write(name, record)
                print(name, record["curve"][-1], flush=True)
                began = time.perf_counter()
        run.save(trainer, self.out / name, total)
        trainer.close()

    def _show(self, trainer: Trainer, name: str) -> None:
        for split in ("train", "test"):
            shown = [self.rendering(trainer, sentence) for sentence in getattr(self.library, split)[:SHOWN]]
            write_sheet(self.out / f"{name}_{split}.jpg", torch.cat([one.image.clamp(0, 1) for one in shown]), columns=8)
            before_black = [(one.image - (1 - one.alpha)).clamp(0, 1) for one in shown]
            write_sheet(self.out / f"{name}_{split}_black.jpg", torch.cat(before_black), columns=8)

    def configuration(self, kind: str, method: str) -> LaunchConfig:
        steps = self.options.steps
        words = [*GUIDANCE[method], *QUIET, f"trainer.max_steps={steps}", f"exp_root_dir={self.out}"]
        words += [f"system.guidance.{bound}_step_percent=[0,{first},{last},{steps}]" for bound, first, last in WINDOWS[method]]
        words += [f"system.prompt_processor.library={self.options.library}", *self.options.words]
        return load_launch_config(Path("configs") / "multi-prompt" / f"{KINDS[kind]}.yaml", words)

    # ---- What is measured ----

    def cameras(self) -> Cameras:
        """Four views around the object."""
        side = self.prior.resolution
        return orbit_cameras(-ELEVATION_UP, [0.0, 90.0, 180.0, 270.0], 2.0, fov_y=49.1, width=side, height=side, device=self.device)

    @torch.no_grad()
    def rendering(self, trainer: Trainer, sentence: str) -> ShapeRendering:
        """The sentence's shape from four sides, before white."""
        feed, model = trainer.sentences, trainer.learner.model
        row = [feed.library.sentences.index(sentence)]
        with views.evaluating(model):
            shape = model.shape(
                model.condition(feed.store.text(row, model.geometry.text, self.device), feed.store.text(row, "global", self.device))
            )
            return shape.render(self.cameras(), 1.0, normals=False)

    def pictures(self, trainer: Trainer, sentence: str) -> Tensor:
        """[4,3,R,R] of the sentence's shape."""
        return self.rendering(trainer, sentence).image.clamp(0, 1)

    def fog(self, trainer: Trainer) -> float:
        """Mean opacity in [0,1] where held-out sentences' renders are white."""
        found = [self.rendering(trainer, sentence) for sentence in self.library.test]
        return float(torch.cat([one.alpha[one.image.amin(1, keepdim=True) > WHITE] for one in found]).mean())

    def recall(self, trainer: Trainer) -> dict[str, Any]:
        return {split: self._recall(getattr(self.library, split), lambda one: self.pictures(trainer, one)) for split in ("train", "test")}

    def _recall(self, sentences: Sequence[str], pictures_of: Any) -> dict[str, Any]:
        """Of the renders of these sentences."""
        cameras = self.cameras()
        levels = denoising_recall.levels_of(self.prior, LEVELS)
        answers: dict[str, denoising_recall.Answer] = {}
        for asked, candidates in denoising_recall.blocks_of(sentences, CANDIDATES, 0):
            conditions, rows = denoising_recall.conditions_of(self.prior, candidates, len(candidates)), []
            for one in candidates:
                draws = torch.Generator().manual_seed(0)
                rows.append(denoising_recall.candidate_losses(self.prior, pictures_of(one), cameras, conditions, levels, DRAWS, draws))
            answers |= zip(asked, denoising_recall.answers_of(torch.stack(rows), len(asked)), strict=True)
        return denoising_recall.summary_of(answers, min(CANDIDATES, len(sentences)))

    @torch.no_grad()
    def answer(self, trainer: Trainer) -> float:
        """Seconds from an embedding to four pictures, the median of ten."""
        model, feed, found = trainer.learner.model, trainer.sentences, []
        cameras = self.cameras()
        with views.evaluating(model):
            for row in range(11):
                self._wait()
                began = time.perf_counter()
                text = feed.store.text([row % len(feed.library.train)], model.geometry.text, self.device)
                pooled = feed.store.text([row % len(feed.library.train)], "global", self.device)
                model.shape(model.condition(text, pooled)).render(cameras, 1.0, normals=False)
                self._wait()
                found.append(time.perf_counter() - began)
        return sorted(found[1:])[5]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    # ---- The report ----

    def sir_recall(self) -> None:
        """Of SIR's own results."""
        record: dict[str, Any] = {}
        for split, sentences in (("train", self.seen()), ("test", list(self.library.test))):
            truths, cameras = self.truths(sentences), self.cameras()

            @torch.no_grad()
            def pictures_of(one: str, truths=truths, cameras=cameras) -> Tensor:
                return truths[one].render(cameras, 1.0).image.clamp(0, 1)

            record[split] = self._recall(sentences, pictures_of) | {"sentences": len(sentences)}
            shown = torch.cat([pictures_of(one) for one in sentences[:SHOWN]])
            write_sheet(self.out / f"sir_{split}.jpg", shown, columns=8)
        self.write("recall_sir", record)

    def report(self) -> None:
        print(json.dumps(provenance(self.device)))
        print(report_of(self.out))


def _parameters(trainer: Trainer) -> int:
    return sum(parameter.numel() for parameter in trainer.learner.model.parameters())


def report_of(folder: Path) -> str:
    """Rows of all runs in `folder`, one for each look at them."""
    names = ["network", "method", "evaluations a sentence", "seconds"]
    names += [f"{what} {of}" for of in ("seen", "held out") for what in ("recall@1", "calibrated", "mean rank")]
    rows = [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("sir_*.json"))]
    if records and (folder / "recall_sir.json").is_file():
        found = json.loads((folder / "recall_sir.json").read_text())
        evaluations, seconds = (sum(record[key] for record in records) / len(records) for key in ("evaluations", "seconds"))
        counted = " and ".join(str(found[split].get("sentences", "all")) for split in ("train", "test"))
        rows.append(f"| none | SIR, each sentence alone ({counted} of them) | {evaluations:.0f} | {seconds:.2f} each | {_scores(found)} |")
    for path in sorted(folder.glob("train_*.json")):
        record = json.loads(path.read_text())
        for look in record["curve"]:
            rows.append(f"| {record['kind']} | {record['method']} | {look['evaluations']:.0f} | {look['seconds']:.0f} | {_scores(look)} |")
    return "\n".join(rows)


def _scores(found: dict[str, Any]) -> str:
    parts = [found[split] for split in ("train", "test")]
    return " | ".join(
        f"{part['denoising']['recall_at_1']:.3f} | {part['calibrated']['recall_at_1']:.3f} | {part['denoising']['mean_rank']:.1f}"
        for part in parts
    )


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sir", "sir_recall", "train", "report"))
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument("--library", default="micro")
    parser.add_argument("--runs", nargs="+", metavar="KIND:METHOD")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--looks", type=int, default=1, help="how often a run is measured on its way and at its end")
    parser.add_argument("--cfg", type=float, default=3.0, help="guidance of SIR")
    parser.add_argument("--seen", type=int, metavar="N", help="training sentences that SIR is measured on; default: all")
    parser.add_argument("--words", nargs="*", default=[], metavar="KEY=VALUE", help="of launch.py, for all runs")
    parser.add_argument("--tag", default="", help="ends the names of runs with other words")
    parser.add_argument("--part", default="0/1", metavar="K/N")
    parser.add_argument("--device", default="auto")
    return parser


def main() -> int:
    options = parser().parse_args()
    torch.set_float32_matmul_precision("high")
    getattr(Bench(options), options.what)()
    return 0


if __name__ == "__main__":
    sys.exit(main())
