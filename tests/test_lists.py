"""Recipients lists as programs write them: both backends read the same rows.

`tests/lists/` has files in the formats of widely used programs, with invented people. The file
`expected.json` states the options, the fields and the values of each file. The first value of a row
is its recipient.
"""

import email
import email.policy
import gc
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from rapidsmtp import Message, Template
from rapidsmtp._compose.workbook import cell_text

LISTS = Path(__file__).parent / "lists"
EXPECTED: dict[str, dict[str, Any]] = json.loads((LISTS / "expected.json").read_text("utf-8"))
SEPARATOR = "\N{SECTION SIGN}"


def template_of(fields: Sequence[str]) -> Template:
    text = SEPARATOR.join(f"{{{{ {name}|default('') }}}}" for name in fields)
    return Template.compose(sender="n@example.com", to="{{ email }}", subject="s", text=f"{text}\n")


def rows_of(path: Path, fields: Sequence[str], **options: Any) -> list[list[str]]:
    """Return the recipient and the values of the fields, for each row of a list."""
    found = []
    for message in template_of(fields).merge_csv(path, **options):
        assert isinstance(message, Message), message
        (recipient,) = message.recipients
        parsed = email.message_from_bytes(message.data, policy=email.policy.default)
        text = parsed.get_content().replace("\r\n", "\n").removesuffix("\n")
        found.append([recipient, *(text.split(SEPARATOR) if fields else [])])
    return found


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def error_of(path: Path, fields: Sequence[str] = (), **options: Any) -> str:
    with pytest.raises(ValueError) as raised:
        template_of(fields).merge_csv(path, **options)
    return str(raised.value)


def test_every_list_has_expected_rows() -> None:
    assert {path.name for path in LISTS.iterdir()} == {*EXPECTED, "expected.json"}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_list_as_a_program_writes_it(backend: str, name: str) -> None:
    expected = EXPECTED[name]
    # The text of a message has LF as its line end.
    rows = [[cell.replace("\r\n", "\n") for cell in row] for row in expected["rows"]]
    assert rows_of(LISTS / name, expected["fields"], **expected["options"]) == rows


# Encodings


def test_an_encoding_that_is_not_given_is_named(backend: str, tmp_path: Path) -> None:
    path = written(tmp_path, 'name,email\n"a\nb",a@x.org\n"c\nJörg",b@x.org\n'.encode("latin-1"))
    error = 'the text is not UTF-8; give its encoding, such as encoding="windows-1252"'
    assert error_of(path) == f"list.csv, line 5: {error}"
    assert error_of(written(tmp_path, b"N\xe4me,email\n")) == f"list.csv, line 1: {error}"


def test_a_wrong_encoding_is_an_error_with_the_line(backend: str, tmp_path: Path) -> None:
    path = written(tmp_path, "email,n\na@x.org,é\r\nb@x.org,\x81\n".encode("latin-1"))
    assert error_of(path, encoding="windows-1250").startswith(
        "list.csv, line 3: the text is not in the encoding windows-1250"
    )
    assert error_of(path, encoding="klingon").startswith("unknown encoding 'klingon'")
    assert error_of(path, encoding="base64").startswith("unknown encoding 'base64'")


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-be", "utf-16-le"])
def test_the_byte_order_mark_decides(backend: str, tmp_path: Path, codec: str) -> None:
    mark = "\ufeff" if codec in ("utf-16-be", "utf-16-le") else ""
    path = written(tmp_path, f"{mark}email;n\na@x.org;Zoë\n".encode(codec))
    assert rows_of(path, ["n"], encoding="latin-1") == [["a@x.org", "Zoë"]]


# Delimiters, quotes and line ends


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [
        ("email", ","),
        ("email,name", ","),
        ("email;name, first;x", ";"),
        ("email;name, first", ";"),
        ('"a,b";email', ";"),
        ("email\tname;x\ty", "\t"),
        ("email|name", "|"),
    ],
)
def test_the_delimiter_is_detected(
    backend: str, tmp_path: Path, header: str, delimiter: str
) -> None:
    count = header.replace('"a,b"', "a").count(delimiter) + 1
    cells = ["a@x.org" if "email" in each else "x" for each in header.split(delimiter)][-count:]
    if '"a' in header:
        cells = ["x", "a@x.org"]
    path = written(tmp_path, f"{header}\n{delimiter.join(cells)}\n")
    assert rows_of(path, []) == [["a@x.org"]]


