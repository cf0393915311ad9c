"""Give main.py, main2.py, process.py and launch.py bad input and print what they say, as the Markdown page docs/bad_input.md.

python scripts/check_bad_input.py > docs/bad_input.md

Exit code 1 if any case does not end with exit code 2, one line that says why, and no file left behind. A minute.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gzip
import json
import multiprocessing
import os
import runpy
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

WEIGHTS = REPOSITORY / "weights" / "micro_prior"
PICTURE = REPOSITORY / "test_data" / "robot_rgba.png"
CONFIG = REPOSITORY / "configs" / "micro.yaml"
FIELD = REPOSITORY / "configs" / "x0sds_micro.yaml"
LIBRARY = REPOSITORY / "configs" / "multi-prompt" / "hyper_iNGP_micro_8.yaml"
NETWORK = REPOSITORY / "weights" / "hyper_ingp_micro" / "step_832.ckpt"  # that learnt a library
NOTICE = "cut-out: "  # process.py says which method it uses; that is no error
SECONDS = 300  # after which a case hangs; a busy machine takes 30 for the slowest
# What the cases import, in the end: half a second each where it is not there.
PRELOADED = (
    "microdreamer.batch.commands",
    "microdreamer.pipeline.reconstruction",
    "microdreamer.pipeline.refinement",
    "microdreamer.pipeline.cutouts",
    "microdreamer.pipeline.terminal",
    "microdreamer.pipeline.launch.generate",
    "microdreamer.pipeline.launch.run",
    "microdreamer.guidance.micro.prior",
    "omegaconf",
    "scipy.sparse",
    "trimesh",
)
# A run that soon gets to writing files.
SHORT = ("total_steps=1", "denoise_steps=1", "init_steps=1", "cfg=1", "video_frames=0", "mesh_resolution=16", "ref_size=16")
SHORT_2 = ("iters_refine=1", "refine_steps=1", "refine_size=16", "texture_size=64", "video_frames=0", "video_size=16")

PAGE = """# Bad input

What `main.py`, `main2.py`, `process.py` and `launch.py` say to input that they cannot use. Each row was run, in a process of its own, by
the command that printed this page, `python scripts/check_bad_input.py`; it fails unless every case ends with exit code 2 and one line, and
leaves no file behind. All but `process.py` ran with `--quiet`: else they tell their configuration and the seconds of phases first.
`FILES` stands for a folder with what the case names, `REPO` for this repository. Memory that runs out, of the GPU too, is such a line as
well (`main2.py: the memory is not enough (...); lower texture_size, ...`), which tests make happen.
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """One command: its arguments after `program`, set apart by what is bad about them."""

    title: str
    program: str
    arguments: tuple[str, ...]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    folder: Path | None = None  # where it runs; None: an empty folder of its own


@dataclasses.dataclass(frozen=True)
class Outcome:
    case: Case
    code: int | None  # None: it did not end
    lines: list[str]  # what it said, without notices
    left: list[str]

    @property
    def good(self) -> bool:
        return self.code == 2 and len(self.lines) == 1 and not self.left


