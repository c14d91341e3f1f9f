"""Convert a sheet of a workbook (.xlsx, .xls, .ods) to CSV.

The values become texts as a person reads them in the sheet with the standard format: the number 1.0
is "1", and a date is an ISO date. The CSV file has one record for each row of the sheet.
"""

import csv
import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from python_calamine import CalamineWorkbook

WORKBOOK_SIGNATURES = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
"""The first bytes of a zip archive (.xlsx, .xlsm, .xlsb, .ods), and of an .xls file."""


def write_workbook_csv(path: str, name: str, sheet: str | None, target: str) -> None:
    """Write the cells of a sheet as CSV in UTF-8.

    Args:
        path: The workbook.
        name: The name of the workbook in error texts.
        sheet: The name of the sheet. None means the first sheet that is not hidden.
        target: The path of the CSV file.

    Raises:
        ValueError: The file is not a workbook, it has no such sheet, or python-calamine is missing.
        OSError: The CSV file cannot be written.
    """
    try:
        import python_calamine
    except ImportError:
        raise ValueError(
            f"{name} is a workbook, and python-calamine is not installed; run "
            "pip install 'rapidsmtp[xlsx]', or save the sheet as CSV"
        ) from None
    try:
        with python_calamine.load_workbook(path) as workbook:
            names = workbook.sheet_names
            if sheet is not None and sheet not in names:
                raise ValueError(f"{name} has no sheet {sheet!r}; its sheets are: {_listed(names)}")
            if not names:
                raise ValueError(f"{name} has no sheet")
            found = workbook.get_sheet_by_name(sheet if sheet is not None else _first(workbook))
            rows = found.to_python(skip_empty_area=False)
    except python_calamine.PasswordError:
        raise ValueError(f"{name} is protected by a password; save it without one") from None
    except python_calamine.CalamineError as error:
        raise ValueError(
            f"{name} is not a workbook that can be read (.xlsx, .xls, .ods): {error}"
        ) from None
    with Path(target).open("w", encoding="utf-8", newline="") as file:
        # Before Python 3.13, `csv` quotes a CR in a cell only if the line end contains CR.
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerows([cell_text(cell) for cell in row] for row in rows)


def _first(workbook: "CalamineWorkbook") -> str:
    """Return the name of the first sheet with cells that a spreadsheet program shows."""
    from python_calamine import SheetTypeEnum, SheetVisibleEnum

    shown = (
        each.name
        for each in workbook.sheets_metadata
        if each.visible == SheetVisibleEnum.Visible and each.typ == SheetTypeEnum.WorkSheet
    )
    return next(shown, workbook.sheet_names[0])


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def cell_text(value: Any) -> str:
    """Return the text of a cell."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        # Spreadsheets show at most 15 digits of a number. The addition changes -0.0 to 0.0.
        return f"{Decimal(f'{value + 0.0:.15g}'):f}"
    if isinstance(value, datetime.datetime):
        is_date = value.time() == datetime.time()
        return value.date().isoformat() if is_date else value.isoformat(" ", "seconds")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        seconds = round(value.total_seconds())
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return str(value)
