"""What the CEL rules of our definitions may cost, by the way a real API server estimates it before it takes them.

It refuses a definition whose rule may cost more than 10 million, or whose rules together more than 100 million. It
estimates from the schema, from how long a text and how many items there may be at most, as the documentation of
CustomResourceDefinitions says ("Resource use by validation functions"): each step costs 1; to go over a text a tenth
of its length; a regular expression that times a quarter of its own length; a macro what is in it times the items; a
rule is run for each item of the lists above it. Without a bound, the estimate takes the size of a whole request. Ours
is coarser than the server's; no real server has judged these rules here.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_api import crd

RULE_LIMIT, TOTAL_LIMIT = 10_000_000, 100_000_000
REQUEST = 3 * 2**20
Schema = dict[str, Any]


def rules(schema: Schema, path: str = "", times: int = 1) -> Iterator[tuple[str, Schema, str, int]]:
    """(path, schema, rule, how often it is run at most)."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path or ".", schema, rule["rule"], times
    for name, inner in schema.get("properties", {}).items():
        yield from rules(inner, f"{path}.{name}", times)
    if "items" in schema:
        yield from rules(schema["items"], f"{path}[]", times * schema.get("maxItems", REQUEST // 2))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from rules(
            schema["additionalProperties"], f"{path}{{}}", times * schema.get("maxProperties", REQUEST // 2)
        )


def size(schema: Schema) -> int:
    """The most that there may be to go over, in characters and items."""
    if "enum" in schema:
        return max(len(str(value)) for value in schema["enum"])
    if schema.get("type") == "array":
        return schema.get("maxItems", REQUEST) * max(1, size(schema["items"]))
    if schema.get("type") == "object":
        inner = sum(size(one) for one in schema.get("properties", {}).values())
        extra = schema.get("additionalProperties")
        return inner + (schema.get("maxProperties", REQUEST) * (64 + size(extra)) if isinstance(extra, dict) else 0)
    if schema.get("type") == "string" or schema.get("x-kubernetes-int-or-string"):
        return 4 * schema.get("maxLength", REQUEST)  # a character may have four bytes
    return 1


def at(schema: Schema, path: str) -> Schema:
    for name in path.split("."):
        schema = schema.get("properties", {}).get(name, {})
    return schema


def items_of(schema: Schema, rule: str) -> list[int]:
    """How many items each macro of a rule goes over at most."""
    found = re.findall(r"(?:self|oldSelf)\.([\w.]+)\.(?:all|exists|exists_one|filter|map)\(", rule)
    return [at(schema, path).get("maxItems") or at(schema, path).get("maxProperties") or REQUEST for path in found]


def cost(schema: Schema, rule: str) -> int:
    """What one run of a rule may cost: every step, text and comparison of it as often as all its macros say."""
    repeated = math.prod(items_of(schema, rule))
    steps = len(re.findall(r"[\w\]]+|[!=<>&|+-]+", rule))
    named = [at(schema, path) for path in re.findall(r"self\.([\w.]+)", rule)]
    longest = max((size(one) for one in named if one), default=1)
    if repeated > 1:
        longest = max(size(at(schema, p).get("items", {})) for p in re.findall(r"self\.([\w.]+)\.(?:all|exists)", rule))
    texts = longest * 0.1 * len(re.findall(r"==|!=| in |contains|startsWith|endsWith", rule))
    patterns = sum(longest * 0.1 * max(1, len(p) * 0.25) for p in re.findall(r"matches\('(.*?)'\)", rule))
    return math.ceil(repeated * (steps + texts + patterns))


ALL = [
    (definition["metadata"]["name"], *found)
    for definition in crd.definitions()
    for found in rules(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
]


def test_the_rules_are_all_found():
    assert len(ALL) > 80


@pytest.mark.parametrize("name", [definition["metadata"]["name"] for definition in crd.definitions()])
def test_no_rule_and_not_all_together_cost_more_than_an_api_server_allows(name: str):
    costs = {(path, rule): times * cost(schema, rule) for of, path, schema, rule, times in ALL if of == name}
    dearest = max(costs, key=lambda key: costs[key])
    assert costs[dearest] < RULE_LIMIT, (dearest, costs[dearest])
    assert sum(costs.values()) < TOTAL_LIMIT


def test_an_unbounded_list_or_text_would_be_found():
    item = {"type": "object", "properties": {"uri": {"type": "string"}}}
    loose = {"type": "object", "properties": {"files": {"type": "array", "items": item}}}
    assert cost(loose, "self.files.all(f, f.uri != '')") > RULE_LIMIT
    assert REQUEST * cost(item, "!self.uri.matches('/[.]+/')") > RULE_LIMIT
