"""Typed configurations: dataclasses whose fields say what they take, filled from a YAML file and `key=value` words.

A key is a field's name; those of a field that is itself a dataclass are written `group.key`, or nested in the file. A key that nothing
would read is refused, with the nearest one that something does.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from microdreamer.core.errors import UserError
from microdreamer.core.files import user_path
from microdreamer.core.paths import shipped_configurations

# ---- What a field takes ----


def number(default: float, low: float, high: float, about: str) -> Any:
    return dataclasses.field(default=default, metadata={"about": about, "range": (low, high)})


def choice(default: str, choices: Sequence[str], about: str) -> Any:
    return dataclasses.field(default=default, metadata={"about": about, "choices": tuple(choices)})


def text(about: str, default: str | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"about": about})


def flag(default: bool, about: str) -> Any:
    return dataclasses.field(default=default, metadata={"about": about})


def pair(default: Sequence[float], low: float, high: float, about: str) -> Any:
    """A list of two numbers, the second not below the first; declare it as `Any`."""
    words = f"a list of two numbers from {low:g} to {high:g}, [lowest, highest]"
    return checked(default, about, words, lambda value: _is_pair(value, low, high))


def stages(default: int | Sequence[int], low: int, high: int, about: str) -> Any:
    """A whole number, or a list of them, one for each stage of a run; declare it as `Any`."""
    words = f"a whole number from {low} to {high}, or a list of them"
    return checked(default, about, words, lambda value: _are_stages(value, low, high))


def numbers(default: float | None, low: float, high: float, about: str) -> Any:
    """A number, or several as text with commas between (`0,90`) or as a list; kept as a float or a list of them. Declare it as `Any`."""
    words = f"a number from {low:g} to {high:g}, or several with commas between"

    def is_allowed(value: Any) -> bool:
        return default is None if value is None else _are_numbers(value, low, high)

    return dataclasses.field(
        default=default, metadata={"about": about, "expected": words, "is_allowed": is_allowed, "convert": _as_numbers}
    )


def checked(default: Any, about: str, expected: str, is_allowed: Callable[[Any], bool]) -> Any:
    """Whatever `is_allowed`, told to users as `expected`; declare it as `Any`."""
    metadata = {"about": about, "expected": expected, "is_allowed": is_allowed}
    if isinstance(default, (list, tuple)):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def default_of(field: dataclasses.Field) -> Any:
    """A field's default."""
    return field.default if field.default is not dataclasses.MISSING else typing.cast(Any, field.default_factory)()


def _is_number(value: Any, low: float, high: float, whole: bool = False) -> bool:
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high


def _is_pair(value: Any, low: float, high: float) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_number(entry, low, high) for entry in value) and value[0] <= value[1]


def _are_stages(value: Any, low: float, high: float) -> bool:
    return all(_is_number(entry, low, high, whole=True) for entry in (value if isinstance(value, list) else [value]))


def _as_numbers(value: Any) -> float | list[float] | None:
    """Raises ValueError or TypeError for what is no number."""
    if isinstance(value, str):
        text = value.strip().removeprefix("[").removesuffix("]").strip()
        if text in ("", "null"):
            return None
        value = text.split(",") if "," in text or value.strip().startswith("[") else text
    if value is None or isinstance(value, bool):
        return value
    return [float(entry) for entry in value] if isinstance(value, (list, tuple)) else float(value)


def _are_numbers(value: Any, low: float, high: float) -> bool:
    entries = value if isinstance(value, list) else [value]
    return bool(entries) and all(_is_number(entry, low, high) for entry in entries)


# ---- Reading ----


