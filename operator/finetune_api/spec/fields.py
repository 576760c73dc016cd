"""Kinds of fields that several sections share."""

import re
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from finetune_api.base import Rule
from finetune_api.plain import ODD_IN_URI, odd_in_uri

Uri = Annotated[str, Field(min_length=6, max_length=1024)]
ObjectName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
SecretName = ObjectName
Image = Annotated[
    str,
    Field(
        max_length=512,
        pattern=r"^[a-z0-9]+([._-]+[a-z0-9]+)*(:[0-9]+/[a-z0-9]+([._-]+[a-z0-9]+)*)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
        r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$",
    ),
]
"""A container image: registry (with a port), path, tag, digest."""
Duration = Annotated[str, Field(max_length=32, pattern=r"^([0-9]+h([0-9]+m)?([0-9]+s)?|[0-9]+m([0-9]+s)?|[0-9]+s)$")]
Quantity = (
    Annotated[int, Field(ge=0, le=2**40)]
    | Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
)
Share = Annotated[float, Field(ge=0, le=1)]
PLAIN_PATH = Rule(
    "uri",
    "!self.uri.matches('/[.][.]?(/|$)')",
    "uri must not have . or .. between its slashes: name the place itself",
    lambda m: not re.search(r"/\.\.?(/|$)", m.uri),
)
"""HTTP clients take such a part for the folder above, and would ask for another bucket."""

PLAIN_CHARACTERS = Rule(
    "uri",
    f"!self.uri.matches('{ODD_IN_URI}')",
    "uri must not have control characters, characters that show as nothing or look like a dot or a slash, backslashes "
    "or escapes such as %2e: write the characters themselves",
    lambda m: odd_in_uri(m.uri) is None,
)
"""Programs on the way to the bucket may read them as another place than a person, or an allow-list, does."""
PLAIN = (PLAIN_PATH, PLAIN_CHARACTERS)


def unique(field: str, by: str, message: str) -> Rule:
    """No two items of the list ``field`` have the same ``by``; both are one word."""
    return Rule(
        field,
        f"self.{field}.all(a, self.{field}.exists_one(b, b.{by} == a.{by}))",
        message,
        lambda m: len({getattr(item, by) for item in getattr(m, field)}) == len(getattr(m, field)),
    )


def optional(rule: Rule) -> Rule:
    """The rule for a model whose ``uri`` may be absent."""
    return replace(rule, cel=f"!has(self.uri) || {rule.cel}", holds=lambda m: not m.uri or rule.holds(m))
