"""Which families of transformers falcon reads, and how: `make families`, or `python -m falcon_cli.studies families`.

    make families                                  all of them; writes docs/families.md (2 to 5 minutes)
    make families ARGS="only=[gemma2,mamba]"       two of them; shows them and writes nothing

Each family is built without weights, from its default configuration, and checked as at every load
(`target/guard/check.py`): on falcon's kernels, then on torch's operators. Each is tried in a process of its own with
limits of memory and time.
"""

import io
import json
import multiprocessing
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from falcon_cli.console import emit, markdown_table, progress, say
from falcon_cli.errors import FalconError
from falcon_cli.native.build import load_kernels
from falcon_cli.native.swap import suits_decoder
from falcon_cli.native.weights import suits
from falcon_cli.spelling import did_you_mean
from falcon_cli.target.guard.check import check_reading, why_refused
from falcon_cli.target.guard.shrink import made_twin

INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 256,
    "indexer_budget": 2048,
    "indexer_compress_ratio": 4,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"] * 30},
    "ministral": {"head_dim": 128},
    "mistral": {"sliding_window": None},
    "nemotron": {"num_key_value_heads": 8},
    "qwen4_exp": {"text_config": INDEXER},
    "qwen4_exp_text": INDEXER,
    "xmod": {"default_language": "en_XX"},
}
"""What default configurations leave open; and what published models of a family have: Mistral's no window, LFM2's
convolutions, MiniMax M3's sparse layers."""
WAYS = {
    "kernels": "the whole model on falcon's kernels",
    "torch": "on torch's operators, its linear layers on falcon's kernels",
    "alone": "on torch's operators alone",
    "branches": "on torch's operators, drafts branch by branch: its attention takes no tree",
    "branches alone": "branch by branch, on torch's operators alone",
    "refused": "refused: ",
    "untried": "no small model can be built here: ",
}
"""Outcomes, in the page's order; words of its own follow the last two."""
WRAPPINGS = (
    r"^Class validation error for validator '\w+': \w+: (.*)$",
    r"^falcon cannot read it as its own class does \((.*)\)$",
)
"""What may stand around a reason."""
MOST_LETTERS = 100
PAGE = """# Model families

<!-- Written by `make families`; do not edit. -->

The table shows which causal language models of transformers falcon can decode, by transformers' name (`model_type`).
`make families` builds each family of transformers {version} with the options that its configuration has by default. A
small random model of it then reads the same texts as its own class and as falcon: prompts in pieces, and drafts in
trees. All families but those refused or not built gave the same logits.

A model with other options may be read in another way: `granitemoehybrid` is refused only where it has recurrent
layers, and `mistral` with a sliding window is read on torch's operators. So falcon makes the same comparison whenever
it loads a model, and refuses one that it would misread. `moshi` and `phi4_multimodal` say other words by `generate`
than by their forward, which is what falcon reads; the [reference](measuring.md#the-certificate) tells.

{table}"""


@dataclass(frozen=True)
class FamiliesRecipe:
    """What to try."""

    only: tuple[str, ...] = ()
    """These families alone; the page is not written."""
    seconds: int = 60
    """Most time for a family."""
    gigabytes: int = 12
    """Most memory for a family (of addresses)."""
    page: str = "docs/families.md"
    """Where the table of all families is written."""


@dataclass(frozen=True)
class FamilyOutcome:
    """How falcon reads a family."""

    family: str
    way: str
    """A key of `WAYS`."""
    words: str = ""
    """Why it does not."""


