"""The Job that one attempt of a FineTuneJob runs as."""

from dataclasses import dataclass
from typing import Any

from finetune_api import names, run
from finetune_api.environment import literal
from finetune_api.job import FineTuneJob
from finetune_operator import preflight
from finetune_operator.policy import Grant
from finetune_operator.settings import Settings

_VOLUME = "finetune"
_SCRATCH = "scratch"
_SHARED_MEMORY = "shared-memory"
_TOKEN_SECONDS = 3600
_GPU = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True)
class Reporting:
    """Where pods report to: URL of the endpoint, and the certificate authority (PEM) of its certificate."""

    url: str
    ca: str


@dataclass(frozen=True, slots=True)
class AttemptPlan:
    """What an attempt differs in from others of its job."""

    number: int = 0
    micro_batch_divisor: int = 1
    checks: bool = False
    """Whether it only checks."""


def run_config(job: FineTuneJob, attempt: AttemptPlan, model: run.ModelLocation) -> run.RunConfig:
    """The run file of one attempt."""
    identity = run.JobIdentity(namespace=job.namespace, name=job.name, uid=job.uid)
    prefix = names.job_prefix(job.spec.output.uri, job.name, job.uid)
    return run.RunConfig.of(job.spec, identity, attempt.number, model, prefix, attempt.micro_batch_divisor)


def job_manifest(
    given: Grant, attempt: AttemptPlan, model: run.ModelLocation, settings: Settings, reporting: Reporting | None
) -> dict[str, Any]:
    """The ``batch/v1`` Job of one attempt. Its name is deterministic, so that creating it twice creates it once.

    The first pod that fails ends it: whether another attempt follows is the operator's to say. A pod that is being
    deleted counts by how it ends, so that one which ends well meanwhile is no failure.

    Nothing of the spec reaches a command line or the value of a variable; it travels in the run file. Only a program of
    a team's own has the command that the spec gives it.
    """
    job, nodes = given.job, given.job.spec.resources.nodes
    labels = _labels(job) | {names.LABEL_ATTEMPT: str(attempt.number)}
    if attempt.checks:
        labels[names.LABEL_CHECK] = "true"
    queue = job.spec.scheduling.queue
    annotations = {
        names.ANNOTATION_JOB: job.name,
        names.ANNOTATION_RUN: run_config(job, attempt, model).to_json(),
    }
    remembered = {names.ANNOTATION_PROFILE: given.used.to_json()} if given.used else {}
    if reporting:
        annotations[names.ANNOTATION_REPORTS_CA] = reporting.ca
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.child_name(job.name, job.uid, attempt.number),
            "namespace": job.namespace,
            "labels": labels | ({names.LABEL_QUEUE: queue} if queue else {}),
            "annotations": {names.ANNOTATION_JOB: job.name} | remembered,
            "ownerReferences": _owners(job),
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": nodes,
            "parallelism": nodes,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            **({"suspend": True} if queue else {}),
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": _pod(given, attempt, settings, reporting),
            },
        },
    }


def service_manifest(job: FineTuneJob) -> dict[str, Any] | None:
    """The headless Service by which the pods of a job find one another; None where there is one pod.

    It gives pods names and has neither an address nor a port. All attempts have the same one, because the names of
    their pods differ. It names pods before they are ready: they are ready once they have met.
    """
    if job.spec.resources.nodes == 1:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": names.service_name(job.name, job.uid),
            "namespace": job.namespace,
            "labels": _labels(job),
            "annotations": {names.ANNOTATION_JOB: job.name},
            "ownerReferences": _owners(job),
        },
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": _labels(job)},
    }


def _labels(job: FineTuneJob) -> dict[str, str]:
    return {names.LABEL_MANAGED_BY: names.MANAGER, names.LABEL_JOB_UID: job.uid}


def _owners(job: FineTuneJob) -> list[dict[str, Any]]:
    owner = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": job.name, "uid": job.uid, "controller": True}
    return [owner]


def _pod(given: Grant, attempt: AttemptPlan, settings: Settings, reporting: Reporting | None) -> dict[str, Any]:
    job = given.job
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": run.GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.run_as_user,
            "runAsGroup": settings.run_as_user,
            "fsGroup": settings.run_as_user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(given, attempt, reporting)],
        "volumes": [
            {"name": _VOLUME, "projected": {"sources": _projected(reporting)}},
            {"name": _SCRATCH, "emptyDir": {}},
        ],
    }
    if _several_gpus(job):  # NCCL hands over data in it, and a container's own is 64 MiB
        pod["volumes"].append({"name": _SHARED_MEMORY, "emptyDir": {"medium": "Memory"}})
    if job.spec.resources.nodes > 1:
        pod["subdomain"] = names.service_name(job.name, job.uid)
    if job.spec.scheduling.priority_class:
        pod["priorityClassName"] = job.spec.scheduling.priority_class
    return pod | _placement(given)


def _placement(given: Grant) -> dict[str, Any]:
    """Where the pod may run, and what its image is pulled with."""
    wanted = {
        "nodeSelector": dict(given.node_selector) | dict(given.gpu_selector),
        "tolerations": [dict(toleration) for toleration in given.tolerations],
        "imagePullSecrets": [{"name": name} for name in given.pull_secrets],
    }
    return {key: value for key, value in wanted.items() if value}