@pytest.mark.parametrize("given", ["^", "tab", "\\t", "semicolon"])
def test_a_delimiter_is_given(backend: str, tmp_path: Path, given: str) -> None:
    delimiter = {"tab": "\t", "\\t": "\t", "semicolon": ";"}.get(given, given)
    path = written(tmp_path, f"sep=,\nemail{delimiter}a,b\na@x.org{delimiter}c,d\n")
    assert rows_of(path, ["a_b"], delimiter=given) == [["a@x.org", "c,d"]]


@pytest.mark.parametrize("line", ["sep=;", "SEP=;;;", '"sep=;"', '"sep=;";;', "sep=; "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_line_of_excel_names_the_delimiter(
    backend: str, tmp_path: Path, line: str, end: str
) -> None:
    path = written(tmp_path, end.join([line, "email;a,b", "a@x.org;c,d"]))
    assert rows_of(path, ["a_b"]) == [["a@x.org", "c,d"]]


def test_a_wrong_delimiter_is_refused(backend: str, tmp_path: Path) -> None:
    for wrong in ("", ",,", '"', "\n", "é"):
        error = error_of(written(tmp_path, "email\n"), delimiter=wrong)
        assert error.startswith(f"{wrong!r} is not a delimiter; use one character")
    error = error_of(written(tmp_path, "sep=é\nemail\n"))
    assert error.startswith("list.csv, line 1: 'é' is not a delimiter; use one character")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_errors_name_the_line_that_an_editor_shows(backend: str, tmp_path: Path, end: str) -> None:
    good = end.join(["", "email,note", 'a@x.org,"one', 'two"', "", ",", "b@x.org,x,,"])
    assert rows_of(written(tmp_path, good), ["note"])[1] == ["b@x.org", "x"]
    for bad, error in (
        ("c@x.org,d,e", "3 cells but 2 columns"),
        ('c@x.org,"d', "the quote of a cell is not closed"),
        (
            'c@x.org,"d"e',
            "a cell has text after its closing quote; write a quote inside a cell twi",
        ),
        ("c@x.org,\0", "the text contains a NUL byte"),
        (f'c@x.org,"{"d" * 140_000}"', "a cell has more than 131072 characters"),
    ):
        text = f"{good}{end}{bad}"
        assert error_of(written(tmp_path, text)).startswith(f"list.csv, line 8: {error}")
        assert error_of(written(tmp_path, f"{text}{end}x")).startswith("list.csv, line 8: ")


# Columns


def test_a_column_has_its_own_name_and_an_identifier(backend: str, tmp_path: Path) -> None:
    path = written(tmp_path, "Email,First Name,Größe (cm),2nd,name,Name\na@x.org,A,b,c,d,e\n")
    fields = ["first_name", "größe_cm", "_2nd", "name", "Name", "Email"]
    assert rows_of(path, fields) == [["a@x.org", "A", "b", "c", "d", "e", "a@x.org"]]


def test_two_columns_for_one_field_are_an_error(backend: str, tmp_path: Path) -> None:
    path = written(tmp_path, "email,First Name,first-name\na@x.org,A,B\n")
    assert error_of(path, ["first_name"]) == (
        "list.csv, line 1: the field 'first_name' may be in the columns 'First Name', "
        "'first-name'; choose one, such as columns={'first_name': 'First Name'}"
    )
    given = {"first_name": "first-name"}
    assert rows_of(path, ["first_name"], columns=given) == [["a@x.org", "B"]]
    assert rows_of(path, []) == [["a@x.org"]]


def test_a_named_column_must_exist_once(backend: str, tmp_path: Path) -> None:
    path = written(tmp_path, "email,x,x\na@x.org,A,B\n")
    assert error_of(path, columns={"n": "Nom"}) == (
        "list.csv, line 1: no column 'Nom'; the columns are: 'email', 'x', 'x'"
    )
    assert error_of(path, columns={"n": "x"}) == "list.csv, line 1: more than one column 'x'"
    assert error_of(path, recipient="y").startswith("list.csv, line 1: no column 'y'")
    assert error_of(path, tag="y").startswith("list.csv, line 1: no column 'y'")


@pytest.mark.parametrize(
    "name",
    [
        *("email", "E-Mail", "EMAIL ADDRESS", "e-mail address", "Mail", "E-Mail-Adresse"),
        *("E-mail 1 - Value", "Email Address [Required]", "Primary Email", "Courriel"),
        *("Adresse e-mail", "Correo electrónico", "Customer Email", "Billing Email"),
    ],
)
def test_the_recipient_column_has_a_usual_name(backend: str, tmp_path: Path, name: str) -> None:
    assert rows_of(written(tmp_path, f"x,{name},y\n1,a@x.org,2\n"), []) == [["a@x.org"]]


def test_two_recipient_columns_are_an_error(backend: str, tmp_path: Path) -> None:
    path = written(tmp_path, "E-Mail-Adresse,Mail\na@x.org,b@x.org\n")
    assert error_of(path) == (
        "list.csv, line 1: the address may be in the columns 'E-Mail-Adresse', 'Mail'; choose "
        "one, such as recipient='E-Mail-Adresse'"
    )
    assert rows_of(path, [], recipient="Mail") == [["b@x.org"]]
    # The column that has the field's own name is used.
    path = written(tmp_path, "E-Mail-Adresse,Email\na@x.org,b@x.org\n")
    assert rows_of(path, []) == [["b@x.org"]]
    assert rows_of(path, [], recipient="E-Mail-Adresse") == [["a@x.org"]]


def test_a_list_without_a_recipient_column(backend: str, tmp_path: Path) -> None:
    assert error_of(written(tmp_path, "who,town\na@x.org,Ulm\n")) == (
        "list.csv, line 1: no column 'email'; the columns are: 'who', 'town'; name the column "
        "with the addresses by recipient="
    )
    assert error_of(written(tmp_path, "emial,town\na@x.org,Ulm\n")) == (
        "list.csv, line 1: no column 'email'; the columns are: 'emial', 'town'; use "
        "columns={'email': 'emial'}"
    )


@pytest.mark.parametrize(
    ("text", "field", "hint"),
    [
        ("{{ E-Mail }}", "E", "; the column 'E-Mail' is the field e_mail"),
        ("{{ first-name }}", "first", "; the column 'First Name' is the field first_name"),
        ("{{ contact.first_name }}", "contact", ""),
    ],
)
def test_the_name_of_a_column_is_no_field(
    backend: str, tmp_path: Path, text: str, field: str, hint: str
) -> None:
    """`{{ E-Mail }}` is a subtraction of two fields."""
    path = written(tmp_path, "E-Mail,First Name\na@x.org,Ann\n")
    template = Template.compose(sender="n@x.org", to="{{ email }}", subject="s", text=text)
    with pytest.raises(ValueError) as raised:
        template.merge_csv(path)
    assert str(raised.value) == (
        f"list.csv, line 1: no column '{field}'; the columns are: 'E-Mail', 'First Name'{hint}"
    )


@pytest.mark.parametrize("line", ["a@x.org", "Ann,a@x.org", " a@x.org ;x", "Ann <a@x.org>"])
def test_a_list_without_a_header(backend: str, tmp_path: Path, line: str) -> None:
    error = error_of(written(tmp_path, f"{line}\nb@x.org\n"))
    assert error.startswith("list.csv, line 1: the list has no header: '")
    assert error.endswith(
        "is an address; write the names of the columns into the first line, such as email,name"
    )


# Duplicates and exclusion lists

REPEATED = "email,n\nann@example.com,1\nbo@x.org,2\nann@EXAMPLE.com,3\nAnn@example.com,4\n"
REPEATED += " ann@example.com\u200b,5\nann@münchen.example,6\nann@xn--mnchen-3ya.example,7\n"


def test_only_the_first_row_of_a_recipient_is_sent(backend: str, tmp_path: Path) -> None:
    path = written(tmp_path, REPEATED)
    merge = template_of(["n"]).merge_csv(path, tag="n")
    assert [message.tag for message in merge] == ["1", "2", "4", "6"]
    assert (merge.duplicates, merge.excluded) == (3, 0)
    merge = template_of(["n"]).merge_csv(path, tag="n", duplicates="all")
    assert [message.tag for message in merge] == ["1", "2", "3", "4", "5", "6", "7"]
    assert error_of(path, duplicates="error") == (
        "list.csv, line 4: the address ann@example.com is already in line 2; 3 rows repeat an "
        'address; use duplicates="first" to send to the first one only'
    )
    assert error_of(path, duplicates="none").startswith("duplicates is 'none': it must be one of")


def test_rows_without_an_address_are_no_duplicates(backend: str, tmp_path: Path) -> None:
    merge = template_of([]).merge_csv(written(tmp_path, "n,email\na,\nb, \nc,d\ne,d\n"))
    assert len(list(merge)) == 4 and merge.duplicates == 0


def test_recipients_from_several_columns(backend: str, tmp_path: Path) -> None:
    template = Template.compose(
        sender="n@x.org", to="{{ user }}@{{ domain }}", cc="{{ boss }}", subject="s", text="t"
    )
    text = "user,domain,boss\na,x.org,\nb,x.org,\na,x.org,\n"
    merge = template.merge_csv(written(tmp_path, text))
    assert (len(list(merge)), merge.duplicates) == (2, 1)
    template = Template.compose(
        sender="n@x.org", to="{{ name }} <{{ email }}>", cc="{{ boss }}", subject="s", text="t"
    )
    text = "name,email,boss\nA,a@x.org,b@x.org\nA,a@x.org,c@x.org\nB,a@x.org,b@X.org\n"
    merge = template.merge_csv(written(tmp_path, text))
    # Rows are duplicates if all of their recipients are equal.
    assert (len(list(merge)), merge.duplicates) == (2, 1)


def test_a_constant_recipient_has_no_duplicates(backend: str, tmp_path: Path) -> None:
    template = Template.compose(sender="n@x.org", to="b@x.org", subject="{{ email }}", text="t")
    path = written(tmp_path, "email\na@x.org\na@x.org\n")
    assert template.merge_csv(path).duplicates == 0
    assert template.merge_csv(path, recipient="email").duplicates == 1


@pytest.mark.parametrize(
    "text",
    [
        "ANN@example.com\n\n# not ann@m\u00fcnchen.example\nbo@X.org\n",
        '# comment\n"Archer, Ann" <ann@example.com>\nbo@x.org "\n',
        "Ann Archer <ann@example.com>\r\nBo <bo@x.org>\r\n",
        "id;E-Mail;reason\n1;ann@EXAMPLE.com ;bounce\n2;bo@x.org;unsubscribed\n3;;\n",
        "\ufeffann@example.com,unsubscribed\nbo@x.org,bounced, twice\n",
    ],
)
def test_excluded_addresses_are_not_sent(backend: str, tmp_path: Path, text: str) -> None:
    exclude = tmp_path / "exclude.txt"
    exclude.write_text(text, encoding="utf-8")
    template = template_of(["n"])
    merge = template.merge_csv(written(tmp_path, REPEATED), tag="n", exclude=exclude)
    assert [message.tag for message in merge] == ["6"]
    assert (merge.duplicates, merge.excluded) == (1, 5)
    more = tmp_path / "more.txt"
    more.write_text("ann@münchen.example\n", encoding="utf-8")
    merge = template.merge_csv(written(tmp_path, REPEATED), exclude=[str(exclude), more])
    assert (list(merge), merge.excluded) == ([], 7)


def test_an_exclusion_list_without_addresses_is_an_error(backend: str, tmp_path: Path) -> None:
    exclude = tmp_path / "exclude.csv"
    exclude.write_text("name\nann\n")
    assert error_of(written(tmp_path, REPEATED), exclude=exclude) == (
        "exclude.csv, line 1: no column with addresses was found; write one address in each line, "
        "or name the column email"
    )
    exclude.write_text("")
    assert template_of([]).merge_csv(written(tmp_path, REPEATED), exclude=exclude).excluded == 0


def test_a_list_that_changes_between_check_and_sending(backend: str, tmp_path: Path) -> None:
    path = written(tmp_path, "email\n" + "".join(f"a{n}@x.org\n" for n in range(50_000)))
    merge = template_of([]).merge_csv(path)
    next(merge)
    with path.open("r+b") as file:
        file.truncate(400_000)
        file.seek(0, 2)
        file.write(b'\n"')
    with pytest.raises(OSError, match=r"list\.csv, line \d+: the quote of a cell is not closed"):
        list(merge)


@pytest.mark.parametrize("kind", ["cut in a row", "cut after a row", "cut early", "edited"])
def test_a_list_that_loses_rows_during_the_sending_is_an_error(
    backend: str, tmp_path: Path, kind: str
) -> None:
    rows = [f"a{n}@x.org\n" for n in range(12_000)]
    path = written(tmp_path, "".join(["email\n", *rows]))
    merge = template_of([]).merge_csv(path)
    found = [next(merge)]
    with path.open("r+b") as file:
        size = path.stat().st_size
        if kind == "edited":
            file.seek(size - 24)
            file.write(b"\n\n\n")
        else:
            file.truncate({"cut in a row": size - 4, "cut early": 100_003}.get(kind, size - 12))
    with pytest.raises(OSError, match=r"list\.csv was changed while it was read"):
        found.extend(merge)
    # No address is used that was not checked.
    sent = {recipient for each in found for recipient in each.recipients}
    assert sent < {row.strip() for row in rows}


def test_a_list_that_is_replaced_before_the_sending_is_an_error(
    backend: str, tmp_path: Path
) -> None:
    path = written(tmp_path, "email\na@x.org\n")
    merge = template_of([]).merge_csv(path)
    other = tmp_path / "other.csv"
    other.write_text("email\nother@x.org\nmore@x.org\n")
    other.replace(path)
    with pytest.raises(OSError, match=r"list\.csv was changed while it was read"):
        next(merge)


def test_rows_that_are_appended_during_the_sending_are_ignored(
    backend: str, tmp_path: Path
) -> None:
    path = written(tmp_path, "email\n" + "".join(f"a{n}@x.org\n" for n in range(12_000)))
    merge = template_of([]).merge_csv(path)
    next(merge)
    with path.open("a") as file:
        file.write("z@x.org\n")
    assert len(list(merge)) == 11_999


def test_a_name_of_a_list_that_is_not_unicode(backend: str, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/l\xe9.csv"
    try:
        Path(os.fsdecode(path)).write_bytes(b"email\na@x.org\n")
    except (OSError, UnicodeError):
        pytest.skip("the file system refuses this name")
    assert rows_of(Path(os.fsdecode(path)), []) == [["a@x.org"]]
    assert error_of(Path(os.fsdecode(path)), tag="x").startswith("l\\udce9.csv, line 1: no column")


def test_a_closed_standard_input(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(OSError, match="the standard input is closed"):
        template_of([]).merge_csv("-")


# Workbooks

CELLS: list[list[Any]] = [
    [],
    ["E-Mail", "First Name", "Number", "Date", "Yes", "Error", "Time"],
    ["a@x.org", "Ann\nArcher", 1.0, date(2024, 5, 1), True, "=1/0", timedelta(hours=30)],
    [None, None, None],
    ["b@x.org", " Bo ", 12345678901.5, datetime(2024, 5, 1, 13, 30), False, "x", time(8, 30)],
    ["c@x.org"],
]
FIELDS = ["first_name", "number", "date", "yes", "error", "time"]


def workbook(tmp_path: Path, rows: Sequence[Sequence[Any]] = CELLS) -> Path:
    book = openpyxl.Workbook()
    people = book.active
    assert people is not None
    for row in rows:
        people.append(row)
    other = book.create_sheet("Other people")
    other.append(["Mail"])
    other.append(["o@x.org"])
    book.save(tmp_path / "list.xlsx")
    return tmp_path / "list.xlsx"


def test_a_workbook_is_read_as_a_person_reads_it(backend: str, tmp_path: Path) -> None:
    path = workbook(tmp_path)
    assert rows_of(path, FIELDS) == [
        ["a@x.org", "Ann\nArcher", "1", "2024-05-01", "TRUE", "", "30:00:00"],
        ["b@x.org", " Bo ", "12345678901.5", "2024-05-01 13:30:00", "FALSE", "x", "08:30:00"],
        ["c@x.org", "", "", "", "", "", ""],
    ]
    assert rows_of(path, [], sheet="Other people") == [["o@x.org"]]
    assert error_of(path, sheet="People") == (
        "list.xlsx has no sheet 'People'; its sheets are: 'Sheet', 'Other people'"
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.1 + 0.2, "0.3"),
        (19.99 * 3, "59.97"),
        (1e5, "100000"),
        (1e15, "1000000000000000"),
        (1e20, "100000000000000000000"),
        (1e-5, "0.00001"),
        (-2.50, "-2.5"),
        (-0.0, "0"),
        (1 / 3, "0.333333333333333"),
    ],
)
def test_a_number_has_the_digits_that_a_spreadsheet_shows(number: float, text: str) -> None:
    assert cell_text(number) == text


def test_a_line_break_in_a_cell_of_a_sheet(backend: str, tmp_path: Path) -> None:
    # Excel writes a carriage return in this form.
    rows = [["email", "n"], ["a@x.org", "b_x000D_c"], ["d@x.org", "e"]]
    assert rows_of(workbook(tmp_path, rows), ["n"]) == [["a@x.org", "b\nc"], ["d@x.org", "e"]]


def test_the_first_visible_sheet_is_read(backend: str, tmp_path: Path) -> None:
    path = workbook(tmp_path, [["Mail"], ["hidden@x.org"]])
    book = openpyxl.load_workbook(path)
    book.worksheets[0].sheet_state = "hidden"
    book.create_chartsheet("Chart", 0)
    book.active = 2
    book.save(path)
    assert rows_of(path, []) == [["o@x.org"]]
    assert rows_of(path, [], sheet="Sheet") == [["hidden@x.org"]]


def test_errors_name_the_row_of_a_sheet(backend: str, tmp_path: Path) -> None:
    assert error_of(workbook(tmp_path, CELLS[3:])).startswith("list.xlsx, row 2: the list has no")
    path = workbook(tmp_path, [*CELLS, ["a@X.org"]])
    assert error_of(path, duplicates="error").startswith(
        "list.xlsx, row 7: the address a@x.org is already in row 3; use "
    )


ODS = """<?xml version="1.0"?><office:document-content
xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"
xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"><office:body><office:spreadsheet>
<table:table table:name="People"><table:table-row>
<table:table-cell office:value-type="string"><text:p>Email</text:p></table:table-cell>
<table:table-cell office:value-type="string"><text:p>Number</text:p></table:table-cell>
</table:table-row><table:table-row>
<table:table-cell office:value-type="string"><text:p>a@x.org</text:p></table:table-cell>
<table:table-cell office:value-type="float" office:value="7"><text:p>7</text:p></table:table-cell>
</table:table-row></table:table></office:spreadsheet></office:body></office:document-content>"""
MANIFEST = """<?xml version="1.0"?><manifest:manifest
xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>"""


def test_an_opendocument_sheet(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "list.ods"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("META-INF/manifest.xml", MANIFEST)
        archive.writestr("content.xml", ODS.replace(">\n<", "><"))
    assert rows_of(path, ["number"]) == [["a@x.org", "7"]]


def test_other_archives_are_no_workbooks(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "list.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")
    assert error_of(path).startswith("list.xlsx is not a workbook that can be read (.xlsx, .xls, ")
    path.write_bytes(b"PK\x03\x04")
    assert error_of(path).startswith("list.xlsx is not a workbook that can be read (.xlsx, .xls, ")
    assert error_of(written(tmp_path, "email\n"), sheet="x") == (
        "list.csv is not a workbook, so it has no sheet 'x'"
    )


def test_a_workbook_needs_a_package(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    assert error_of(workbook(tmp_path)) == (
        "list.xlsx is a workbook, and python-calamine is not installed; run pip install "
        "'rapidsmtp[xlsx]', or save the sheet as CSV"
    )


def test_temporary_files_are_removed(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    merge = template_of([]).merge_csv(workbook(tmp_path))
    (folder,) = (tmp_path / "copies").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(list(merge)) == 3
    del merge
    assert error_of(workbook(tmp_path), tag="none").startswith("list.xlsx, row 2: no column 'none'")
    gc.collect()
    assert list((tmp_path / "copies").iterdir()) == []
