"""GGUF files as targets."""

from falcon_cli.target.gguf.convert import converted, whole

__all__ = ["converted", "whole"]
