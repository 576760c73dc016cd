"""The Job controller's decisions against what kube-controller-manager did to the same Jobs and Pods."""

from typing import Any

import pytest

from tests.local.jobs.recording import Replay, events_of, without_times

JOBS = (
    "succeeded",
    "contract",
    "user-error",
    "retried-then-failed",
    "oom-killed",
    "bad-command",
    "evicted",
    "deadline",
    "suspended",
    "deleted-by-hand",
    "two-nodes",
    "one-of-two-fails",
    "image-missing",
    "secret-missing",
    "unschedulable",
)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_goes_through_the_statuses_of_a_real_cluster(name: str) -> None:
    replay = Replay(name).run()

    assert [without_times(status) for status in replay.written] == [without_times(s) for s in replay.recorded]


@pytest.mark.parametrize("name", JOBS)
def test_a_jobs_pods_are_those_of_a_real_cluster(name: str) -> None:
    replay = Replay(name).run()

    assert replay.made
    for manifest, pod in replay.made:
        assert _given(manifest) == _given(pod)


@pytest.mark.parametrize("name", JOBS)
def test_the_events_of_a_job_are_those_of_a_real_cluster(name: str) -> None:
    replay = Replay(name).run()

    assert sorted(set(replay.events)) == sorted(set(events_of(name)))


def _given(pod: dict[str, Any]) -> dict[str, Any]:
    """What the controller decides about a pod; the rest is the API server's."""
    meta, spec = pod["metadata"], pod["spec"]
    env = spec["containers"][0]["env"]
    index = next(variable for variable in env if variable["name"] == "JOB_COMPLETION_INDEX")
    index["valueFrom"]["fieldRef"].pop("apiVersion", None)
    kept = ("generateName", "namespace", "labels", "annotations", "finalizers", "ownerReferences")
    return {key: meta[key] for key in kept} | {"hostname": spec["hostname"], "env": env}
