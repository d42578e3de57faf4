"""What every part of a study is made of: a frozen section that refuses unknown keys, and checked kinds of values."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from harness.spec_errors import refuse

Json = dict[str, Any]


def _is_slug(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", text):
        raise refuse((), f"must be lower case letters, digits, - and _, received {text!r}")
    return text


Slug = Annotated[str, AfterValidator(_is_slug)]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class Part(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
