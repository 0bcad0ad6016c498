"""FP8 weights in any of the published layouts, dequantised by transformers while it loads them.

DeepSeek's layout keeps a scale for each block of a weight (`weight_scale_inv`), vLLM's one for the weight or for each
of its outputs (`weight_scale`), and so does FBGEMM's. All of them are factors.

Shapes: O outputs of a matrix, I inputs of a matrix.
"""

from functools import cache
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

NAME = "falcon_fp8"
"""What transformers knows this reading of FP8 by."""


def as_plain_fp8(note: dict[str, Any]) -> dict[str, Any]:
    """A `quantization_config` of FP8 weights as the one that dequantises them."""
    _register()
    kept = {"weight_block_size": note.get("weight_block_size"), "activation_scheme": "dynamic"}
    return {**note, **kept, "quant_method": NAME, "dequantize": True}


def whole_blocks(weight_OI: Tensor, grid: tuple[int, ...], block: tuple[int, int]) -> Tensor:
    """An FP8 weight, filled up with zeros to whole blocks.

    transformers takes a grid of scales to divide a weight evenly. It does not where the last block is cut short.

    Args:
        weight_OI: FP8.
        grid: How many scales there are along O and I.
        block: O and I of a block.
    """
    sizes = weight_OI.shape[-2:]
    full = [count * size for count, size in zip(grid, block, strict=True)]
    if list(grid) != [-(-size // part) for size, part in zip(sizes, block, strict=True)] or full == list(sizes):
        return weight_OI
    return pad(weight_OI.float(), (0, full[1] - sizes[1], 0, full[0] - sizes[0]))


@cache
def _register() -> None:
    """Teach transformers the reading, by its own register of quantisers."""
    from transformers import FineGrainedFP8Config
    from transformers.core_model_loading import WeightRenaming
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    from transformers.quantizers.auto import register_quantization_config, register_quantizer
    from transformers.quantizers.quantizer_finegrained_fp8 import FineGrainedFP8HfQuantizer

    class BlockwiseDequantize(Fp8Dequantize):
        def _dequantize_one(self, quantized: Tensor, scales: Tensor, output_dtype: Any = None) -> Tensor:
            block, (rows, columns) = self.hf_quantizer.quantization_config.weight_block_size, quantized.shape[-2:]
            if block is not None and scales.dim() >= 2 and quantized.is_floating_point():
                quantized = whole_blocks(quantized, tuple(scales.shape[-2:]), block)
            weight_OI: Tensor = super()._dequantize_one(quantized, scales, output_dtype)
            return weight_OI[..., :rows, :columns].contiguous()

    @register_quantizer(NAME)
    class PlainFp8Quantizer(FineGrainedFP8HfQuantizer):
        def update_weight_conversions(self, weight_conversions: list[Any], *model: Any) -> list[Any]:
            renamed = [
                WeightRenaming(source_patterns=r"\.weight_scale$", target_patterns=".weight_scale_inv"),
                WeightRenaming(source_patterns=r"\.input_scale(_ub)?$", target_patterns=".activation_scale"),
            ]
            conversions = list(super().update_weight_conversions(weight_conversions, *model))
            for conversion in conversions:
                steps = getattr(conversion, "operations", None) or []
                steps[:] = [BlockwiseDequantize(self) if isinstance(step, Fp8Dequantize) else step for step in steps]
            return renamed + conversions

    register_quantization_config(NAME)(FineGrainedFP8Config)
