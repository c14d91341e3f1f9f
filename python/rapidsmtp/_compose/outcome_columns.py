"""The columns that a list of failures and the export of a campaign append to a list's own columns.

Such a file has one line for each row, also if a row has several recipients. So it can be sent
again.
"""

from collections.abc import Sequence

from rapidsmtp.errors import spreadsheet_text

COLUMNS = ("outcome", "outcome_recipient", "outcome_code", "outcome_enhanced", "outcome_text")


def header_of(names: Sequence[str]) -> list[str]:
    """Return the header of the file. The names of the appended columns are not names of the list.

    Args:
        names: The names of the list's own columns.
    """
    return [*names, *(_unused(name, names) for name in COLUMNS)]


def joined_cells(outcomes: Sequence[Sequence[object]]) -> list[str]:
    """Return the appended cells of a row.

    Args:
        outcomes: For each recipient, the values of `COLUMNS`. Different values are separated by
            " | ".
    """
    columns = zip(*outcomes, strict=True)
    texts = [["" if value is None else str(value) for value in values] for values in columns]
    # The relay wrote some of the texts, and a spreadsheet executes cells that begin with "=".
    return [spreadsheet_text(" | ".join(each) if len(set(each)) > 1 else each[0]) for each in texts]


def _unused(name: str, names: Sequence[str]) -> str:
    while name in names:
        name += "_"
    return name
