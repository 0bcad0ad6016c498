"""The keys of a results document are those that its types declare."""

from typing import get_type_hints

from falcon_cli.bench.figures.document import LoopFreeMethod, MethodFigures, PeerFigures, ResultsDocument


def test_a_document_has_the_keys_of_its_types(results):
    assert results.keys() == get_type_hints(ResultsDocument).keys()
    for figures in results["methods"].values():
        assert figures.keys() == get_type_hints(MethodFigures).keys()
        assert figures["loop_free"].keys() == get_type_hints(LoopFreeMethod).keys()
    for figures in results["peers"].values():
        assert figures.keys() <= get_type_hints(PeerFigures).keys()
