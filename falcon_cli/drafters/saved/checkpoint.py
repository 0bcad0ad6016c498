"""A drafter as a folder: config.json, model.safetensors (weights, and the draft vocabulary with them), README.md.

Nothing is ever unpickled, and no path in a config is followed. A drafter fits one target only; loading says in one line
what does not fit. Shapes: W draft vocabulary.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from falcon_cli.drafters.saved.card import card
from falcon_cli.drafters.saved.trained import TRAINED
from falcon_cli.errors import FalconError
from falcon_cli.sources import atomic_folder, sha256_of
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.vocabulary import is_alike, ordinary, vocab_hash

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
VOCABULARY = "vocabulary"
"""Name of the draft vocabulary's ids among the tensors."""

SHIPPED = {
    ("smollm2-135m-instruct", "falcon"): "smollm2-135m-instruct-k2",
    ("smollm2-135m-instruct", "eagle"): "smollm2-135m-instruct-eagle",
}
"""Built-in target and method → the folder of the drafter that comes with falcon."""


@dataclass(frozen=True)
class SavedDrafter:
    """A drafter read from its folder."""

    network: Any
    """DrafterNetwork or MedusaNetwork; both know their `k` and `recipe`."""
    vocabulary_W: Tensor | None
    """Ascending ids of the tokens that may be drafted; None is all."""
    about: dict[str, Any]
    """Its config.json."""

    @property
    def method(self) -> str:
        """What it drafts by."""
        return str(self.about["method"])


def shipped(target_name: str, method: str = "falcon") -> Path | None:
    """The folder of the drafter that comes with falcon for a target, None where there is none."""
    name = SHIPPED.get((target_name, method))
    folder = Path(__file__).parent / "shipped" / name if name else None
    return folder if folder is not None and (folder / CONFIG).is_file() else None


def save_drafter(
    folder: Path,
    network: Any,
    vocabulary_W: Tensor | None,
    target: LoadedTarget,
    training: dict[str, Any],
    dtype: torch.dtype = torch.float16,
    method: str = "falcon",
) -> None:
    """Write a drafter, whole or not at all; what else lay in the folder (a tree tuned to the old weights) goes.

    Args:
        folder: Made, or replaced.
        network: Trained.
        vocabulary_W: Ascending ids of the tokens that may be drafted; None is all.
        target: What it was distilled from.
        training: Any JSON about how it was made; `command` and `accuracy` have their places in the card.
        dtype: Of the weights on disk.
        method: One of `TRAINED`.

    Raises:
        FalconError: The place cannot be written.
    """
    tensors = {name: held.detach().to("cpu", dtype).contiguous() for name, held in network.state_dict().items()}
    if vocabulary_W is not None:
        tensors[VOCABULARY] = vocabulary_W.cpu().to(torch.int64).contiguous()
    with atomic_folder(folder, needed=sum(held.nbytes for held in tensors.values())) as unfinished:
        (unfinished / WEIGHTS).write_bytes(
            save(tensors, metadata={"format": "pt"})
        )  # save_file's is unreadable to others
        about = {
            "format": FORMAT,
            "method": method,
            "k": network.k,
            "network": asdict(network.recipe),
            "draft_vocab_size": 0 if vocabulary_W is None else len(vocabulary_W),
            "target": target.name,
            "hidden_size": target.model.hidden_size,
            "vocab_size": target.model.vocab_size,
            "vocab_hash": vocab_hash(target.tokenizer.get_vocab()),
            "vocab_hash_2": vocab_hash(ordinary(target.tokenizer)),
            "weights_sha256": sha256_of(unfinished / WEIGHTS),
            "training": training,
        }
        (unfinished / CONFIG).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (unfinished / "README.md").write_text(card(about), encoding="utf-8")


def load_drafter(folder: Path, target: LoadedTarget) -> SavedDrafter:
    """Read a drafter, in the target's dtype, on its device.

    Raises:
        FalconError: Something is missing, damaged, or does not fit the target.
    """
    about = read_config(folder)
    trained = TRAINED[about["method"]]
    recipe = _recipe(folder, about, trained.recipe)
    _check_target(folder, about, target)
    tensors = _tensors(folder, about)
    vocabulary_W = _vocabulary(folder, about, tensors.pop(VOCABULARY, None), target)
    network = trained.network(recipe, target.model.outline)
    _check_shapes(folder, network.state_dict(), tensors)
    network.load_state_dict(tensors)
    network = network.to(target.model.device, target.model.dtype).eval().requires_grad_(False)
    return SavedDrafter(network, vocabulary_W, about)


