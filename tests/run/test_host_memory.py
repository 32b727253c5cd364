"""Free host memory, read from made-up kernel files: the tightest limit counts."""

from pathlib import Path

import pytest

from mjx_serl.run.host_memory import host_bytes

GIB = 1 << 30
MACHINE = {"proc/meminfo": "MemTotal: 67108864 kB\nMemAvailable: 33554432 kB\n"}  # 32 GiB free
V1_NONE = str(0x7FFFFFFFFFFFF000)  # what version 1 says where there is no limit


def limit_v1(group: str, limit: int | str, usage: int) -> dict[str, str]:
    folder = f"sys/fs/cgroup/memory{group}"
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{usage}\n",
    }


def limit_v2(group: str, limit: int | str, usage: int) -> dict[str, str]:
    folder = f"sys/fs/cgroup{group}"
    return {f"{folder}/memory.max": f"{limit}\n", f"{folder}/memory.current": f"{usage}\n"}


def in_group(*lines: str) -> dict[str, str]:
    return {"proc/self/cgroup": "".join(f"{line}\n" for line in lines)}


def cache(folder: str, name: str, size: int) -> dict[str, str]:
    return {f"sys/fs/cgroup{folder}/memory.stat": f"anon 5\n{name} {size}\nactive_file 7\n"}


CASES = {
    "no groups": ({}, 32),
    "v2, docker": (in_group("0::/") | limit_v2("", 8 * GIB, 3 * GIB), 5),
    "v2, no limit": (in_group("0::/") | limit_v2("", "max", 3 * GIB), 32),
    "v2, more than the machine": (in_group("0::/") | limit_v2("", 99 * GIB, 0), 32),
    "v2, a limit further up": (
        in_group("0::/user/me/job")
        | limit_v2("/user/me/job", "max", GIB)
        | limit_v2("/user/me", 6 * GIB, 2 * GIB)
        | limit_v2("/user", 9 * GIB, 2 * GIB),
        4,
    ),
    "v2, idle cache": (
        in_group("0::/") | limit_v2("", 8 * GIB, 7 * GIB) | cache("", "inactive_file", 2 * GIB),
        3,
    ),
    "v2, over its limit": (in_group("0::/") | limit_v2("", GIB, 2 * GIB), 0),
    "v1, the host's path": (
        in_group("9:cpu,cpuacct:/docker/ab", "4:memory:/docker/ab", "0::/docker/ab")
        | limit_v1("", 8 * GIB, 2 * GIB),
        6,
    ),
    "v1, its own path": (
        in_group("5:cpuset,memory:/job")
        | limit_v1("/job", 4 * GIB, GIB)
        | limit_v1("", V1_NONE, 9 * GIB),
        3,
    ),
    "v1, idle cache": (
        in_group("4:memory:/")
        | limit_v1("", 8 * GIB, 7 * GIB)
        | cache("/memory", "total_inactive_file", GIB),
        2,
    ),
    "v1, another controller's group": (
        in_group("9:cpu,cpuacct:/job") | limit_v1("/job", GIB, 0),
        32,
    ),
}


@pytest.mark.parametrize(("files", "free"), CASES.values(), ids=CASES)
def test_the_tightest_limit_counts(tmp_path: Path, files: dict[str, str], free: int):
    for name, text in (MACHINE | files).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert host_bytes(tmp_path) == free * GIB


def test_without_a_kernel_that_tells_all_memory_counts_as_free(tmp_path: Path):
    assert host_bytes(tmp_path) > 100e6
