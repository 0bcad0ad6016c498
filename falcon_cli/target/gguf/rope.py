"""Rotary positions of a GGUF file, as transformers' `rope_parameters`."""

import math
from typing import Any

import numpy as np

from falcon_cli.target.gguf.file import GgufFile

LONG, SHORT, FACTORS = "rope_factors_long.weight", "rope_factors_short.weight", "rope_freqs.weight"
"""Tensors that belong to the rotary positions, not to the weights."""
_YARN = frozenset(f"rope.scaling.yarn_{name}" for name in ("ext_factor", "attn_factor", "beta_fast", "beta_slow"))
_SCALING = ("type", "factor", "attn_factor", "original_context_length", "finetuned")
KEYS = _YARN | {"rope.freq_base", "rope.dimension_count", "rope.scale_linear"} | {f"rope.scaling.{x}" for x in _SCALING}
"""Keys of an architecture that are read here."""
_CLOSE = 1e-4  # relative: fp32 factors and a few roundings on the way


def rope_parameters(file: GgufFile, head_size: int, partial: bool) -> dict[str, Any]:
    """Base, scaling and width of the rotary positions.

    Args:
        file: The file.
        head_size: Numbers in a head.
        partial: The architecture may turn only the first part of a head.

    Raises:
        FalconError: Positions that transformers cannot compute; the line names the key or tensor.
    """
    size = file.own("rope.dimension_count", head_size)
    if size != head_size and not (partial and 0 < size < head_size):
        raise _refuse(file, "rope.dimension_count", f"heads have {head_size} numbers, and all of them must turn")
    base = float(file.own("rope.freq_base", 10000.0))
    found = {"rope_theta": base, **_scaling(file, base, size)}
    return {**found, "partial_rotary_factor": _fraction(size, head_size)} if partial else found


def _refuse(file: GgufFile, name: str, why: str) -> Exception:
    return file.refusal(f"{file.architecture}.{name} is {file.own(name)}: {why}")


def _fraction(size: int, head_size: int) -> float:
    """size / head_size, such that transformers gets `size` back from it."""
    fraction = size / head_size
    return fraction if int(head_size * fraction) == size else math.nextafter(fraction, 1)


def _scaling(file: GgufFile, base: float, size: int) -> dict[str, Any]:
    kind = file.own("rope.scaling.type", "linear")
    factor = file.own("rope.scaling.factor") or file.own("rope.scale_linear") or 1.0
    for name in sorted(_YARN):
        if kind != "yarn" and file.own(name):
            raise _refuse(file, name, "it is for rope.scaling.type yarn alone")
    if LONG in file.tensors or SHORT in file.tensors:
        return _longrope(file, kind, size)
    if kind not in ("none", "linear", "yarn"):
        raise _refuse(file, "rope.scaling.type", f"falcon knows none, linear and yarn, and longrope only with {LONG}")
    if kind != "yarn" and file.own("rope.scaling.attn_factor", 1) not in (0, 1):
        raise _refuse(file, "rope.scaling.attn_factor", "it is for yarn and longrope alone")
    plain = kind == "none" or (kind == "linear" and factor == 1)
    if FACTORS in file.tensors:
        if not plain:
            raise file.refusal(
                f"{FACTORS} beside {file.architecture}.rope.scaling.type {kind}: falcon knows no such mix"
            )
        return _frequency_factors(file, base, size)
    if plain:
        return {"rope_type": "default"}
    return _yarn(file, factor) if kind == "yarn" else {"rope_type": "linear", "factor": float(factor)}


def _yarn(file: GgufFile, factor: float) -> dict[str, Any]:
    if file.own("rope.scaling.yarn_ext_factor", 1.0) != 1:
        raise _refuse(file, "rope.scaling.yarn_ext_factor", "transformers knows only 1")
    default = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    attention = file.own("rope.scaling.yarn_attn_factor", default) * file.own("rope.scaling.attn_factor", 1.0)
    return {
        "rope_type": "yarn",
        "factor": float(factor),
        "original_max_position_embeddings": file.own("rope.scaling.original_context_length", _context(file)),
        "attention_factor": float(attention),
        "beta_fast": float(file.own("rope.scaling.yarn_beta_fast", 32.0)),
        "beta_slow": float(file.own("rope.scaling.yarn_beta_slow", 1.0)),
    }


def _longrope(file: GgufFile, kind: str, size: int) -> dict[str, Any]:
    lists = {}
    for name in (LONG, SHORT):
        tensor = file.tensors.get(name)
        if tensor is None or tensor.data.size != size // 2 or kind == "yarn" or FACTORS in file.tensors:
            raise file.refusal(
                f"{name}: needed are {size // 2} factors in both {LONG} and {SHORT}, and no other scaling beside them"
            )
        lists[name] = [float(factor) for factor in tensor.data.reshape(-1)]
    original = file.own("rope.scaling.original_context_length", _context(file))
    ratio = _context(file) / original
    default = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
    return {
        "rope_type": "longrope",
        "long_factor": lists[LONG],
        "short_factor": lists[SHORT],
        "original_max_position_embeddings": original,
        "attention_factor": float(file.own("rope.scaling.attn_factor") or default),
    }


def _context(file: GgufFile) -> int:
    return int(file.own("context_length"))


def _frequency_factors(file: GgufFile, base: float, size: int) -> dict[str, Any]:
    """Llama 3.1's scaling: the file holds what each frequency is divided by, transformers wants the formula."""
    factors = np.asarray(file.tensors[FACTORS].data, dtype=np.float64).reshape(-1)
    if len(factors) == size // 2:
        if np.allclose(factors, factors[0], rtol=_CLOSE):
            same = float(factors[0])
            return {"rope_type": "default"} if same == 1 else {"rope_type": "linear", "factor": same}
        frequencies = base ** (-np.arange(0, size, 2) / size)
        for candidate in _candidates(file, factors, frequencies):
            if np.allclose(llama3_factors(candidate, frequencies), factors, rtol=_CLOSE):
                return {"rope_type": "llama3", **candidate}
    raise file.refusal(f"{FACTORS}: its factors are not those of Llama 3's scaling, the only one that falcon knows")


def llama3_factors(how: dict[str, Any], frequencies: Any) -> Any:
    """What Llama 3's scaling divides frequencies (radians per token, a numpy array) by."""
    low, high = how["low_freq_factor"], how["high_freq_factor"]
    turns = how["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / how["factor"] + smooth)


def _candidates(file: GgufFile, factors: Any, frequencies: Any) -> list[dict[str, Any]]:
    """Settings that could have made these factors: Meta's own first, then the one that fits those between the ends."""
    largest = float(factors.max())
    lengths = [8192, file.own("rope.scaling.original_context_length", 8192), *(2**power for power in range(8, 21))]
    guesses = [(factor, 1.0, 4.0, length) for factor in (largest, 8.0, 32.0) for length in lengths]
    between = (factors > 1 + _CLOSE) & (factors < largest * (1 - _CLOSE))
    if between.sum() >= 2:  # there 1/factor is a straight line of the frequency; low_freq_factor is free: it is 1
        smooth = (1 / factors[between] - 1 / largest) / (1 - 1 / largest)
        slope, start = np.polyfit(frequencies[between], smooth, 1)
        if start < 0:
            guesses.append((largest, 1.0, 1 - 1 / start, round(-2 * math.pi * slope / start)))
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return [dict(zip(names, guess, strict=True)) for guess in guesses if guess[2] > guess[1]]
