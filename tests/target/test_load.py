import gc
import json

import pytest
import torch

from falcon_cli.errors import FalconError, UsageError
from falcon_cli.native.build import NoKernelsError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import load_target, load_tokenizer, pick_device, pick_dtype

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def recipe(folder, **changes):
    return TargetRecipe(model=str(folder), device="cpu", **changes)


def test_a_saved_folder_becomes_a_target_with_tokenizer_and_stop_tokens(saved_model, tiny_model):
    loaded = load_target(recipe(saved_model))
    assert (loaded.name, loaded.dtype, loaded.model.dtype) == (str(saved_model), "fp32", torch.float32)
    assert loaded.tokenizer("word3 word4").input_ids == [6, 7]
    assert loaded.stop_ids == {2}
    prompt = torch.tensor([6, 7, 8])
    bare = tiny_model(dtype=torch.float32)
    with torch.inference_mode():
        expected = bare(prompt[None]).logits[0, -1:]
    torch.testing.assert_close(loaded.model.prefill(prompt).logits_TV, expected, rtol=0, atol=1e-4)  # fp32 rounding


def test_with_a_target_garbage_is_collected_again(saved_model):
    gc.disable()
    try:
        load_target(recipe(saved_model))
        assert gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(("dtype", "expected"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_target_is_held_in_the_wanted_dtype(saved_model, dtype, expected):
    loaded = load_target(recipe(saved_model, dtype=dtype))
    assert (loaded.dtype, loaded.model.dtype) == (dtype, expected)
    assert {parameter.dtype for parameter in loaded.model.model.parameters()} == {expected}


def test_threads_are_set_as_the_recipe_says(saved_model):
    load_target(recipe(saved_model, threads=2))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("cores", "threads", "expected"), [(1, None, 1), (2, None, 2), (9, None, 2), (1, 2, 2)])
def test_threads_keep_to_the_quota_unless_the_recipe_says_more(saved_model, monkeypatch, cores, threads, expected):
    monkeypatch.setattr("falcon_cli.target.load.usable_cores", lambda: cores)
    torch.set_num_threads(2)
    load_target(recipe(saved_model, threads=threads))
    assert torch.get_num_threads() == expected


@pytest.mark.parametrize(("eos", "expected"), [(5, {2, 5}), ([5, 7], {2, 5, 7}), (None, {2})])
def test_stop_tokens_are_the_generation_configurations_and_the_tokenizers(saved_model, eos, expected):
    path = saved_model / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": eos}))
    assert load_target(recipe(saved_model)).stop_ids == expected


@pytest.mark.parametrize("keep", [0, 5, 1000])
def test_broken_weights_are_one_line(saved_model, keep):
    path = saved_model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FalconError, match="cannot be loaded as a causal LM") as error:
        load_target(recipe(saved_model))
    assert str(saved_model) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_weights_are_never_made_up(saved_model):
    """transformers would fill the gap with random numbers and only warn."""
    from safetensors.torch import load_file, save_file

    path = saved_model / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(FalconError, match=r"1 weights are missing, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        load_target(recipe(saved_model))


def test_tied_weights_are_not_missing(saved_model, tiny_model):
    tiny_model("llama-tied", dtype=torch.float32).save_pretrained(saved_model)
    model = load_target(recipe(saved_model)).model
    assert model.head.weight is model.model.get_input_embeddings().weight


def test_a_model_that_caps_its_scores_says_its_own_words(saved_model):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 6, "attn_logit_softcapping": 0.5}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Gemma2ForCausalLM(Gemma2Config(vocab_size=48, pad_token_id=0, initializer_range=0.3, **sizes, **heads))
    model.save_pretrained(saved_model)
    prompt = torch.arange(3, 20)
    own = model(input_ids=prompt[None]).logits[0, -1]
    target = load_target(recipe(saved_model)).model
    torch.testing.assert_close(target.prefill(prompt).logits_TV[0], own, rtol=0, atol=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_recurrent_model_is_refused_with_the_reason(saved_model, compiled):
    from transformers import MambaConfig, MambaForCausalLM

    MambaForCausalLM(MambaConfig(vocab_size=48, hidden_size=16, num_hidden_layers=1)).save_pretrained(saved_model)
    with pytest.raises(FalconError, match=r"a MambaForCausalLM (has recurrent layers|reads otherwise)") as refused:
        load_target(recipe(saved_model, compile=compiled))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [("config.json", "{not json"), ("config.json", '{"model_type": "no-such-model"}'), ("tokenizer.json", "[]")],
)
def test_broken_descriptions_are_one_line(saved_model, name, text):
    (saved_model / name).write_text(text)
    with pytest.raises(FalconError, match="cannot be loaded as a causal LM") as error:
        load_target(recipe(saved_model))
    assert "\n" not in str(error.value)


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(FalconError, match="cannot be loaded as a causal LM") as error:
        load_target(recipe(tmp_path))
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FalconError, match=r"no such file or folder: .*nowhere"):
        load_target(recipe(tmp_path / "nowhere"))


