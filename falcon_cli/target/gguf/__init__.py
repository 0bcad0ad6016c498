"""GGUF files as targets."""

from falcon_cli.target.gguf.convert import converted, tokenizer_class, whole

__all__ = ["converted", "tokenizer_class", "whole"]
