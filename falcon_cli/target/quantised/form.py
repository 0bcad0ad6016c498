"""In which form a checkpoint's weights are stored, and how they become a model that falcon can run.

The form is read off the configuration before any weight is. Weights that transformers can dequantise become plain
ones where nothing here runs them as they are, or where native kernels are to take them. Others run as they are, on
torch's operators.
"""

from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass, field
from logging import ERROR, getLogger
from typing import Any

import torch

from falcon_cli.console import say
from falcon_cli.errors import FalconError, first_line
from falcon_cli.native.packed_matrix import WeightFormat
from falcon_cli.target.quantised.fp8 import as_plain_fp8
from falcon_cli.target.quantised.methods import METHODS, Dequantised, QuantisationMethod, method_name

SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
FP8_CAPABILITY = {"fp8": (8, 9), "mxfp8": (8, 9), "fbgemm_fp8": (9, 0), "mxfp4": (7, 5)}
"""CUDA compute capability from which on transformers has kernels for a method."""


@dataclass(frozen=True)
class StoredForm:
    """How a checkpoint's weights are stored, and what is to become of them."""

    name: str
    """The target, as the user wrote it."""
    method: QuantisationMethod | None = None
    """None: plain weights."""
    dequantised: Dequantised = "never"
    """When they become plain ones."""
    options: dict[str, Any] = field(default_factory=dict)
    """What `from_pretrained` has to be told."""

    def kernels(self, kind: WeightFormat | None, asked: bool) -> WeightFormat | None:
        """How native kernels are to hold the weights after all; None for torch's operators.

        Raises:
            FalconError: Kernels are asked for, and the weights cannot be dequantised.
        """
        if kind is None or self.method is None or self.dequantised != "never":
            return kind
        label = self.method.label
        if asked:
            raise FalconError(
                f"{self.name}: transformers cannot dequantise {label} weights for native kernels; leave out --quantize "
                "and --kernels native, or give the unquantised checkpoint"
            )
        say(f"{self.name}: its {label} weights run as they are, on torch's own operators")
        return None

    def settled(self, model: Any, report: dict[str, Any], dtype: torch.dtype) -> Any:
        """The loaded model, dequantised where it is to be.

        Args:
            model: As transformers loaded it.
            report: transformers' loading report.
            dtype: Of the plain weights.

        Raises:
            ValueError: Scales were left over, so the weights are not what they stand for.
        """
        if self.method is None or self.dequantised == "never":
            return model
        _check_used_up(report["unexpected_keys"])
        if self.dequantised == "loaded":
            model = model.dequantize(dtype=dtype)
        _forget(model)
        if dtype == torch.float32:
            model = model.float()  # of MXFP4 transformers 5.20 makes bf16, whatever it is asked for
        say(f"{self.name}: its {self.method.label} weights are dequantised to {SHORT.get(dtype, dtype)}")
        return model


def stored_form(name: str, where: str, fetching: dict[str, Any], device: torch.device, to_be_plain: bool) -> StoredForm:
    """Read how a checkpoint's weights are stored.

    Args:
        name: The target, as the user wrote it.
        where: Folder or hub id.
        fetching: How transformers is to fetch it.
        device: Where the model is to run.
        to_be_plain: Whether native kernels, or an adapter, need plain weights where they can be had.

    Raises:
        FalconError: Nothing here can read them; it says what would.
    """
    config = _configuration(where, fetching)
    note = _note(config)
    if note is None:
        return StoredForm(name)
    named = method_name(note)
    method = _known_method(name, named)
    missing = method.missing()
    if missing:
        packages = " ".join(missing)
        raise FalconError(
            f"{name}: its weights are {method.label}-quantised; install {packages.replace(chr(39), '')} (pip install "
            f"{packages}) to read them, or give the unquantised checkpoint"
        )
    dequantised, options = method.dequantised, {}
    if dequantised != "never" and not to_be_plain and _runs_here(named, device):
        dequantised = "never"
    if dequantised == "loading":
        note = as_plain_fp8(note) if named in ("fp8", "mxfp8", "fbgemm_fp8") else {**note, "dequantize": True}
        options["config"] = _with_note(config, note)
    elif device.type == "cuda":
        options["device_map"] = {"": str(device)}
    getLogger("transformers.quantizers").setLevel(ERROR)  # a line of ours says what becomes of the weights
    _check_readable(name, method, note, options.get("device_map"))
    return StoredForm(name, method, dequantised, options)


def _configuration(where: str, fetching: dict[str, Any]) -> Any:
    """A checkpoint's configuration; None where it cannot be read, which loading it will tell better."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(where, **fetching)
    except Exception:  # a broken file, an unknown architecture, an unreachable hub
        return None


def _note(config: Any) -> dict[str, Any] | None:
    """What a configuration says of quantised weights."""
    for part in (config, _text_part(config)):
        note = getattr(part, "quantization_config", None)
        if note is not None:
            return dict(note if isinstance(note, dict) else note.to_dict())
    return None


def _text_part(config: Any) -> Any:
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def _with_note(config: Any, note: dict[str, Any]) -> Any:
    changed = deepcopy(config)
    changed.quantization_config = note
    return changed


def _known_method(name: str, named: str | None) -> QuantisationMethod:
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    if named is None or named not in AUTO_QUANTIZER_MAPPING:
        how = "in a way that its config.json does not name" if named is None else f"by {named}"
        raise FalconError(
            f"{name}: its weights are quantised {how}, which transformers cannot read; give the unquantised checkpoint"
        )
    return METHODS.get(named, QuantisationMethod(named))


def _runs_here(named: str | None, device: torch.device) -> bool:
    """Whether transformers has kernels that take the weights as they are."""
    from transformers.utils import is_kernels_available

    if named not in FP8_CAPABILITY:
        return named != "metal" and (device.type != "cpu" or named != "compressed-tensors")
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < FP8_CAPABILITY[named]:
        return False
    return _fbgemm_is_here() if named == "fbgemm_fp8" else is_kernels_available()


def _fbgemm_is_here() -> bool:
    from transformers.utils import is_fbgemm_gpu_available

    return bool(is_fbgemm_gpu_available())


def _check_readable(name: str, method: QuantisationMethod, note: dict[str, Any], device_map: Any) -> None:
    """Ask transformers' quantiser whether it can work here, before any weight is fetched."""
    from transformers.quantizers.auto import AutoHfQuantizer

    try:
        quantiser = AutoHfQuantizer.from_config(deepcopy(note), pre_quantized=True)
        quantiser.validate_environment(device_map=device_map, weights_only=True)
    except Exception as error:  # quantisers raise what they like where a package, a device or an option is missing
        raise FalconError(
            f"{name}: its {method.label} weights cannot be read on this machine ({first_line(error)}); give the "
            "unquantised checkpoint"
        ) from error


def _check_used_up(left_over: Collection[str]) -> None:
    """Refuse weights whose scales were not understood."""
    scales = sorted(key for key in left_over if "weight_scale" in key or key.endswith(("_scales", "_blocks")))
    if scales:
        raise ValueError(f"{len(scales)} scales belong to no weight, such as {scales[0]}")


def _forget(model: Any) -> None:
    """Drop every note of the quantisation from a model with plain weights."""
    for part in (model.config, _text_part(model.config)):
        for note in ("quantization_config", "_is_quantized"):
            part.__dict__.pop(note, None)
    for note in ("hf_quantizer", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        model.__dict__.pop(note, None)