@functools.cache
def _top_level(file: Path) -> frozenset[str]:
    """The keys at the top of a configuration that ships. Every command asks for those of all; the loader in C takes a tenth of the time."""
    return frozenset(yaml.load(file.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


class Schema:
    """The keys of the dataclass `root`.

    fields: those that can be set, by key; groups: names that others are under. retired: keys that are understood and refused,
    with the reason. shortcuts: short names of keys.
    """

    def __init__(self, root: type, retired: Mapping[str, str] | None = None, shortcuts: Mapping[str, str] | None = None) -> None:
        self.root, self.retired, self.shortcuts = root, dict(retired or {}), dict(shortcuts or {})
        self.groups: dict[str, type] = {}
        self.fields: dict[str, dataclasses.Field] = dict(self._keys(root))

    def _keys(self, schema: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
        hints = typing.get_type_hints(schema)
        for field in dataclasses.fields(schema):
            if dataclasses.is_dataclass(hints[field.name]):
                self.groups[prefix + field.name] = hints[field.name]
                yield from self._keys(hints[field.name], f"{prefix}{field.name}.")
            else:
                yield prefix + field.name, field

    def describe(self) -> str:
        """A line for each key: its default and what it is."""
        shown = {name: "" if (value := default_of(field)) is None else value for name, field in self.fields.items()}
        return "\n".join(f"  {name}={shown[name]}  {field.metadata['about']}" for name, field in self.fields.items())

    def expected(self, key: str) -> str:
        """What a key takes, in words."""
        field = self.fields[key]
        if "choices" in field.metadata:
            return f"one of {', '.join(field.metadata['choices'])}"
        if "expected" in field.metadata:
            return field.metadata["expected"]
        words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}[str(field.type).split(" ")[0]]
        if "range" in field.metadata:
            low, high = field.metadata["range"]
            step = f", a multiple of {field.metadata['multiple']}" if "multiple" in field.metadata else ""
            return f"{words} from {low:g} to {high:g}{step}"
        return words

    def _is_allowed(self, key: str, value: Any) -> bool:
        """Whether a value of the right type is one of the key's choices or in its range."""
        metadata = self.fields[key].metadata
        if "is_allowed" in metadata:
            return metadata["is_allowed"](value)
        if value is None:
            return True
        if "choices" in metadata:
            return value in metadata["choices"]
        if "range" not in metadata:
            return True
        low, high = metadata["range"]
        return math.isfinite(value) and low <= value <= high and ("multiple" not in metadata or value % metadata["multiple"] == 0)

    def shipped(self) -> dict[str, Path]:
        """The configurations that ship and are for this schema, by the names that `--config` takes."""
        own = {name.partition(".")[0] for name in (*self.fields, *self.shortcuts)}
        return {name: file for name, file in shipped_configurations().items() if own.issuperset(_top_level(file))}

    def file_of(self, path: str | Path) -> Path:
        """The YAML file at `path` or, where there is none, the one that ships under that name: `micro`, `micro.yaml` or
        `configs/micro.yaml` in any folder. Raises UserError where there is neither."""
        file = user_path(path)
        if file.is_file():
            return file
        shipped, name = self.shipped(), file.name.removesuffix(".yaml")
        if str(file.parent) in (".", "configs") and name in shipped:
            return shipped[name]
        raise UserError(f"{path}: no such configuration file; pass --config FILE.yaml or one that ships: {', '.join(shipped)}")

    def load(self, path: str | Path | None, overrides: Sequence[str], stored: Mapping[str, Any] | None = None) -> Any:
        """Defaults, then `stored` (of an earlier run), then the YAML file, then `key=value` words.

        Raises UserError for whatever is not understood.
        """
        merged = OmegaConf.structured(self.root)
        marks: set[str] = set()  # keys whose text is "???", which OmegaConf takes for a missing value
        for source, key, value in self._assignments(path, overrides, stored):
            if key in self.retired:
                raise UserError(f"{source}: {key}: {self.retired[key]}")
            if key in self.groups:
                inner = ", ".join(name for name in self.fields if name.startswith(f"{key}."))
                raise UserError(f"{source}: {key}: expected one of {inner}")
            if key not in self.fields:
                known = [*self.fields, *self.shortcuts]
                nearest = max(known, key=lambda name: difflib.SequenceMatcher(None, str(key).lower(), name).ratio())
                raise UserError(f"{source}: unknown key {key!r}; the nearest valid key is {nearest!r}")
            shown = f"{key}={value}".replace("\n", " ")
            kind = str(self.fields[key].type)
            marks.discard(key)
            if value == "???" and kind.startswith("str"):
                marks.add(key)
                value = "?"
            try:
                if "convert" in self.fields[key].metadata:
                    value = self.fields[key].metadata["convert"](value)
                elif kind == "Any" and isinstance(value, str):
                    value = yaml.safe_load(value)
                empty = isinstance(value, str) and value.strip() in ("", "null")
                OmegaConf.update(merged, key, None if "None" in kind and empty else value, merge=False)
                value = OmegaConf.select(merged, key)
                value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            except (OmegaConfBaseException, TypeError, ValueError, yaml.YAMLError):
                raise UserError(f"{source}: {shown}: expected {self.expected(key)}") from None
            if not self._is_allowed(key, value):
                raise UserError(f"{source}: {shown}: expected {self.expected(key)}")
        config = OmegaConf.to_object(merged)
        for key in marks:
            *groups, name = key.split(".")
            holder = config
            for inner in groups:
                holder = getattr(holder, inner)
            setattr(holder, name, "???")
        return config

    def _assignments(
        self, path: str | Path | None, overrides: Sequence[str], stored: Mapping[str, Any] | None
    ) -> Iterator[tuple[str, str, Any]]:
        """(where it stands, key, value) of everything that is stored and in the file, then of the words."""
        yield from (("the earlier run", key, value) for key, value in self._flattened(stored or {}))
        if path is not None:
            values = _read(self.file_of(path), path)
            yield from ((str(path), self.shortcuts.get(key, key), value) for key, value in self._flattened(values))
        for word in overrides:
            key, equals, value = word.lstrip("-").partition("=")
            if not equals or not key:
                raise UserError(f"command line: {word!r} is not understood; options of a run are written key=value (see --help)")
            yield "command line", self.shortcuts.get(key, key), value.replace("${", r"\${")  # a prompt is text, not an interpolation

    def _flattened(self, values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if prefix + str(key) in self.groups and isinstance(value, dict):
                yield from self._flattened(value, f"{prefix}{key}.")
            else:
                yield prefix + str(key), value


def _read(file: Path, name: str | Path) -> dict:
    """What the YAML file holds, which the user calls `name`."""
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except Exception as error:  # yaml, omegaconf and codecs each have their own
        raise UserError(f"{name}: not a YAML file that can be read: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{name}: expected lines of `key: value`")
    return loaded
