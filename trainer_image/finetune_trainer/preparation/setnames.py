"""What the sets of a run are called: by it metrics tell them apart, and a validation file finds its train set."""

import re
from collections import Counter
from collections.abc import Sequence

from finetune_api.spec import DataSource

_LONGEST = 32
"""Characters of a name, as in ``DataSource.name``."""


def set_names(sources: Sequence[DataSource]) -> list[str]:
    """The name of the set that each file belongs to: the user's, or one made of its URI, with as many folders as tell
    it from the others."""
    places = {source.uri: re.sub(r"\.[^./]*$", "", source.uri).split("/")[2:] for source in sources if not source.name}
    names: dict[str, str] = {}
    for depth in range(1, 1 + max(map(len, places.values()), default=0)):
        made = {uri: _plain("-".join(place[-depth:])) for uri, place in places.items() if uri not in names}
        times = Counter([*made.values(), *names.values()])
        names |= {uri: name for uri, name in made.items() if times[name] == 1}
    alike = [uri for uri in places if uri not in names]
    names |= {uri: f"{_plain(places[uri][-1])[: _LONGEST - 3]}-{number}" for number, uri in enumerate(alike, 1)}
    return [source.name or names[source.uri] for source in sources]


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[-_LONGEST:].strip("._-") or "set"
