"""config.json of a part as the settings of one of this package's modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def settings_from(kind: type[Settings], config: Mapping[str, Any], only: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """The dataclass `kind` with its fields from `config`.

    only: what the module does in one way alone, by key: a file that asks for another way would load and compute something else.
    Keys that are in neither decide nothing, or the shapes of the weights, which are compared. Raises ValueError.
    """
    for key, value in only.items():
        found = config.get(key, value)
        if found != value and not (isinstance(found, list) and set(found) == {value}):
            raise ValueError(f"{key}={found}: not supported, expected {value}")
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in config.items() if key in names})
