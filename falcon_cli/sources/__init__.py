"""A reference becomes a local file: a built-in name, a path, or a file inside a wheel on a package index."""

from falcon_cli.sources.disk import atomic_file, atomic_folder, disk_errors, home, locked, sha256_of
from falcon_cli.sources.lines import append_line, json_lines, whole_lines
from falcon_cli.sources.references import built_in_names, data_file, is_gguf, resolve_target
from falcon_cli.sources.targets import built_in_targets
from falcon_cli.sources.wheels import WheelFile, WheelFolder, fetch_wheel_file, fetch_wheel_folder

__all__ = [
    "WheelFile",
    "WheelFolder",
    "append_line",
    "atomic_file",
    "atomic_folder",
    "built_in_names",
    "built_in_targets",
    "data_file",
    "disk_errors",
    "fetch_wheel_file",
    "fetch_wheel_folder",
    "home",
    "is_gguf",
    "json_lines",
    "locked",
    "resolve_target",
    "sha256_of",
    "whole_lines",
]