def _several_gpus(job: FineTuneJob) -> bool:
    return job.spec.resources.gpus_per_node > 1


def _container(given: Grant, attempt: AttemptPlan, reporting: Reporting | None) -> dict[str, Any]:
    job = given.job
    shared_memory = [{"name": _SHARED_MEMORY, "mountPath": "/dev/shm"}] if _several_gpus(job) else []  # noqa: S108
    return {
        "name": names.TRAINER_CONTAINER,
        "image": given.image,
        "imagePullPolicy": given.image_pull_policy,
        **_command(job, attempt),
        "env": [*_environment(given, reporting), *_meeting(job, attempt)],
        "resources": _resources(job, attempt),
        "terminationMessagePath": run.TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": _VOLUME, "mountPath": run.MOUNT_PATH, "readOnly": True},
            {"name": _SCRATCH, "mountPath": run.SCRATCH_PATH},
            *shared_memory,
        ],
    }


def _command(job: FineTuneJob, attempt: AttemptPlan) -> dict[str, list[str]]:
    own = job.spec.trainer
    if own is None:
        asked = ["--check"] if attempt.checks else []
        return {"command": ["python", "-m", "finetune_trainer", *asked, "--run", run.RUN_FILE]}
    return {"command": [literal(argument) for argument in own.command]} if own.command else {}


def _environment(given: Grant, reporting: Reporting | None) -> list[dict[str, Any]]:
    job = given.job
    plain = {
        run.ENV_SCRATCH: run.SCRATCH_PATH,
        run.ENV_TERMINATION_LOG: run.TERMINATION_LOG,
        "TMPDIR": run.SCRATCH_PATH,
        "HF_HOME": f"{run.SCRATCH_PATH}/huggingface",
    }
    if reporting:
        plain |= {
            run.ENV_REPORTS_URL: literal(reporting.url),
            run.ENV_REPORTS_CA: run.REPORTS_CA_FILE,
            run.ENV_REPORTS_TOKEN: run.TOKEN_FILE,
        }
    plain = {name: literal(value) for name, value in given.environment.items()} | plain
    environment: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    if secret := job.spec.storage.credentials:
        environment += [_from_secret(key, secret, key) for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
        environment.append(_from_secret("AWS_SESSION_TOKEN", secret, "AWS_SESSION_TOKEN", optional=True))
    if secret := job.spec.model.credentials:
        environment.append(_from_secret(run.ENV_HF_TOKEN, secret, "token"))
    return environment


def _meeting(job: FineTuneJob, attempt: AttemptPlan) -> list[dict[str, Any]]:
    """Where several pods meet, and which of them each is."""
    if job.spec.resources.nodes == 1:
        return []
    first = f"{names.child_name(job.name, job.uid, attempt.number)}-0"
    plain = {
        run.ENV_NODES: str(job.spec.resources.nodes),
        run.ENV_MEETING_HOST: f"{first}.{names.service_name(job.name, job.uid)}",
        run.ENV_MEETING_PORT: str(run.MEETING_PORT),
    }
    index = {"fieldRef": {"fieldPath": f"metadata.annotations['{names.ANNOTATION_INDEX}']"}}
    return [{"name": name, "value": value} for name, value in plain.items()] + [
        {"name": run.ENV_NODE, "valueFrom": index}
    ]


def _from_secret(name: str, secret: str, key: str, *, optional: bool = False) -> dict[str, Any]:
    reference = {"name": secret, "key": key} | ({"optional": True} if optional else {})
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}


def _resources(job: FineTuneJob, attempt: AttemptPlan) -> dict[str, Any]:
    asked = job.spec.resources
    requests = {"cpu": str(asked.cpu if asked.cpu is not None else max(1, asked.gpus_per_node))}
    limits = {}
    if asked.memory is not None:
        limits["memory"] = str(asked.memory)
        requests["memory"] = str(preflight.memory(asked.memory) if attempt.checks else asked.memory)
    if asked.gpus_per_node:
        limits[_GPU] = str(asked.gpus_per_node)
    return {"requests": requests} | ({"limits": limits} if limits else {})


def _projected(reporting: Reporting | None) -> list[dict[str, Any]]:
    """One directory with the run file and, where pods report, the certificate authority and the token."""
    files = {run.RUN_FILE: names.ANNOTATION_RUN}
    if reporting:
        files[run.REPORTS_CA_FILE] = names.ANNOTATION_REPORTS_CA
    items = [
        {
            "path": path.removeprefix(f"{run.MOUNT_PATH}/"),
            "fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"},
        }
        for path, annotation in files.items()
    ]
    sources: list[dict[str, Any]] = [{"downwardAPI": {"items": items}}]
    if reporting:
        token = {"audience": names.MANAGER, "expirationSeconds": _TOKEN_SECONDS}
        sources.append({"serviceAccountToken": token | {"path": run.TOKEN_FILE.removeprefix(f"{run.MOUNT_PATH}/")}})
    return sources
