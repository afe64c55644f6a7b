"""The canonical text of a part of a study: equal text means the same question."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from mar.study.kinds import KEY


def canonical(value: Any) -> str:
    """Sorted JSON without default values: equal text means the same question."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True, context=KEY)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