def make_files(folder: Path) -> None:
    """The bad pictures, configurations, weights and Gaussians that the cases name."""
    network = NETWORK.read_bytes()
    (folder / "cut.ckpt").write_bytes(network[: len(network) // 2])
    shutil.copy(WEIGHTS / "model-00003-of-00003.safetensors", folder / "foreign.ckpt")
    for name in ("text.ckpt", "text.json"):
        (folder / name).write_text("this is text\n")
    (folder / "half.json").write_text(json.dumps({"train": ["a red car"], "test": ["a red car"]}))
    (folder / "unknown.json").write_text(json.dumps({split: ["zzyzx"] for split in ("train", "val", "test")}))
    whole = PICTURE.read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    middle = len(whole) // 2
    (folder / "corrupt.png").write_bytes(whole[:middle] + bytes(byte ^ 0x5A for byte in whole[middle : middle + 64]) + whole[middle + 64 :])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("this is not a picture\n")
    Image.new("RGB", (256, 256), (120, 130, 140)).save(folder / "plain.png")
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(folder / "transparent.png")
    Image.new("RGB", (1, 1), (255, 0, 0)).save(folder / "one_pixel.png")
    Image.new("RGBA", (1, 1), (255, 0, 0, 128)).save(folder / "one_pixel_alpha.png")
    Image.new("1", (15_000, 15_000)).save(folder / "huge.png")
    shutil.copy(PICTURE, folder / "odd_rgba.png")
    (folder / "odd_caption.txt").write_bytes(b"\xff\xfe\xfa caption")
    (folder / "folder").mkdir()
    (folder / "a_file").write_text("not a folder\n")
    for suffix in ("png", "jpg"):
        (folder / "twins").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / "twins" / f"a.{suffix}")

    (folder / "broken.yaml").write_text("prior: [micro\nseed: {1\n")
    (folder / "list.yaml").write_text("- prior\n- micro\n")
    (folder / "binary.yaml").write_bytes(bytes(range(256)))
    (folder / "unknown.yaml").write_text("prior: micro\ntotal_stesp: 12\n")
    (folder / "wrong_type.yaml").write_text("total_steps: many\n")

    shards = sorted(path.name for path in WEIGHTS.glob("*.safetensors"))
    for name in ("weights_lack_a_part", "weights_cut_short", "weights_foreign", "weights_config"):
        (folder / name).mkdir()
        for path in WEIGHTS.iterdir():
            (folder / name / path.name).symlink_to(path)
    (folder / "weights_lack_a_part" / shards[0]).unlink()
    (folder / "weights_config" / "config.json").unlink()
    (folder / "weights_config" / "config.json").write_text('{"network": {}, "words"')
    cut, foreign = folder / "weights_cut_short" / shards[-1], folder / "weights_foreign" / shards[-1]
    for path in (cut, foreign):
        path.unlink()
    cut.write_bytes((WEIGHTS / shards[-1]).read_bytes()[:100_000])
    write_safetensors(foreign)

    (folder / "not_gaussians.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n0 0 0\n"
    )
    (folder / "transparent.splat").write_bytes(bytes(3200))
    (folder / "cut.splat").write_bytes(bytes(3201))
    (folder / "odd.spz").write_bytes(b"x\x9cc" + bytes(20))
    (folder / "cut.spz").write_bytes(gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, 3, 100, 0, 12, 0, 0) + bytes(500)))
    (folder / "scene.ksplat").write_bytes(bytes(4096))
    make_meshes(folder)


def make_meshes(folder: Path) -> None:
    """The bad meshes that the cases name, and a good one: a cube of quads without texture coordinates."""
    from microdreamer.meshes.files import write_glb
    from microdreamer.meshes.mesh import Mesh

    corners = [f"v {x} {y} {z}" for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]
    quads = ["f 1 2 4 3", "f 5 7 8 6", "f 1 5 6 2", "f 3 4 8 7", "f 1 3 7 5", "f 2 6 8 4"]
    meshes = {
        "cube.obj": [*corners, *quads],
        "no_faces.obj": corners,
        "nan.obj": [*corners[:7], "v 0.5 nan 0.5", *quads],
        "no_such_corner.obj": [*corners, *quads, "f 7 8 9"],
        "a_point.obj": ["v 1 1 1"] * 3 + ["f 1 2 3"],
        "no area, ünflächig.obj": [*corners, "f 1 2 1"],
        "no_texture.obj": ["mtllib no_texture.mtl", "vt 0 0", "usemtl a", *corners, "f 1/1 2/1 4/1 3/1"],
        "odd_texture.obj": ["mtllib odd_texture.mtl", "vt 0 0", "usemtl a", *corners, "f 1/1 2/1 4/1 3/1"],
    }
    for name, lines in meshes.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "no_texture.mtl").write_text("newmtl a\nmap_Kd missing.png\n")
    (folder / "odd_texture.mtl").write_text("newmtl a\nmap_Kd corrupt.png\n")
    write_glb(Mesh(np.eye(3), [[0, 1, 2]]), folder / "a_triangle.glb")
    write_glb(Mesh(np.eye(3), [[0, 1, 2]]), folder / "truncated.glb")
    (folder / "truncated.glb").write_bytes((folder / "truncated.glb").read_bytes()[:-20])
    (folder / "empty.glb").touch()
    shutil.copy(PICTURE, folder / "a_picture.glb")
    make_gltf(folder)
    (folder / "a_scene.fbx").write_bytes(b"Kaydara FBX Binary  \0")
    head = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    faces = "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    (folder / "cut_short.ply").write_text(head + faces + "0 0 0\n1 0 0\n0 1")
    (folder / "points.ply").write_text(f"{head}end_header\n0 0 0\n1 0 0\n0 1 0\n")
    (folder / "taken" / "cube_refined.glb").mkdir(parents=True)
    (folder / "splat.ply").write_text(f"{head}property float f_dc_0\nend_header\n0 0 0 1\n1 0 0 1\n0 1 0 1\n")


