"""Ways of quantising that checkpoints come in: what they are called, what reads them, what dequantises them."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

Dequantised = Literal["loading", "loaded", "never"]


@dataclass(frozen=True)
class QuantisationMethod:
    """One of transformers' quantisers."""

    label: str
    """For people."""
    packages: dict[str, str] = field(default_factory=dict)
    """Modules that reading takes → what pip installs them from."""
    dequantised: Dequantised = "never"
    """When transformers can make plain weights of them: while it loads, once they are loaded, or never."""

    def missing(self) -> list[str]:
        """What pip would have to install."""
        return [package for module, package in self.packages.items() if not _is_here(module)]


METHODS = {
    "fp8": QuantisationMethod("FP8", dequantised="loading"),
    "mxfp8": QuantisationMethod("MXFP8", dequantised="loading"),
    "mxfp4": QuantisationMethod("MXFP4", dequantised="loading"),
    "metal": QuantisationMethod("Metal", dequantised="loading"),
    "fbgemm_fp8": QuantisationMethod("FBGEMM FP8", dequantised="loading"),
    "compressed-tensors": QuantisationMethod(
        "compressed-tensors", {"compressed_tensors": "compressed-tensors"}, dequantised="loading"
    ),
    "bitsandbytes_4bit": QuantisationMethod("bitsandbytes", {"bitsandbytes": "bitsandbytes"}, "loaded"),
    "bitsandbytes_8bit": QuantisationMethod("bitsandbytes", {"bitsandbytes": "bitsandbytes"}, "loaded"),
    "higgs": QuantisationMethod(
        "HIGGS", {"flute": "flute-kernel", "fast_hadamard_transform": "fast_hadamard_transform"}, "loaded"
    ),
    "gptq": QuantisationMethod("GPTQ", {"optimum": "optimum", "gptqmodel": "gptqmodel"}),
    "awq": QuantisationMethod("AWQ", {"gptqmodel": "gptqmodel"}),
    "auto-round": QuantisationMethod("AutoRound", {"auto_round": "auto-round"}),
    "torchao": QuantisationMethod("torchao", {"torchao": "torchao"}),
    "quanto": QuantisationMethod("quanto", {"optimum.quanto": "optimum-quanto"}),
    "hqq": QuantisationMethod("HQQ", {"hqq": "hqq"}),
    "aqlm": QuantisationMethod("AQLM", {"aqlm": "'aqlm[gpu,cpu]'"}),
    "vptq": QuantisationMethod("VPTQ", {"vptq": "vptq"}),
    "spqr": QuantisationMethod("SpQR", {"spqr_quant": "'spqr_quant[gpu]'"}),
    "eetq": QuantisationMethod("EETQ", {"kernels": "kernels"}),
    "fp_quant": QuantisationMethod("FP-Quant", {"fp_quant": "fp_quant"}),
    "quark": QuantisationMethod("Quark", {"quark": "amd-quark"}),
    "sinq": QuantisationMethod("SINQ", {"sinq": "sinq"}),
    "fouroversix": QuantisationMethod("Four Over Six", {"fouroversix": "fouroversix"}),
    "bitnet": QuantisationMethod("BitNet"),
}
"""transformers' name of a method → the method."""


def method_name(note: dict[str, Any]) -> str | None:
    """transformers' name of the method that a `quantization_config` speaks of; None where it names none."""
    for bits in ("4bit", "8bit"):
        if note.get(f"load_in_{bits}"):
            return f"bitsandbytes_{bits}"
    named = note.get("quant_method")
    return None if named is None else str(getattr(named, "value", named))


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # of a package that the module would be in
        return False
