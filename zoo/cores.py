"""How many cores this process may use: fewer than the machine has, in most containers.

Affinity (`taskset`, cpusets) is what Python tells; a quota of time (`docker run --cpus`, a CPU limit
in Kubernetes) is not. An engine with a thread for each core of a large machine spends its share at
the beginning of each tenth of a second, and stands still for the rest.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The file of the control group's quota in its first and second form, and how it says "none".
_SECOND, _FIRST, _FIRST_PERIOD = "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"


@dataclass(slots=True)
class Share:
    """What this process leaves to others on the same machine.

    Attributes:
        most_cores: Its engines keep no more busy; None for all that it may use. Set before anything
            is loaded, by who runs several servers on one machine.
    """

    most_cores: int | None = None


SHARE = Share()


def cores(proc: Path = Path("/proc/self")) -> int:
    """Whole cores, at least 1: a share of one counts as one, as Java and Go have it.

    Args:
        proc: What the kernel tells of this process.
    """
    shares = [each for each in (quota(proc), SHARE.most_cores) if each is not None]
    return min([_allowed(), *map(math.ceil, shares)])


def has_fewer(proc: Path = Path("/proc/self")) -> bool:
    """Whether a quota or a share holds, which libraries that count cores by affinity do not see."""
    return cores(proc) < _allowed()


def _allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def for_tensorflow() -> dict[str, str]:
    """Variables of the environment that a process of TensorFlow has to start with."""
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    return dict.fromkeys(names, str(cores())) if has_fewer() else {}


def quota(proc: Path = Path("/proc/self")) -> float | None:
    """The cores whose time this process may use by its control groups; None without a limit."""
    try:
        shares = [share for group in _groups(proc) if (share := _share(group)) is not None]
    except (OSError, ValueError, IndexError):
        # No Linux, or one that tells it in another way.
        return None
    return min(shares, default=None)


def _groups(proc: Path) -> Iterator[Path]:
    """Folders of the control groups that hold this process: its own, and those around it."""
    own: dict[str, str] = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, mounted = before.split()[3:5]
        kind, _, options = after.split()[:3]
        # The second form has no list of controllers, the first a tree for each.
        key = {"cgroup2": "", "cgroup": "cpu"}.get(kind)
        if key not in own or (key and key not in options.split(",")):
            continue
        path = own[key]
        # In a container the mount may begin at its own group, whose name it does not see.
        inner = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
        folder = Path(mounted) / inner
        yield from (each for each in (folder, *folder.parents) if each.is_relative_to(mounted))


def _share(group: Path) -> float | None:
    if (group / _SECOND).exists():
        most, period = (group / _SECOND).read_text().split()
    elif (group / _FIRST).exists():
        most, period = ((group / each).read_text() for each in (_FIRST, _FIRST_PERIOD))
    else:
        return None
    return None if most == "max" or int(most) <= 0 else int(most) / int(period)
