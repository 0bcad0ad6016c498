import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from falcon_cli.errors import FalconError
from falcon_cli.tune_tree.report.document import document
from falcon_cli.tune_tree.report.report import markdown, tables, verdict, write
from falcon_cli.tune_tree.search.search import BUILT_IN, CURRENT, DYNAMIC

SPEEDS = (20.0, 30.0, 15.0, 12.0, 18.0)


def rows_below(text, heading):
    """The cells of the Markdown table under a heading."""
    lines = iter(text.partition(heading)[2].strip().splitlines())
    rows = []
    for line in lines:
        if not line.startswith("|"):
            if rows:
                break
            continue
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    assert len({len(row) for row in rows}) == 1
    return rows[0], rows[2:]


def test_the_report_shows_every_run_with_was_predicted(tuning_result, tmp_path):
    result = tuning_result(tmp_path, tree_speeds=SPEEDS)
    head, rows = rows_below(markdown(result), "## run for real, interleaved, on 7 other prompts")
    assert head[1:] == [
        "tokens/s predicted",
        "measured",
        "tokens/cycle predicted",
        "measured",
        "speedup",
        "lossless",
    ]
    assert [row[0] for row in rows] == [
        "plain decoding",
        *(tree.name for tree in result.search.finalists),
        DYNAMIC,
        CURRENT,
        BUILT_IN,
        *result.search.copy_candidates,
    ]
    assert rows[-1][1:] == ["50.0", "32.0", "1.20", "1.50", "3.20x", "exact"]
    assert rows[0][1:] == ["48.8", "10.0", "1.00", "1.00", "1.00x", "exact"]
    first = result.search.finalists[0]
    cells = [f"{first.tokens_per_second:.1f}", "20.0", f"{first.tokens_per_cycle:.2f}", "1.50", "2.00x", "exact"]
    assert rows[1][1:] == cells
    assert rows[3][1:] == ["–", "18.0", "–", "1.50", "1.80x", "exact"]  # a dynamic tree has no prediction


def test_answers_that_differ_are_counted(tuning_result, tmp_path):
    text = markdown(tuning_result(tmp_path, tree_speeds=SPEEDS, alike=5))
    _, rows = rows_below(text, "## run for real")
    assert {row[-1] for row in rows[1:]} == {"2 answers differ"}


def test_the_frontier_begins_with_plain_decoding_and_shows_the_best_size(tuning_result, tmp_path):
    result = tuning_result(tmp_path)
    head, rows = rows_below(markdown(result), "## Best tree of each size, predicted")
    assert head[0] == "nodes"
    assert rows[0] == ["plain", "", "", "", "1.00", "20.5", "48.8", "1.00x"]
    speed = {row[0]: float(row[6]) for row in rows[1:]}
    best = max(result.search.trees, key=lambda other: other.tokens_per_second)
    assert speed[str(best.nodes)] == max(speed.values()) == pytest.approx(best.tokens_per_second, abs=0.05)
    assert {"1", "2", "4", "8", "16", "32"} <= set(speed)


def test_pictures_are_named_and_nobodys_folder_is(tuning_result, tmp_path):
    text = markdown(tuning_result(tmp_path, tree_speeds=SPEEDS))
    assert [name for name in ("tree.svg", "speed.png", "ranks.png") if f"]({name})" in text] == [
        "tree.svg",
        "speed.png",
        "ranks.png",
    ]
    assert "falcon tune-tree --out here" in text
    assert "/home/me" not in text


def test_what_did_not_run_is_said_to_be_predicted(tuning_result, tmp_path):
    result = tuning_result(tmp_path)
    _, rows = rows_below(markdown(result), "## finalists, not run here")
    assert {row[2] for row in rows} == {"–"}
    assert "predicted" in verdict(result)
    assert f"on a CPU use it with --tree {tmp_path}/tree.json" in verdict(result)


def test_the_verdict_names_the_winner_or_plain_decoding(tuning_result, tmp_path):
    result = tuning_result(tmp_path, tree_speeds=SPEEDS)
    line = f"{result.search.finalists[1].name} wins: 3.00x plain decoding, measured; --tree auto takes it from now on; "
    line += "falcon:copy=auto copies up to 5 tokens after 3 repeated, beside a tree of 9: 3.30x, measured"
    assert verdict(result).splitlines()[0] == line
    assert line in markdown(result)
    slow = tuning_result(tmp_path, tree_speeds=(9.0,) * 5)
    assert verdict(slow).startswith("plain decoding is faster here than with any tree: --tree auto")
    assert "; falcon:copy=auto copies up to 5 tokens after 3 repeated, beside a tree of " in verdict(slow)
    neither = tuning_result(tmp_path, tree_speeds=(9.0,) * 5, copy_speeds=(8.0,) * 3)
    assert verdict(neither).endswith("; copies are not worth their price here")
    assert "copies up to 5 tokens after 3 repeated, beside a tree of 9: 2.05x, predicted" in verdict(
        tuning_result(tmp_path)
    )
    assert "cop" not in verdict(replace(result, search=replace(result.search, copy_candidates={})))
    assert "![tree]" not in markdown(slow)
    assert ", as predicted" in verdict(tuning_result(tmp_path, node_ms=200.0))


def test_the_terminal_shows_the_reports_tables(tuning_result, tmp_path):
    console = Console(width=160, record=True, file=StringIO())
    shown = tables(tuning_result(tmp_path, tree_speeds=SPEEDS))
    assert [str(table.title).split(",")[0] for table in shown] == ["best tree of each size", "run for real"]
    for table in shown:
        console.print(table)
    text = console.export_text()
    assert "built-in tree" in text
    assert "plain decoding" in text


@pytest.mark.parametrize("speeds", [(), SPEEDS, (9.0,) * 5])
def test_everything_is_written(tuning_result, tmp_path, speeds):
    result = tuning_result(tmp_path, tree_speeds=speeds)
    write(result)
    assert json.loads((tmp_path / "results.json").read_text())["frontier"] == document(result)["frontier"]
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("# A tree, tuned\n")
    for name in ("tree.png", "ranks.png", "speed.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "tree.svg").read_text(encoding="utf-8")


def test_a_place_that_cannot_be_written_is_one_line(tuning_result, tmp_path):
    (tmp_path / "tree.svg").mkdir()
    with pytest.raises(FalconError, match="cannot write the pictures into"):
        write(tuning_result(tmp_path))
