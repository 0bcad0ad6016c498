import json
import os
import platform
from datetime import datetime, timezone

import falcon_cli
from falcon_cli.recipe import provenance as module
from falcon_cli.recipe.provenance import provenance, without_folders


def test_it_tells_versions_machine_and_time():
    told = provenance(["falcon", "bench"])
    assert told["falcon"] == falcon_cli.__version__
    assert told["python"] == platform.python_version()
    assert told["cpu"]
    assert 1 <= told["cores"] <= (os.cpu_count() or 1)
    assert told["packages"]["torch"].startswith("2.")
    assert abs((datetime.now(timezone.utc) - datetime.fromisoformat(told["date"])).total_seconds()) < 60
    assert datetime.fromisoformat(told["date"]).tzinfo is not None
    assert json.loads(json.dumps(told)) == told


def test_the_command_keeps_what_matters_and_no_folders():
    argv = ["/home/me/bin/falcon", "bench", "/data/me/set.jsonl", "--target=~/models/tiny", "--set", "a=/x/y.json"]
    assert provenance([*argv, "runs/one", "4/5"])["command"] == [
        *("falcon", "bench", "set.jsonl", "--target=tiny", "--set", "a=y.json", "runs/one", "4/5")
    ]


def test_every_path_of_a_method_is_cut():
    method = "falcon:drafter=/home/me/k2,tree=~/trees/own.json as own"
    assert without_folders(method) == "falcon:drafter=k2,tree=own.json as own"
    assert without_folders("org/model") == "org/model"


def test_nothing_names_the_machine():
    assert platform.node() not in json.dumps(provenance(["falcon"]))


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "_PACKAGES", ("no-such-package",))
    assert provenance(["falcon"])["packages"] == {}
