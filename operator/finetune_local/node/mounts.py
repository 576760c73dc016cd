"""A pod's directory, and the paths of its containers rewritten to it: the stand-in for a mount namespace.

``/etc/finetune/run.json`` becomes ``<directory>/volumes/config/run.json`` wherever a container's command, args or
environment names it. A path is only rewritten where it stands as a path of its own or begins one: ``/data`` is found in
``--in=/data/x`` and ``cat /data``, not in ``/database``, ``/mnt/data`` or ``s3://data``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Object = dict[str, Any]

_BEFORE = r"(?<![\w./-])"
_AFTER = r"(?![\w.-])"


@dataclass(frozen=True)
class PodDirectory:
    """Where a pod's files lie on this machine."""

    root: Path

    def volume(self, name: str) -> Path:
        return self.root / "volumes" / name

    def termination_log(self, container: str) -> Path:
        return self.root / "containers" / container / "termination-log"

    def home(self, container: str) -> Path:
        return self.root / "containers" / container / "home"


def mount_points(container: Object, directory: PodDirectory) -> dict[str, Path]:
    """Path inside the container → path on this machine."""
    points = {
        mount["mountPath"].rstrip("/"): directory.volume(mount["name"]) / mount.get("subPath", "")
        for mount in container.get("volumeMounts") or ()
    }
    log = container.get("terminationMessagePath") or "/dev/termination-log"
    return {**points, log: directory.termination_log(container["name"])}


def rewrite(text: str, points: Mapping[str, Path]) -> str:
    """The text with every path below a mount point replaced; the longest mount point wins."""
    longest_first = sorted(points, key=len, reverse=True)
    pattern = _BEFORE + "(" + "|".join(map(re.escape, longest_first)) + ")" + _AFTER
    return re.sub(pattern, lambda found: str(points[found[1]]), text)
