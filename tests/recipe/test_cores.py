import os

import pytest

from falcon_cli.recipe.cores import usable_cores

MANY = 64


@pytest.fixture
def cores(monkeypatch, tmp_path):
    """Cores usable under some files of the system, on a machine of 64 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MANY)), raising=False)

    def count(files, allowed=MANY):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)))
        return usable_cores(tmp_path)

    return count


V1 = "5:cpuset:/\n4:cpu,cpuacct:/docker/a\n0::/\n"


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, MANY),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, MANY),
        ("0::/\n", {"cpu.max": "nonsense\n"}, MANY),
        ("0::/\n", {}, MANY),
        ("0::/slice/job\n", {"slice/job/cpu.max": "max 100000", "slice/cpu.max": "400000 100000"}, 4),
        ("0::/slice/job\n", {"slice/job/cpu.max": "300000 100000", "slice/cpu.max": "400000 100000"}, 3),
        ("0::/../../job\n", {"cpu.max": "600000 100000"}, 6),
        (V1, {"cpu/docker/a/cpu.cfs_quota_us": "150000\n", "cpu/docker/a/cpu.cfs_period_us": "100000\n"}, 2),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "500000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 5),
        (V1, {"cpu/docker/a/cpu.cfs_quota_us": "-1\n", "cpu/docker/a/cpu.cfs_period_us": "100000\n"}, MANY),
        (V1, {"cpu/docker/a/cpu.cfs_quota_us": "150000\n"}, MANY),
    ],
)
def test_a_quota_limits_the_cores(cores, group, files, expected):
    assert (
        cores({"proc/self/cgroup": group, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}})
        == expected
    )


def test_affinity_limits_them_too(cores):
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "400000 100000"}
    assert cores(files, allowed=3) == 3
    assert cores(files, allowed=5) == 4


def test_without_such_files_the_machine_counts(cores, monkeypatch, tmp_path):
    assert cores({}) == MANY
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1
