"""The guard at load: does a model read as its own class does, once falcon has taken over its attention and its cache?

A small random model of the same class and options (`shrink.py`) reads a text twice: by its own untouched forward, each
path afresh, and as falcon would read it, a prompt in chunks and two trees behind it. A class that computes something
that falcon does not (a mask, a multiplier, another order) differs at once, on random weights as on real ones.

Shapes: V vocabulary.
"""

from collections.abc import Callable
from copy import deepcopy
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from falcon_cli.console import say
from falcon_cli.core import Draft
from falcon_cli.errors import FalconError, first_line
from falcon_cli.kv_cache import RECURRENT
from falcon_cli.native.layer import NativeLinear
from falcon_cli.native.packed_matrix import WeightFormat
from falcon_cli.native.quantized import QuantizedLinear, QuantizedTensor
from falcon_cli.native.swap import swap_model
from falcon_cli.native.weights import Linear, suits
from falcon_cli.target.guard.shrink import random_twin
from falcon_cli.target.model import TargetModel

PARENTS = (0, 0, 0, 1, 1, 2, 4)
"""Nodes 1 and 2, and 3 and 4, are two children of one parent."""
PROMPT, REAL_PROMPT = 40, 6
"""Tokens before the trees: beyond the shrunk windows, chunks and boundaries; and where the real model must serve."""
CHUNK = 9
TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3}
"""Largest difference of two logits that rounding explains, in units of the logits' spread."""
ROUGH = 0.2
"""The same of the root of the mean square, where a matrix rounds its inputs to 8 bits (0.01 to 0.1 in fact)."""
GENTLE = 0.3
HELD = 0.15
"""Largest difference of a matrix and what the kernels hold of it that rounding to 4 bits explains."""
FAULTS = (ValueError, TypeError, RuntimeError, AttributeError, LookupError, NotImplementedError, AssertionError)
"""What classes raise that cannot do what is asked of them."""


class KernelsError(FalconError):
    """Native kernels read a model otherwise than its own class; torch's operators may serve."""


OwnWords = Callable[[list[int]], Tensor]
"""A text → the logits [V] behind it, by the model's own forward."""


_KNOWN: dict[tuple[object, ...], bool] = {}
"""What this process has found out about a class and its configuration."""


def check_reading(name: str, model: Any, attention: str, kind: WeightFormat | None, compiled: bool) -> bool:
    """Hold falcon's ways of reading a model against its class; returns whether drafts are read branch by branch.

    Args:
        name: The target, as the user wrote it.
        model: Loaded, on its own attention, its layers not taken yet.
        attention: Backend.
        kind: How native kernels would hold the weights; None for torch's operators.
        compiled: Whether drafts are scored in fixed shapes.

    Raises:
        FalconError: No way reads as the class does; or not the one asked for, then it says which does.
    """
    key = (type(model), str(model.config), model.config._attn_implementation, attention, kind, compiled)
    if key not in _KNOWN:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # tiny matrices: threads would but wait for one another
        try:
            _KNOWN[key] = _reads_by_branches(name, model, attention, kind, compiled)
        finally:
            torch.set_num_threads(threads)
    return _KNOWN[key]


def _reads_by_branches(name: str, model: Any, attention: str, kind: WeightFormat | None, compiled: bool) -> bool:
    family = type(model).__name__
    twin, dtype = random_twin(model)
    if twin is None:
        return _check_real(name, model, attention)
    if compiled:
        if not _reads(lambda: _in_fixed_shapes(twin), _own_words(twin), TOLERANCE[dtype]):
            raise FalconError(
                f"{name}: in fixed shapes a {family} reads otherwise than its own class: leave out --compile"
            )
        return False
    single = twin if kind is None else deepcopy(twin).float()
    branches, fault = _way(single, attention, on_kernels=kind is not None)
    if fault is not None and kind is not None:
        fault = _way(twin, attention)[1]
        if fault is None:
            raise KernelsError(
                f"{name}: falcon's kernels read a {family} otherwise than its own class: use --kernels torch"
            )
    if fault is not None:
        raise FalconError(f"{name}: {why_refused(model, fault)}")
    if kind is not None:
        _check_rounded(name, single, kind, branches)
    if branches:
        say(f"{name}: the attention of a {family} takes no tree, so drafts are read branch by branch")
    return branches


