"""Kinds of fields that several sections share."""

import re
from typing import Annotated

from pydantic import Field

from finetune_api.base import Rule

Uri = Annotated[str, Field(min_length=6, max_length=1024)]
SecretName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
Duration = Annotated[str, Field(max_length=32, pattern=r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$")]
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
