"""The target's LM head on the draft vocabulary, which is open to the words of the text at hand.

Most rows of the LM head are never needed, but which those are depends on the text: a question about vowels is answered
with "vowels", rare as the word may be elsewhere. So tokens of the prompt, and those that the target said, are taken in
beside the fixed ones, the latest SPARE of them; the next text begins with the fixed ones alone.

    fixed    W rows of the target's head       spare    rows of tokens met in this text, the oldest replaced

Shapes: E features that the head reads, D hidden size, V the target's vocabulary, W draft vocabulary, X best tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from falcon_cli.native.layer import NativeLinear, linear_of
from falcon_cli.native.packed_matrix import PackedMatrix, product, top_k
from falcon_cli.native.quantized import QuantizedLinear, QuantizedTensor, WeightRows, device_of, rows_of
from falcon_cli.native.weights import PackFormat, pack, rewrite, suits
from falcon_cli.target.forward.logits import PLAIN, LogitForm
from falcon_cli.target.model import TargetModel

SPARE = 512
"""Tokens of a text that are taken in beside the draft vocabulary."""


class Head(ABC):
    """Guesses tokens from features.

    Args:
        head_VD: The target's LM head.
        vocabulary_W: Ascending ids of the tokens that may be drafted in any text; None is all.
        dtype: Of the features.
        spare: S.
        bias_V: The LM head's bias, if it has one.
        form: How the target makes logits of the head's outputs. It keeps their order, so only `likely` asks it.
    """

    def __init__(
        self,
        head_VD: WeightRows,
        vocabulary_W: Tensor | None,
        dtype: torch.dtype,
        spare: int = SPARE,
        bias_V: Tensor | None = None,
        form: LogitForm = PLAIN,
    ):
        self._head_VD, self._dtype, self._bias_V, self._form = head_VD, dtype, bias_V, form
        self._fixed = len(head_VD) if vocabulary_W is None else len(vocabulary_W)
        self._spare = 0 if vocabulary_W is None else spare
        ids_W = torch.arange(len(head_VD)) if vocabulary_W is None else vocabulary_W.cpu()
        self._ids = torch.cat([ids_W, ids_W.new_zeros(self._spare)]).to(device_of(head_VD))
        """Of the fixed and the spare rows."""
        self._bias = None if bias_V is None else bias_V[self._ids].to(dtype)
        self._known = set(ids_W.tolist())
        self._admitted: list[int] = []
        """Tokens of the spare rows in use."""
        self._next = 0
        """The spare row that is written next: the oldest once all are in use."""
        self._hold(head_VD if vocabulary_W is None else head_VD[self._ids])
        self._use(self._fixed)

    @property
    def choices(self) -> int:
        """Tokens that may be drafted in any text: W."""
        return self._fixed

    @torch.inference_mode()
    def reset(self, prompt: Iterable[int]) -> None:
        """Forget the last text, and take in the prompt of the next."""
        self._known.difference_update(self._admitted)
        self._admitted, self._next = [], 0
        self._use(self._fixed)
        self.admit(prompt)

    @torch.inference_mode()
    def admit(self, tokens: Iterable[int]) -> None:
        """Take in what this text says."""
        written: dict[int, int] = {}
        for token in tokens:
            if token in self._known:
                continue
            if len(self._admitted) == self._spare:  # full: the oldest extra token makes room
                self._known.remove(self._admitted[self._next])
            self._admitted[self._next : self._next + 1] = [token]
            self._known.add(token)
            written[self._next] = token
            self._next = (self._next + 1) % self._spare
        if written:  # all rows at once: a copy for each token would cost more than the product
            ids = torch.tensor(list(written.values()), device=self._ids.device)
            places = torch.tensor(list(written), device=self._ids.device) + self._fixed
            self._ids[places] = ids
            self._write(places, self._head_VD[ids].to(self._dtype))
            if self._bias is not None and self._bias_V is not None:
                self._bias[places] = self._bias_V[ids].to(self._dtype)
            self._use(self._fixed + len(self._admitted))

    def best(self, features_ED: Tensor, count: int) -> Tensor:
        """The best tokens [E, K], best first."""
        if self._bias is not None:
            return self._ids[self._biased(features_ED).topk(count).indices]
        return self._ids[self._best(features_ED, count)]

    def likely(self, features_ED: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities [E, K] among the tokens that may be drafted, and the best tokens, best first."""
        logits_EW = self._form(self._biased(features_ED))
        best_EX, places_EX = logits_EW.topk(count)
        return best_EX - logits_EW.logsumexp(-1, keepdim=True), self._ids[places_EX]

    def _biased(self, features_ED: Tensor) -> Tensor:
        """The head's outputs, for the rows in use."""
        outputs_EW = self._product(features_ED)
        return outputs_EW if self._bias is None else outputs_EW + self._bias[: outputs_EW.shape[-1]]

    @abstractmethod
    def _hold(self, rows: WeightRows) -> None:
        """Take in the fixed and the spare rows."""

    @abstractmethod
    def _write(self, places: Tensor, rows: Tensor) -> None:
        """Replace some rows."""

    @abstractmethod
    def _use(self, rows: int) -> None:
        """From now on so many rows are in use."""

    @abstractmethod
    def _product(self, features_ED: Tensor) -> Tensor:
        """Features times the rows in use, without a bias."""

    @abstractmethod
    def _best(self, features_ED: Tensor, count: int) -> Tensor:
        """Rows of the largest products [E, K]."""


