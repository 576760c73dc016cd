"""What every model of the contract shares: strictness, camelCase names, rules that hold in CEL and in Python alike."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel


@dataclass(frozen=True)
class NotYet:
    """Marks a field, or some of its values, that nothing acts on yet: it is refused, never ignored.

    ``values`` empty means any value. The marker becomes a CEL rule in the CRD, and the models refuse the same.
    """

    values: tuple[str | bool, ...] = ()

    def refuses(self, value: object) -> bool:
        """Whether a value (None: the field was left out) must be refused."""
        return value in self.values if self.values else value is not None

    def message(self, field: str, annotation: Any) -> str:
        """The refusal, in a user's words. ``annotation`` is the field's, for what may be given instead."""
        if not self.values:
            return f"{field} is not supported yet: leave it out"
        instead = [_plain(value) for value in _values(annotation) if value not in self.values]
        return f"{', '.join(map(_plain, self.values))}: not supported yet; {field} may be {' or '.join(instead)}"

    def cel(self, field: str) -> str:
        """The rule, on the object that holds the field."""
        if not self.values:
            return f"!has(self.{field})"
        literals = ", ".join(_plain(v) if isinstance(v, bool) else f"'{v}'" for v in self.values)
        return f"!has(self.{field}) || !(self.{field} in [{literals}])"


@dataclass(frozen=True)
class Mutable:
    """Marks a field of the spec that may be changed after the job was created."""


@dataclass(frozen=True)
class Rule:
    """A rule that spans fields, once as CEL for the API server and once as Python for everybody else.

    ``field`` is the field (camelCase, below the model) that the refusal names; ``holds`` gets the model.
    A test holds both against each other.
    """

    field: str
    cel: str
    message: str
    holds: Callable[[Any], bool]


def _values(annotation: Any) -> Iterator[str | bool]:
    """The values that a field of few values may have."""
    if annotation is bool:
        yield from (False, True)
    for inner in get_args(annotation):
        if isinstance(inner, str):
            yield inner
        else:
            yield from _values(inner)


def _plain(value: str | bool) -> str:
    """A value as YAML and CEL write it."""
    return str(value).lower() if isinstance(value, bool) else value


class Model(BaseModel):
    """Base of all models: immutable, no unknown fields, camelCase outside and snake_case inside."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def not_yet(cls) -> Iterator[tuple[str, str, NotYet]]:
        """(attribute, camelCase name, marker) of the fields that are refused for now."""
        for attribute, info in cls.model_fields.items():
            for marker in info.metadata:
                if isinstance(marker, NotYet):
                    yield attribute, info.alias or attribute, marker

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        broken = [rule.message for rule in self.rules if not rule.holds(self)]
        broken += [
            marker.message(name, type(self).model_fields[attribute].annotation)
            for attribute, name, marker in _marked(type(self))
            if marker.refuses(getattr(self, attribute))
        ]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def to_json(self) -> str:
        """Compact JSON with camelCase names, without fields that are not set."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able dict with camelCase names, without fields that are not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


@cache
def _marked(model: type[Model]) -> tuple[tuple[str, str, NotYet], ...]:
    """``model.not_yet()``, looked for once: every object that is read asks for it."""
    return tuple(model.not_yet())


class StatusModel(Model):
    """Base of what programs write: an unknown field comes from a newer version and is passed over, not refused."""

    model_config = ConfigDict(extra="ignore")
