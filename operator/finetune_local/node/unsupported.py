"""Pod fields that would change what runs, and that this node does not honour: such a pod waits and says so."""

from typing import Any

Object = dict[str, Any]

_POD = ("initContainers", "ephemeralContainers", "activeDeadlineSeconds", "dnsConfig", "hostAliases", "overhead")
_CONTAINER = ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe", "restartPolicy", "stdin", "tty")
_VOLUMES = {"projected", "secret", "configMap", "downwardAPI", "emptyDir"}


def unsupported_field(pod: Object) -> str | None:
    """A sentence naming the first field that this node would have to ignore, or None."""
    spec = pod["spec"]
    if spec.get("restartPolicy", "Always") != "Never":
        return f"spec.restartPolicy {spec.get('restartPolicy', 'Always')} is not supported in local mode; use Never"
    named = [f"spec.{name}" for name in _POD if spec.get(name)]
    for i, container in enumerate(spec["containers"]):
        named += [f"spec.containers[{i}].{name}" for name in _CONTAINER if container.get(name)]
        named += [
            f"spec.containers[{i}].volumeMounts[{j}].subPathExpr"
            for j, mount in enumerate(container.get("volumeMounts") or ())
            if mount.get("subPathExpr")
        ]
    for i, volume in enumerate(spec.get("volumes") or ()):
        named += [f"spec.volumes[{i}].{kind}" for kind in volume if kind != "name" and kind not in _VOLUMES]
    return f"{named[0]} is not supported in local mode; remove it" if named else None
