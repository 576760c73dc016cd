"""Names that more than one program must spell the same: group, kind, labels, annotations, child objects."""

import hashlib
import re

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
SHORT_NAME = "ftj"
CRD_NAME = f"{PLURAL}.{GROUP}"

PROFILE_KIND = "FineTuneProfile"
PROFILE_PLURAL = "finetuneprofiles"
PROFILE_SHORT_NAME = "ftprofile"
PROFILE_CRD_NAME = f"{PROFILE_PLURAL}.{GROUP}"
DEFAULT_PROFILE = "default"
"""The profile of FineTuneJobs that name none."""

MANAGER = "finetune-operator"
"""Value of the label ``app.kubernetes.io/managed-by`` on children, field manager, event source, token audience."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_JOB_UID = f"{GROUP}/job-uid"
"""UID of the FineTuneJob a child belongs to. The name would not fit: label values end at 63 characters."""
LABEL_ATTEMPT = f"{GROUP}/attempt"

LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
"""Kueue's: the LocalQueue that a Job waits in."""

LABEL_CHECK = f"{GROUP}/check"
"""`true` on Job and pods of an attempt that only checks."""

ANNOTATION_JOB = f"{GROUP}/job"
"""Name of the FineTuneJob a child belongs to, for people."""
ANNOTATION_RUN = f"{GROUP}/run"
"""The run file (:class:`finetune_api.run.RunConfig` as JSON), mounted through the downward API."""
ANNOTATION_REPORTS_CA = f"{GROUP}/reports-ca"
"""The certificate authority (PEM) of the operator's reports endpoint, mounted beside the run file."""

ANNOTATION_PROFILE = f"{GROUP}/profile"
"""What a Job was given by a profile (:class:`finetune_api.status.ProfileUsed` as JSON)."""

ANNOTATION_INDEX = "batch.kubernetes.io/job-completion-index"
"""Kubernetes': which of the pods of an Indexed Job a pod is, from 0."""

TRAINER_CONTAINER = "trainer"

_CHILD_NAME_CUT = 40
"""Keeps ``<name>-<hash>-<attempt>-<index>`` a DNS label (63 characters), as Indexed Jobs' pod hostnames must be."""


def uid_hash(uid: str) -> str:
    """Eight hexadecimal digits that stand for a UID in names and S3 prefixes."""
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


def child_name(name: str, uid: str, attempt: int) -> str:
    """The name of the ``batch/v1`` Job of one attempt: ``<name cut>-<hash of uid>-<attempt>``."""
    return f"{service_name(name, uid)}-{attempt}"


def service_name(name: str, uid: str) -> str:
    """The name of the headless Service by which the pods of one FineTuneJob find one another: ``<name cut>-<hash>``.

    Two FineTuneJobs whose names are cut to the same words differ by the hash. Dots are legal in our names
    but not in a pod's hostname, so they become dashes.
    """
    cut = re.sub(r"[^a-z0-9-]", "-", name)[:_CHILD_NAME_CUT].strip("-") or "job"
    if not cut[0].isalpha():
        cut = f"j{cut}"[:_CHILD_NAME_CUT].strip("-")
    return f"{cut}-{uid_hash(uid)}"


def job_prefix(output_uri: str, name: str, uid: str) -> str:
    """The S3 prefix, ending in ``/``, that one FineTuneJob alone writes under, in all of its attempts.

    Each process writes into a folder of its own below it.
    """
    return f"{output_uri.rstrip('/')}/{name}/{uid_hash(uid)}/"
