"""The Pod Security Standard ``restricted``, all of its checks, as functions of a pod.

Written from https://kubernetes.io/docs/concepts/security/pod-security-standards/ (that of Kubernetes 1.34; Linux pods).
"""

from collections.abc import Callable, Iterator
from typing import Any

Raw = dict[str, Any]
Check = Callable[[Raw], Iterator[str]]

_KINDS = ("initContainers", "containers", "ephemeralContainers")
_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"),
}
_SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_SYSCTLS = {
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start"),
    *("net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports"),
    *("net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl"),
    "net.ipv4.tcp_keepalive_probes",
}
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def violations(pod: Raw) -> list[str]:
    """What a pod (or a template of pods: metadata and spec) breaks; each begins with the name of the check."""
    return [f"{check.__name__}: {told}" for check in CHECKS for told in check(pod)]


def containers(pod: Raw) -> Iterator[tuple[str, Raw]]:
    """Every container of every kind, with its path."""
    for kind in _KINDS:
        for i, container in enumerate(pod["spec"].get(kind) or ()):
            yield f"{kind}[{i}]", container


def contexts(pod: Raw) -> Iterator[tuple[str, Raw]]:
    """The security contexts: first the pod's, then the containers'."""
    yield "spec", pod["spec"].get("securityContext") or {}
    for path, container in containers(pod):
        yield path, container.get("securityContext") or {}


def host_process(pod: Raw) -> Iterator[str]:
    for path, context in contexts(pod):
        if (context.get("windowsOptions") or {}).get("hostProcess"):
            yield path


def host_namespaces(pod: Raw) -> Iterator[str]:
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if pod["spec"].get(name))


def privileged(pod: Raw) -> Iterator[str]:
    yield from (path for path, context in contexts(pod) if context.get("privileged"))


def capabilities(pod: Raw) -> Iterator[str]:
    for path, container in containers(pod):
        found = (container.get("securityContext") or {}).get("capabilities") or {}
        if "ALL" not in (found.get("drop") or ()):
            yield f"{path} does not drop ALL"
        if added := set(found.get("add") or ()) - {"NET_BIND_SERVICE"}:
            yield f"{path} adds {sorted(added)}"


def volumes(pod: Raw) -> Iterator[str]:
    """Both the check of hostPath volumes and that of volume types."""
    for volume in pod["spec"].get("volumes") or ():
        if kinds := volume.keys() - {"name"} - _VOLUMES:
            yield f"{volume['name']} is {sorted(kinds)}"


def host_ports(pod: Raw) -> Iterator[str]:
    for path, container in containers(pod):
        yield from (f"{path}: {port['hostPort']}" for port in container.get("ports") or () if port.get("hostPort"))


def host_probes(pod: Raw) -> Iterator[str]:
    """Probes and lifecycle hooks that name another host."""
    for path, container in containers(pod):
        hooks = (container.get("lifecycle") or {}).items()
        probes = [(name, container.get(name) or {}) for name in ("startupProbe", "livenessProbe", "readinessProbe")]
        for name, probe in [*probes, *hooks]:
            if any((probe.get(action) or {}).get("host") for action in ("httpGet", "tcpSocket")):
                yield f"{path}.{name}"


def apparmor(pod: Raw) -> Iterator[str]:
    for path, context in contexts(pod):
        if (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
            yield path
    for key, value in (pod["metadata"].get("annotations") or {}).items():
        if key.startswith(_APPARMOR) and value != "runtime/default" and not value.startswith("localhost/"):
            yield key


def selinux(pod: Raw) -> Iterator[str]:
    for path, context in contexts(pod):
        options = context.get("seLinuxOptions") or {}
        if options.get("type", "") not in _SELINUX or options.get("user") or options.get("role"):
            yield path


def proc_mount(pod: Raw) -> Iterator[str]:
    yield from (path for path, context in contexts(pod) if context.get("procMount", "Default") != "Default")


def seccomp(pod: Raw) -> Iterator[str]:
    (_, of_pod), *others = contexts(pod)
    default = (of_pod.get("seccompProfile") or {}).get("type")
    if default not in (None, "RuntimeDefault", "Localhost"):
        yield "spec"
    for path, context in others:
        if (context.get("seccompProfile") or {}).get("type", default) not in ("RuntimeDefault", "Localhost"):
            yield path


def sysctls(pod: Raw) -> Iterator[str]:
    found = (pod["spec"].get("securityContext") or {}).get("sysctls") or ()
    yield from (sysctl["name"] for sysctl in found if sysctl["name"] not in _SYSCTLS)


def privilege_escalation(pod: Raw) -> Iterator[str]:
    for path, container in containers(pod):
        if (container.get("securityContext") or {}).get("allowPrivilegeEscalation") is not False:
            yield path


def run_as_non_root(pod: Raw) -> Iterator[str]:
    (_, of_pod), *others = contexts(pod)
    default = of_pod.get("runAsNonRoot")
    if default is False:
        yield "spec"
    yield from (path for path, context in others if context.get("runAsNonRoot", default) is not True)


def run_as_user(pod: Raw) -> Iterator[str]:
    yield from (path for path, context in contexts(pod) if context.get("runAsUser") == 0)


CHECKS: tuple[Check, ...] = (
    host_process,
    host_namespaces,
    privileged,
    capabilities,
    volumes,
    host_ports,
    host_probes,
    apparmor,
    selinux,
    proc_mount,
    seccomp,
    sysctls,
    privilege_escalation,
    run_as_non_root,
    run_as_user,
)
