"""A reference becomes a target: weights, tokenizer and stop tokens."""

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from falcon_cli.attention.backend import pick_backend
from falcon_cli.console import say
from falcon_cli.decode.verify import pick
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.native.build import NoKernelsError, load_kernels, multiplies_bf16
from falcon_cli.native.packed_matrix import WeightFormat
from falcon_cli.native.swap import swap_model
from falcon_cli.recipe.cores import usable_cores
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.sources import is_gguf, resolve_target
from falcon_cli.target.adapter import with_adapter
from falcon_cli.target.gguf import BlockFile, NoBlocksError, converted, described, tokenizer_class, whole
from falcon_cli.target.guard.check import KernelsError, check_reading
from falcon_cli.target.hub import why_not_loaded
from falcon_cli.target.model import TargetModel
from falcon_cli.target.quantised import StoredForm, stored_form
from falcon_cli.target.reference.ask import PromptOf, Reference, ask, unanswerable
from falcon_cli.target.reference.force import ForcedReference
from falcon_cli.target.reference.plain import tell_penalties
from falcon_cli.target.reference.weights import check_finite, check_finite_blocks
from falcon_cli.target.stops import stop_tokens
from falcon_cli.target.stored.pickled import with_safetensors

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class LoadedTarget:
    """A target with what belongs to it."""

    name: str
    """As the user wrote it."""
    model: TargetModel
    tokenizer: Any
    stop_ids: frozenset[int]
    dtype: str
    """fp32, bf16 or fp16."""
    reference: Reference | ForcedReference | None = None
    """What transformers' own generate says to one prompt, or can be asked of it; None where nobody asked."""

    def check_ids(self, ids: Iterable[int]) -> None:
        """Refuse a token that the tokenizer has and the model cannot read.

        Raises:
            FalconError: The embedding has no row of that id; names the token.
        """
        rows = self.model.embedding_rows
        highest = max(ids, default=0)
        if highest >= rows:
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise FalconError(
                f"the model cannot read the token {token} (id {highest}): its embedding has {rows} rows; leave it out"
            )


def pick_device(wanted: str) -> torch.device:
    """`auto` is the first GPU, or the CPU.

    Raises:
        UsageError: No such device here.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UsageError(f"--device {wanted}: use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {wanted}: torch sees {torch.cuda.device_count()} CUDA devices; use cpu or auto")
    return device


def pick_dtype(wanted: str, device: torch.device) -> str:
    """`auto` is fp32 on a CPU, bf16 on a GPU that computes in it, else fp16."""
    if wanted != "auto":
        return wanted
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def kernels_serve(recipe: TargetRecipe, device: torch.device, dtype: str) -> bool:
    """Whether native kernels take such a target without being asked for, if they can run and know its layers."""
    fast = dtype == "fp32" or (dtype == "bf16" and multiplies_bf16())
    free = recipe.kernels != "torch" and recipe.attention == "auto" and not recipe.compile
    return device.type == "cpu" and fast and free


def load_target(recipe: TargetRecipe, prompt_of: PromptOf | None = None) -> LoadedTarget:
    """Load the target of a recipe.

    Args:
        recipe: Which target, and how it is held.
        prompt_of: The prompt that the model answers by itself before falcon takes its layers over, for `reference`.

    Raises:
        FalconError: It cannot be found, read, or is no causal LM that our hooks fit; its weights or scores are not
            finite numbers.
    """
    threads = recipe.threads or min(torch.get_num_threads(), usable_cores())
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    device = pick_device(recipe.device)
    dtype = pick_dtype(recipe.dtype, device)
    attention = pick_backend("sdpa" if recipe.compile else recipe.attention, device, DTYPES[dtype])
    native = _native_kind(recipe, device, dtype)
    opened = _in_blocks(recipe, native, dtype) or _plain(recipe, native, device, dtype)
    model, tokenizer = opened.model, opened.tokenizer
    stop_ids = stop_tokens(model, tokenizer)
    tell_penalties(recipe.model, model.generation_config)
    reference = None if prompt_of is None else opened.ask(prompt_of(tokenizer), stop_ids)
    held = _hooked(recipe, model, attention, opened.kind)
    opened.release()
    gc.freeze()  # a model's many objects are here to stay: no later collection need walk them
    gc.enable()
    return LoadedTarget(recipe.model, held, tokenizer, stop_ids, dtype, reference)


def load_tokenizer(recipe: TargetRecipe) -> Any:
    """Load the tokenizer of a recipe's target, without the model.

    Raises:
        FalconError: It cannot be found or read.
    """
    found = resolve_target(recipe.model)
    where = str(described(found) if isinstance(found, Path) and is_gguf(found) else found)
    try:
        return tokenizer_class(where).from_pretrained(where, **_fetching(recipe))
    except Exception as error:  # a broken file, an unreachable hub: one line for all of them
        raise FalconError(why_not_loaded(where, error, "a tokenizer")) from error


def _fetching(recipe: TargetRecipe) -> dict[str, Any]:
    """How transformers is to fetch what it loads."""
    revision = {} if recipe.revision is None else {"revision": recipe.revision}
    return {"trust_remote_code": recipe.trust_remote_code, **revision}


def _native_kind(recipe: TargetRecipe, device: torch.device, dtype: str) -> WeightFormat | None:
    """How native kernels are to hold the weights; None when torch's operators serve.

    Raises:
        FalconError: Native kernels are asked for and cannot run.
    """
    asked = _asks_for_kernels(recipe)
    kind: WeightFormat = ("bf16x2" if dtype == "bf16" else "fp32") if recipe.quantize == "none" else recipe.quantize
    refused = recipe.kernels == "torch" or recipe.compile
    if refused or not (asked or kernels_serve(recipe, device, dtype)):
        return None
    if recipe.attention != "auto":
        raise UsageError(f"native kernels have an attention of their own: leave out --attention {recipe.attention}")
    if device.type != "cpu":
        raise UsageError(f"native kernels and --quantize are for the CPU, not for {device}: leave them out")
    try:
        load_kernels()
    except NoKernelsError as error:
        if asked:
            raise
        say(f"torch's own operators serve: {error}")
        return None
    return kind


@dataclass(frozen=True)
class _Opened:
    """A target as transformers has it, on its own attention, its weights known to be finite numbers."""

    model: Any
    tokenizer: Any
    kind: WeightFormat | None
    """How native kernels are to hold the weights; None where torch's operators serve."""
    ask: Callable[[list[int], frozenset[int]], Reference | ForcedReference]
    """Prompt, stop tokens → what the model says itself, or can be asked."""
    release: Callable[[], None] = lambda: None
    """Called once the kernels have their weights."""