def _way(twin: Any, attention: str, on_kernels: bool = False) -> tuple[bool, str | None]:
    """Whether it takes branches to read a twin, and what is wrong even so."""

    def reader(branches: bool) -> TargetModel:
        if on_kernels:
            return swapped(deepcopy(twin), "fp32", attention, branches)
        return TargetModel(deepcopy(twin), attention, CHUNK, branches=branches)

    own, tolerance = _own_words(twin), TOLERANCE[twin.dtype]
    if _reads(lambda: reader(False), own, tolerance):
        return False, None
    return True, _fault(lambda: reader(True), own, tolerance)


def why_refused(model: Any, fault: str) -> str:
    """Why a model cannot be read, for people."""
    family = type(model).__name__
    if RECURRENT in fault or getattr(model, "_is_stateful", False):
        return f"a {family} has recurrent layers, whose state cannot go back when a draft is refused"
    if getattr(model.config, "is_encoder_decoder", False):
        return f"a {family} reads by an encoder, and falcon decodes by decoders alone"
    return f"falcon cannot read a {family} as its own class does ({fault})"


def misreading(own: OwnWords, reader: TargetModel, prompt: int = PROMPT, rounded: bool = False) -> float:
    """How far a reader's logits are from the model's own behind any text, in units of their spread.

    That is the largest difference of two logits, or of rounded weights the root of the mean square.
    """
    distance = _typical if rounded else _largest
    drawn = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, reader.vocab_size, (prompt + 2 * len(PARENTS),), generator=drawn).tolist()
    text, rest = tokens[:prompt], tokens[prompt:]
    prompt_L = torch.tensor(text, device=reader.device)
    wrong = [distance(own(text), reader.prefill(prompt_L).logits_TV[-1])]
    for nodes in (rest[: len(PARENTS)], rest[len(PARENTS) :]):
        draft = Draft.tree(nodes, PARENTS, reader.device)
        scores = reader.score(draft)
        paths = [row_T.nonzero().flatten().tolist() for row_T in draft.ancestors_TT]
        for node, path in enumerate(paths):
            wrong.append(distance(own(text + [nodes[place] for place in path]), scores.logits_TV[node]))
        reader.commit(paths[-1])
        text = text + [nodes[place] for place in paths[-1]]
    return max(wrong)


def swapped(model: Any, kind: WeightFormat, attention: str = "sdpa", branches: bool = False) -> TargetModel:
    """A model on the kernels."""
    return TargetModel(model, attention, CHUNK, native=swap_model(model, kind), branches=branches)


def _in_fixed_shapes(twin: Any) -> TargetModel:
    """A reader of fixed shapes that waits for no compiler."""
    reader = TargetModel(deepcopy(twin), chunk=CHUNK, compiled=True)
    assert reader.graphs is not None
    reader.graphs.run_eagerly()
    return reader


def _check_rounded(name: str, single: Any, kind: WeightFormat, branches: bool) -> None:
    """Hold kernels with rounded weights against fp32 kernels on the very weights that they hold.

    Raises:
        FalconError: They differ by more than the rounding of inputs explains.
    """
    if kind == "fp32":
        return
    for parameter in single.parameters():
        if parameter.dim() > 1:
            parameter.data *= GENTLE  # scores far apart would turn a rounding into another token
    held = deepcopy(single)
    if kind == "file":
        put_in_blocks(held)
    layers = {place: module for place, module in held.named_modules() if suits(module)}
    rounded = swapped(held, kind, branches=branches)
    if rounded.native is None or not rounded.native.exact:
        return
    same = deepcopy(single)
    for place, layer in layers.items():
        held_OI, module = held_weights(layer, kind), same.get_submodule(place)
        if not (held_OI - module.weight).norm() < HELD * module.weight.norm():
            raise FalconError(f"{name}: {kind} kernels hold other weights than the model's: a bug of ours; use fp32")
        module.weight = torch.nn.Parameter(held_OI, requires_grad=False)  # of tied ones the embedding stays
    exact = swapped(same, "fp32", branches=branches)

    def own(text: list[int]) -> Tensor:
        return exact.prefill(torch.tensor(text)).logits_TV[-1]

    distance = misreading(own, rounded, rounded=True)
    if not distance < ROUGH:
        raise FalconError(f"{name}: {kind} kernels differ from fp32 ones by {distance:.2g}: a bug of ours; use fp32")


