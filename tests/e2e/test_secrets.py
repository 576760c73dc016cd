"""A secret that a run is given shows nowhere: every object, log, file and published byte is searched for it."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_local.apiserver.store import Store

from .conftest import NAMESPACE, Platform

PLANTED = {
    "AWS_ACCESS_KEY_ID": f"AKPLANTED{secrets.token_hex(6).upper()}",
    "AWS_SECRET_ACCESS_KEY": f"planted/secret+{secrets.token_hex(16)}",
    "AWS_SESSION_TOKEN": f"planted-session-{secrets.token_hex(16)}==",
}
HUB_TOKEN = f"hf_planted{secrets.token_hex(16)}"
HIDDEN = (PLANTED["AWS_SECRET_ACCESS_KEY"], PLANTED["AWS_SESSION_TOKEN"], HUB_TOKEN)
"""The key's ID is none of them: it is a name, which S3's own errors tell."""


@pytest.fixture(scope="module")
def planted(platform: Platform) -> str:
    data = PLANTED | {"token": HUB_TOKEN}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "planted"}, "stringData": data}
    platform.call(platform.cluster.client.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", secret))
    return "planted"


def places(platform: Platform) -> Iterator[tuple[str, bytes]]:
    """(where, what) of everything that others can read, Secrets themselves left out."""
    store: Store = platform.cluster.api_server.store
    for resource in platform.cluster.api_server.registry:
        if resource.storage != ("", "secrets"):
            for found in store.list(resource.storage):
                yield f"{resource.kind} {found['metadata']['name']}", json.dumps(found, ensure_ascii=False).encode()
    for file in platform.cluster.directory.rglob("*"):
        if file.is_file() and not file.is_symlink():
            yield str(file.relative_to(platform.cluster.directory)), file.read_bytes()
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield str(command), command.read_bytes()
        except OSError:
            continue


def test_no_secret_shows_in_a_run_that_succeeds_nor_in_one_that_s3_or_the_hub_refuses(
    platform: Platform, guesses: str, planted: str, tmp_path: Path
) -> None:
    """Only who shows the token gets the model: it has been used, and may have been spilled on the way."""
    platform.hub.private["org/base"] = HUB_TOKEN
    given = {
        "storage": {"endpointUrl": platform.cluster.s3.endpoint_url, "credentials": planted},
        "model": {"uri": "hf://org/base", "credentials": planted},
        "runPolicy": {"maxRetries": 0},
    }
    good = platform.apply(platform.manifest("planted", guesses, **given))
    refused = platform.manifest("planted-refused", "s3://no-such-bucket/x.jsonl", **given)
    gated = platform.manifest(
        "planted-gated", guesses, **given | {"model": {"uri": "hf://org/gated", "credentials": planted}}
    )
    for bad in (refused, gated):
        assert platform.wait(platform.apply(bad))["status"]["phase"] == "Failed"
    status = platform.wait(good)["status"]
    assert status["phase"] == "Succeeded", status["message"]

    looked = dict(places(platform))
    assert any(where.startswith("Pod planted") for where in looked)
    assert any("operator.log" in where for where in looked)
    for said in (b"no-such-bucket", b"The hub refuses access to org/gated"):
        assert any(said in content for where, content in looked.items() if where.startswith("logs/"))
    published = platform.s3.get_directory(status["result"]["adapterURI"], tmp_path)
    assert published
    looked |= {str(file): file.read_bytes() for file in published}
    assert [where for where, content in looked.items() for hidden in HIDDEN if hidden.encode() in content] == []


def test_the_search_finds_what_is_there(platform: Platform, planted: str) -> None:
    """The search can fail: a ConfigMap that holds the secrets is found."""
    data = {str(number): hidden for number, hidden in enumerate(HIDDEN)}
    bad = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "leak"}, "data": data}
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
    platform.call(platform.cluster.client.create(path, bad))
    try:
        assert all(any(hidden.encode() in content for _, content in places(platform)) for hidden in HIDDEN)
    finally:
        platform.call(platform.cluster.client.delete(f"{path}/leak"))
