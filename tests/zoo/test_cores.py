"""How many cores there are where a control group gives less time than the machine has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo import cores as machine
from zoo.cores import cores, for_tensorflow, has_fewer, quota

ALLOWED = len(os.sched_getaffinity(0))


def told(tmp_path, groups, mounts):
    """A folder like /proc/self of a process in these groups."""
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text("".join(f"{each}\n" for each in groups))
    lines = [
        f"33 32 0:{place} {root} {mounted} rw,relatime shared:1 - {kind} {kind} {options}\n"
        for place, (root, mounted, kind, options) in enumerate(mounts)
    ]
    (proc / "mountinfo").write_text("1 0 8:1 / / rw - ext4 /dev/root rw\n" + "".join(lines))
    return proc


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{text}\n")
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [("150000 100000", 1.5), ("50000 100000", 0.5), ("max 100000", None), ("nonsense", None)],
)
def test_the_second_form_of_control_groups(tmp_path, text, expected):
    root = group(tmp_path / "cgroup", cpu_max=text)
    proc = told(tmp_path, ["0::/"], [("/", root, "cgroup2", "rw")])
    assert quota(proc) == expected


def test_the_tightest_of_the_groups_around_it_holds(tmp_path):
    # As Kubernetes has it: the pod's group around the container's; the root's has no such file.
    root = group(tmp_path / "cgroup")
    group(root / "kubepods" / "pod1", cpu_max="200000 100000")
    group(root / "kubepods" / "pod1" / "c1", cpu_max="400000 100000")
    proc = told(tmp_path, ["0::/kubepods/pod1/c1"], [("/", root, "cgroup2", "rw")])
    assert quota(proc) == 2.0


@pytest.mark.parametrize(
    ("quota_us", "expected"), [("250000", 2.5), ("-1", None)], ids=["a quota", "none"]
)
def test_the_first_form_in_a_container_that_does_not_see_its_own_name(tmp_path, quota_us, expected):
    root = group(tmp_path / "cpu", cpu_cfs_quota_us=quota_us, cpu_cfs_period_us="100000")
    groups = ["4:memory:/docker/abc", "1:cpu,cpuacct:/docker/abc", "0::/"]
    mounts = [
        ("/docker/abc", tmp_path / "memory", "cgroup", "rw,memory"),
        ("/docker/abc", root, "cgroup", "rw,cpu,cpuacct"),
    ]
    assert quota(told(tmp_path, groups, mounts)) == expected


def test_a_system_that_tells_nothing_has_all_cores(tmp_path):
    assert quota(tmp_path / "nowhere") is None
    assert cores(tmp_path / "nowhere") == ALLOWED
    assert not has_fewer(tmp_path / "nowhere")


def test_a_share_of_a_core_counts_as_one_and_no_quota_adds_any(tmp_path):
    root = group(tmp_path / "cgroup", cpu_max="10000 100000")
    proc = told(tmp_path, ["0::/"], [("/", root, "cgroup2", "rw")])
    assert cores(proc) == 1
    assert has_fewer(proc) == (ALLOWED > 1)
    (root / "cpu.max").write_text(f"{(ALLOWED + 3) * 100_000} 100000\n")
    assert cores(proc) == ALLOWED


def test_tensorflow_is_told_only_where_it_would_be_wrong(monkeypatch):
    monkeypatch.setattr(machine, "quota", lambda proc: None)
    assert for_tensorflow() == {}
    monkeypatch.setattr(machine, "quota", lambda proc: 0.5)
    told = for_tensorflow()
    assert told == ({} if ALLOWED == 1 else dict.fromkeys(told, "1"))


def test_a_process_may_leave_cores_to_others(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.SHARE, "most_cores", 1)
    assert cores(tmp_path / "nowhere") == 1
    assert has_fewer(tmp_path / "nowhere") == (ALLOWED > 1)
    monkeypatch.setattr(machine.SHARE, "most_cores", ALLOWED + 1)
    assert cores(tmp_path / "nowhere") == ALLOWED


def test_a_real_quota_is_seen():
    # The first form's tree can be written where this runs as root of a machine, seldom elsewhere.
    here = Path("/sys/fs/cgroup/cpu") / f"convzoo-test-{os.getpid()}"
    try:
        here.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        (here / "cpu.cfs_period_us").write_text("100000")
        (here / "cpu.cfs_quota_us").write_text("70000")
        code = (
            "import os, pathlib, sys\n"
            "pathlib.Path(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()))\n"
            "from zoo.cores import cores, quota\n"
            "print(quota(), cores())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(here)], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["0.7", "1"]
    finally:
        here.rmdir()
