"""How many processors this process may use: a container's CPU quota and the affinity, not the whole machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Processors that this process may use at once, 1 at least; a share of one counts as a whole one.

    Args:
        root: Where `proc` and `sys` lie.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The CPU quotas, in processors, of this process's control group and of all groups around it."""
    groups = root / "sys/fs/cgroup"
    for line in _words(root / "proc/self/cgroup", "\n"):
        _, kinds, path = [*line.split(":", 2), "", ""][:3]
        inner = Path(path.lstrip("/"))
        for group in (inner, *inner.parents):
            if ".." in group.parts:  # a group outside the container's own view
                continue
            if not kinds:
                yield from _quota(*_words(groups / group / "cpu.max"))
            elif "cpu" in kinds.split(","):
                for folder in dict.fromkeys((kinds, "cpu")):
                    quota = _words(groups / folder / group / "cpu.cfs_quota_us")
                    yield from _quota(*quota, *_words(groups / folder / group / "cpu.cfs_period_us"))


def _quota(quota: str = "max", period: str = "", *_: str) -> Iterator[float]:
    """The quota of one group; nothing where it has none (`max` or -1 microseconds)."""
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
        yield int(quota) / int(period)


def _words(path: Path, separator: str | None = None) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split(separator)
    except (OSError, UnicodeDecodeError):
        return []