def _in_blocks(recipe: TargetRecipe, kind: WeightFormat | None, dtype: str) -> _Opened | None:
    """A target whose matrices stay in its GGUF file until they are packed; None where it must be loaded plainly.

    Raises:
        UsageError: The file's own blocks are asked for, and the target has none, or is to be changed first.
        FalconError: The file cannot be read.
    """
    if recipe.quantize == "none":
        return None
    where, asked = resolve_target(recipe.model), recipe.quantize == "file"
    if not isinstance(where, Path) or not is_gguf(where):
        if asked:
            raise UsageError(f"--quantize file: {recipe.model} is no GGUF file: use int8 or int4")
        return None
    if recipe.adapter is not None or dtype != "fp32":
        if asked:
            change = "--adapter" if recipe.adapter is not None else f"--dtype {dtype}"
            raise UsageError(f"--quantize file takes the weights as they are: leave out {change}, or use int8")
        return None
    try:
        file = BlockFile(where)
        model = file.model()
    except NoBlocksError:
        if asked:
            raise
        return None
    check_finite_blocks(recipe.model, model)
    file.release()
    tokenizer = load_tokenizer(recipe)

    def ask_later(prompt: list[int], stop_ids: frozenset[int]) -> ForcedReference:
        return ForcedReference(prompt, file.folder.name, file.model, unanswerable(model, prompt))

    return _Opened(model, tokenizer, kind, ask_later, file.release)


def _plain(recipe: TargetRecipe, kind: WeightFormat | None, device: torch.device, dtype: str) -> _Opened:
    """A target as transformers loads it, from a GGUF file once that is converted."""
    found = resolve_target(recipe.model)
    where = str(converted(found) if isinstance(found, Path) and is_gguf(found) else found)
    to_be_plain = kind is not None or recipe.adapter is not None
    form = stored_form(recipe.model, where, _fetching(recipe), device, to_be_plain)
    kind = form.kernels(kind, _asks_for_kernels(recipe))
    model, tokenizer = _from_transformers(where, recipe, DTYPES[dtype], form)
    if recipe.adapter is not None:
        model = with_adapter(model, recipe.adapter)
    model = model.to(device)
    check_finite(recipe.model, model, dtype)
    return _Opened(model, tokenizer, kind, partial(ask, model))


def _hooked(recipe: TargetRecipe, model: Any, attention: str, kind: WeightFormat | None) -> TargetModel:
    """The target on our attention and cache, once a small model of its class is known to be read so."""
    try:
        branches = check_reading(recipe.model, model, attention, kind, recipe.compile)
    except KernelsError as error:
        if _asks_for_kernels(recipe):
            raise
        say(f"torch's own operators serve: {error}")
        kind = None
        branches = check_reading(recipe.model, model, attention, None, recipe.compile)
    layers = None if kind is None else swap_model(model, kind)
    target = TargetModel(model, attention, native=layers, compiled=recipe.compile, branches=branches)
    pick(target.prefill(torch.zeros(2, dtype=torch.long, device=target.device)))  # scores that are no numbers end here
    return target


def _asks_for_kernels(recipe: TargetRecipe) -> bool:
    return recipe.kernels == "native" or recipe.quantize != "none"


def _from_transformers(where: str, recipe: TargetRecipe, dtype: torch.dtype, form: StoredForm) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    common = _fetching(recipe)
    weights = with_safetensors(where, recipe.revision)
    try:
        tokenizer = tokenizer_class(where).from_pretrained(where, **common)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            weights, dtype=dtype, use_safetensors=True, output_loading_info=True, **form.options, **common
        )
        model = form.settled(whole(*loaded), loaded[1], dtype)
    except Exception as error:  # a broken file, an unknown architecture, an unreachable hub: one line for all of them
        raise FalconError(why_not_loaded(where, error, "a causal LM with safetensors weights")) from error
    return model, tokenizer
