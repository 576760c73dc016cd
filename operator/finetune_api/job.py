"""FineTuneJob: reading one from what the API server holds, with errors in a user's words."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from finetune_api.base import Model
from finetune_api.spec import FineTuneJobSpec


class InvalidSpec(ValueError):
    """The spec breaks the contract. ``str()`` is one line a user can act on: fields, values, what is expected."""


class FineTuneJob(Model):
    """What a FineTuneJob is made of for those who carry it out: identity and spec."""

    namespace: str
    name: str
    uid: str
    spec: FineTuneJobSpec

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> "FineTuneJob":
        """The typed form of an object of the API server.

        Raises:
            InvalidSpec: the spec breaks a rule (also one that the CRD of an older release does not know).
        """
        meta = raw["metadata"]
        return cls(namespace=meta["namespace"], name=meta["name"], uid=meta["uid"], spec=read_spec(raw.get("spec")))


def read_spec(raw: object) -> FineTuneJobSpec:
    """The typed spec, with defaults filled in.

    Raises:
        InvalidSpec: see there.
    """
    return _read_text(json.dumps(raw))


@functools.lru_cache(maxsize=256)
def _read_text(text: str) -> FineTuneJobSpec:
    """Remembered, because every step of a decision begins with it, and it is a third of what one costs."""
    try:
        return FineTuneJobSpec.model_validate(json.loads(text))
    except ValidationError as e:
        raise InvalidSpec(in_words(e)) from None


def in_words(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False)
    inner = {problem["loc"][:depth] for problem in found for depth in range(len(problem["loc"]))}
    problems = []
    for problem in found:
        if problem["loc"] in inner:  # a list of wrong items is not "too short" as well
            continue
        path = ".".join(["spec", *(str(part) for part in problem["loc"])])
        message = problem["msg"].removeprefix("Value error, ")
        value = problem["input"]
        given = f" (found {value!r})" if isinstance(value, str | int | float | bool) else ""
        problems.append(f"{path}: {message}{given}"[:300])
    return "; ".join(problems)[:1500]
