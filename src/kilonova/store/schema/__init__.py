"""The tables, one file a group of resources. Times are epoch seconds (float, UTC); ids are UUID text."""

from __future__ import annotations

from kilonova.store.schema.base import metadata

__all__ = ["metadata"]