def registered() -> list[str]:
    """All families with a causal LM, by transformers' name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def built(family: str) -> Any:
    """A family's model of its default size, without weights.

    Raises:
        Exception: Whatever its class says of its own default configuration.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[family](**SETTINGS.get(family, {}))
    if hasattr(config, "is_decoder"):
        config.is_decoder = True
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def tried(family: str) -> FamilyOutcome:
    """Check a family as a load would, in this process."""
    try:
        model = built(family)
    except Exception as error:  # a class may raise what it likes
        return FamilyOutcome(family, "untried", few_words(str(error)))
    try:
        made_twin(model)
    except Exception as error:
        if getattr(model, "_is_stateful", False):
            return FamilyOutcome(family, "refused", _reason(model, why_refused(model, "")))
        return FamilyOutcome(family, "untried", few_words(str(error)))
    whole = suits(model.get_output_embeddings()) and suits_decoder(model.get_decoder())
    try:
        branches = check_reading(family, model, "sdpa", "fp32", compiled=False)
        return FamilyOutcome(family, "branches" if branches else "kernels" if whole else "torch")
    except FalconError:
        pass
    try:
        branches = check_reading(family, model, "sdpa", None, compiled=False)
        return FamilyOutcome(family, "branches alone" if branches else "alone")
    except FalconError as error:
        return FamilyOutcome(family, "refused", _reason(model, str(error).removeprefix(f"{family}: ")))


def outcome_of(family: str, recipe: FamiliesRecipe) -> FamilyOutcome:
    """Check a family in a process of its own, within the recipe's limits."""
    forking = multiprocessing.get_context("fork")
    hears, tells = forking.Pipe(duplex=False)
    process = forking.Process(target=_tell, args=(family, recipe.gigabytes, tells))
    process.start()
    tells.close()
    try:
        if not hears.poll(recipe.seconds):
            return FamilyOutcome(family, "untried", f"it took longer than {recipe.seconds} s")
        return FamilyOutcome(*json.loads(hears.recv_bytes()))
    except EOFError:
        return FamilyOutcome(family, "untried", f"its process ended (memory is limited to {recipe.gigabytes} GB)")
    finally:
        process.kill()
        process.join()


def few_words(text: str) -> str:
    """A reason short enough for a table."""
    text = " ".join(text.split())
    for wrapping in WRAPPINGS:
        text = re.sub(wrapping, r"\1", text)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS].rsplit(' ', 1)[0]} …"


def page_of(outcomes: Sequence[FamilyOutcome], version: str) -> str:
    """The page: one row for each way and reason."""
    rows: dict[tuple[str, str], list[str]] = {}
    for way in WAYS:
        for outcome in sorted((each for each in outcomes if each.way == way), key=lambda each: each.words):
            rows.setdefault((way, outcome.words), []).append(outcome.family)
    cells = [
        (WAYS[way] + words, str(len(names)), ", ".join(f"`{name}`" for name in sorted(names)))
        for (way, words), names in rows.items()
    ]
    return PAGE.format(version=version, table=markdown_table(("falcon reads it", "families", "names"), cells, left=3))


def run(recipe: FamiliesRecipe) -> None:
    """Try the families, and write the page, or show those asked for."""
    import transformers

    known = registered()
    for family in recipe.only:
        if family not in known:
            raise FalconError(f"only: transformers knows no causal LM {family}{did_you_mean(family, known)}")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)  # threads do not survive a fork
    load_kernels()
    families = recipe.only or known
    outcomes = []
    with progress("trying", len(families), "families") as bar:
        for family in families:
            outcomes.append(outcome_of(family, recipe))
            bar.advance()
    if recipe.only:
        for outcome in outcomes:
            emit(f"{outcome.family}: {WAYS[outcome.way]}{outcome.words}")
        return
    Path(recipe.page).write_text(page_of(outcomes, transformers.__version__), encoding="utf-8")
    say(f"wrote {recipe.page}")


def _tell(family: str, gigabytes: int, tells: Connection) -> None:
    """Try a family in this process, which is its own, and send the outcome."""
    import resource  # Linux and macOS alone have it

    resource.setrlimit(resource.RLIMIT_AS, (gigabytes << 30,) * 2)
    with redirect_stderr(io.StringIO()):
        try:
            outcome = tried(family)
        except Exception as error:
            outcome = FamilyOutcome(family, "untried", few_words(str(error)))
    tells.send_bytes(json.dumps((outcome.family, outcome.way, outcome.words)).encode())


def _reason(model: Any, refusal: str) -> str:
    """The words of a refusal, without the family's name."""
    return few_words(refusal.replace(f"a {type(model).__name__}", "it"))
