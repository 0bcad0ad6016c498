"""What a drafter is built on: sizes, final norm and, where the target has Llama's layers, its last layer.

A drafter's decoder layer is Llama's whatever the target's are: RMS norms, rotary positions, grouped heads, gated SiLU.
Of a target whose own layers are so, class, sizes, rotary embedding and weights are taken; of any other the sizes alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from falcon_cli.native.layer import family_of
from falcon_cli.native.swap import FAMILIES
from falcon_cli.target.forward.norm import FinalNorm, final_norm


@dataclass(frozen=True)
class TargetOutline:
    """A target, as far as a drafter's form depends on it.

    Args:
        hidden_size: Of the features, which the LM head reads.
        config: Configuration of its text model.
        decoder: transformers' model under the LM head.
        ask_norm: Tells the final norm.
    """

    hidden_size: int
    config: Any
    decoder: Any
    ask_norm: Callable[[], FinalNorm]

    @classmethod
    def of_decoder(cls, decoder: Any) -> "TargetOutline":
        """Of a Llama-like decoder by itself, whose output the LM head reads."""
        config, size = decoder.config, decoder.config.hidden_size
        return cls(size, config, decoder, lambda: final_norm(decoder.norm, size, epsilon_of(config)))

    @cached_property
    def norm(self) -> FinalNorm:
        """What its final norm does."""
        return self.ask_norm()

    @property
    def llama_layer(self) -> nn.Module | None:
        """Its last layer, if a drafter's may be of the same class."""
        layers = layer_list(self.decoder)
        if not layers or not hasattr(self.decoder, "rotary_emb") or self.config.hidden_size != self.hidden_size:
            return None
        turned = getattr(self.config, "partial_rotary_factor", None) in (None, 1.0)
        family = family_of(layers[-1]).__name__.removesuffix("DecoderLayer")
        return layers[-1] if family in FAMILIES and turned else None

    @property
    def mlp_size(self) -> int:
        """Width of an MLP: the target's where it has one, else 8/3 of the hidden size, as Llama's."""
        return self.count("intermediate_size") or -(-8 * self.hidden_size // 3 // 8) * 8

    def count(self, name: str) -> int | None:
        """A whole number above 0 of the configuration; None where there is none, or one for each layer."""
        try:
            value = getattr(self.config, name, None)
        except (RuntimeError, ValueError):  # what a configuration of unlike layers says to a layer's attribute
            return None
        return value if isinstance(value, int) and value > 0 else None


def layer_list(decoder: Any) -> "nn.ModuleList | None":
    """The decoder layers of a model, whatever it calls them; None where they cannot be told."""
    config = getattr(decoder, "config", None)
    count = None if config is None else getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    lists: dict[int, list[nn.ModuleList]] = {}
    for name, module in decoder.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            lists.setdefault(name.count("."), []).append(module)
    outermost = lists[min(lists)] if lists else []  # a layer's experts may be as many as there are layers
    return outermost[0] if len(outermost) == 1 else None


def epsilon_of(config: Any) -> float:
    """The epsilon of a model's norms, by its configuration."""
    names = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, float)), 1e-6)
