import pytest
from transformers import BitsAndBytesConfig
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from falcon_cli.target.quantised.methods import METHODS, QuantisationMethod, method_name


@pytest.mark.parametrize(
    ("note", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}, "bitsandbytes_4bit"),
        ({"load_in_8bit": True}, "bitsandbytes_8bit"),  # as they were written before methods had names
        (BitsAndBytesConfig(load_in_8bit=True).to_dict(), "bitsandbytes_8bit"),
        ({"bits": 4}, None),
    ],
)
def test_a_note_names_its_method(note, name):
    assert method_name(note) == name


def test_what_is_not_installed_is_missing():
    packages = {"torch": "torch", "no_such_package": "some-package", "no_such_package.part": "'another[cpu]'"}
    assert QuantisationMethod("it", packages).missing() == ["some-package", "'another[cpu]'"]


def test_every_method_is_one_of_transformers():
    assert METHODS.keys() <= AUTO_QUANTIZER_MAPPING.keys()


def test_what_transformers_dequantises_is_known_to_be():
    """Those whose quantiser has a way of its own to do it, or an option of loading."""
    own = {name for name, kind in AUTO_QUANTIZER_MAPPING.items() if "_dequantize" in vars(kind)}
    assert {name for name, method in METHODS.items() if method.dequantised == "loaded"} == own
