"""What every table shares: one MetaData, texts, numbers, and a JSON column that msgspec encodes."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)


class Json(sa.types.TypeDecorator[Any]):
    """JSON in a text column. With a type given, reads come back as that msgspec struct."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, kind: Any = None) -> None:
        super().__init__()
        self.kind = kind
        self._decode = msgspec.json.Decoder(Any if kind is None else kind).decode

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else encoded(value)

    def process_result_value(self, value: str | None, dialect: Any) -> Any:
        return None if value is None else self._decode(value)


def encoded(value: Any) -> str:
    """As it is in the column."""
    return msgspec.json.encode(value).decode()


def text(length: int | None = None) -> sa.types.TypeEngine[str]:
    """Text that sorts by its characters' numbers, as SQLite sorts, whatever language the server speaks."""
    if length is None:
        return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def serial() -> sa.types.TypeEngine[int]:
    """For a primary key that counts up by itself. SQLite counts only what is called INTEGER, in 64 bits."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def uuid_column(name: str, *args: Any, **kwargs: Any) -> sa.Column[str]:
    return sa.Column(name, text(36), *args, **kwargs)
