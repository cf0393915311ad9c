"""Put GLB files through the Khronos glTF validator: one line a file; exit code 1 if any has an error or a warning.

npm install --prefix FOLDER gltf-validator
python scripts/validate_glb.py --modules FOLDER/node_modules outputs/*.glb
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAM = """
const validator = require("gltf-validator"), files = require("fs");
(async () => {
  for (const name of process.argv.slice(1)) {
    const report = await validator.validateBytes(new Uint8Array(files.readFileSync(name)));
    console.log(JSON.stringify(report.issues));
  }
})();
"""


def find_validator(modules: Path | None = None) -> tuple[str, Path] | None:
    """node and the folder that holds the validator (`modules`, else one of NODE_PATH), or None where one of them is missing."""
    node = shutil.which("node")
    folders = [modules] if modules else [Path(folder) for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if folder]
    found = next((folder for folder in folders if (folder / "gltf-validator").is_dir()), None)
    return None if node is None or found is None else (node, found.resolve())


def issues(validator: tuple[str, Path], paths: list[Path]) -> list[dict]:
    """The validator's report on each file: numErrors, numWarnings and messages."""
    node, modules = validator
    words = [node, "-e", PROGRAM, *(str(path.resolve()) for path in paths)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "NODE_PATH": str(modules)})
    return [json.loads(line) for line in done.stdout.splitlines()]


def validator_version(validator: tuple[str, Path]) -> str:
    """The installed version of the npm package."""
    return json.loads((validator[1] / "gltf-validator" / "package.json").read_text(encoding="utf-8"))["version"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--modules", type=Path, help="the node_modules that hold gltf-validator; else those of NODE_PATH")
    options = parser.parse_args()
    validator = find_validator(options.modules)
    if validator is None:
        print("validate_glb: expected node and gltf-validator: npm install gltf-validator, then --modules node_modules", file=sys.stderr)
        return 2
    wrong = 0
    for path, found in zip(options.files, issues(validator, options.files), strict=True):
        wrong += bool(found["numErrors"] or found["numWarnings"])
        told = "; ".join(sorted({message["message"] for message in found["messages"] if message["severity"] < 2}))
        print(f"{path}: {found['numErrors']} errors, {found['numWarnings']} warnings{f' ({told})' if told else ''}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
