"""A copy of the target on the native kernels, which answers and reads texts several times as fast as torch's operators.

Training needs the target on torch's operators: the student takes weights of its layers. The copy is there for as long
as texts are answered and read.
"""

import gc
from dataclasses import replace

from falcon_cli.recipe.schema import Quantize, TargetRecipe
from falcon_cli.target.batch import suits_batch
from falcon_cli.target.load import LoadedTarget, kernels_serve, load_target


class KernelCopy:
    """The copy, loaded when it is first asked for; the target itself where the kernels cannot read its texts.

    Args:
        recipe: The target's.
        original: The target on torch's operators.
        quantize: How the copy's weights are held.
    """

    def __init__(self, recipe: TargetRecipe, original: LoadedTarget, quantize: Quantize = "none"):
        self.recipe, self.original, self.quantize = recipe, original, quantize
        self._copy: LoadedTarget | None = None

    @property
    def target(self) -> LoadedTarget:
        """What answers and reads.

        Raises:
            FalconError: Weights are to be quantised, and the kernels cannot run or do not know the model.
        """
        if self._copy is None:
            self._copy = self._loaded()
        return self._copy

    def release(self) -> None:
        """Give the copy's memory back; it is loaded anew if it is asked for again."""
        if self._copy is not None and self._copy is not self.original:
            self._copy = None
            gc.unfreeze()  # `load_target` takes a model for one that stays
            gc.collect()

    def _loaded(self) -> LoadedTarget:
        asked, model = self.quantize != "none", self.original.model
        if not asked and (model.sharded or not kernels_serve(self.recipe, model.device, self.original.dtype)):
            return self.original
        copy = load_target(replace(self.recipe, quantize=self.quantize))
        return copy if asked or suits_batch(copy.model) else self.original
