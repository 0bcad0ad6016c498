import datetime
import re

import pytest

from falcon_cli.bench.reports.report import markdown

DATE = datetime.date(2031, 2, 3)


@pytest.fixture
def report(results):
    return markdown(results, "falcon bench --dataset mt-bench --out run", DATE)


def section(report: str, title: str) -> str:
    return report.split(f"## {title}\n")[1].split("\n## ")[0]


def test_it_begins_with_what_was_run(report):
    assert report.startswith(
        "# SmolLM2-135M-Instruct on mt-bench\n\n```sh\nfalcon bench --dataset mt-bench --out run\n```"
    )


def test_all_sections_in_order(report):
    assert re.findall("^## (.*)$", report, re.MULTILINE) == [
        "Speed",
        "Where the time goes",
        "Accepted by depth",
        "By category",
        "Certificate",
        "Machine and settings",
        "How things are counted",
    ]


def test_every_table_is_rectangular(report):
    for block in re.findall(r"(?:^\|.*\n)+", report, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_speed_has_all_text_beside_loop_free(results, report):
    figures = results["methods"]["falcon"]
    line = next(line for line in section(report, "Speed").splitlines() if line.startswith("| `falcon`"))
    assert f"{figures['speedup']:.2f}x" in line
    assert f"{figures['loop_free']['speedup']:.2f}x" in line
    assert "| `hf-pld` |" in section(report, "Speed")
    assert "48.2 tokens/s" in section(report, "Speed")


def test_every_divergence_is_listed(report):
    certificate = section(report, "Certificate")
    assert "\nReference: near-tie at token 21 (margin 3.5e-05).\n" in certificate
    assert "| `eagle` | 2 near-ties | 22 of 24 |" in certificate
    assert "| `eagle` | 84 | 17 | 2.1e-05 |" in certificate
    assert "| `eagle` | 90 | 3 | 4e-06 |" in certificate
    assert "| `pld` | 81 | 5 | 1.75 |" in certificate


def test_categories_and_depths(results, report):
    assert "| category | `falcon` | `eagle` | `pld` |" in section(report, "By category")
    share = results["methods"]["falcon"]["accepted_by_depth"][0]
    assert f"| `falcon` | {100 * share:.0f} % |" in section(report, "Accepted by depth")


def test_machine_date_and_settings(report):
    surroundings = section(report, "Machine and settings")
    for line in ("- date: 2031-02-03", "- cpu: Imaginary 2000", "- max new tokens: 256", "- dtype: float32"):
        assert line in surroundings


def test_sections_with_nothing_to_say_are_left_out(results):
    plain = {key: value for key, value in results["methods"]["ar"].items() if key != "lossless"}
    report = markdown({**results, "methods": {"ar": plain}, "peers": {}}, "falcon bench", DATE)
    for title in ("Accepted by depth", "By category", "Certificate"):
        assert f"## {title}" not in report


def test_a_bar_in_a_name_does_not_break_a_table(results):
    results["methods"]["a|b"] = results["methods"].pop("pld")
    assert "| `a\\|b` |" in markdown(results, "falcon bench", DATE)
