"""Addresses of pods, and their names."""

from typing import Any

import pytest

from finetune_local.node.addresses import address_of, references, resolved

HEADLESS = {("Service", "tune"): {"kind": "Service", "spec": {"clusterIP": "None"}}}


def pod(index: int = 0, namespace: str = "team-a", subdomain: str = "tune") -> dict[str, Any]:
    spec = {"hostname": f"tune-0-{index}", "subdomain": subdomain}
    return {"metadata": {"name": f"tune-0-{index}-x", "namespace": namespace}, "spec": spec}


def test_each_pod_of_a_service_has_an_address_of_its_own() -> None:
    pods = [pod(0), pod(1), pod(0, namespace="team-b"), pod(0, subdomain="other")]
    found = [address_of(one) for one in pods]
    assert len(set(found)) == 4
    assert all(address.startswith("127.") for address in found)
    assert found == [address_of(one) for one in pods]


def test_a_pod_of_no_service_has_the_nodes_address() -> None:
    assert address_of({"metadata": {"namespace": "team-a"}, "spec": {"hostname": "tune-0-0"}}) == "127.0.0.1"


@pytest.mark.parametrize(
    "name",
    ["tune-0-0.tune", "tune-0-0.tune.team-a", "tune-0-0.tune.team-a.svc", "tune-0-0.tune.team-a.svc.cluster.local"],
)
def test_a_name_is_known_to_the_pods_of_its_service(name: str) -> None:
    assert list(references(pod(1))) == [("Service", "tune")]
    assert resolved(name, pod(1), HEADLESS) == address_of(pod(0))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tune-0-0.tune", {}),
        ("tune-0-0.tune", {("Service", "tune"): {"kind": "Service", "spec": {"clusterIP": "10.0.0.1"}}}),
        ("tune-0-0.tune.team-b", HEADLESS),
        ("tune-0-0.other", HEADLESS),
        ("tune", HEADLESS),
        ("", HEADLESS),
        ("http://tune-0-0.tune", HEADLESS),
    ],
)
def test_what_no_dns_would_know_stays_as_it_is(text: str, found: dict[tuple[str, str], Any]) -> None:
    assert resolved(text, pod(1), found) == text
