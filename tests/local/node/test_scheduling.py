"""Whether a pod fits, and the scheduler's words where it does not."""

from typing import Any

import pytest

from finetune_local.node.scheduling import machine_capacity, obstacle, requests

NODE = {
    "metadata": {"labels": {"kubernetes.io/os": "linux"}},
    "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}},
}
NEVER = " no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."


def pod(selector: dict[str, str] | None = None, **wanted: str) -> dict[str, Any]:
    names = {"gpu": "nvidia.com/gpu"}
    asked = {names.get(name, name): amount for name, amount in wanted.items()}
    return {"spec": {"containers": [{"resources": {"requests": asked}}], "nodeSelector": selector or {}}}


@pytest.mark.parametrize(
    ("wanted", "others", "why"),
    [
        (pod(), [], None),
        (pod(cpu="2", memory="4Gi"), [], None),
        (pod(cpu="1500m"), [pod(cpu="500m")], None),
        (pod(gpu="0"), [], None),
        (pod(gpu="1"), [], "0/1 nodes are available: 1 Insufficient nvidia.com/gpu." + NEVER),
        (pod(cpu="3", memory="8Gi"), [], "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory." + NEVER),
        (
            pod({"zone": "b"}),
            [],
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector." + NEVER,
        ),
        (
            pod(cpu="1600m"),
            [pod(cpu="500m")],
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: "
            "0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ),
        (
            pod(),
            [pod(), pod(), pod()],
            "0/1 nodes are available: 1 Insufficient pods. no new claims to deallocate, preemption: "
            "0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ),
    ],
)
def test_a_pod_fits_if_what_is_asked_for_is_left(
    wanted: dict[str, Any], others: list[dict[str, Any]], why: str | None
) -> None:
    assert obstacle(wanted, NODE, others) == why


def test_a_limit_without_a_request_is_one() -> None:
    containers = [
        {"resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}},
        {"resources": {"limits": {"x": 1}}},
    ]

    assert requests({"spec": {"containers": containers}}) == {"cpu": 1, "x": 1, "pods": 1}


def test_this_machine_has_something_to_offer() -> None:
    capacity = machine_capacity()

    assert int(capacity["cpu"]) >= 1
    assert int(capacity["memory"].removesuffix("Ki")) > 100_000
