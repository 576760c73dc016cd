"""What the parameters of one API call say, apart from its body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import bad_request
from .resources import Resource

_VALIDATIONS = ("Ignore", "Warn", "Strict")


@dataclass
class Call:
    """One call on one resource, and the warnings that its answer carries."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    user: str = ""
    manager: str = "unknown"
    dry_run: bool = False
    validation: str = "Warn"
    force: bool = False
    warnings: list[str] = field(default_factory=list)

    def read(self, query: Mapping[str, str], user_agent: str) -> Call:
        """Takes up dryRun, fieldManager, fieldValidation and force. Raises 400 for values unknown."""
        if query.get("dryRun", "") not in ("", "All"):
            raise bad_request(f'dryRun: Unsupported value: {query["dryRun"]!r}: supported values: "All"')
        validation = query.get("fieldValidation") or "Warn"
        if validation not in _VALIDATIONS:
            raise bad_request(f"fieldValidation parameter must be one of {', '.join(_VALIDATIONS)}")
        self.dry_run = query.get("dryRun") == "All"
        self.manager = query.get("fieldManager") or user_agent.partition("/")[0] or "unknown"
        self.validation = validation
        self.force = query.get("force") == "true"
        return self
