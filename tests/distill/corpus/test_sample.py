"""A tokenised dialogue."""

from falcon_cli.distill.corpus.sample import Sample


def test_a_sample_counts_its_tokens_and_its_answer_s():
    sample = Sample("a", (4, 5, 6), (False, True, True))
    assert (len(sample), sample.answer_tokens) == (3, 2)