def make_gltf(folder: Path) -> None:
    """glTF files that need what is not there."""
    from scripts.make_mesh_files import GltfFile

    def file() -> tuple[GltfFile, dict]:
        made = GltfFile()
        part = made.primitive(np.float32(np.eye(3)), [[0, 1, 2]], made.material(color=[1, 1, 1, 1]))
        made.node([part])
        return made, part

    made, _ = file()
    made.use("EXT_of_tomorrow", required=True)
    made.write(folder / "of_tomorrow.glb")
    made, part = file()
    made.use("KHR_draco_mesh_compression", required=True)
    part["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
    made.write(folder / "draco.glb")
    made, _ = file()
    made.json["materials"][0]["pbrMetallicRoughness"]["baseColorFactor"][3] = 0
    made.json["materials"][0]["alphaMode"] = "BLEND"
    made.write(folder / "transparent.glb")
    made, _ = file()
    made.json["asset"]["version"] = "1.0"
    made.write(folder / "gltf_1.glb")
    made, _ = file()
    made.write(folder / "no_buffer.gltf")
    document = json.loads((folder / "no_buffer.gltf").read_text())
    document["buffers"][0]["uri"] = "scene.bin"
    (folder / "no_buffer.gltf").write_text(json.dumps(document))


def write_safetensors(path: Path) -> None:
    """A valid file of safetensors that belongs to another network."""
    from safetensors.numpy import save_file

    save_file({"encoder.weight": np.zeros((2, 2), np.float32)}, path)


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of one megabyte with nothing left to write to, or None where it may not be mounted."""
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if not mounted or mounted.returncode:
        yield None
        return
    try:
        with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def main_cases(files: Path, full: Path | None) -> list[Case]:
    """Bad input of main.py."""

    def case(title: str, *words: str, config: Path | None = CONFIG, environment: dict[str, str] | None = None) -> Case:
        return Case(title, "main.py", (*(["--config", str(config)] if config else []), "--quiet", *words), environment or {})

    picture = f"input={PICTURE}"
    cases = [
        case("neither picture nor sentence"),
        case("no such picture", f"input={files}/missing.png"),
        case("a folder", f"input={files}/folder"),
        case("a corrupt PNG", f"input={files}/corrupt.png"),
        case("a truncated PNG", f"input={files}/truncated.png"),
        case("an empty file", f"input={files}/empty.png"),
        case("text named .png", f"input={files}/text.png"),
        case("no alpha and nothing to cut out", f"input={files}/plain.png"),
        case("nothing visible", f"input={files}/transparent.png"),
        case("one pixel", f"input={files}/one_pixel.png"),
        case("one pixel with alpha", f"input={files}/one_pixel_alpha.png"),
        case("225 megapixels", f"input={files}/huge.png"),
        case("a caption that is not text", f"input={files}/odd_rgba.png"),
        case("one of two pictures missing", f"{picture},{files}/missing.png", "azimuth=0,90"),
        case("one of two pictures corrupt", f"{picture},{files}/corrupt.png", "azimuth=0,90"),
        case("two pictures and three azimuths", f"{picture},{PICTURE}", "azimuth=0,90,180"),
        case("two pictures from one place", f"{picture},{PICTURE}", "azimuth=0,360"),
        case("a sentence of unknown words", "prompt=xyzzy plugh"),
        case("an unknown key", picture, "total_stesp=5"),
        case("a misspelt option", f"--inptu={PICTURE}"),
        case("a word that is no key=value", "picture.png"),
        case("a wrong type", picture, "total_steps=many"),
        case("a number out of range", picture, "seed=-1"),
        case("an unknown choice", picture, "prior=mikro"),
        case("a key of the original that does nothing", picture, "iters=500"),
        case("a lower limit above the upper", picture, "min_ver=60"),
        case("no such configuration", picture, config=files / "missing.yaml"),
        case("a configuration that is not YAML", picture, config=files / "broken.yaml"),
        case("a configuration of bytes", picture, config=files / "binary.yaml"),
        case("a configuration that is a list", picture, config=files / "list.yaml"),
        case("an unknown key in the configuration", picture, config=files / "unknown.yaml"),
        case("a wrong type in the configuration", picture, config=files / "wrong_type.yaml"),
        case("outdir is a file", picture, f"outdir={files}/a_file"),
        case("save_path is a path", picture, "save_path=../elsewhere"),
        case("no such weights", picture, f"prior_path={files}/missing"),
        case("weights lack a part", picture, f"prior_path={files}/weights_lack_a_part"),
        case("weights cut short", picture, f"prior_path={files}/weights_cut_short"),
        case("weights of another network", picture, f"prior_path={files}/weights_foreign"),
        case("a broken description of the weights", picture, f"prior_path={files}/weights_config"),
        case("no such Gaussians", picture, f"load={files}/missing.ply"),
        case("a PLY without Gaussians", picture, f"load={files}/not_gaussians.ply"),
        case("an unknown device", picture, "device=tpu"),
        case("CUDA without a GPU", picture, "device=cuda", environment={"CUDA_VISIBLE_DEVICES": ""}),
        case("USE_CUDA_EXTRACT=2", picture, environment={"USE_CUDA_EXTRACT": "2"}),
        case("USE_CUDA_GAUSS=yes", picture, environment={"USE_CUDA_GAUSS": "yes"}),
    ]
    if full:
        cases.append(case("a full disk", picture, *SHORT, "--quiet", f"outdir={full}"))
        cases[-1] = dataclasses.replace(cases[-1], folder=full)
    return cases


def main2_cases(files: Path, full: Path | None) -> list[Case]:
    """Bad input of main2.py."""

    def case(title: str, *words: str, environment: dict[str, str] | None = None) -> Case:
        return Case(title, "main2.py", ("--config", str(CONFIG), "--quiet", *words), environment or {})

    picture, prompt, cube = f"input={PICTURE}", "prompt=a box", ("--from-mesh", f"{files}/cube.obj")
    meshes = {
        "no such mesh": "missing.glb",
        "a folder": "folder",
        "an empty file": "empty.glb",
        "a picture named .glb": "a_picture.glb",
        "a truncated GLB": "truncated.glb",
        "a mesh without faces": "no_faces.obj",
        "a vertex that is no number": "nan.obj",
        "a face with a corner that does not exist": "no_such_corner.obj",
        "a mesh that is a point": "a_point.obj",
        "faces without area, in a path with spaces and umlauts": "no area, ünflächig.obj",
        "a texture that is missing": "no_texture.obj",
        "a texture that is corrupt": "odd_texture.obj",
        "a format that is unknown": "text.png",
        "a format of another program": "a_scene.fbx",
        "a glTF that needs an unknown extension": "of_tomorrow.glb",
        "a compressed glTF without the package": "draco.glb",
        "a glTF without its buffer": "no_buffer.gltf",
        "a glTF of version 1": "gltf_1.glb",
        "a mesh that is all transparent": "transparent.glb",
        "a PLY that is cut short": "cut_short.ply",
        "a PLY of Gaussians as a mesh": "splat.ply",
        "a .splat as a mesh": "transparent.splat",
        "a PLY of points as a mesh": "points.ply",
    }
    splats = {
        "Gaussians that nothing can be seen of": "transparent.splat",
        "a .splat cut off": "cut.splat",
        "a .spz that is no gzip stream": "odd.spz",
        "a .spz cut off": "cut.spz",
        "a mesh for Gaussians": "a_triangle.glb",
        "a format of Gaussians that is unknown": "scene.ksplat",
    }
    cases = [
        case("no mesh of that name", picture),
        case("nothing to refine by", *cube),
        *(case(title, "--from-mesh", f"{files}/{name}", prompt) for title, name in meshes.items()),
        case("--from-mesh without a file", picture, "--from-mesh"),
        case("no such Gaussians", "--from-splats", f"{files}/missing.ply"),
        case("a PLY without Gaussians", f"--from-ply={files}/not_gaussians.ply"),
        *(case(title, "--from-splats", f"{files}/{name}") for title, name in splats.items()),
        case("a side that is no axis", "--from-splats", f"{files}/transparent.splat", "up=w"),
        case("a mesh and Gaussians", *cube, "--from-splats", f"{files}/not_gaussians.ply"),
        case("no such picture", *cube, f"input={files}/missing.png"),
        case("a sentence of unknown words", *cube, "prompt=xyzzy plugh"),
        case("part of the prior's views", *cube, prompt, "refine_views=6"),
        case("a strength that leaves no step", *cube, prompt, "refine_strength=1"),
        case("an unknown key", *cube, prompt, "refine_view=8"),
        case("a number out of range", *cube, prompt, "texture_size=1"),
        case("outdir is a file", *cube, prompt, f"outdir={files}/a_file"),
        case("a folder where a file is to go", *cube, prompt, f"outdir={files}/taken"),
        case("save_path is a path", *cube, prompt, "save_path=../elsewhere"),
        case("no such weights", *cube, prompt, f"prior_path={files}/missing"),
        case("an unknown device", *cube, prompt, "device=tpu"),
        case("USE_CUDA_GAUSS=yes", *cube, prompt, environment={"USE_CUDA_GAUSS": "yes"}),
    ]
    if full:
        cases.append(case("a full disk", *cube, prompt, *SHORT_2, f"outdir={full}"))
        cases[-1] = dataclasses.replace(cases[-1], folder=full)
    return cases


def process_cases(files: Path, full: Path | None) -> list[Case]:
    """Bad input of process.py."""
    pictures = ("missing", "corrupt", "truncated", "empty", "text", "plain", "transparent", "one_pixel", "huge")
    titles = ("no such picture", "a corrupt PNG", "a truncated PNG", "an empty file", "text named .png", "nothing to cut out")
    titles += ("nothing visible", "one pixel", "225 megapixels")
    cases = [
        Case(title, "process.py", (f"{files}/{name}.png", "--out", "out")) for title, name in zip(titles, pictures, strict=True)
    ] + [
        Case("a folder without pictures", "process.py", (f"{files}/folder", "--out", "out")),
        Case("two pictures for one result", "process.py", (f"{files}/twins", "--out", "out")),
        Case("no picture named", "process.py", ()),
        Case("an unknown option", "process.py", (str(PICTURE), "--sise", "64")),
        Case("a wrong type", "process.py", (str(PICTURE), "--size", "big")),
        Case("a size out of range", "process.py", (str(PICTURE), "--size", "0")),
        Case("a border of everything", "process.py", (str(PICTURE), "--border_ratio", "1")),
        Case("an unknown model", "process.py", (str(PICTURE), "--model", "u3net", "--out", "out")),
        Case("--out is a file", "process.py", (str(PICTURE), "--out", f"{files}/a_file")),
    ]  # fmt: skip
    if full:
        cases.append(Case("a full disk", "process.py", (str(PICTURE), "--out", str(full)), folder=full))
    return cases


def launch_cases(files: Path, full: Path | None) -> list[Case]:
    """Bad input of launch.py."""

    def train(title: str, *words: str, config: Path = FIELD) -> Case:
        return Case(title, "launch.py", ("--config", str(config), "--train", "--quiet", *words))

    def use(title: str, *words: str) -> Case:
        return Case(title, "launch.py", ("--quiet", *words))

    prompt, network = "prompt=a red car", f"resume={NETWORK}"
    cases = [
        Case("nothing to do", "launch.py", ()),
        train("neither a sentence nor a picture"),
        train("a sentence of unknown words", "prompt=zzyzx"),
        train("an unknown key", prompt, "system.geometry.lerels=4"),
        train("a value of the wrong type", prompt, "trainer.max_steps=many"),
        train("stages that do not fit", prompt, "data.size=[64,128]"),
        train("views that the prior does not take", prompt, "data.n_view=1", "data.batch_size=3"),
        train("a window of noise upside down", prompt, "system.guidance.min_step_percent=0.9", "system.guidance.max_step_percent=0.1"),
        train("a corrupt picture", f"input={files}/corrupt.png"),
        train("a name that leaves its folder", prompt, "tag=../elsewhere"),
        train("published weights that are not there", prompt, "prior=mvdream", "system.guidance.prior_path=nowhere"),
        train("a checkpoint that is not there", prompt, "resume=nowhere.ckpt"),
        train("a checkpoint that is cut", prompt, f"resume={files}/cut.ckpt"),
        train("weights of another program", prompt, f"resume={files}/foreign.ckpt"),
        train("text named .ckpt", prompt, f"resume={files}/text.ckpt"),
        train("a checkpoint of another make", prompt, network),
        train("a checkpoint without what training needs", network, config=LIBRARY),
        train("no such library", "system.prompt_processor.library=nowhere.json", config=LIBRARY),
        train("a library that is no JSON", f"system.prompt_processor.library={files}/text.json", config=LIBRARY),
        train("a library without a list", f"system.prompt_processor.library={files}/half.json", config=LIBRARY),
        train("a library of unknown words", f"system.prompt_processor.library={files}/unknown.json", config=LIBRARY),
        train("rounds for a library", "system.guidance.objective=sir", config=LIBRARY),
        use("a sentence of unknown words, generated", "--generate", "zzyzx", network),
        use("an empty sentence", "--generate", " ", network),
        use("one sentence to go between", "--interpolate", "a red car", network),
        use("a mesh of all sentences", "--export", network),
        use("a film of no run", "--test", "--config", str(FIELD), prompt),
    ]
    if full:
        cases.append(use("a full disk", "--generate", "a red car", "--out", str(full), network, "data.n_test_views=1", "data.eval_size=16"))
        cases[-1] = dataclasses.replace(cases[-1], folder=full)
    return cases


def call(case: Case, folder: Path, output: Path) -> None:
    """What `python PROGRAM ARGUMENTS` does, in this process: its own folder, environment, output file and exit code."""
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    os.environ.update(case.environment)
    sys.argv = [case.program, *case.arguments]
    runpy.run_path(str(REPOSITORY / case.program), run_name="__main__")


def attempt(case: Case, root: Path, processes: multiprocessing.context.BaseContext) -> Outcome:
    """Run the case in its folder and see what it says and leaves."""
    folder = case.folder or Path(tempfile.mkdtemp(dir=root))
    output = Path(tempfile.mkstemp(dir=root)[1])
    before = set(folder.rglob("*"))
    process = processes.Process(target=call, args=(case, folder, output))
    process.start()
    process.join(SECONDS)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    said = output.read_text(encoding="utf-8") if code is not None else f"did not end within {SECONDS} seconds"
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(NOTICE)]
    return Outcome(case, code, lines, sorted(str(path.relative_to(folder)) for path in set(folder.rglob("*")) - before))


def table(outcomes: list[Outcome], replacements: dict[str, str]) -> str:
    """The outcomes as rows of Markdown, with paths of this machine replaced."""

    def cell(text: str) -> str:
        for path, name in replacements.items():
            text = text.replace(path, name)
        return f"`{text}`".replace("|", r"\|")

    rows = ["| case | given | message | exit code | files left |", "| --- | --- | --- | --- | --- |"]
    for outcome in outcomes:
        settings = [f"{name}={value}" for name, value in outcome.case.environment.items()]
        words = [word for word in outcome.case.arguments if word not in ("--config", str(CONFIG), str(FIELD), *SHORT, *SHORT_2, "--quiet")]
        given = cell(" ".join([*settings, *words])) if settings or words else ""
        message = " ".join(cell(line) for line in outcome.lines[-3:]) or "nothing"
        rows.append(f"| {outcome.case.title} | {given} | {message} | {outcome.code} | {', '.join(outcome.left) or 'none'} |")
    return "\n".join(rows)


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    # A server imports the programs once and forks a fresh process for each case.
    processes = multiprocessing.get_context("forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn")
    if processes.get_start_method() == "forkserver":
        processes.set_forkserver_preload(list(PRELOADED))
    with tempfile.TemporaryDirectory() as temporary, full_disk(Path(temporary) / "FULL") as full:
        root = Path(temporary)
        files = root / "FILES"
        files.mkdir()
        make_files(files)
        groups = {"main.py": main_cases(files, full), "main2.py": main2_cases(files, full), "process.py": process_cases(files, full)}
        groups["launch.py"] = launch_cases(files, full)
        outcomes = {id(case): attempt(case, root, processes) for cases in groups.values() for case in cases}

    print(PAGE)
    for program, cases in groups.items():
        print(f"## {program}\n\n{table([outcomes[id(case)] for case in cases], {f'{root}/': '', str(REPOSITORY): 'REPO'})}\n")
    if not full:
        print("Not tried: a full disk, which takes the right to mount a small file system.")
    wrong = [outcome for outcome in outcomes.values() if not outcome.good]
    for outcome in wrong:
        case, found = outcome.case, f"exit code {outcome.code}, lines {outcome.lines}, files {outcome.left}"
        print(f"check_bad_input: {case.program}: {case.title}: not as it should be: {found}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
