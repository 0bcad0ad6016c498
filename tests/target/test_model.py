import pytest
import torch

from falcon_cli.attention.backend import implementation
from falcon_cli.core import Draft
from falcon_cli.errors import FalconError
from falcon_cli.target.model import TargetModel

CPU = torch.device("cpu")
VOCAB, CONTEXT = 48, 256
ROUNDING = {"rtol": 0, "atol": 2e-5}
"""Weights are fp64, but transformers' norms round to fp32; logits are of size 10 and sums come in another order."""


def tokens(length, seed=0):
    return torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed))


def plain_logits(target, text):
    """Logits after every token by the bare transformers model, [L, V]."""
    with target.plain_transformers() as model, torch.inference_mode():
        return model(text[None], use_cache=False).logits[0]


def close(got, expected):
    torch.testing.assert_close(got, expected, **ROUNDING)


@pytest.mark.parametrize("chunk", [512, 23, 22, 5, 1])
def test_prefill_in_chunks_equals_transformers(tiny_model, family, chunk):
    target = TargetModel(tiny_model(family), chunk=chunk)
    text = tokens(23)
    scores = target.prefill(text)
    assert scores.logits_TV.shape == (1, VOCAB)
    assert scores.features_TD.shape == (23, 32)
    assert target.cache.length == 23
    expected = plain_logits(target, text)
    close(scores.logits_TV[0], expected[-1])
    close(target.head(scores.features_TD), expected)


def test_features_are_the_hidden_states_after_the_final_norm(tiny_model, family):
    target = TargetModel(tiny_model(family))
    text = tokens(9)
    features_LD = target.prefill(text).features_TD
    with target.plain_transformers() as model, torch.inference_mode():
        close(features_LD, model(text[None], output_hidden_states=True).hidden_states[-1][0])
    scores = target.score(Draft.tree([1, 2, 3, 4], [0, 0, 0, 2], CPU))
    assert torch.equal(target.head(scores.features_TD), scores.logits_TV)
    assert torch.equal(scores.choice_T, scores.logits_TV.argmax(-1))


def test_a_chain_scores_as_transformers_reads_it(tiny_model, family):
    target = TargetModel(tiny_model(family))
    text = tokens(31)
    target.prefill(text[:17])
    scores = target.score(Draft.chain(text[17:].tolist(), CPU))
    close(scores.logits_TV, plain_logits(target, text)[17:])


def two_branches(nodes):
    """Two chains side by side, deep enough that the leaves look past their own ancestors out of a sliding window."""
    return [0, 0, *range(nodes - 2)]


@pytest.mark.parametrize("committed", [1, 19])
@pytest.mark.parametrize("deep", [False, True])
def test_a_tree_scores_as_each_of_its_root_paths_alone(tiny_model, random_parents, family, committed, deep):
    target = TargetModel(tiny_model(family))
    prompt, nodes = tokens(committed), 20
    parents = two_branches(nodes) if deep else random_parents(nodes, torch.Generator().manual_seed(committed))
    draft = Draft.tree(tokens(nodes, seed=5).tolist(), parents, CPU)
    target.prefill(prompt)
    scores = target.score(draft)
    assert target.cache.length == committed  # nothing is kept until commit
    for node in range(nodes):
        path_A = draft.ancestors_TT[node].nonzero().squeeze(-1)
        close(scores.logits_TV[node], plain_logits(target, torch.cat([prompt, draft.tokens_T[path_A]]))[-1])


def test_scoring_after_commits_equals_reading_the_kept_text_afresh(tiny_model, random_parents, family):
    target = TargetModel(tiny_model(family))
    generator = torch.Generator().manual_seed(1)
    text = tokens(6)
    target.prefill(text)
    for cycle in range(6):
        nodes = 3 + cycle
        draft = Draft.tree(tokens(nodes, seed=cycle).tolist(), random_parents(nodes, generator), CPU)
        target.score(draft)
        leaf = int(torch.randint(nodes, (), generator=generator))
        path_A = draft.ancestors_TT[leaf].nonzero().squeeze(-1)
        target.commit(path_A.tolist())
        text = torch.cat([text, draft.tokens_T[path_A]])
        assert target.cache.length == len(text)
    scores = target.score(Draft.chain([4, 2], CPU))
    close(scores.logits_TV, plain_logits(target, torch.cat([text, torch.tensor([4, 2])]))[-2:])


def test_rewinding_and_reading_on_equals_reading_afresh(tiny_model, family):
    target = TargetModel(tiny_model(family))
    text = tokens(12)
    target.prefill(text)
    target.rewind(7)
    scores = target.score(Draft.chain([9, 8, 7], CPU))
    close(scores.logits_TV, plain_logits(target, torch.cat([text[:7], torch.tensor([9, 8, 7])]))[-3:])


