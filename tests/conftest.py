"""Tiny random models and a toy target, shared by the engine's tests."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from falcon_cli.core import Draft, Scores, Verdict

pytest_plugins = ("chatting", "gguf_files")

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported; a hub out of reach costs 20 s
torch.set_num_threads(1)
settings.register_profile("falcon", deadline=None, derandomize=True)
settings.load_profile("falcon")

CPU = torch.device("cpu")
VOCAB = 48
CONTEXT = 256
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,  # the usual 0.02 makes every token nearly as likely as any other
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-mha": ("Llama", {"num_key_value_heads": 4}),
    "llama-gqa": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-wide-head": ("Llama", {"head_dim": 16, "num_key_value_heads": 1}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 7}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},  # layer 0 full, layer 1 windowed
    ),
    "qwen3": ("Qwen3", {"head_dim": 8}),
}


@pytest.fixture(scope="session", autouse=True)
def heard_ctrl_c() -> Iterator[None]:
    """A script's `make check &` ignores Ctrl-C, and so do its child processes: tests of Ctrl-C hear it anyway."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `$FALCON_HOME` of the test's own; it shares only the compiled kernels, which take a minute to make."""
    from falcon_cli.sources import disk

    compiled = disk.home() / "native"
    compiled.mkdir(parents=True, exist_ok=True)
    own = tmp_path / "home"
    own.mkdir()
    (own / "native").symlink_to(compiled)
    monkeypatch.setenv("FALCON_HOME", str(own))
    return own


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Every kind of tiny model in turn."""
    return request.param


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """Build a tiny random causal LM: `tiny_model("llama-gqa", seed=3, hidden_size=16)`, in float64 unless told.

    In float64 the rounding of a different order of sums cannot turn one token's logit past another's.
    """

    def build(family: str = "llama-gqa", seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
        import transformers  # here, because most tests of the package need no model

        prefix, own = FAMILIES[family]
        config = getattr(transformers, f"{prefix}Config")(**{**SIZES, **own, **changes})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = getattr(transformers, f"{prefix}ForCausalLM")(config)
            for name, parameter in model.named_parameters():  # norms of 1 would hide a forgotten or doubled norm
                if "norm" in name or name.endswith("bias"):
                    parameter.data += 0.3 * torch.randn_like(parameter)
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        return model.to(dtype).eval()

    return build


class ToyTarget:
    """A target whose next token is a function of the text before it, read node by node through `ancestors_TT`."""

    device = CPU
    context_limit = draft_room = 10_000

    def __init__(self, next_token: Callable[[list[int]], int], vocab: int = VOCAB):
        self.next_token, self.vocab = next_token, vocab
        self.read: list[int] = []
        self.draft: Draft | None = None

    def prefill(self, prompt_L: Tensor) -> Scores:
        self.read = prompt_L.tolist()
        return self._scores([self.next_token(self.read)], len(self.read))

    def score(self, draft: Draft) -> Scores:
        self.draft = draft
        chosen = []
        for row_T in draft.ancestors_TT:
            seen = row_T.nonzero().squeeze(-1).tolist()
            chosen.append(self.next_token(self.read + [int(draft.tokens_T[node]) for node in seen]))
        return self._scores(chosen, len(chosen))

    def commit(self, path: Sequence[int]) -> None:
        assert self.draft is not None
        self.read += self.draft.tokens_T[list(path)].tolist()

    def rewind(self, length: int) -> None:
        del self.read[length:]

    def synchronize(self) -> None:
        pass

    def continuation(self, text: Sequence[int], length: int) -> list[int]:
        """What this target says after a text, token by token."""
        whole = list(text)
        for _ in range(length):
            whole.append(self.next_token(whole))
        return whole[len(text) :]

    def _scores(self, chosen: list[int], features: int) -> Scores:
        return Scores.of(torch.eye(self.vocab)[chosen], torch.zeros(features, 1))


@pytest.fixture(scope="session")
def toy_target() -> type[ToyTarget]:
    """The toy target's class: `toy_target(next_token)`."""
    return ToyTarget


@pytest.fixture(scope="session")
def verdict_of() -> Callable[..., Verdict]:
    """A verdict as `verify` would give it for a chain of which the first `accepted` drafted tokens are kept."""

    def build(draft: Draft, accepted: int, next_token: int) -> Verdict:
        return Verdict(
            path=tuple(range(accepted + 1)),
            accepted=tuple(draft.tokens_T[1 : accepted + 1].tolist()),
            next_token=next_token,
            choices=(next_token,) * len(draft),
        )

    return build


@pytest.fixture(scope="session")
def random_parents() -> Callable[..., list[int]]:
    """Parents of a random tree of `nodes` nodes, parents first, none deeper than `max_depth`."""

    def build(nodes: int, generator: torch.Generator, max_depth: int = 99) -> list[int]:
        parents, depths = [0], [0]
        while len(parents) < nodes:
            parent = int(torch.randint(len(parents), (), generator=generator))
            if depths[parent] < max_depth:
                parents.append(parent)
                depths.append(depths[parent] + 1)
        return parents

    return build


@pytest.fixture(scope="session")
def random_paths() -> Callable[..., list[tuple[int, ...]]]:
    """Rank paths of a random tree of at most `nodes` drafted nodes, ranks below `width`."""

    def build(nodes: int, generator: torch.Generator, max_depth: int = 6, width: int = 4) -> list[tuple[int, ...]]:
        paths: list[tuple[int, ...]] = [()]
        for _ in range(9 * nodes):
            parent = paths[int(torch.randint(len(paths), (), generator=generator))]
            path = (*parent, int(torch.randint(width, (), generator=generator)))
            if len(paths) <= nodes and len(path) <= max_depth and path not in paths:
                paths.append(path)
        return paths[1:]

    return build


@pytest.fixture(scope="session")
def tiny_network() -> Callable[..., Any]:
    """Build a random drafter on a target's decoder: `tiny_network(decoder, k=3, mixer="linear")`, in its dtype."""
    from falcon_cli.drafters.falcon.network import DrafterNetwork  # here: it imports transformers' attention
    from falcon_cli.recipe.distill import NetworkRecipe
    from falcon_cli.target.outline import TargetOutline

    def build(decoder: Any, seed: int = 0, **recipe: Any) -> DrafterNetwork:
        outline = TargetOutline.of_decoder(decoder)
        network = DrafterNetwork(NetworkRecipe(**recipe), outline)
        generator = torch.Generator().manual_seed(seed)
        network.initialise(outline, generator)
        for parameter in network.parameters():  # nothing small, nothing borrowed that a mistake could hide behind
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
        return network.to(decoder.norm.weight.dtype).requires_grad_(False).eval()

    return build


@pytest.fixture(scope="session")
def tiny_heads() -> Callable[..., Any]:
    """Build random Medusa heads on a target's decoder: `tiny_heads(decoder, k=3)`, in its dtype."""
    from falcon_cli.drafters.rivals.medusa import MedusaNetwork
    from falcon_cli.recipe.distill import MedusaRecipe
    from falcon_cli.target.outline import TargetOutline

    def build(decoder: Any, seed: int = 0, **recipe: Any) -> MedusaNetwork:
        network = MedusaNetwork(MedusaRecipe(**recipe), TargetOutline.of_decoder(decoder))
        generator = torch.Generator().manual_seed(seed)
        for parameter in network.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        return network.to(decoder.norm.weight.dtype).requires_grad_(False).eval()

    return build


@pytest.fixture(scope="session")
def save_drafters(tiny_network: Callable[..., Any], tiny_heads: Callable[..., Any]) -> Callable[..., None]:
    """Save a random drafter of every method that is distilled, each in a folder of its name."""
    from falcon_cli.drafters.saved.checkpoint import save_drafter

    def save(root: Path, target: Any, seed: int = 0) -> None:
        decoder = target.model.decoder
        networks = {
            "falcon": tiny_network(decoder, seed, k=2),
            "eagle": tiny_network(decoder, seed, k=1, mixer="linear", start="own"),
            "medusa": tiny_heads(decoder, seed, k=3),
        }
        for method, network in networks.items():
            save_drafter(root / method, network, None, target, {}, method=method)

    return save


@pytest.fixture
def misread(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let falcon get the attention of every target wrong from now on, on all kernels; its model said right before."""
    from falcon_cli.target import load

    hooked = load._hooked

    def wrongly(name: str, model: Any, *rest: Any) -> Any:
        model.get_decoder().layers[0].self_attn.o_proj.weight.data.neg_()
        return hooked(name, model, *rest)

    return lambda: monkeypatch.setattr(load, "_hooked", wrongly)
