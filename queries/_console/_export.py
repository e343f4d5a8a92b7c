"""Rows as files: CSV for spreadsheets, JSON lines for programs."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

FORMS = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def exported(rows: list[dict[str, Any]], form: str) -> str:
    if form == "csv":
        return _as_csv(rows)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _as_csv(rows: list[dict[str, Any]]) -> str:
    """A text that a spreadsheet would take for a formula is quoted: nothing that a user typed is executed."""
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([_cell(value) for value in row.values()])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(FORMULA) and not value.lstrip("-").isdecimal():
        return f"'{value}"
    return value
