"""The configuration: defaults, precedence, and one clear line for everything that is not understood."""

import shutil
from pathlib import Path

import pytest

from microdreamer.core import paths
from microdreamer.core.errors import UserError
from microdreamer.pipeline.command_line import parse_command_line
from microdreamer.pipeline.config import RETIRED, SCHEMA, Config, as_config, load_config

ROOT = Path(__file__).resolve().parents[2]


def test_words_override_the_file_which_overrides_the_defaults(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("cfg: 5\ntotal_steps: 7\ninput:\nprompt: a red car\n")
    config = load_config(path, ["total_steps=9", "eta=1e-1", "even_view=false", "prompt=a cat: grey, [large], ${size}", "ref_size=64"])
    assert (config.cfg, config.total_steps, config.eta, config.even_view, config.input) == (5.0, 9, 0.1, False, None)
    assert config.prompt == "a cat: grey, [large], ${size}" and config.ref_size == 64
    assert load_config(None, []) == Config()
    assert load_config(None, ["prompt=", "ref_size=null", "prompt=yes"]).prompt == "yes"


def test_the_keys_of_a_group_are_written_with_a_dot_or_nested(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("profiling:\n  mode: torch\n  rounds: 5\nprofiling.scope: function\n")
    config = load_config(path, ["profiling.mode=nvtx"])
    assert (config.profiling.mode, config.profiling.scope, config.profiling.rounds) == ("nvtx", "function", 5)
    assert load_config(None, ["--profiling.mode=torch"]).profiling.mode == "torch" and Config().profiling.mode == "none"


def test_dashed_keys_are_understood():
    config, quiet = parse_command_line(["--input=a.png", "seed=3", "--quiet", "--save_path=b"], "")
    assert (config.input, config.seed, config.save_path, quiet) == ("a.png", 3, "b", True)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("inptu=a.png", "unknown key 'inptu'; the nearest valid key is 'input'"),
        ("--totl_steps=3", "unknown key 'totl_steps'; the nearest valid key is 'total_steps'"),
        ("total_steps=many", "total_steps=many: expected a whole number from 1 to"),
        ("total_steps=2.5", "expected a whole number"),
        ("total_steps=0", "total_steps=0: expected a whole number from 1"),
        ("even_view=perhaps", "even_view=perhaps: expected true or false"),
        ("eta=nan", "expected a number from 0 to 1"),
        ("eta=inf", "expected a number from 0 to 1"),
        ("eta=null", "expected a number from 0 to 1"),
        ("prior=macro", "expected one of micro"),
        ("steps_schedule=square", "expected one of fixed"),
        ("photo.png", "'photo.png' is not understood; options of a run are written key=value"),
        ("--input", "written key=value"),
        ("=3", "written key=value"),
        ("mesh_resolution=100", "mesh_resolution=100: expected a whole number from 16 to 1024, a multiple of 16"),
        ("iters=20", "nothing reads it"),
        ("profiling.mode=nsys", "profiling.mode=nsys: expected one of none, nvtx, torch"),
        ("profiling.scope=all", "profiling.scope=all: expected one of broad, function"),
        ("profiling.rounds=0", "expected a whole number from 1"),
        ("profiling.mod=nvtx", "unknown key 'profiling.mod'; the nearest valid key is 'profiling.mode'"),
        ("profiling=torch", "profiling: expected one of profiling.mode, profiling.scope, profiling.rounds"),
        ("t_end=0.95", "t_end=0.95 is above t_start=0.9"),
    ],
)
def test_what_is_not_understood_is_one_line(word, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as caught:
        parse_command_line([word], "")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cfg: [1, 2]", "cfg="),
        ("cfg: {a: 1}", "cfg="),
        ("- a\n- b", "expected lines of"),
        ("cfg: [1", "not a YAML file"),
        ("guidance: 3", "unknown key 'guidance'"),
        ("profiling:\n  enabled: true", "profiling.enabled: profiling.mode=nvtx or torch turns it on; remove it"),
        ("profiling:\n  depth: 3", "unknown key 'profiling.depth'"),
        ("profiling:\n  mode: {a: 1}", "profiling.mode="),
        ("profiling: true", "expected one of profiling.mode"),
        ("profiling:", "expected one of profiling.mode"),
        ("total_steps: true", "expected a whole number"),
        ("even_view: 0.5", "expected true or false"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_that_names_it(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(path, [])
    assert "\n" not in str(caught.value) and "a.yaml" in str(caught.value)


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such configuration file"):
        load_config(tmp_path / "none.yaml", [])
    with pytest.raises(UserError, match="no such configuration file"):
        load_config(tmp_path, [])
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="not a YAML file"):
        load_config(tmp_path / "b.yaml", [])
    with pytest.raises(UserError, match="expected one argument"):
        parse_command_line(["--config"], "")


SHIPPED = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml") if "system:" not in path.read_text())  # those are launch.py's


@pytest.mark.parametrize("name", SHIPPED)
def test_a_configuration_that_ships_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch, name):
    expected = load_config(ROOT / "configs" / f"{name}.yaml", [])
    assert expected != Config()
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()  # a folder of results, say
    for written in (name, f"{name}.yaml", f"configs/{name}.yaml", f"configs/{name}", f"./{name}"):
        assert load_config(written, []) == expected
    assert parse_command_line(["--config", name], "")[0] == expected


def test_an_installed_package_finds_those_inside(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "microdreamer"
    shutil.copytree(ROOT / "configs", package / "configs")
    (package / "configs" / "micro.yaml").write_text("cfg: 4\n")
    monkeypatch.setattr(paths, "PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    assert load_config("micro", []).cfg == load_config("configs/micro.yaml", []).cfg == as_config({"seed": 1}).cfg == 4


def test_a_file_of_the_users_own_goes_before_one_that_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "micro.yaml").write_text("cfg: 5\n")
    assert load_config("configs/micro.yaml", []).cfg == 5 and load_config("micro", []).cfg == 1


@pytest.mark.parametrize("name", ["mircro", "mine/micro.yaml", "configs/none.yaml", "micro.yml", "x0sds_micro", ""])
def test_one_that_is_not_there_is_answered_with_those_that_ship(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load_config(name, [])
    assert str(caught.value) == f"{name}: no such configuration file; pass --config FILE.yaml or one that ships: {', '.join(SHIPPED)}"


def test_no_key_is_both_valid_and_retired():
    assert not (set(SCHEMA.fields) | set(SCHEMA.groups)) & set(RETIRED)


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_command_line(["--help"], "")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {key}=" in text for key in [*SCHEMA.fields, "profiling.mode", "profiling.scope"])
