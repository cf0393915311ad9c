"""The page of bad input: every case ends as it says."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_bad_input.py"


def test_every_case_is_one_line_exit_code_2_and_no_file():
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| 2 | none |") == done.stdout.count("\n| ") - 2 * done.stdout.count("\n## ")  # but the heads and their rules