def test_a_gguf_reference_is_converted_first(saved_model, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("falcon_cli.target.load.converted", lambda gguf: asked.append(gguf) or saved_model)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert load_target(recipe(tmp_path / "m.gguf")).model.vocab_size == 48
    assert asked == [tmp_path / "m.gguf"]


def test_a_tokenizer_comes_without_the_model(saved_model, monkeypatch, tmp_path):
    (saved_model / "model.safetensors").unlink()
    assert load_tokenizer(recipe(saved_model))("word3 word4").input_ids == [6, 7]
    monkeypatch.setattr("falcon_cli.target.load.described", lambda gguf: saved_model)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert load_tokenizer(recipe(tmp_path / "m.gguf"))("word3").input_ids == [6]


def test_a_broken_tokenizer_is_one_line(saved_model):
    (saved_model / "tokenizer.json").write_text("[]")
    with pytest.raises(FalconError, match="cannot be loaded as a tokenizer") as error:
        load_tokenizer(recipe(saved_model))
    assert "\n" not in str(error.value)


def test_pick_device_knows_auto_and_cpu():
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("wanted", ["gpu", "", "cuda:x"])
def test_pick_device_refuses_what_is_no_device(wanted):
    with pytest.raises(UsageError, match=f"--device {wanted}: use auto, cpu, cuda or cuda:N"):
        pick_device(wanted)


@pytest.mark.parametrize(("wanted", "there"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_pick_device_refuses_a_gpu_that_is_not_there(monkeypatch, wanted, there):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(UsageError, match=f"--device {wanted}: torch sees {there} CUDA devices; use cpu or auto"):
        pick_device(wanted)


def test_pick_device_takes_a_gpu_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")


def test_pick_dtype_follows_the_device_unless_told(monkeypatch):
    assert pick_dtype("auto", CPU) == "fp32"
    assert pick_dtype("bf16", CPU) == "bf16"
    for emulated, supported, expected in [(True, True, "bf16"), (True, False, "fp16"), (False, False, "fp16")]:
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, e=emulated, s=supported: s or (e and including_emulation),
        )
        assert pick_dtype("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "fp32"),
        ({"kernels": "native"}, "fp32"),
        ({"quantize": "int8"}, "int8"),
        ({"quantize": "bf16", "dtype": "bf16"}, "bf16"),
        ({"kernels": "torch"}, None),
        ({"kernels": "native", "dtype": "bf16"}, "bf16x2"),
        ({"kernels": "native", "dtype": "fp16"}, "fp32"),
        ({"dtype": "bf16"}, "units"),
        ({"attention": "sdpa"}, None),
    ],
)
def test_native_kernels_serve_where_they_are_asked_for_or_suit(saved_model, changes, kind, units, monkeypatch):
    monkeypatch.setattr("falcon_cli.target.load.multiplies_bf16", lambda: units)
    kind = ("bf16x2" if units else None) if kind == "units" else kind
    model = load_target(recipe(saved_model, **changes)).model
    assert (model.native and model.native.kind) == kind
    assert model.prefill(torch.tensor([6, 7, 8])).logits_TV.isfinite().all()


def test_where_native_kernels_cannot_run_torchs_serve_and_one_line_says_why(saved_model, monkeypatch, capsys):
    def refuse():
        raise NoKernelsError("there is no C++ compiler (g++)")

    monkeypatch.setattr("falcon_cli.target.load.load_kernels", refuse)
    assert load_target(recipe(saved_model)).model.native is None
    assert capsys.readouterr().err == "torch's own operators serve: there is no C++ compiler (g++)\n"
    for asked in ({"kernels": "native"}, {"quantize": "int8"}):
        with pytest.raises(NoKernelsError, match="no C"):
            load_target(recipe(saved_model, **asked))


def test_native_kernels_have_an_attention_of_their_own(saved_model):
    with pytest.raises(UsageError, match="leave out --attention sdpa"):
        load_target(recipe(saved_model, kernels="native", attention="sdpa"))


def test_quantised_weights_need_native_kernels():
    with pytest.raises(FalconError, match="quantize int8 needs the native kernels"):
        TargetRecipe(kernels="torch", quantize="int8")


@pytest.mark.parametrize("changes", [{}, {"quantize": "int8"}, {"kernels": "torch"}, {"compile": True}])
def test_the_model_is_asked_before_anything_of_it_is_taken_over(saved_model, tiny_model, monkeypatch, changes):
    asked = []

    def ask(model, prompt, stop_ids):
        kinds = {type(module).__module__.partition(".")[0] for module in model.modules()}
        asked.append((kinds, model.config._attn_implementation, prompt, stop_ids))

    monkeypatch.setattr("falcon_cli.target.load.ask", ask)
    load_target(recipe(saved_model, **changes), lambda tokenizer: tokenizer("word3 word4").input_ids)
    assert asked == [({"transformers", "torch"}, "sdpa", [6, 7], {2})]
    load_target(recipe(saved_model, **changes))
    assert len(asked) == 1


def rewritten(folder, name, value, place=3):
    """Set one number of a saved tensor."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[place] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"])
@pytest.mark.parametrize("changes", [{}, {"quantize": "int8"}, {"kernels": "torch"}, {"dtype": "fp16"}])
def test_weights_that_are_no_numbers_are_found_and_named(saved_model, name, changes):
    rewritten(saved_model, name, float("inf"))
    with pytest.raises(FalconError, match=f"{name} holds NaN or infinity instead of numbers; try ") as error:
        load_target(recipe(saved_model, **changes))
    assert "\n" not in str(error.value)


def test_weights_that_make_fp16_overflow_are_found_at_load(saved_model):
    rewritten(saved_model, "model.norm.weight", 60_000.0, place=slice(None))
    rewritten(saved_model, "lm_head.weight", 60_000.0, place=slice(None))
    with pytest.raises(FalconError, match=r"logits are not finite numbers .* try --dtype fp32 or bf16"):
        load_target(recipe(saved_model, dtype="fp16"))
    assert load_target(recipe(saved_model))


def test_penalties_that_falcon_leaves_out_are_told_once(saved_model, capsys):
    path = saved_model / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "repetition_penalty": 1.3}))
    for _ in range(2):
        load_target(recipe(saved_model))
    assert capsys.readouterr().err == (
        f"{saved_model} asks for repetition_penalty 1.3: falcon decodes plainly, without\n"
    )
