"""The check before the training: whether there is one, and what its pod asks for.

It is an attempt like any other, the first one, so that everything that may befall an attempt is answered alike. What
it found goes into ``status.check``, and is not looked for again.
"""

from dataclasses import replace

from finetune_api.job import FineTuneJob, InvalidSpec
from finetune_api.quantity import amount
from finetune_api.spec import Resources
from finetune_operator.attempts import Attempts
from finetune_operator.observed import Raw
from finetune_operator.policy import Grant

_CPU = "1"
_MEMORY = "2Gi"


def due(job: FineTuneJob | InvalidSpec, status: Raw, attempts: Attempts) -> bool:
    """Whether an attempt that begins now is a check: one is wanted, and none has passed, nor was anything trained."""
    return not isinstance(job, InvalidSpec) and _wanted(job) and "check" not in status and not attempts.trained


def _wanted(job: FineTuneJob) -> bool:
    """Nobody knows what a program of a team's own makes of data and model."""
    spec = job.spec
    if spec.trainer is not None:
        return False
    return spec.preflight == "Always" or (spec.preflight == "Auto" and spec.resources.gpus_per_node > 0)


def memory(asked: int | str) -> int | str:
    """What is requested where a training asks for so much; its limit stays that of the training."""
    return _at_most(asked, _MEMORY)


def _at_most(asked: int | str, most: str) -> int | str:
    return most if amount(asked) > amount(most) else asked


def without_gpus(given: Grant) -> Grant:
    """What a check runs with: a small pod on any node that the profile allows, and in no queue for GPUs."""
    spec = given.job.spec
    asked = spec.resources
    cpu = _CPU if asked.cpu is None else _at_most(asked.cpu, _CPU)
    resources = Resources(gpus_per_node=0, cpu=cpu, memory=asked.memory)
    scheduling = spec.scheduling.model_copy(update={"queue": None})
    small = spec.model_copy(update={"resources": resources, "scheduling": scheduling})
    return replace(given, job=given.job.model_copy(update={"spec": small}), gpu_selector={})