def _check_real(name: str, model: Any, attention: str) -> bool:
    """The same on the real weights, with few tokens, for a class that cannot be shrunk."""
    rough = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.3
    faults = []
    for branches in (False, True):
        reader = None
        try:
            reader = TargetModel(model, attention, CHUNK, branches=branches)
            distance = misreading(_lent_words(reader), reader, REAL_PROMPT)
            if distance < rough:
                return branches
            faults.append(f"logits differ by {distance:.2g}")
        except FAULTS as error:
            faults.append(first_line(error))
        finally:
            if reader is not None:
                reader.forward.release()
                model.set_attn_implementation(reader.own_attention)
    raise FalconError(f"{name}: {why_refused(model, faults[-1])}")


def _own_words(model: Any) -> OwnWords:
    takes = signature(type(model).forward).parameters
    cached = {"use_cache": False} if "use_cache" in takes else {}

    def own(text: list[int]) -> Tensor:
        given: dict[str, Any] = dict(cached)
        if "position_ids" in takes:  # generate gives them
            given["position_ids"] = torch.arange(len(text), device=model.device)[None]
        with torch.inference_mode():
            logits: Tensor = model(input_ids=torch.tensor([text], device=model.device), **given).logits
        return logits[0, -1]

    return own


def _lent_words(reader: TargetModel) -> OwnWords:
    def own(text: list[int]) -> Tensor:
        with reader.plain_transformers() as plain:
            return _own_words(plain)(text)

    return own


def _reads(reader: Callable[[], TargetModel], own: OwnWords, tolerance: float) -> bool:
    return _fault(reader, own, tolerance) is None


def _fault(reader: Callable[[], TargetModel], own: OwnWords, tolerance: float) -> str | None:
    """What is wrong with a way of reading; None when nothing is."""
    try:
        distance = misreading(own, reader())
    except FAULTS as error:
        return first_line(error)
    return None if distance < tolerance else f"logits differ by {distance:.2g} of their spread"


def put_in_blocks(model: Any) -> None:
    """Put a model's linear layers into a GGUF file's form: Q8_0, or F16 where their inputs make no whole blocks."""
    from gguf import GGMLQuantizationType, quantize

    for name, layer in list(model.named_modules()):
        if suits(layer):
            kind = GGMLQuantizationType.Q8_0 if layer.in_features % 32 == 0 else GGMLQuantizationType.F16
            blocks = torch.from_numpy(quantize(layer.weight.float().numpy(), kind)).view(torch.uint8)
            tensor = QuantizedTensor(kind.name, blocks, (layer.out_features, layer.in_features))
            model.set_submodule(name, QuantizedLinear(tensor, layer.bias))


def held_weights(linear: Linear, kind: WeightFormat) -> Tensor:
    """A layer's weights [O, I] as the kernels hold them, read off by unit vectors, whose 8 bits are exact."""
    bare: Linear
    if isinstance(linear, QuantizedLinear):
        bare = QuantizedLinear(linear.tensor)
    else:
        bare = torch.nn.Linear(linear.in_features, linear.out_features, bias=False)
        bare.weight = torch.nn.Parameter(linear.weight.detach().float(), requires_grad=False)
    weight_OI: Tensor = NativeLinear(bare, kind)(torch.eye(linear.in_features)).T.contiguous()
    return weight_OI


def _largest(own_V: Tensor, given_V: Tensor) -> float:
    return _known(float((own_V - given_V).abs().max() / own_V.std()))


def _typical(own_V: Tensor, given_V: Tensor) -> float:
    return _known(float((own_V - given_V).square().mean().sqrt() / own_V.std()))


def _known(distance: float) -> float:
    """A distance; of what is no number, infinite."""
    return distance if distance == distance else float("inf")
