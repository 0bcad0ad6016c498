"""Features are what the target itself computes for a text, whatever else is in the batch."""

import pytest
import torch

from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features import extract as features
from falcon_cli.distill.features.extract import bytes_a_token, extract
from falcon_cli.native.build import load_kernels
from falcon_cli.native.swap import swap_model
from falcon_cli.target.model import TargetModel

TOP = 6


def text(length, seed, prompt=3):
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(48, (length,), generator=draw).tolist()
    return Sample(f"text-{seed}", tuple(tokens), tuple(place >= prompt for place in range(length)))


SAMPLES = [text(length, seed) for seed, length in enumerate((17, 5, 30, 9))]


@pytest.fixture
def read(tiny_target):
    def read(samples, top=TOP, dtype=torch.float32):
        return dict(extract(tiny_target.model, samples, top, dtype))

    return read


def test_features_and_distribution_are_those_of_decoding(tiny_target, read):
    for number, text in read(SAMPLES).items():
        tokens_L = torch.tensor(SAMPLES[number].tokens)
        features_LD = tiny_target.model.prefill(tokens_L).features_TD
        torch.testing.assert_close(text.features_LD, features_LD, rtol=1e-4, atol=1e-4)  # fp32, other order of sums
        for place in range(2, len(tokens_L)):  # from the last token of the prompt on
            logits_V = tiny_target.model.prefill(tokens_L[: place + 1]).logits_TV[0]
            best = logits_V.log_softmax(-1).topk(TOP)
            assert text.top_ids_LZ[place].tolist() == best.indices.tolist()
            torch.testing.assert_close(text.top_logprobs_LZ[place], best.values, rtol=1e-4, atol=1e-4)


def test_tokens_and_answers_are_the_sample_s(read):
    for number, text in read(SAMPLES).items():
        assert tuple(text.tokens_L.tolist()) == SAMPLES[number].tokens
        assert tuple(text.answer_L.tolist()) == SAMPLES[number].answer


def test_a_text_has_the_same_features_alone_and_in_a_batch(read):
    together = read(SAMPLES)
    for number, sample in enumerate(SAMPLES):
        alone = read([sample])[0]
        torch.testing.assert_close(together[number].features_LD, alone.features_LD, rtol=1e-5, atol=1e-5)
        assert torch.equal(together[number].top_ids_LZ, alone.top_ids_LZ)


def test_the_distribution_is_kept_only_before_answers_and_at_the_end(read):
    sample = Sample("turns", tuple(range(10)), (False, False, True, True, False, False, True, True, False, False))
    kept_L = (read([sample])[0].top_logprobs_LZ != 0).any(-1)
    assert kept_L.nonzero().flatten().tolist() == [1, 2, 5, 6, 9]


def test_short_texts_come_first_and_no_forward_is_too_large(tiny_target, read, monkeypatch):
    assert list(read(SAMPLES)) == [1, 3, 0, 2]
    sizes = []
    watch = tiny_target.model.decoder.register_forward_hook(
        lambda *call: sizes.append(call[-1].last_hidden_state.shape[:2].numel())
    )
    monkeypatch.setattr(features, "_FORWARD_TOKENS", 40)
    small = read(SAMPLES)
    watch.remove()
    assert sizes == [2 * 9, 17, 30]
    whole = read(SAMPLES)
    torch.testing.assert_close(small[2].features_LD, whole[2].features_LD, rtol=1e-5, atol=1e-5)


def test_the_target_s_own_cache_and_attention_are_left_as_they_were(tiny_target, read):
    prompt_L = torch.tensor(SAMPLES[0].tokens)
    before = tiny_target.model.prefill(prompt_L).logits_TV
    length, attention = tiny_target.model.cache.length, tiny_target.model.model.config._attn_implementation
    read(SAMPLES)
    assert tiny_target.model.cache.length == length
    assert tiny_target.model.model.config._attn_implementation == attention
    assert torch.equal(tiny_target.model.prefill(prompt_L).logits_TV, before)


def test_half_precision_and_more_tokens_than_there_are(read):
    text = read(SAMPLES[:1], top=99, dtype=torch.float16)[0]
    assert text.features_LD.dtype == text.top_logprobs_LZ.dtype == torch.float16
    assert text.top_ids_LZ.shape == (17, 48)
    sums_L = text.top_logprobs_LZ[2:].float().exp().sum(-1)
    torch.testing.assert_close(sums_L, torch.ones_like(sums_L), rtol=0, atol=5e-3)  # fp16 logs


def test_features_take_as_many_bytes_as_estimated(read):
    text = read(SAMPLES[:1], dtype=torch.float16)[0]
    size = sum(tensor.nbytes for tensor in vars(text).values())
    assert size == len(SAMPLES[0]) * bytes_a_token(hidden=32, top=TOP)


def test_on_exact_kernels_features_are_decodings_own_bits_whatever_is_read_together(tiny_model):
    load_kernels()
    model = tiny_model("llama-gqa", seed=3, dtype=torch.float32)
    target = TargetModel(model, native=swap_model(model, "fp32"))
    together = dict(extract(target, SAMPLES, TOP, torch.float32))
    for number, sample in enumerate(SAMPLES):
        features_LD = target.prefill(torch.tensor(sample.tokens)).features_TD
        for found in (together[number], dict(extract(target, [sample], TOP, torch.float32))[0]):
            assert torch.equal(found.features_LD, features_LD)
            assert torch.equal(found.top_ids_LZ, together[number].top_ids_LZ)
        place = len(sample) - 1
        best = target.logits(features_LD[-1]).log_softmax(-1).topk(TOP)
        assert together[number].top_ids_LZ[place].tolist() == best.indices.tolist()
        torch.testing.assert_close(together[number].top_logprobs_LZ[place], best.values, rtol=1e-5, atol=1e-5)
