"""Plain values in one form: equal values give equal JSON, equal digests and equal dotted paths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space, equal for equal values whatever their key order.

    Raises:
        ValueError: A NaN or infinite number, which JSON cannot hold.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """12 hex digits of the SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value; lists and empty mappings are values."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        path = f"{prefix}{key}"
        if isinstance(item, Mapping) and item:
            found |= flatten(item, f"{path}.")
        else:
            found[path] = item
    return found
