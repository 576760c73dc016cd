"""A FineTuneJob that asks for two GPUs trains in two processes."""

import pytest

from tests.e2e.conftest import NAMESPACE, Platform


@pytest.mark.long
def test_a_job_on_two_gpus_trains_in_two_processes(platform: Platform, colours: str) -> None:
    resources = {"gpusPerNode": 2, "cpu": "200m"}
    job = platform.wait(platform.apply(platform.manifest("two-gpus", colours, resources=resources, preflight="Never")))
    assert job["status"]["phase"] == "Succeeded", job["status"]["message"]
    (pod,) = platform.pods_of(job)
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}/log"
    log = platform.call(platform.cluster.client.text(path))
    assert "2 processes share the work" in log
    assert log.count("step 12/12") == 1
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert job["status"]["result"]["adapterURI"].startswith("s3://team-a/out/two-gpus/")
