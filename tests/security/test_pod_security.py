"""Training pods keep the Pod Security Standard `restricted`, whatever spec and profile say; and each check can fail.

The operator's own pods: tests/chart/test_chart.py.
"""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.job import FineTuneJob
from finetune_api.run import ModelLocation
from finetune_operator.policy import Refused, grant
from finetune_operator.preflight import without_gpus
from finetune_operator.render import AttemptPlan, Reporting, job_manifest
from finetune_operator.settings import Settings
from tests import builders as b
from tests import pod_security

REPORTING = Reporting("https://operator.ft.svc/v1/reports", "-----BEGIN CERTIFICATE-----")
PROFILE = {
    "trainer": {"image": "r/trainer", "pullSecrets": ["registry"]},
    "nodeSelector": {"pool": "train"},
    "tolerations": [{"operator": "Exists"}],
    "gpus": [{"name": "a100", "nodeSelector": {"gpu": "a100"}}],
    "environment": [{"name": "NCCL_DEBUG", "value": "INFO"}],
    "allowed": {"images": ["r/"]},
    "defaults": {"priorityClass": "low", "memory": "8Gi"},
}
SECTIONS: dict[str, st.SearchStrategy[Any]] = {
    "resources": st.sampled_from([{}, {"gpusPerNode": 0}, {"gpusPerNode": 8, "gpuType": "a100"}, {"memory": "1Gi"}]),
    "trainer": st.sampled_from([{"image": "r/own"}, {"image": "r/own", "command": ["sh", "-c", "id"]}]),
    "storage": st.sampled_from([{"credentials": "s3"}, {"endpointUrl": "https://minio"}]),
    "model": st.sampled_from([{"uri": "hf://a/b", "credentials": "hf"}]),
    "scheduling": st.sampled_from([{"priorityClass": "system-node-critical"}]),
}


def template(profile: dict[str, Any] | None, sections: dict[str, Any], checks: bool = False) -> dict[str, Any]:
    of = {"metadata": {"name": "default"}, "spec": profile} if profile is not None else None
    given = grant(FineTuneJob.read(b.finetunejob(**sections)), of, Settings())
    given = without_gpus(given) if checks else given
    found = job_manifest(given, AttemptPlan(checks=checks), ModelLocation(uri="hf://a/b"), Settings(), REPORTING)
    return dict(found["spec"]["template"])


@settings(deadline=None)
@given(
    profile=st.none() | st.fixed_dictionaries({}, optional={k: st.just(v) for k, v in PROFILE.items()}),
    sections=st.fixed_dictionaries({}, optional=SECTIONS),
    checks=st.booleans(),
)
def test_training_pods_pass_every_check_whatever_spec_and_profile_say(profile, sections, checks):
    try:
        pod = template(profile, sections, checks)
    except Refused:
        return
    assert pod_security.violations(pod) == []
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in pod["spec"]["containers"])


SOUND = template(PROFILE, {"resources": {"gpusPerNode": 2}})
UNSOUND: list[tuple[str, str, Any]] = [
    ("host_process", "spec.securityContext.windowsOptions", {"hostProcess": True}),
    ("host_process", "spec.containers.0.securityContext.windowsOptions", {"hostProcess": True}),
    ("host_namespaces", "spec.hostNetwork", True),
    ("host_namespaces", "spec.hostPID", True),
    ("host_namespaces", "spec.hostIPC", True),
    ("privileged", "spec.containers.0.securityContext.privileged", True),
    ("capabilities", "spec.containers.0.securityContext.capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    ("capabilities", "spec.containers.0.securityContext.capabilities", {"drop": ["NET_RAW"]}),
    ("capabilities", "spec.containers.0.securityContext.capabilities", None),
    ("volumes", "spec.volumes", [{"name": "host", "hostPath": {"path": "/"}}]),
    ("volumes", "spec.volumes", [{"name": "n", "nfs": {"server": "x", "path": "/"}}]),
    ("host_ports", "spec.containers.0.ports", [{"containerPort": 1, "hostPort": 1}]),
    ("host_probes", "spec.containers.0.livenessProbe", {"httpGet": {"host": "169.254.169.254", "port": 80}}),
    ("host_probes", "spec.containers.0.lifecycle", {"preStop": {"tcpSocket": {"host": "x", "port": 80}}}),
    ("apparmor", "spec.securityContext.appArmorProfile", {"type": "Unconfined"}),
    ("apparmor", "metadata.annotations.container=apparmor=security=beta=kubernetes=io/trainer", "unconfined"),
    ("selinux", "spec.securityContext.seLinuxOptions", {"type": "spc_t"}),
    ("selinux", "spec.containers.0.securityContext.seLinuxOptions", {"user": "system_u"}),
    ("selinux", "spec.containers.0.securityContext.seLinuxOptions", {"role": "sysadm_r"}),
    ("proc_mount", "spec.containers.0.securityContext.procMount", "Unmasked"),
    ("seccomp", "spec.securityContext.seccompProfile", {"type": "Unconfined"}),
    ("seccomp", "spec.securityContext.seccompProfile", None),
    ("seccomp", "spec.containers.0.securityContext.seccompProfile", {"type": "Unconfined"}),
    ("sysctls", "spec.securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
    ("privilege_escalation", "spec.containers.0.securityContext.allowPrivilegeEscalation", True),
    ("privilege_escalation", "spec.containers.0.securityContext.allowPrivilegeEscalation", None),
    ("run_as_non_root", "spec.securityContext.runAsNonRoot", False),
    ("run_as_non_root", "spec.securityContext.runAsNonRoot", None),
    ("run_as_non_root", "spec.containers.0.securityContext.runAsNonRoot", False),
    ("run_as_user", "spec.securityContext.runAsUser", 0),
    ("run_as_user", "spec.containers.0.securityContext.runAsUser", 0),
]


@pytest.mark.parametrize(("check", "path", "value"), UNSOUND)
def test_each_check_finds_what_it_is_for(check: str, path: str, value: Any):
    pod = copy.deepcopy(SOUND)
    *parents, last = path.replace("=", "\0").split(".")
    place: Any = pod
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if value is None:
        place.pop(last, None)
    else:
        place[last.replace("\0", ".")] = value
    assert {told.split(":")[0] for told in pod_security.violations(pod)} == {check}


def test_every_kind_of_container_is_looked_at_by_every_check_of_containers():
    for kind in ("initContainers", "ephemeralContainers"):
        pod = copy.deepcopy(SOUND)
        pod["spec"][kind] = [{"name": "other", "securityContext": {"privileged": True, "runAsUser": 0}}]
        found = {told.split(":")[0] for told in pod_security.violations(pod)}
        assert found == {"privileged", "capabilities", "privilege_escalation", "run_as_user"}


def test_every_check_is_shown_to_fail():
    assert {check for check, _, _ in UNSOUND} == {check.__name__ for check in pod_security.CHECKS}