class TorchHead(Head):
    """The head on torch's operators."""

    def _hold(self, rows: WeightRows) -> None:
        self._all_rows = rows[:].to(self._dtype)

    def _write(self, places: Tensor, rows: Tensor) -> None:
        self._all_rows[places] = rows

    def _use(self, rows: int) -> None:
        self._used_rows = self._all_rows[:rows]

    def _product(self, features_ED: Tensor) -> Tensor:
        return features_ED @ self._used_rows.T

    def _best(self, features_ED: Tensor, count: int) -> Tensor:
        return self._product(features_ED).topk(count).indices


class NativeHead(Head):
    """The head on the kernels.

    Args:
        shared: The target's own matrix of all rows, for a head of all tokens.
    """

    def __init__(
        self,
        head_VD: WeightRows,
        vocabulary_W: Tensor | None,
        dtype: torch.dtype,
        spare: int = SPARE,
        kind: PackFormat = "int8",
        bias_V: Tensor | None = None,
        form: LogitForm = PLAIN,
        shared: PackedMatrix | None = None,
    ):
        self._kind, self._shared = kind, shared
        super().__init__(head_VD, vocabulary_W, dtype, spare, bias_V, form)

    def _hold(self, rows: WeightRows) -> None:
        self._whole = self._shared or pack(rows, self._kind)

    def _write(self, places: Tensor, rows: Tensor) -> None:
        rewrite(self._whole, places, rows)

    def _use(self, rows: int) -> None:
        self._rows = self._whole.first(rows)

    def _product(self, features_ED: Tensor) -> Tensor:
        return product(features_ED, self._rows)

    def _best(self, features_ED: Tensor, count: int) -> Tensor:
        return top_k(features_ED, self._rows, count).places_TX


def head_of(target: TargetModel, vocabulary_W: Tensor | None, dtype: torch.dtype) -> Head:
    """The LM head's rows of the draft vocabulary, on the kernels where the target is."""
    head_VD, bias_V = rows_of(target.head), getattr(target.head, "bias", None)
    form = target.logit_form or PLAIN
    if target.native is None or not suits(_layer(head_VD)):
        return TorchHead(head_VD, vocabulary_W, dtype, bias_V=bias_V, form=form)
    shared = _matrix(target) if vocabulary_W is None and bias_V is None else None
    return NativeHead(head_VD, vocabulary_W, dtype, bias_V=bias_V, form=form, shared=shared)


def _matrix(target: TargetModel) -> PackedMatrix | None:
    """The target's own packed head, where it takes no more memory to read than the drafter's would."""
    small = target.native is not None and target.native.kind in ("int8", "file")
    return target.head.matrix if small and isinstance(target.head, NativeLinear) else None


def _layer(rows: WeightRows) -> nn.Linear | QuantizedLinear:
    return QuantizedLinear(rows) if isinstance(rows, QuantizedTensor) else linear_of(rows)