def read_config(folder: Path, method: str | None = None) -> dict[str, Any]:
    """A drafter's config.json, of the method asked for, if any, and a format that we know.

    Raises:
        FalconError: It is none.
    """
    if not folder.is_dir():
        raise FalconError(f"no drafter at {folder}: name a folder made by falcon distill")
    try:
        about = json.loads((folder / CONFIG).read_bytes())
    except OSError as error:
        raise FalconError(f"{folder} is no drafter: {CONFIG} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise FalconError(f"{folder} is no drafter: {CONFIG} is not JSON") from error
    found = about.get("method") if isinstance(about, dict) else None
    if found not in TRAINED or method not in (None, found):
        wanted = method or " or ".join(TRAINED)
        raise FalconError(f"{folder} is no {wanted} drafter: the method in its {CONFIG} is {found}")
    if about.get("format") != FORMAT:
        raise FalconError(f"{folder} has format {about.get('format')}, this falcon reads {FORMAT}: update falcon")
    return about


def _recipe(folder: Path, about: dict[str, Any], kind: Any) -> Any:
    values: Any = about.get("network")
    kinds = {field.name: type(field.default) for field in fields(kind)}
    known = isinstance(values, dict) and {name: type(value) for name, value in values.items()} == kinds
    if not known or about.get("k") != values["k"]:
        raise FalconError(
            f"{folder}: {CONFIG} must hold k, and the same k with {', '.join(list(kinds)[1:])} under network"
        )
    try:
        recipe = kind(**values)
    except FalconError as error:
        raise FalconError(f"{folder}: {CONFIG}: network: {error}") from error
    if refusal := TRAINED[about["method"]].refusal(recipe):
        raise FalconError(f"{folder}: {CONFIG} says {about['method']}, but {refusal}")
    return recipe


def _check_target(folder: Path, about: dict[str, Any], target: LoadedTarget) -> None:
    made_for = about.get("target")
    if about.get("hidden_size") != target.model.hidden_size:
        raise FalconError(
            f"the drafter {folder} is for {made_for}, of hidden size {about.get('hidden_size')}, and {target.name} has "
            f"{target.model.hidden_size}: distill one for this target"
        )
    if not is_alike(target.tokenizer, about.get("vocab_hash"), about.get("vocab_hash_2")):
        raise FalconError(
            f"the drafter {folder} is for {made_for}, whose tokens are not those of {target.name}: "
            "distill one for this target"
        )


def _tensors(folder: Path, about: dict[str, Any]) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    try:
        whole = sha256_of(path) == about.get("weights_sha256")
    except OSError as error:
        raise FalconError(f"{folder} is no drafter: {WEIGHTS} cannot be read ({error.strerror})") from error
    if not whole:
        raise FalconError(f"{path} is cut short, damaged or another drafter's: its sha256 is not the one in {CONFIG}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise FalconError(f"{path} is no safetensors file: {error}") from error


def _vocabulary(folder: Path, about: dict[str, Any], ids_W: Tensor | None, target: LoadedTarget) -> Tensor | None:
    size = about.get("draft_vocab_size")
    if ids_W is None and size == 0:
        return None
    if ids_W is None or ids_W.dtype != torch.int64 or ids_W.ndim != 1 or len(ids_W) != size or size == 0:
        raise FalconError(
            f"{folder}: {WEIGHTS} does not hold the draft vocabulary of {size} tokens that {CONFIG} tells of"
        )
    if int(ids_W[0]) < 0 or int(ids_W[-1]) >= target.model.vocab_size or bool((ids_W.diff() <= 0).any()):
        raise FalconError(
            f"{folder}: the draft vocabulary must be ascending ids below {target.model.vocab_size}: distill it again"
        )
    return ids_W.to(target.model.device)


def _check_shapes(folder: Path, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    for name in sorted(wanted.keys() | found.keys()):
        need, have = (list(held[name].shape) if name in held else "nothing" for held in (wanted, found))
        if need != have:
            raise FalconError(
                f"{folder}: {name} has shape {have}, this target's drafter needs {need}: distill it again"
            )
        if not bool(found[name].isfinite().all()):
            raise FalconError(f"{folder}: {name} holds values that are not finite: distill it again")
