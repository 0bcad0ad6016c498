"""What a distillation recipe refuses."""

import pytest

from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.recipe.load import dump, load_recipe


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("corpus.sources=[]", "corpus.sources is empty"),
        ("corpus.ascii_share=1.5", "corpus.ascii_share must be between 0 and 1"),
        ("corpus.match='a('", "corpus.match is no regular expression: missing ), unterminated subpattern"),
        ("corpus.skip=-1", "corpus.skip must be at least 0"),
        ("corpus.held_out=0", "corpus.held_out must be at least 1"),
        ("network.k=0", "network.k must be at least 1"),
        ("network.mixer=gru", "network.mixer"),
        ("network.start=end", "network.start"),
        ("network.draft_vocab_size=-1", "network.draft_vocab_size must be at least 0"),
        ("loss={feature: 0, kl: 0, ce: 0}", "loss.feature, kl and ce are all 0"),
        ("cache.dtype=fp32", "cache.dtype"),
        ("cache.max_gb=0", "cache.max_gb must be above 0"),
        ("training.optimizer=sgd", "training.optimizer"),
        ("training.precision=fp16", "training.precision"),
        ("training.warmup=2", "training.warmup must be between 0 and 1"),
        ("training.betas=[0.9]", "training.betas"),
        ("training.betas=[0.9, 1]", "training.betas must lie between 0 and 1, not 0.9 and 1"),
        ("training.betas=[-0.1, 0.9]", "training.betas must lie between 0 and 1"),
        ("training.steps=0", "training.steps must be at least 1"),
        ("training.micro_tokens=0", "training.micro_tokens must be at least 1"),
        ("training.learning_rate=-1", "training.learning_rate must be at least 0"),
        ("training.final=-0.1", "training.final must be between 0 and 1"),
        ("cache.top=0", "cache.top must be at least 1"),
        ("loss.kl=-1", "loss.kl must be at least 0"),
        ("method=hydra", "must be one of falcon, eagle, medusa, sps, not hydra"),
        ("method=eagle", "method eagle needs network: {k: 1, mixer: linear, start: own}"),
        ("medusa.k=0", "medusa.k must be at least 1"),
        ("medusa.draft_vocab_size=-1", "medusa.draft_vocab_size must be at least 0"),
        ("draft_model.layers=[]", "draft_model.layers is empty"),
        ("seed=-1", "seed must be at least 0"),
        ("generation.batch_size=0", "generation.batch_size must be at least 1"),
        ("answers=mine", "answers"),
        ("features=cloud", "features"),
        ("noise=-0.1", "noise must be at least 0"),
        ("noise_kind=pink", "noise_kind"),
        ("phases=none", "phases"),
        ("glance=1.2", "glance must be between 0 and 1"),
        ("lora={rank: 4}", "lora adapts an existing drafter: name it with init_from"),
        ("lora={rank: 0}", "lora.rank must be at least 1"),
        ("lora={alpha: 0}", "lora.alpha must be at least 1"),
        ("csdg=false", "did you mean csgd"),
    ],
)
def test_a_wrong_setting_is_named(setting, message):
    with pytest.raises(FalconError) as caught:
        load_recipe(DistillRecipe, None, [setting])
    assert message in str(caught.value)


def test_the_defaults_are_the_paper_s_loss_and_noise():
    recipe = DistillRecipe()
    assert (recipe.loss.feature, recipe.loss.kl, recipe.loss.ce) == pytest.approx((1.0, 0.1 * 0.9, 0.1 * 0.1))
    assert (recipe.glance, recipe.noise, recipe.noise_kind) == (0.4, 0.1, "uniform")
    training = recipe.training
    assert (training.learning_rate, training.betas, training.clip, training.epochs) == (3e-5, (0.9, 0.95), 0.5, 20.0)


def test_a_recipe_comes_back_from_its_own_yaml(tmp_path):
    recipe = load_recipe(DistillRecipe, None, ["lora={rank: 4}", "init_from=x", "training.steps=7", "csgd=false"])
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    assert load_recipe(DistillRecipe, tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize("method", ["medusa", "sps"])
@pytest.mark.parametrize("setting", ["passes=2", "init_from=folder"])
def test_what_only_falcon_s_network_knows_is_refused_for_others(method, setting):
    with pytest.raises(FalconError, match=f"method {method} knows no passes above 1, no init_from and no lora"):
        load_recipe(DistillRecipe, None, ["network.mixer=linear", f"method={method}", setting])