def test_a_second_prefill_forgets_the_first_text(tiny_model):
    target = TargetModel(tiny_model())
    fresh = target.prefill(tokens(8, seed=2))
    target.prefill(tokens(40, seed=3))
    again = target.prefill(tokens(8, seed=2))
    assert torch.equal(fresh.logits_TV, again.logits_TV)
    assert target.cache.length == 8


def test_the_cache_grows_past_its_first_capacity_without_changing_the_text(tiny_model):
    target = TargetModel(tiny_model("llama-gqa", max_position_embeddings=2048), chunk=300)
    first = target.cache.capacity
    text = tokens(first + 50)
    scores = target.prefill(text)
    assert target.cache.capacity > first
    close(scores.logits_TV[0], plain_logits(target, text)[-1])


def test_rotary_positions_follow_depth_to_the_very_end_of_the_context(tiny_model):
    target = TargetModel(tiny_model())
    text = tokens(CONTEXT)
    target.prefill(text[:-3])
    scores = target.score(Draft.chain(text[-3:].tolist(), CPU))
    close(scores.logits_TV, plain_logits(target, text)[-3:])


@pytest.mark.parametrize(
    ("prompt", "new", "message"),
    [
        (0, 1, "the prompt is empty; give it at least one token"),
        (CONTEXT, 1, f"the prompt has {CONTEXT} tokens, the target's context {CONTEXT}; shorten the prompt"),
        (
            200,
            100,
            "a prompt of 200 tokens and 100 new ones exceed the target's context of 256; "
            "shorten the prompt or ask for at most 56 new tokens",
        ),
    ],
)
def test_a_text_that_cannot_fit_is_refused(tiny_model, prompt, new, message):
    with pytest.raises(FalconError) as error:
        TargetModel(tiny_model()).check_room(prompt, new)
    assert str(error.value) == message


def test_a_text_that_just_fits_is_taken(tiny_model):
    TargetModel(tiny_model()).check_room(200, 56)


def test_a_token_without_a_row_is_refused_before_it_is_read(tiny_model):
    target = TargetModel(tiny_model())
    with pytest.raises(FalconError, match="a token of id 48, the model's embedding 48 rows"):
        target.prefill(torch.tensor([1, 48, 2]))
    assert target.cache.length == 0


@pytest.mark.parametrize("length", [0, CONTEXT, CONTEXT + 5])
def test_prefill_refuses_before_any_work(tiny_model, monkeypatch, length):
    target = TargetModel(tiny_model())
    target.prefill(tokens(5))

    def fail(*_, **__):
        raise AssertionError("the model was run")

    monkeypatch.setattr(target.decoder, "forward", fail)
    with pytest.raises(FalconError):
        target.prefill(tokens(length))
    assert target.cache.length == 5


@pytest.mark.parametrize(("dtype", "atol"), [(torch.bfloat16, 0.6), (torch.float16, 0.08)])
def test_half_precision_runs_and_agrees_roughly(tiny_model, family, dtype, atol):
    """Logits here are of size 10 with outliers to 30; two layers of bf16 (8 bits) or fp16 (11 bits) lose this much."""
    exact, target = TargetModel(tiny_model(family)), TargetModel(tiny_model(family, dtype=dtype))
    assert (target.dtype, target.cache.buffer.dtype) == (dtype, dtype)
    draft = Draft.tree([1, 2, 3, 4], [0, 0, 0, 2], CPU)
    for model in (exact, target):
        model.prefill(tokens(15))
    got, expected = target.score(draft).logits_TV, exact.score(draft).logits_TV
    assert got.dtype == dtype
    assert (got.double() - expected).abs().median() < atol


def test_plain_transformers_lends_the_bare_model_and_restores_our_attention(tiny_model):
    target = TargetModel(tiny_model())
    before = target.prefill(tokens(9)).logits_TV
    with target.plain_transformers() as model:
        assert model is target.model
        assert model.config._attn_implementation == "sdpa"
        model(tokens(5)[None])
    assert target.model.config._attn_implementation == implementation("sdpa")
    assert torch.equal(target.prefill(tokens(9)).logits_TV, before)


def test_plain_transformers_restores_our_attention_after_an_error_too(tiny_model):
    target = TargetModel(tiny_model())

    def break_off():
        with target.plain_transformers():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert target.model.config._attn_implementation == implementation("sdpa")


def test_the_targets_weights_are_frozen(tiny_model):
    target = TargetModel(tiny_model())
    assert not target.model.training
    assert not any(parameter.requires_grad for parameter in target.model.parameters())
    assert not target.prefill(tokens(3)).logits_TV.requires_grad


@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 8), (torch.float32, 4), (torch.bfloat16, 2)])
def test_weight_bytes_count_the_embedding_only_where_it_is_the_head(tiny_model, dtype, size):
    layers = 2 * (32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32) + 32  # q o, k v, mlp, norms, the final norm
    for family in ("llama-gqa", "llama-tied"):
        assert TargetModel(tiny_model(family, dtype=dtype)).weight_bytes() == (layers + VOCAB * 32) * size
