"""GGUF files as targets."""

from falcon_cli.target.gguf.blocks import BlockFile, NoBlocksError
from falcon_cli.target.gguf.convert import converted, described, tokenizer_class, whole

__all__ = ["BlockFile", "NoBlocksError", "converted", "described", "tokenizer_class", "whole"]
