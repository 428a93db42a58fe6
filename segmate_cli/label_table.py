"""Tables that say what the values of a label map mean, from users' CSV, TSV or JSON files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from segmate_cli.errors import InputError
from segmate_cli.organs import Organ, foreign_organ

_BUILTIN = Path(__file__).parent / "label_tables"
_VALUE_COLUMNS = ("value", "label", "id", "index", "key")
_NAME_COLUMNS = ("organ", "name", "structure", "title")
# All that json, csv and a wrong shape of the content raise.
_MALFORMED = (OSError, ValueError, LookupError, TypeError, RecursionError, csv.Error)
# Label maps hold at most 16 bits.
_HIGHEST = 65535


def builtin_tables() -> list[str]:
    """Names of the tables that come with segmate: those of public data sets and tools."""
    return sorted(path.stem for path in _BUILTIN.glob("*.csv"))


def read_label_table(path: Path) -> dict[int, Organ]:
    """Read a table of label values, by path or, where no such file is, by a built-in's name.

    CSV and TSV: a header with a column ``value`` (or label, id) and one ``organ`` (or name), or
    two bare columns. JSON: ``{"1": "liver"}``, ``{"liver": 1}``, a list of
    ``{"value": 1, "organ": "liver"}``, or segmate's sidecar.

    Raises:
        InputError: The file cannot be read so.
    """
    if str(path).lower() in builtin_tables() and not path.exists():
        path = _BUILTIN / f"{str(path).lower()}.csv"
    try:
        text = path.read_text(encoding="utf-8-sig")
        pairs = _from_json(json.loads(text)) if path.suffix.lower() == ".json" else _from_csv(text)
        table = _unambiguous(pairs)
    except _MALFORMED as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InputError(
            f"{path}: cannot be read as a table of labels ({reason}); give value and organ "
            'columns, JSON such as {"1": "liver"}, or one of '
            f"{', '.join(builtin_tables())}."
        ) from error
    named = {value: name for value, name in table.items() if value > 0 and name}
    if not named:
        raise InputError(f"{path}: the table names no label over 0.")
    return {value: foreign_organ(name, value) for value, name in named.items()}


def _unambiguous(pairs: list[tuple[Any, Any]]) -> dict[int, str]:
    table: dict[int, str] = {}
    for given, name in pairs:
        value = _whole(given)
        text = "" if name is None else str(name).strip()
        if table.setdefault(value, text) != text:
            raise ValueError(f"value {value} is both {table[value]!r} and {text!r}")
    return table


def _whole(given: Any) -> int:
    """Spreadsheets like to write 1 as 1.0; 1.5 is no label."""
    number = float(given)
    if isinstance(given, bool) or not number.is_integer() or abs(number) > _HIGHEST:
        raise ValueError(f"{given!r} is no label value, a whole number up to {_HIGHEST}")
    return int(number)


def _from_json(data: Any) -> list[tuple[Any, Any]]:
    if isinstance(data, dict) and isinstance(data.get("labels"), list | dict):
        data = data["labels"]
    if isinstance(data, list):
        return list(map(_pair_in, data))
    if isinstance(data, dict):
        return [(k, v) if _is_number(k) else (v, k) for k, v in data.items()]
    raise ValueError("neither an object nor a list")


def _from_csv(text: str) -> list[tuple[Any, Any]]:
    first = text.partition("\n")[0]
    delimiter = max("\t;,", key=first.count)
    rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(row)]
    if not rows or len(rows[0]) < 2:
        raise ValueError("no two columns")
    if _is_number(rows[0][0]):
        return [(row[0], row[1]) for row in rows]
    names = [cell.strip().lower() for cell in rows[0]]
    records = [dict(zip(names, row, strict=False)) for row in rows[1:]]
    return list(map(_pair_in, records))


def _is_number(text: str) -> bool:
    return text.strip().lstrip("-").isdecimal()


def _pair_in(row: dict[str, Any]) -> tuple[Any, Any]:
    """Value and name; a column ``label`` is the name where nothing else can be."""
    if "label" in row and not any(column in row for column in _NAME_COLUMNS):
        values = tuple(column for column in _VALUE_COLUMNS if column != "label")
        return _pick(row, values), row["label"]
    return _pick(row, _VALUE_COLUMNS), _pick(row, _NAME_COLUMNS)


def _pick(row: dict[str, Any], columns: tuple[str, ...]) -> Any:
    for column in columns:
        if column in row:
            return row[column]
    raise KeyError(f"no column {' or '.join(columns)}")
