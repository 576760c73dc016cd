"""Bodies that are huge, deep or full of impossible numbers: 4xx from the API server, and an operator that works on."""

import json
import ssl
from typing import Any

import aiohttp
import pytest

from finetune_api import crd, names
from tests import builders as b
from tests.reconcile.plane import SUCCEEDS, Plane, add_crd, asynchronous, plane

JOBS = f"/apis/{names.API_VERSION}/namespaces/{b.NAMESPACE}/{names.PLURAL}"
PROFILES = f"/apis/{names.API_VERSION}/{names.PROFILE_PLURAL}"
MIB = 1024 * 1024


async def post(p: Plane, path: str, body: bytes) -> tuple[int, str]:
    """The answer of the API server to a body as it is."""
    trust = ssl.create_default_context(cadata=p.server.ca_pem)
    headers = {"Authorization": f"Bearer {p.server.admin_token}", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{p.server.url}{path}?fieldValidation=Strict", data=body, headers=headers, ssl=trust) as answer,
    ):
        return answer.status, await answer.text()


def job(**sections: Any) -> bytes:
    return json.dumps(b.manifest("odd", **sections)).encode()


def with_text(text: str, **sections: Any) -> bytes:
    """The job with the text ``"@"`` of a section replaced by JSON of one's own."""
    return job(**sections).replace(b'"@"', text.encode())


DEEP = '{"a":' * 5000 + "1" + "}" * 5000
BODIES = {
    "a mebibyte of template": job(data={"train": [{"uri": "s3://b/t", "template": "{{ x }}" + "y" * MIB}]}),
    "a mebibyte of URI": job(output={"uri": "s3://b/" + "x" * MIB}),
    "twenty thousand files": job(data={"train": [{"uri": "s3://b/t.jsonl"}] * 20_000}),
    "a mebibyte of name": job(model={"uri": "hf://a/b", "revision": "x" * MIB}),
    "a mebibyte of unknown fields": job(extra={f"k{i}": i for i in range(20_000)}),
    "deep nesting in a field": with_text(DEEP, training={"seed": "@"}),
    "deep nesting of lists": with_text("[" * 100_000 + "]" * 100_000, training={"seed": "@"}),
    "deep nesting in the root": DEEP.encode(),
    "an integer of a thousand digits": with_text("9" * 1000, training={"seed": "@"}),
    "an integer of a hundred thousand digits": with_text("9" * 100_000, training={"seed": "@"}),
    "an integer beyond 64 bits": with_text(str(2**64), training={"maxSteps": "@"}),
    "a negative one": with_text(str(-(2**63)), resources={"gpusPerNode": "@"}),
    "an exponent": with_text("1e400", training={"learningRate": "@"}),
    "no number": with_text("NaN", training={"learningRate": "@"}),
    "infinity": with_text("-Infinity", training={"learningRate": "@"}),
    "a deadline of centuries": job(runPolicy={"deadline": "9" * 40 + "h"}),
    "not UTF-8": job()[:-3] + b"\xff\xfe" + b"}}}",
    "half of it": job()[: len(job()) // 2],
}
PROFILE = {"apiVersion": names.API_VERSION, "kind": names.PROFILE_KIND, "metadata": {"name": "odd"}}
PROFILE_BODIES = {
    "a mebibyte of prefixes": PROFILE | {"spec": {"allowed": {"s3Prefixes": ["s3://b/"] * 20_000}}},
    "a mebibyte of variables": PROFILE | {"spec": {"environment": [{"name": "A", "value": "x" * MIB}]}},
    "twenty thousand labels": PROFILE | {"spec": {"nodeSelector": {f"k{i}": "v" for i in range(20_000)}}},
    "a price of nothing": PROFILE | {"spec": {"gpus": [{"name": "a", "nodeSelector": {}, "pricePerHour": -1e300}]}},
}


@asynchronous
async def test_each_is_refused_and_the_next_job_runs(tmp_path):
    async with plane(tmp_path) as p, p.operator():
        for what, body in BODIES.items():
            code, said = await post(p, JOBS, body)
            assert 400 <= code < 500, (what, code, said[:300])
        for what, profile in PROFILE_BODIES.items():
            code, said = await post(p, PROFILES, json.dumps(profile).encode())
            assert 400 <= code < 500, (what, code, said[:300])
        assert p.finetunejob("odd") == {}
        p.script["support-bot"] = [SUCCEEDS]
        await p.apply()
        await p.phase("Succeeded")


SAVED: dict[str, Any] = {
    "a number of the wrong size": {"training": {"seed": 2**80}},
    "deep nesting": {"data": json.loads('{"a":' * 60 + "1" + "}" * 60)},
    "a text in place of a section": {"model": "x" * 100_000},
    "a profile that is no name": {"profile": {"a": 1}},
    "nothing": None,
}


@pytest.mark.parametrize("what", SAVED)
@asynchronous
async def test_a_spec_that_was_saved_past_the_rules_fails_in_words_and_stops_nobody(tmp_path, what):
    """By an older definition, say: the operator reads it as it is."""
    loose = crd.definition()
    open_schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    root = loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    root["properties"]["spec"] = open_schema
    root.pop("required")
    async with plane(tmp_path, with_crd=False) as p:
        await add_crd(p.client, loose, crd.profile_definition())
        async with p.operator():
            manifest = b.manifest("odd")
            spec = SAVED[what]
            manifest["spec"] = manifest["spec"] | spec if spec else {}
            await p.apply(manifest)
            status = await p.phase("Failed", "odd")
            assert status["conditions"][0]["reason"] == "InvalidSpec"
            assert len(status["message"]) < 4096
            p.script["support-bot"] = [SUCCEEDS]
            await p.apply()
            await p.phase("Succeeded")
