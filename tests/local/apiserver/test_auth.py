"""Who may do what: tokens, roles, reviews, and the record of the rule that allowed a call."""

from __future__ import annotations

from typing import Any

import pytest

from tests.local.apiserver.apiclient import JOBS, Running
from tests.local.apiserver.samples import config_map, pod, sample_job

RBAC = "/apis/rbac.authorization.k8s.io/v1"
TOKEN = "/api/v1/namespaces/default/serviceaccounts/default/token"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
MAPS = "/api/v1/namespaces/default/configmaps"


def allow(api: Running, *rules: dict[str, Any], subject: str = "ann", namespace: str = "") -> None:
    """A role of these rules for the user, in one namespace or everywhere."""
    scope = f"/namespaces/{namespace}" if namespace else ""
    kind = "Role" if namespace else "ClusterRole"
    path = f"{RBAC}{scope}/{'roles' if namespace else 'clusterroles'}"
    assert api.post(path, {"metadata": {"name": "r"}, "rules": list(rules)}).status == 201
    binding = {
        "metadata": {"name": "b"},
        "roleRef": {"kind": kind, "name": "r"},
        "subjects": [{"kind": "User", "name": subject}],
    }
    path = f"{RBAC}{scope}/{'rolebindings' if namespace else 'clusterrolebindings'}"
    assert api.post(path, binding).status == 201


@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c"])
def test_without_a_token_of_ours_nothing_is_told(api: Running, token: str) -> None:
    answer = api.get(MAPS, token=token)
    assert (answer.status, answer.json["reason"]) == (401, "Unauthorized")


def test_health_and_version_need_no_token(api: Running) -> None:
    assert [api.get(path, token="").text for path in ("/healthz", "/livez", "/readyz")] == ["ok"] * 3
    assert api.get("/version", token="").json["major"] == "1"


def test_an_undeclared_call_is_forbidden_in_the_real_servers_words(api: Running) -> None:
    token = api.server.token_for("ann")
    told = {
        (MAPS, "GET"): 'configmaps is forbidden: User "ann" cannot list resource "configmaps" in API group "" in the '
        'namespace "default"',
        (
            f"{MAPS}/c",
            "GET",
        ): 'configmaps "c" is forbidden: User "ann" cannot get resource "configmaps" in API group '
        '"" in the namespace "default"',
        ("/apis/batch/v1/jobs", "GET"): 'jobs.batch is forbidden: User "ann" cannot list resource "jobs" in API group '
        '"batch" at the cluster scope',
        ("/api/v1/namespaces/default/pods/p/log", "GET"): 'pods "p" is forbidden: User "ann" cannot get resource '
        '"pods/log" in API group "" in the namespace "default"',
        ("/metrics", "GET"): 'forbidden: User "ann" cannot get path "/metrics"',
    }
    for (path, method), message in told.items():
        answer = api.call(method, path, token=token)
        assert (answer.status, answer.json["reason"], answer.json["message"]) == (403, "Forbidden", message)


@pytest.mark.parametrize(
    ("rule", "namespace", "allowed", "refused"),
    [
        ({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}, "", ["GET c"], ["GET", "DELETE c"]),
        ({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, "", ["GET c", "GET", "DELETE c"], []),
        ({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["c"], "verbs": ["get", "list", "create"]},
         "", ["GET c", "GET ?fieldSelector=metadata.name=c"], ["GET d", "GET", "POST"]),
        ({"apiGroups": ["batch"], "resources": ["configmaps"], "verbs": ["*"]}, "", [], ["GET c"]),
        ({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}, "default", ["GET c"], []),
        ({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}, "kube-system", [], ["GET c"]),
        ({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}, "", ["GET"], ["GET ?watch=1"]),
    ],
)  # fmt: skip
def test_rules_allow_what_they_say(
    api: Running, rule: dict[str, Any], namespace: str, allowed: list[str], refused: list[str]
) -> None:
    api.post(MAPS, config_map())
    allow(api, rule, namespace=namespace)
    token = api.server.token_for("ann")

    def status(call: str) -> int:
        method, _, rest = call.partition(" ")
        path = MAPS + (rest if rest.startswith("?") else f"/{rest}" if rest else "")
        return api.call(method, path, config_map() if method == "POST" else None, token=token).status

    assert {call: status(call) for call in refused} == dict.fromkeys(refused, 403)
    assert 403 not in [status(call) for call in allowed]


def test_a_subresource_is_a_permission_of_its_own(jobs_api: Running) -> None:
    jobs_api.post(JOBS, sample_job())
    allow(jobs_api, {"apiGroups": ["finetune.dev"], "resources": ["samplejobs/status"], "verbs": ["patch"]})
    token = jobs_api.server.token_for("ann")
    assert jobs_api.patch(f"{JOBS}/one/status", {"status": {"phase": "x"}}, token=token).status == 200
    assert jobs_api.patch(f"{JOBS}/one", {"spec": {"epochs": 3}}, token=token).status == 403


def test_the_log_of_requests_tells_the_rule_that_allowed_each(api: Running) -> None:
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]},
    ]
    allow(api, *rules)
    api.get(MAPS, token=api.server.token_for("ann"))
    record = api.server.requests[-1]
    assert (record.user, record.verb, record.resource, record.status) == ("ann", "list", "configmaps", 200)
    assert record.grant is not None
    assert (record.grant.role, record.grant.rule) == ("ClusterRole/r", 1)
    assert record.grant.binding == "ClusterRoleBinding/b"


