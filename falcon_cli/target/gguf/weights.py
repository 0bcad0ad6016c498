"""A GGUF file's tensors become safetensors files, one tensor after the other."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from falcon_cli.console import progress
from falcon_cli.errors import FalconError
from falcon_cli.target.gguf.file import GgufFile
from falcon_cli.target.gguf.rope import FACTORS, LONG, SHORT
from falcon_cli.target.stored.weight_files import WeightFiles

_FIRST = 4096  # numbers of a weight that nearly always tell whether a half holds it
_NO_WEIGHTS = (FACTORS, LONG, SHORT)
_HALVES = {"F16": (torch.float16,), "BF16": (torch.bfloat16,), "F32": ()}


def blank_model(config: Any) -> Any:
    """transformers' causal LM of a configuration, on the device `meta`: names and shapes of its weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def converted_bytes(file: GgufFile) -> int:
    """Bytes that the converted weights take at most: 2 a number where the file holds halves, else 4."""
    return sum(
        int(tensor.n_elements) * (2 if tensor.tensor_type.name in ("F16", "BF16") else 4)
        for tensor in file.tensors.values()
    )


def write_weights(file: GgufFile, model: Any, processor: str, folder: Path) -> None:
    """Write every tensor of the file as a weight of the model, in the smallest type that holds its numbers exactly.

    Args:
        file: The file.
        model: The transformers model, on the device `meta`: names and shapes of its weights.
        processor: Whose tensor processor of transformers undoes llama.cpp's changes; "" for none.
        folder: Where the files shall lie.

    Raises:
        FalconError: Weights that the model has and the file has not, or the other way round, or of other shapes.
    """
    wanted = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    found: set[str] = set()
    shards = WeightFiles(folder)
    with progress(f"converting {file.path.name} to safetensors (once)", float(converted_bytes(file)), "B") as bar:
        for name, weight in _weights(file, model, processor):
            if wanted.get(name) != tuple(weight.shape):
                raise file.refusal(misshapen(name, weight.shape, wanted.get(name, ())))
            found.add(name)
            shards.add(name, weight)
            bar.advance(weight.nbytes)
    check_whole(file.path, model, found)
    shards.finish()


def check_whole(path: Path, model: Any, found: set[str]) -> None:
    """Refuse a file that lacks weights of its model.

    Raises:
        FalconError: Weights that are neither found nor tied to others.
    """
    tied = set(getattr(model, "all_tied_weights_keys", {})) if model.config.tie_word_embeddings else set()
    missing = sorted(model.state_dict().keys() - found - tied)
    if missing:
        raise FalconError(f"{path}: {len(missing)} weights are missing, such as {missing[0]}")


def unknown(name: str, model: Any) -> str:
    """A tensor of the file that is no weight of the model."""
    return f"tensor {name}: a {type(model).__name__} has no such weight"


def unreadable(name: str, kind: str) -> str:
    """A tensor whose type nothing here reads."""
    return f"tensor {name}: the gguf package cannot read {kind} yet"


def misshapen(name: str, shape: Sequence[int], needed: Sequence[int]) -> str:
    """A weight of another shape than the model's."""
    return f"{name} has the shape {list(shape)}, but {list(needed)} is needed"


def is_weight(name: str) -> bool:
    """Whether a tensor of the file is a weight, not a table of the rotary angles."""
    return name not in _NO_WEIGHTS and not name.endswith(".attn_rot_embd.weight")


def processor_of(model: Any, processor: str) -> Any:
    """transformers' tensor processor of that name, for this model; "" changes nothing."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    return TENSOR_PROCESSORS.get(processor, TensorProcessor)(config=model.config.to_dict())


def _weights(file: GgufFile, model: Any, processor: str) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the model's weights, each as soon as all tensors that it is made of have been read."""
    from gguf import dequantize

    change = processor_of(model, processor)
    names = names_of(file.architecture, model, change)
    waiting: dict[str, Tensor] = {}
    parts = Counter(weight_name(names, name) for name in file.tensors)
    for name, tensor in file.tensors.items():
        if not is_weight(name):
            continue
        target = weight_name(names, name)
        if target is None:
            raise file.refusal(unknown(name, model))
        try:
            numbers = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise file.refusal(unreadable(name, tensor.tensor_type.name)) from error
        result = change.process(
            weights=numbers,
            name=name,
            tensor_key_mapping=names,
            parsed_parameters={"tensors": waiting},
        )
        if result.name is not None:
            waiting[target] = torch.from_numpy(result.weights.copy())
        parts[target] -= 1
        if parts[target] == 0:
            yield target, narrowest(waiting.pop(target), tensor.tensor_type.name)


def names_of(architecture: str, model: Any, change: Any) -> dict[str, str]:
    """llama.cpp's name of each weight → transformers' name; experts have several to one."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kinds = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
    kind = kinds["llama" if architecture == "mistral" else architecture]  # llama.cpp has one name for both
    table = get_tensor_name_map(kind, model.config.num_hidden_layers)
    found: dict[str, str] = {}
    for whole_name in model.state_dict():
        name = change.preprocess_name(whole_name)
        stem, _, ending = name.rpartition(".")
        stem, suffix = (stem, f".{ending}") if ending in ("weight", "bias") else (name, "")
        short = table.get_name(stem)
        if short is None:
            change.perform_fallback_tensor_mapping(found, suffix, "", name)
        else:
            found[short + suffix] = name
    return found


def weight_name(names: dict[str, str], name: str) -> str | None:
    """The weight that a tensor belongs to; experts' names lack their ending there."""
    return names.get(name) or names.get(name.removesuffix(".weight"))


def narrowest(weight: Tensor, kind: str) -> Tensor:
    """The weight in the smallest type that holds every number exactly.

    Args:
        weight: In fp32.
        kind: The type in the file: halves stay halves, fp32 stays fp32, and quantized numbers are tried as both.
    """
    for half in _HALVES.get(kind, (torch.float16, torch.bfloat16)):
        if _holds(half, weight.flatten()[:_FIRST]) and _holds(half, weight):
            return weight.to(half)
    return weight


def _holds(half: torch.dtype, weight: Tensor) -> bool:
    return torch.equal(weight.to(half).float(), weight)
