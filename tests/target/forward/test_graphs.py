"""Fixed shapes compute what growing ones compute, and no shape is compiled twice."""

import pytest
import torch

from falcon_cli.core import Draft
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.errors import FalconError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.forward import graphs
from falcon_cli.target.load import load_target
from falcon_cli.target.model import TargetModel

CPU = torch.device("cpu")
PROMPT = torch.arange(3, 24)


@pytest.fixture
def untranslated(monkeypatch):
    """Graphs are captured and counted, but not translated to C++: that takes half a minute each."""

    def capture(self, graph, inputs):
        self.made += 1
        return graph

    monkeypatch.setattr(graphs.FixedReader, "_compile", capture)


def pair(tiny_model, family="llama-gqa"):
    return TargetModel(tiny_model(family)), TargetModel(tiny_model(family), compiled=True)


@pytest.mark.parametrize("family", ["llama-gqa", "mistral-window", "qwen2-window", "qwen3"])
def test_trees_score_as_in_growing_shapes(tiny_model, random_parents, untranslated, family):
    growing, fixed = pair(tiny_model, family)
    generator = torch.Generator().manual_seed(1)
    for target in (growing, fixed):
        target.prefill(PROMPT)
    for nodes in (1, 2, 3, 7, 8, 21):
        parents = random_parents(nodes, generator)
        draft = Draft.tree(torch.randint(48, (nodes,), generator=generator).tolist(), parents, CPU)
        scores = [target.score(draft) for target in (growing, fixed)]
        torch.testing.assert_close(scores[1].logits_TV, scores[0].logits_TV, rtol=0, atol=2e-5)
        path = draft.ancestors_TT[nodes - 1].nonzero().squeeze(-1)
        for target in (growing, fixed):
            target.commit(path)
    held = [target.cache.buffer[..., : growing.cache.length, :] for target in (growing, fixed)]
    torch.testing.assert_close(held[1], held[0], rtol=0, atol=2e-5)


def granite():
    """Tiny, with multipliers of embeddings, attention, residuals and logits."""
    from transformers import GraniteConfig, GraniteForCausalLM

    scales = {
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.22,
        "logits_scaling": 4.0,
    }
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GraniteConfig(vocab_size=48, num_key_value_heads=2, initializer_range=0.3, **sizes, **scales)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GraniteForCausalLM(config).double().eval()


def test_what_a_class_multiplies_is_in_its_graphs(untranslated):
    own, fixed = granite(), TargetModel(granite(), compiled=True)
    fixed.prefill(PROMPT)
    text = [*PROMPT.tolist(), 5, 6, 7]
    logits = own(input_ids=torch.tensor([text])).logits[0, -3:]
    torch.testing.assert_close(fixed.score(Draft.chain([5, 6, 7], CPU)).logits_TV, logits, rtol=0, atol=1e-4)


def test_a_whole_text_needs_one_graph_a_power_of_two(tiny_model, untranslated):
    _, fixed = pair(tiny_model)
    drafter = PromptLookup(CPU, PldOptions())
    prompt = [3, 4, 5, 6] * 5
    complete(fixed, drafter, prompt, Stop((), 60))
    made = fixed.graphs.made
    assert 1 <= made <= 4  # 1, 2, 4 and 8 rows
    for first in range(5, 15):
        complete(fixed, drafter, [first, *prompt], Stop((), 60))
    assert fixed.graphs.made <= 4


def test_inductor_translates_a_graph_once(tiny_model):
    growing, fixed = pair(tiny_model)
    for target in (growing, fixed):
        target.prefill(PROMPT)
    for tokens in ([5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15]):
        draft = Draft.chain(tokens, CPU)
        expected, given = (target.score(draft).logits_TV for target in (growing, fixed))
        torch.testing.assert_close(given, expected, rtol=0, atol=2e-5)
        for target in (growing, fixed):
            target.commit([0, 1])
    assert fixed.graphs.made == 1


def test_without_a_compiler_decoding_goes_on_with_a_warning(tiny_model, monkeypatch, capsys):
    def broken(self, graph, inputs):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(graphs.FixedReader, "_compile", broken)
    growing, fixed = pair(tiny_model)
    draft = Draft.chain([5, 6, 7], CPU)
    for target in (growing, fixed):
        target.prefill(PROMPT)
    expected = growing.score(draft).logits_TV
    for _ in range(2):
        torch.testing.assert_close(fixed.score(draft).logits_TV, expected, rtol=0, atol=2e-5)
    assert capsys.readouterr().err.count("--compile does not work here") == 1


def test_a_recipe_asks_for_it(chat_target, untranslated):
    target = load_target(TargetRecipe(str(chat_target), compile=True)).model
    assert target.native is None
    assert target.backend == "sdpa"
    target.score(Draft.chain([1, 2], CPU))
    assert target.graphs.made == 1


@pytest.mark.parametrize("other", [{"kernels": "native"}, {"quantize": "int8"}, {"attention": "flash"}])
def test_what_cannot_be_compiled_is_refused(other):
    with pytest.raises(FalconError, match="compile"):
        TargetRecipe(compile=True, **other)
