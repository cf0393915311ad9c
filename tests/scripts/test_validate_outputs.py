"""Outputs through validators: what is made and kept, what the table counts, and the validators themselves where they are installed."""

import json
import shutil
import sys

import pytest
from fake_priors import coloured_ellipsoid

from scripts import validate_outputs
from scripts.validate_glb import find_validator

SMALL = ["mesh_resolution=32", "mesh_faces=600", "texture_size=64", "video_size=32", "device=cpu"]


@pytest.fixture
def outputs(tmp_path):
    coloured_ellipsoid().save_ply(tmp_path / "a.ply")
    validate_outputs.make(tmp_path / "out", [], [], [tmp_path / "a.ply"], 1, SMALL)
    return tmp_path / "out"


def report(passed=(True,) * 7, faces=10):
    findings = [{"passed": ok, "code": f"CODE_{number}", "message": "so"} for number, ok in enumerate(passed)]
    return {"findings": findings, "geometry": {"faces": faces}}


def issues(errors=0, warnings=0):
    messages = [{"code": "E", "message": "wrong", "severity": 0}] * errors + [{"code": "W", "message": "odd", "severity": 1}] * warnings
    return {"numErrors": errors, "numWarnings": warnings, "messages": [*messages, {"code": "I", "message": "by the way", "severity": 2}]}


def test_what_is_there_is_kept(outputs, capsys):
    (made,) = outputs.glob("*.glb")
    assert made.name == "splats_a_ply.glb"
    made.write_bytes(b"kept")
    validate_outputs.make(outputs, [], [], [outputs.parent / "a.ply"], 1, SMALL)
    assert made.read_bytes() == b"kept"


def test_the_table_counts_by_kind_and_names_what_is_wrong(tmp_path):
    paths = [tmp_path / name for name in ("picture_a.glb", "picture_b.glb", "sentence_c.glb")]
    text, wrong = validate_outputs.table(
        paths, [issues(), issues(1, 2), issues()], [report(), report(faces=20), report((True,) * 6 + (False,))]
    )
    assert wrong and "| pictures | 2 | 1, 2 | 2 of 2 | 20 faces |" in text and "| sentences | 1 | 0, 0 | 0 of 1 | 10 faces |" in text
    assert "picture_b.glb: E: wrong" in text and "sentence_c.glb: CODE_6: so" in text and "by the way" not in text
    assert not validate_outputs.table(paths, [issues()] * 3, [report()] * 3)[1]
    assert validate_outputs.table(paths, [issues()] * 3, [report((True,) * 6)] * 3)[1]  # a check that was not made has not passed


def test_without_validators_it_says_what_it_takes(tmp_path, capsys):
    assert validate_outputs.check([tmp_path / "a.glb"], tmp_path, "no such program") == 2
    assert "the npm package gltf-validator (--modules) and 3dqa (--linter)" in capsys.readouterr().err


def test_a_linter_that_fails_is_no_report(tmp_path):
    with pytest.raises(ValueError, match="exit code"):
        validate_outputs.linted(sys.executable, [tmp_path / "a.glb"])


def test_validators_find_nothing(outputs, capsys):
    if find_validator() is None or shutil.which("3dqa") is None:
        pytest.skip("needs node, the npm package gltf-validator in NODE_PATH, and 3dqa")
    assert validate_outputs.check(sorted(outputs.glob("*.glb")), None, "3dqa") == 0
    assert "| files of Gaussians | 1 | 0, 0 | 1 of 1 |" in capsys.readouterr().out
    (made,) = outputs.glob("*.glb")
    data = made.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    document = json.loads(data[20 : 20 + length])
    document["accessors"][0]["max"][0] += 1  # a bound that is none
    text = json.dumps(document, separators=(",", ":")).encode()
    made.write_bytes(data[:20] + text.ljust(length) + data[20 + length :])
    assert len(text) > length or validate_outputs.check([made], None, "3dqa") == 1
