"""Which generated files there are, and what belongs in each."""

from collections.abc import Callable
from pathlib import Path

from finetune_api import crd
from finetune_operator.generate import chart, reference, rights
from finetune_operator.generate.text import yaml_file

CHART = "charts/finetune-operator"

FILES: dict[str, Callable[[], str]] = {
    "crds/finetunejobs.yaml": lambda: yaml_file(crd.definition()),
    "crds/finetuneprofiles.yaml": lambda: yaml_file(crd.profile_definition()),
    f"{CHART}/Chart.yaml": chart.chart_yaml,
    f"{CHART}/templates/crd.yaml": lambda: chart.crd_template(crd.definition()),
    f"{CHART}/templates/crd-profiles.yaml": lambda: chart.crd_template(crd.profile_definition()),
    f"{CHART}/templates/_permissions.tpl": rights.template,
    f"{CHART}/values.yaml": chart.values_yaml,
    f"{CHART}/values.schema.json": chart.values_schema_json,
    f"{CHART}/README.md": chart.readme,
    "docs/reference/finetunejob.md": reference.finetunejob,
    "docs/reference/finetuneprofile.md": reference.finetuneprofile,
    "docs/reference/templates.md": reference.templates,
    "docs/reference/reasons.md": reference.reasons,
    "docs/reference/exit-codes.md": reference.exit_codes,
    "docs/reference/metrics.md": reference.metrics_page,
    "docs/reference/operator-settings.md": reference.operator_settings,
    "docs/reference/permissions.md": rights.page,
}
"""Path from the root of the repository → its text."""


def write(root: Path) -> list[str]:
    """Brings every generated file up to date; the paths of those that were not."""
    stale = drifted(root)
    for path in stale:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(FILES[path](), encoding="utf-8")
    return stale


def drifted(root: Path) -> list[str]:
    """The paths of the generated files that are missing or differ from their source."""
    return [path for path, text in FILES.items() if not _holds(root / path, text())]


def _holds(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == text
