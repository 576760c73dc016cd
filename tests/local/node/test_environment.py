"""Environment, volumes and invocation of a container, from its spec and the objects that it refers to."""

import base64
from pathlib import Path
from typing import Any

import pytest

from finetune_local.node import volumes
from finetune_local.node.container import invocation, termination_message
from finetune_local.node.environment import ConfigError, environment, expand, field
from finetune_local.node.mounts import PodDirectory

POD: dict[str, Any] = {
    "metadata": {
        "name": "p",
        "namespace": "team",
        "uid": "u-1",
        "labels": {"app": "x"},
        "annotations": {"a": '1 "quoted"', "finetune.dev/run": "{}"},
    },
    "spec": {"nodeName": "local", "hostname": "p-0", "serviceAccountName": "trainer"},
}
FOUND: dict[tuple[str, str], dict[str, Any]] = {
    ("Secret", "s"): {"kind": "Secret", "data": {"key": base64.b64encode(b"value").decode()}},
    ("ConfigMap", "c"): {"kind": "ConfigMap", "data": {"one": "1", "two": "2"}},
}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)/x", "1/x"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A $(A", "$A $(A"),
        ("echo $?", "echo $?"),
    ],
)
def test_references_expand_as_kubernetes_does(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "x"),
        ("metadata.annotations['finetune.dev/run']", "{}"),
        ("metadata.annotations['none']", ""),
        ("metadata.annotations", 'a="1 \\"quoted\\""\nfinetune.dev/run="{}"'),
        ("spec.nodeName", "local"),
        ("spec.serviceAccountName", "trainer"),
        ("status.podIP", "127.0.0.1"),
    ],
)
def test_the_downward_api_reads_fields(path: str, value: str) -> None:
    assert field(POD, path) == value


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"}]}, {"A": "1", "B": "12"}),
        ({"env": [{"name": "A"}]}, {"A": ""}),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}}]}, {"A": "value"}),
        ({"envFrom": [{"prefix": "C_", "configMapRef": {"name": "c"}}]}, {"C_one": "1", "C_two": "2"}),
        ({"envFrom": [{"secretRef": {"name": "none", "optional": True}}]}, {}),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none", "optional": True}}}]},
            {},
        ),
    ],
)
def test_the_environment_comes_from_values_secrets_and_config_maps(
    container: dict[str, Any], expected: dict[str, str]
) -> None:
    assert environment(container, POD, FOUND) == expected


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"envFrom": [{"secretRef": {"name": "nothing"}}]}, 'secret "nothing" not found'),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k"}}}]}, '"none" not'),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
            "couldn't find key k in Secret team/s",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]},
            "env A: valueFrom.resourceFieldRef is not supported in local mode",
        ),
        ({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}, "fieldPath spec.x"),
    ],
)
def test_what_is_missing_is_named_in_the_kubelets_words(container: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        environment(container, POD, FOUND)


def test_a_volume_holds_what_its_sources_say() -> None:
    volume = {
        "name": "v",
        "projected": {
            "sources": [
                {"configMap": {"name": "c", "items": [{"key": "one", "path": "c/1"}]}},
                {"secret": {"name": "s"}},
                {"serviceAccountToken": {"path": "token", "audience": "a", "expirationSeconds": 600}},
                {"downwardAPI": {"items": [{"path": "run.json", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            ]
        },
    }

    assert set(volumes.references(volume)) == {("ConfigMap", "c"), ("Secret", "s")}
    assert list(volumes.tokens(volume)) == [("a", 600)]
    assert volumes.files(volume, POD, FOUND, {("a", 600): "t"}) == {
        "c/1": b"1",
        "key": b"value",
        "token": b"t",
        "run.json": b"p",
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"secret": {"secretName": "nothing"}}, 'secret "nothing" not found'),
        (
            {"configMap": {"name": "c", "items": [{"key": "x", "path": "x"}]}},
            "references non-existent configmap key: x in team/c",
        ),
        ({"projected": {"sources": [{"clusterTrustBundle": {"path": "x"}}]}}, "clusterTrustBundle is not supported"),
    ],
)
def test_a_volume_without_its_source_is_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        volumes.files({"name": "v", **source}, POD, FOUND, {})


def test_no_file_of_a_volume_lies_outside_of_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leads out of its volume"):
        volumes.write(tmp_path / "volume", {"../escaped": b""})

    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    ("resources", "threads"),
    [
        ({}, None),
        ({"requests": {"cpu": "2"}}, "2"),
        ({"requests": {"cpu": "500m"}}, "1"),
        ({"requests": {"cpu": 1}, "limits": {"cpu": "2500m"}}, "3"),
    ],
)
def test_a_process_gets_as_many_threads_as_cpus(tmp_path: Path, resources: dict[str, Any], threads: str | None) -> None:
    container = {"name": "main", "image": "i", "command": ["true"], "resources": resources}

    how = invocation(container, POD, FOUND, PodDirectory(tmp_path))

    assert how.environment.get("OMP_NUM_THREADS") == threads


def test_a_declared_variable_wins_over_ours(tmp_path: Path) -> None:
    env = [{"name": "OMP_NUM_THREADS", "value": "7"}, {"name": "HOME", "value": "/work"}]
    container = {"name": "main", "command": ["x"], "resources": {"requests": {"cpu": "2"}}, "env": env}
    mounts = {"volumeMounts": [{"name": "v", "mountPath": "/work"}]}

    how = invocation(container | mounts, POD, FOUND, PodDirectory(tmp_path))

    assert how.environment["OMP_NUM_THREADS"] == "7"
    assert how.environment["HOME"] == str(tmp_path / "volumes" / "v")
    assert how.environment["HOSTNAME"] == "p-0"


def test_nothing_of_our_own_environment_leaks_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ours")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")

    how = invocation({"name": "main", "command": ["x"]}, POD, FOUND, PodDirectory(tmp_path))

    assert "AWS_SECRET_ACCESS_KEY" not in how.environment
    assert how.environment["HTTPS_PROXY"] == "http://proxy:3128"
    assert how.environment["NO_PROXY"].endswith("127.0.0.1,localhost")


@pytest.mark.parametrize(
    ("written", "policy", "failed", "message"),
    [
        (b"said", "File", True, "said"),
        (b"", "File", True, ""),
        (b"", "FallbackToLogsOnError", True, "line 98\nline 99\n"),
        (b"", "FallbackToLogsOnError", False, ""),
        (b"x" * 5000, "File", False, "x" * 4096),
    ],
)
def test_the_termination_message_is_the_file_or_the_end_of_the_log(
    tmp_path: Path, written: bytes, policy: str, failed: bool, message: str
) -> None:
    directory, log = PodDirectory(tmp_path), tmp_path / "log"
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    file = directory.termination_log("main")
    file.parent.mkdir(parents=True)
    file.write_bytes(written)
    container = {"name": "main", "terminationMessagePolicy": policy}

    found = termination_message(container, directory, log, failed)

    assert found.endswith(message)
    assert bool(found) == bool(message)
    assert len(found) <= 4096
