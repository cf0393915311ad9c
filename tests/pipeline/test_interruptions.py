"""Whatever stops a run while it writes over an earlier result, a kill included: the old or the new one is whole afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, limits and mounts as Linux has them")


def can_mount(folder: Path) -> bool:
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0 and subprocess.run(["umount", folder], capture_output=True).returncode == 0


@pytest.mark.parametrize("moments", [3, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("peril", ["kill", "disk", "limit", "film"])
def test_the_old_or_the_new_result_is_whole(tmp_path, peril, moments):
    if peril == "disk" and not can_mount(tmp_path):
        pytest.skip("mounting a small file system takes root")
    words = ["tests/pipeline/saving_in_peril.py", peril, str(tmp_path), "--moments", str(moments)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    print(peril, counts)
    assert counts["old"] + counts["new"] == moments
    if peril == "film":
        assert counts["new"] == moments  # without its film the rest is written
    if moments > 10 and peril != "film":
        assert counts["old"] and counts["new"], "no moment fell before, or none after the end: draw from another range"
