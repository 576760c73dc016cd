"""The chart as the real Helm engine reads it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

CHART = Path(__file__).parents[2] / "charts/finetune-operator"
AllObjects = dict[tuple[str, str, str], dict[str, Any]]
RenderAll = Callable[..., AllObjects]
Objects = dict[tuple[str, str], dict[str, Any]]
Render = Callable[..., Objects]


@pytest.fixture(scope="session")
def chart() -> Iterator[helm.Chart]:
    with helm.Chart.load(CHART) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def render_all(chart: helm.Chart) -> RenderAll:
    """(values, release name, namespace) → the rendered objects by kind, name and namespace (empty: none)."""

    def rendered(values: dict[str, Any] | None = None, name: str = "demo", namespace: str = "ft") -> AllObjects:
        files = chart.render(values or {}, name=name, namespace=namespace)
        objects = [o for path, text in files.items() if path.endswith(".yaml") for o in yaml.safe_load_all(text) if o]
        return {(o["kind"], o["metadata"]["name"], o["metadata"].get("namespace", "")): o for o in objects}

    return rendered


@pytest.fixture(scope="session")
def render(render_all: RenderAll) -> Render:
    """The same by kind and name, where that is enough."""
    return lambda *arguments, **named: {key[:2]: o for key, o in render_all(*arguments, **named).items()}


def environment_of(deployment: dict[str, Any], address: str) -> dict[str, str]:
    """The container's variables as the kubelet would set them on a pod named pod-0."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    fields = {"metadata.name": "pod-0", "status.podIP": address}
    found: dict[str, str] = {}
    for variable in container["env"]:
        path = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        value = fields[path] if path else variable.get("value", "")
        found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], value)
    return found
