"""A pass over all weights: they are finite numbers, and which ones they are."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from falcon_cli.errors import FalconError
from falcon_cli.native.quantized import QuantizedTensor
from falcon_cli.target.gguf.mapped import finite

_SUMS = 64
"""Sums that a tensor's fingerprint is made of, each over a stretch of it."""


def check_finite(name: str, model: Any, dtype: str) -> None:
    """Refuse weights that are not finite numbers.

    Raises:
        FalconError: A tensor holds NaN or infinity; it is named.
    """
    for tensor_name, tensor in _tensors(model):
        if not _is_finite(tensor):
            other = "--dtype bf16 or fp32" if dtype == "fp16" else "another checkpoint"
            raise FalconError(f"{name}: {tensor_name} holds NaN or infinity instead of numbers; try {other}")


def check_finite_blocks(name: str, model: Any) -> None:
    """As `check_finite`, of a model whose matrices are in a file's own blocks.

    Raises:
        FalconError: A tensor holds NaN or infinity; it is named.
    """
    check_finite(name, model, "fp32")
    for module_name, module in model.named_modules():
        matrix = getattr(module, "tensor", None)
        if isinstance(matrix, QuantizedTensor) and not finite(matrix):
            raise FalconError(
                f"{name}: {module_name}.weight holds NaN or infinity instead of numbers; try another checkpoint"
            )


def fingerprint(model: Any) -> str:
    """A short name of a model's weights and configuration, the same for the same numbers (hexadecimal)."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    for tensor_name, tensor in _tensors(model):
        digest.update(f"{tensor_name} {tensor.dtype} {tuple(tensor.shape)} {_sums(tensor)}\n".encode())
    return digest.hexdigest()[:24]


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight by its name, tied ones once; quantised ones as the tensors that they are stored in."""
    yield from _parts(model.named_parameters())
    if getattr(model, "hf_quantizer", None) is not None:  # some ways of quantising keep their weights in buffers
        yield from _parts(model.named_buffers())


def _parts(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors that hold numbers: a tensor class of its own is made of others."""
    for name, tensor in tensors:
        if hasattr(tensor, "__tensor_flatten__"):
            parts = [(f"{name}.{part}", getattr(tensor, part)) for part in tensor.__tensor_flatten__()[0]]
            yield from _parts(parts)
        elif tensor.numel():
            yield name, tensor.detach()


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    ends = torch.aminmax(tensor if tensor.element_size() > 1 else tensor.float())  # NaN is both of them
    return bool(torch.stack([ends.min, ends.max]).isfinite().all())


def _sums(tensor: Tensor) -> list[int]:
    """Exact sums of a tensor's bits, as whole numbers of eight bytes, and its last few bytes."""
    aligned = tensor.storage_offset() * tensor.element_size() % 8 == 0
    data = (tensor.contiguous() if aligned else tensor.clone()).view(-1).view(torch.uint8)
    whole = data.numel() // (8 * _SUMS) * 8 * _SUMS
    words = data[:whole].view(torch.int64).view(_SUMS, -1)
    return [*words.sum(1).tolist(), *data[whole:].tolist()]
