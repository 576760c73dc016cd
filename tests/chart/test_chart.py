"""The chart renders what the operator needs, with restricted pods, and refuses values that mean nothing."""

import re
import tomllib
from typing import Any

import helm_python as helm
import pytest
import yaml

from finetune_api import crd
from finetune_api.job import read_spec
from finetune_operator.generate.values import WIRED, Values
from finetune_operator.permissions import PERMISSIONS, Scope
from finetune_operator.settings import PREFIX, Settings
from tests import pod_security

from .conftest import CHART, AllObjects, Objects, Render, RenderAll, environment_of

ROOT = CHART.parents[1]
ODD: dict[str, Any] = {
    "replicas": 5,
    "image": {"repository": "registry.example:5000/a/b", "digest": f"sha256:{'0' * 64}", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "mine"}],
    "trainer": {"image": {"repository": "registry.example/t", "tag": "7", "pullPolicy": "Never"}},
    "watchNamespaces": ["team-a", "team-b"],
    "settings": {"workers": 3, "progressInterval": 0.5, "logLevel": "DEBUG"},
    "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
    "nodeSelector": {"kind": "system"},
    "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "system-cluster-critical",
    "podAnnotations": {"note": "yes: it is"},
    "podLabels": {"team": "ml"},
    "podDisruptionBudget": {"maxUnavailable": 2},
    "metrics": {"annotations": False, "podMonitor": {"enabled": True, "labels": {"release": "prom"}, "interval": "1m"}},
    "networkPolicy": {"enabled": True, "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
    "crds": {"install": True, "keep": False},
}


def deployment(objects: Objects) -> dict[str, Any]:
    (found,) = [o for (kind, _), o in objects.items() if kind == "Deployment"]
    return found


def project_version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def environment(objects: Objects) -> dict[str, str]:
    return environment_of(deployment(objects), "10.0.0.7")


def test_the_chart_is_lint_clean_even_strictly():
    report = helm.lint(CHART, strict=True)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


def test_chart_and_app_version_are_the_project_s(chart: helm.Chart):
    assert (chart.version, chart.metadata["appVersion"]) == (project_version(), project_version())


@pytest.mark.parametrize("values", [{}, ODD], ids=["default", "odd"])
def test_every_object_is_named_labelled_and_in_the_release_s_namespace(render: Render, values: dict[str, Any]):
    for (kind, _), rendered in render(values).items():
        labels = rendered["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "finetune-operator"
        assert labels["app.kubernetes.io/instance"] == "demo"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        if kind not in ("CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"):
            assert rendered["metadata"]["namespace"] == "ft"


@pytest.mark.parametrize("values", [{}, ODD], ids=["default", "odd"])
def test_the_operator_s_pods_keep_the_restricted_pod_security_standard(render: Render, values: dict[str, Any]):
    template = deployment(render(values))["spec"]["template"]
    assert pod_security.violations(template) == []
    assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in template["spec"]["containers"])


