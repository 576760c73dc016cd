"""YAML as kubectl reads it, where PyYAML reads it otherwise."""

import json
import re
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")


class InvalidYaml(ValueError):
    """A text is no YAML, or none that JSON can hold. ``str()`` says in one line where and why."""


class _Loader(yaml.SafeLoader):
    """Numbers need no dot before their exponent, dates are text, and no key may stand twice in a mapping."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Looks at keys here, because what ``<<`` merges in later may be given again."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f'the key "{key.value}" is given twice', problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{_TAG}float", _EXPONENT, list("-+.0123456789"))


def load_all(text: str) -> list[Any]:
    """The documents of a text, each of what JSON can hold.

    Raises:
        InvalidYaml: see there.
    """
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as e:
        context = f" ({e.context})" if e.context else ""
        raise InvalidYaml(f"{_place(e.problem_mark)}{e.problem}{context}") from None
    except yaml.YAMLError as e:
        raise InvalidYaml(" ".join(str(e).split())) from None
    for i, document in enumerate(documents):
        try:
            json.dumps(document, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as e:
            raise InvalidYaml(f"document {i + 1} holds what JSON cannot: {e}") from None
    return documents


def _place(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