def test_a_service_account_speaks_with_a_token_for_the_server(api: Running) -> None:
    token = api.post(TOKEN, {"spec": {}}).json["status"]["token"]
    assert api.get(MAPS, token=token).status == 403
    allow(api, {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]},
          subject="system:serviceaccount:default:default")  # fmt: skip
    assert api.get(MAPS, token=token).status == 200
    other = api.post(TOKEN, {"spec": {"audiences": ["elsewhere"]}}).json["status"]["token"]
    assert api.get(MAPS, token=other).status == 401


def review(api: Running, token: str, *audiences: str) -> dict[str, Any]:
    status: dict[str, Any] = api.post(REVIEWS, {"spec": {"token": token, "audiences": list(audiences)}}).json["status"]
    return status


def test_a_token_bound_to_a_pod_names_it_as_the_real_server_does(api: Running) -> None:
    api.post("/api/v1/nodes", {"metadata": {"name": "node1"}})
    path = "/api/v1/namespaces/default/pods"
    meta = api.post(path, pod()).json["metadata"]
    api.patch(f"{path}/p", {"spec": {"nodeName": "node1"}})
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": meta["uid"]}
    spec = {"audiences": ["finetune-operator"], "expirationSeconds": 600, "boundObjectRef": bound}
    token = api.post(TOKEN, {"spec": spec}).json["status"]["token"]
    status = review(api, token, "finetune-operator")
    assert status["authenticated"] is True
    assert status["audiences"] == ["finetune-operator"]
    user = status["user"]
    assert user["username"] == "system:serviceaccount:default:default"
    assert user["groups"] == ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]
    prefix = "authentication.kubernetes.io/"
    assert user["extra"][f"{prefix}pod-name"] == ["p"]
    assert user["extra"][f"{prefix}pod-uid"] == [meta["uid"]]
    assert user["extra"][f"{prefix}node-name"] == ["node1"]
    assert {f"{prefix}credential-id", f"{prefix}node-uid"} <= user["extra"].keys()

    assert "target audiences" in review(api, token, "another")["error"]
    api.delete(f"{path}/p", {"gracePeriodSeconds": 0})
    api.post(path, pod())  # of the same name, but another
    assert review(api, token, "finetune-operator") == {
        "user": {}, "error": "service account token has been invalidated",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bound", "status"),
    [
        ({"kind": "Pod", "name": "gone"}, 404),
        ({"kind": "Pod", "name": "p", "uid": "another"}, 409),
        ({"kind": "Secret", "name": "s"}, 400),
    ],
)
def test_a_token_is_not_bound_to_what_is_not_there(api: Running, bound: dict[str, str], status: int) -> None:
    api.post("/api/v1/namespaces/default/pods", pod())
    assert api.post(TOKEN, {"spec": {"boundObjectRef": bound}}).status == status


def test_a_token_lives_ten_minutes_at_least(api: Running) -> None:
    answer = api.post(TOKEN, {"spec": {"expirationSeconds": 60}})
    assert answer.status == 422
    assert "may not specify a duration less than 10 minutes" in answer.json["message"]


def test_users_may_ask_what_they_may(api: Running) -> None:
    allow(api, {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]})
    token = api.server.token_for("ann")
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

    def allowed(**asked: str) -> bool:
        answer = api.post(path, {"spec": {"resourceAttributes": asked}}, token=token)
        assert answer.status == 201
        return bool(answer.json["status"]["allowed"])

    assert allowed(verb="list", resource="configmaps", namespace="default")
    assert not allowed(verb="delete", resource="configmaps", namespace="default")
    who = api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", {}, token=token).json
    assert who["status"]["userInfo"]["username"] == "ann"