def test_services_of_the_namespace_do_not_leak_into_the_settings(render: Render):
    pod = deployment(render())["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False
    assert environment(render())[f"{PREFIX}REPORTS_PORT"].isdigit()


def test_the_default_environment_is_the_default_settings_but_for_what_the_chart_wires(render: Render):
    settings = Settings.from_environment(environment(render()))
    differing = {name for name in vars(settings) if getattr(settings, name) != getattr(Settings(), name)}
    assert differing <= WIRED
    assert settings.namespace == "ft"
    assert settings.replica == "pod-0"
    assert settings.leader_election
    assert settings.trainer_image == f"finetune-trainer:{project_version()}"


def test_values_reach_the_pods_and_the_settings(render: Render):
    rendered = render(ODD)
    found = deployment(rendered)["spec"]
    pod = found["template"]["spec"]
    settings = Settings.from_environment(environment(rendered))
    assert found["replicas"] == 5
    assert pod["containers"][0]["image"] == f"registry.example:5000/a/b@sha256:{'0' * 64}"
    assert pod["containers"][0]["imagePullPolicy"] == "Always"
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": 1, "memory": "1Gi"}
    assert pod["imagePullSecrets"] == [{"name": "mine"}]
    assert (pod["nodeSelector"], pod["priorityClassName"]) == ({"kind": "system"}, "system-cluster-critical")
    assert (pod["tolerations"], pod["affinity"]) == (ODD["tolerations"], ODD["affinity"])
    assert found["template"]["metadata"]["annotations"] == ODD["podAnnotations"]
    assert found["template"]["metadata"]["labels"]["team"] == "ml"
    assert settings.trainer_image == "registry.example/t:7"
    assert settings.image_pull_policy == "Never"
    assert settings.watch_namespaces == ("team-a", "team-b")
    assert (settings.workers, settings.progress_interval, settings.log_level) == (3, 0.5, "DEBUG")
    assert rendered["PodDisruptionBudget", "demo-finetune-operator"]["spec"]["maxUnavailable"] == 2


def test_every_setting_is_a_value_or_follows_from_the_chart():
    chosen = set(type(Values().settings).model_fields)
    assert chosen | WIRED == set(vars(Settings()))
    assert not chosen & WIRED


def test_pods_reach_the_reports_endpoint_through_the_service(render: Render):
    rendered = render(name="finetune-operator", namespace="ml")
    settings = Settings.from_environment(environment(rendered))
    service = rendered["Service", "finetune-operator-reports"]
    assert settings.reports_url == "https://finetune-operator-reports.ml.svc/v1/reports"
    assert service["spec"]["ports"][0]["port"] == 443
    (container,) = deployment(rendered)["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports[service["spec"]["ports"][0]["targetPort"]] == settings.reports_port
    assert settings.advertise_address == f"10.0.0.7:{settings.reports_port}"
    assert ("Secret", settings.reports_secret) in rendered


def test_service_and_disruption_budget_select_the_deployment_s_pods_and_only_them(render: Render):
    rendered = render(ODD)
    labels = deployment(rendered)["spec"]["template"]["metadata"]["labels"]
    for selector in (
        rendered["Service", "demo-finetune-operator-reports"]["spec"]["selector"],
        rendered["PodDisruptionBudget", "demo-finetune-operator"]["spec"]["selector"]["matchLabels"],
        deployment(rendered)["spec"]["selector"]["matchLabels"],
    ):
        assert selector == {"app.kubernetes.io/name": "finetune-operator", "app.kubernetes.io/instance": "demo"}
        assert selector.items() <= labels.items()


def test_prometheus_finds_the_metrics_by_annotations_or_by_a_pod_monitor(render: Render):
    for values, found_by in (({}, "annotations"), (ODD, "PodMonitor"), ({"metrics": {"enabled": False}}, None)):
        rendered = render(values)
        template = deployment(rendered)["spec"]["template"]
        ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        settings = Settings.from_environment(environment(rendered))
        annotations = template["metadata"].get("annotations") or {}
        monitor = rendered.get(("PodMonitor", "demo-finetune-operator"))
        assert (annotations.get("prometheus.io/scrape") == "true") == (found_by == "annotations")
        assert (monitor is not None) == (found_by == "PodMonitor")
        assert settings.metrics == (found_by is not None) == ("metrics" in ports)
        if found_by:
            assert ports["metrics"] == settings.metrics_port
        if found_by == "annotations":
            assert int(annotations["prometheus.io/port"]) == settings.metrics_port
        if monitor:
            assert monitor["metadata"]["labels"]["release"] == "prom"
            assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "path": "/metrics", "interval": "1m"}]
            assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("values", "open_to_all", "metrics_from"),
    [
        ({}, None, None),
        ({"networkPolicy": {"enabled": True}}, {"reports", "health"}, None),
        (ODD, {"reports", "health"}, ODD["networkPolicy"]["metricsFrom"]),
        (ODD | {"metrics": {"enabled": False}}, {"reports", "health"}, None),
    ],
    ids=["none", "nobody reads metrics", "one namespace does", "there are none"],
)
def test_a_network_policy_keeps_metrics_for_those_who_may_read_them(
    render: Render, values: dict[str, Any], open_to_all: set[str] | None, metrics_from: list[dict[str, Any]] | None
):
    rendered = render(values)
    policy = rendered.get(("NetworkPolicy", "demo-finetune-operator"))
    if open_to_all is None:
        assert policy is None
        return
    template = deployment(rendered)["spec"]["template"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    first, *rest = policy["spec"]["ingress"]
    assert {port["port"] for port in first["ports"]} == open_to_all
    assert "from" not in first
    assert [rule["from"] for rule in rest] == ([metrics_from] if metrics_from else [])
    assert [port["port"] for rule in rest for port in rule["ports"]] == (["metrics"] if metrics_from else [])


def test_the_secret_is_empty_so_that_an_upgrade_leaves_the_certificate_alone(render: Render):
    secret = render()["Secret", "finetune-operator-reports"]
    assert not {"data", "stringData"} & set(secret)


@pytest.mark.parametrize("definition", crd.definitions(), ids=lambda definition: definition["metadata"]["name"])
def test_the_chart_s_crds_are_the_contract_s_and_survive_an_uninstall(render: Render, definition: dict[str, Any]):
    key = ("CustomResourceDefinition", definition["metadata"]["name"])
    found = render()[key]
    assert found["spec"] == definition["spec"]
    assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in render(ODD)[key]["metadata"]
    assert key not in render({"crds": {"install": False}})


def test_a_long_release_name_gives_names_that_kubernetes_takes(render: Render):
    for kind, name in render(name="r" * 53):
        if kind != "CustomResourceDefinition":
            assert len(name) <= 63, f"{kind} {name}"


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"replica": 1}, "replica"),
        ({"replicas": 0}, "/replicas"),
        ({"replicas": "two"}, "/replicas"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"trainer": {"image": {"repository": ""}}}, "/trainer/image/repository"),
        ({"settings": {"workers": 0}}, "/settings/workers"),
        ({"settings": {"wrokers": 2}}, "wrokers"),
        ({"settings": {"namespace": "other"}}, "namespace"),
        ({"watchNamespaces": ["Team A"]}, "/watchNamespaces/0"),
        ({"resources": {"request": {}}}, "request"),
        ({"podDisruptionBudget": {"maxUnavailable": 0}}, "/podDisruptionBudget/maxUnavailable"),
        ({"crds": {"keep": "yes"}}, "/crds/keep"),
        ({"metrics": {"podMonitor": {"interval": "often"}}}, "/metrics/podMonitor/interval"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_with_its_path(chart: helm.Chart, values: dict[str, Any], path: str):
    with pytest.raises(helm.HelmValuesError) as refusal:
        chart.validate_schema(values)
    assert path in str(refusal.value)


@pytest.mark.parametrize("values", [{}, ODD, {"global": {"any": "thing"}}], ids=["default", "odd", "as a subchart"])
def test_right_values_are_accepted(chart: helm.Chart, values: dict[str, Any]):
    chart.validate_schema(values)


def test_the_readme_lists_every_value(chart: helm.Chart):
    listed = set(re.findall(r"^\| `([\w.]+)` \|", (CHART / "README.md").read_text(), re.MULTILINE))

    def leaves(values: Any, schema: Any, prefix: str = "") -> set[str]:
        if "properties" not in schema:
            return {prefix.rstrip(".")}
        return {leaf for key in values for leaf in leaves(values[key], schema["properties"][key], f"{prefix}{key}.")}

    assert listed == leaves(chart.values, chart.schema)


def test_the_notes_name_the_namespace_and_how_to_go_on(chart: helm.Chart):
    notes = chart.render({}, name="demo", namespace="ft")["finetune-operator/templates/NOTES.txt"]
    assert "kubectl -n ft rollout status deployment/demo-finetune-operator" in notes
    assert "kind: FineTuneJob" in notes
    yaml_of_job = notes[notes.index("  apiVersion:") : notes.index("and follow it")]
    read_spec(yaml.safe_load(yaml_of_job)["spec"])


def granted(objects: AllObjects) -> set[tuple[str, str, str, str, str]]:
    """(namespace or *, group, resource, verb, name or *) of everything that bindings give to the ServiceAccount."""
    account = {"kind": "ServiceAccount", "name": "demo-finetune-operator", "namespace": "ft"}
    found = set()
    for (kind, _, namespace), binding in objects.items():
        if kind in ("ClusterRoleBinding", "RoleBinding") and account in binding["subjects"]:
            role = objects[binding["roleRef"]["kind"], binding["roleRef"]["name"], namespace]
            found |= {
                (namespace or "*", group, resource, verb, name)
                for rule in role["rules"]
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
                for name in rule.get("resourceNames", ["*"])
            }
    return found


def declared(served: tuple[str, ...]) -> set[tuple[str, str, str, str, str]]:
    """The same of the operator's table."""
    where = {Scope.SERVED: served, Scope.CLUSTER: ("*",), Scope.OWN: ("ft",)}
    return {
        (namespace, p.group, p.full_resource, verb, getattr(Settings(), p.named_by) if p.named_by else "*")
        for p in PERMISSIONS
        for namespace in where[p.scope]
        for verb in p.verbs
    }


@pytest.mark.parametrize("served", [(), ("team-a", "team-b"), ("ft",)], ids=["all", "two", "its own"])
def test_the_service_account_may_do_what_the_operator_declares_and_nothing_else(
    render_all: RenderAll, served: tuple[str, ...]
):
    objects = render_all({"watchNamespaces": list(served)})
    assert granted(objects) == declared(served or ("*",))


def test_no_rule_has_a_wildcard_or_lets_secrets_be_read_unnamed(render_all: RenderAll):
    for namespace, group, resource, verb, name in granted(render_all({})):
        assert "*" not in (group, resource, verb)
        assert verb not in ("escalate", "bind", "impersonate", "approve", "sign")
        assert not resource.startswith(("roles", "clusterroles", "serviceaccounts", "pods/", "nodes"))
        assert (resource != "secrets") or (namespace, name) == ("ft", Settings().reports_secret)


def test_the_deployment_runs_as_the_service_account_that_holds_the_rights(render: Render):
    pod = deployment(render())["spec"]["template"]["spec"]
    assert ("ServiceAccount", pod["serviceAccountName"]) in render()
    assert pod["serviceAccountName"] == "demo-finetune-operator"


def test_the_values_and_commands_of_the_install_guide_are_right(chart: helm.Chart, render: Render):
    guide = (ROOT / "docs/install.md").read_text()
    values = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)[0])
    chart.validate_schema(values)
    objects = render(values, name="finetune-operator", namespace="finetune-operator")
    named = set(re.findall(r"(deployment|customresourcedefinition)[/ ]([\w.-]+)", guide))
    assert len(named) == 2
    assert named <= {(kind.lower(), name) for kind, name in objects}
    (container,) = deployment(objects)["spec"]["template"]["spec"]["containers"]
    tags = re.findall(r"--tag (\S+)", guide)
    assert tags == [container["image"], environment(objects)[f"{PREFIX}TRAINER_IMAGE"]]


def test_links_of_the_install_guide_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / "docs/install.md").read_text()):
        assert (ROOT / "docs" / link).exists(), link
