"""A GGUF file as a transformers model whose matrices stay in the file, in its own blocks.

Every matrix becomes a linear layer or an embedding on mapped bytes. Only vectors (norms, biases) become ordinary
tensors. llama.cpp's changes are undone as in the conversion; those of a matrix may only move its rows.

Shapes: O outputs of a matrix.
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from falcon_cli.errors import FalconError, first_line
from falcon_cli.native.quantized import QuantizedEmbedding, QuantizedLinear, QuantizedTensor
from falcon_cli.native.weights import suits
from falcon_cli.target.gguf.architectures import ARCHITECTURES
from falcon_cli.target.gguf.convert import described
from falcon_cli.target.gguf.mapped import TABLE, MappedFile, MappedTensor
from falcon_cli.target.gguf.weights import (
    blank_model,
    check_whole,
    is_weight,
    misshapen,
    names_of,
    processor_of,
    unknown,
    unreadable,
    weight_name,
)


class NoBlocksError(FalconError):
    """The model is no plain stack of matrices that could stay in their blocks; converting the file may do."""


class BlockFile:
    """A GGUF file whose weights are read where they lie.

    Args:
        path: The file.

    Raises:
        NoBlocksError: The model has weights that only the conversion can make.
        FalconError: The file cannot be read, or weights are missing, left over or of other shapes.
    """

    def __init__(self, path: Path):
        from transformers import AutoConfig, GenerationConfig

        self.folder = described(path)
        """The model's description, with its tokenizer and without weights."""
        self._file = MappedFile(path, self.folder / TABLE)
        if self._file.architecture not in ARCHITECTURES:
            raise self._no_blocks(f"falcon has no description of {self._file.architecture}")
        self._config = AutoConfig.from_pretrained(self.folder)
        self._generation_config = GenerationConfig.from_pretrained(self.folder)
        self._matrices: dict[str, QuantizedTensor] = {}
        self._vectors: dict[str, Tensor] = {}
        blank = blank_model(self._config)
        wanted = {name: tuple(weight.shape) for name, weight in blank.state_dict().items()}
        for name, weight in self._weights(blank):
            if wanted.get(name) != tuple(weight.shape):
                raise self._refusal(misshapen(name, weight.shape, wanted.get(name, ())))
            if isinstance(weight, Tensor):
                self._vectors[name] = weight
            else:
                self._matrices[name] = weight
        check_whole(path, blank, self._matrices.keys() | self._vectors.keys())

    def model(self) -> Any:
        """The transformers model, of its own class and on its own attention; all such models share the file's bytes.

        Raises:
            NoBlocksError: A matrix is of another layer than an ordinary linear one or an embedding.
        """
        model = blank_model(deepcopy(self._config))  # another model's may have been put on another attention
        vectors = dict(self._vectors)
        for name, matrix in self._matrices.items():
            place = name.removesuffix(".weight")
            model.set_submodule(place, self._layer(model.get_submodule(place), name, matrix, vectors))
        for name, vector in vectors.items():
            place, _, own = name.rpartition(".")
            setattr(model.get_submodule(place), own, _frozen(vector))
        if model.config.tie_word_embeddings:
            model.set_output_embeddings(QuantizedLinear(model.get_input_embeddings().tensor))
        self._fill_buffers(model)
        model.generation_config = self._generation_config
        return model.eval()

    def release(self) -> None:
        """See `MappedFile.release`."""
        self._file.release()

    def _layer(self, layer: nn.Module, name: str, matrix: QuantizedTensor, vectors: dict[str, Tensor]) -> nn.Module:
        """What takes a layer's place; its bias is taken out of the vectors."""
        if type(layer) is nn.Embedding:
            return QuantizedEmbedding(matrix)
        if not name.endswith(".weight") or not suits(layer):
            raise self._no_blocks(f"{name} is a weight of a {type(layer).__name__}")
        bias = vectors.pop(f"{name.removesuffix('weight')}bias", None)
        return QuantizedLinear(matrix, None if bias is None else _frozen(bias))

    def _weights(self, model: Any) -> Iterator[tuple[str, QuantizedTensor | Tensor]]:
        """Names and values of the model's weights."""
        change = processor_of(model, ARCHITECTURES[self._file.architecture].processor)
        names = names_of(self._file.architecture, model, change)
        for name, tensor in self._file.tensors.items():
            if not is_weight(name):
                continue
            target = weight_name(names, name)
            if target is None:
                raise self._refusal(unknown(name, model))
            if len(tensor.shape) > 2:
                raise self._no_blocks(f"{target} has {len(tensor.shape)} dimensions")
            try:
                yield target, self._undone(name, tensor, change, names)
            except NotImplementedError as error:
                raise self._refusal(unreadable(name, tensor.kind)) from error

    def _undone(self, name: str, tensor: MappedTensor, change: Any, names: dict[str, str]) -> QuantizedTensor | Tensor:
        """A tensor without llama.cpp's changes. What they do to a matrix is seen from numbers in the rows' places."""
        options = {"name": name, "tensor_key_mapping": names, "parsed_parameters": {"tensors": {}}}
        if len(tensor.shape) < 2:
            return torch.from_numpy(np.array(change.process(weights=tensor.numbers().numpy(), **options).weights))
        numbers_O1 = np.arange(tensor.shape[0])[:, None]
        moved = change.process(weights=numbers_O1, **options).weights
        if np.array_equal(moved, numbers_O1):
            return tensor.matrix()
        if moved.shape != numbers_O1.shape or not np.array_equal(np.sort(moved, 0), numbers_O1):
            raise self._no_blocks(f"{name} is stored in another form")
        return tensor.matrix(torch.from_numpy(moved[:, 0].copy()))

    def _fill_buffers(self, model: Any) -> None:
        """Make anew the modules with buffers, such as rotary angles: those of a blank model hold no numbers."""
        for name, module in list(model.named_modules()):
            if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
                try:
                    model.set_submodule(name, type(module)(model.config))
                except Exception as error:  # a class with other arguments
                    raise self._no_blocks(f"{name} cannot be made by itself ({first_line(error)})") from error

    def _refusal(self, text: str) -> FalconError:
        return FalconError(f"{self._file.path}: {text}")

    def _no_blocks(self, text: str) -> NoBlocksError:
        return NoBlocksError(f"{self._file.path}: its weights cannot stay as they are ({text}): use --quantize int8")


def _frozen(vector: Tensor) -> nn.Parameter:
    return nn.Parameter(vector, requires_grad=False)
