"""Both backends read the same rows from any recipients list, or refuse it with the same text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rapidsmtp import Template, _backend
from rapidsmtp._compose import pure_list

pytestmark = pytest.mark.rust

HEADER = b"n;email;other\n"
PIECES = st.sampled_from(
    [
        *(b";", b";", b'"', b'""', b"\n", b"\r\n", b"\r", b" ", b"x", b",", b"\t", b"\x1c"),
        *(b"a@x.org", b"A@x.org", b"a@X.ORG", b"b@x.org", b"c@x.org", "a@\xfc.org".encode()),
        *("\u200b".encode(), "\xa0".encode(), b"\xff", b"\xc3", b"\xa9", b"\0", b"@"),
    ]
)
ROWS = st.sampled_from(
    [b"1;a@x.org;\n", b"2;A@x.org\n", b'3;"a@X.org";"q\nr"\r\n', b";;\n", b"4;b@x.org;x;;\n"]
)
LISTS = st.lists(st.one_of(PIECES, ROWS), max_size=30).map(b"".join)

WIDTH = 16_384  # the number of columns in a sheet of Excel
BOM = b"\xef\xbb\xbf"
SHAPES: dict[str, bytes] = {
    "empty": b"",
    "only a byte order mark": BOM,
    "only half a byte order mark": BOM[:2],
    "two byte order marks": BOM + BOM + b"email,n\na@x.org,1\n",
    "byte order mark in a row": b"email,n\n" + BOM + b"a@x.org," + BOM + b"1\n",
    "UTF-16 without a character": b"\xff\xfe",
    "UTF-16 with half a character": "\ufeffemail\tn\na@x.org\t1\n".encode("utf-16-le") + b"x",
    "UTF-16 with half a pair": "\ufeffemail\na@x.org".encode("utf-16-be") + b"\xd8\0\0\n",
    "UTF-16 without a mark": "email,n\na@x.org,1\n".encode("utf-16-be"),
    "UTF-32": "email,n\na@x.org,1\n".encode("utf-32"),
    "a surrogate in UTF-8": b"email,n\na@x.org,\xed\xa0\x80\n",
    "only line ends": b"\n\r\n\r\r\n",
    "header without line end": b"email,n",
    "row without line end": b"email,n\na@x.org,1",
    "blank lines at the start": b"\n\r\n\remail,n\n\n a@x.org,1\n",
    "mixed line ends": b"email,n\r\na@x.org,1\nb@x.org,2\rc@x.org,3\r\n\r\n\nd@x.org,4",
    "CR CR LF": b"email,n\r\r\na@x.org,1\r\r\nb@x.org,2\r\r\n",
    "line separators that are no line ends": "email,n\na@x.org,1\u2028\x0b\x0c\x1c\n".encode(),
    "no header": b"a@x.org\nb@x.org\n",
    "no header after blank lines": b"\n,\nAnn,a@x.org\n",
    "one column": b"email\r\na@x.org\r\n",
    "one column in quotes": b'"email"\n"a@x.org"\n',
    "delimiters at the end": b"email,n,\na@x.org,1,\nb@x.org,2,,,\n",
    "too many cells": b"email,n\na@x.org,1\nb@x.org,2,,x\n",
    "text after a table": b"email,n\na@x.org,1\n\nTotal: 1\n\x1a",
    "two columns with one name": b"email,n,n\na@x.org,1,2\n",
    "two recipient columns": b"email,n,email\na@x.org,1,b@x.org\n",
    "columns without names": b",email,,n\nx,a@x.org,y,1\n",
    "no names": b",,\na@x.org,1,2\n",
    "spaces in the header": b" Email , N \na@x.org,1\n",
    "quote in a cell": b'email,n\na@x.org,5" pipe\nb@x.org,6"\n',
    "space before a quote": b'email, "n"\na@x.org, "Ann"\n',
    "space after a quote": b'email,n\na@x.org,"Ann" \n',
    "text after a quote": b'email,n\na@x.org,"Ann" Archer\nb@x.org,x\n',
    "quote that is not closed": b'email,n\na@x.org,"x\nb@x.org,y\n',
    "quote of the header that is not closed": b'email,"n\na@x.org,x\n',
    "quote with a backslash": b'email,n\na@x.org,"say \\"hi\\""\n',
    "single quotes": b"'email','n'\n'a@x.org','1'\n",
    "formulas": b'email,n\n="a@x.org",="007"\n"=""b@x.org""",1\n',
    "several addresses in a cell": b'email,n\na@x.org;b@x.org,1\n"c@x.org, d@x.org",2\n',
    "addresses in other forms": b"email,n\nmailto:a@x.org,1\n<b@x.org>,2\nC <c@x.org>,3\n",
    "line of Excel without a header": b"sep=;\r\n",
    "line of Excel with a wrong delimiter": b'sep="\nemail,n\na@x.org,x\n',
    "NUL in the header": b"email\0,n\na@x.org,1\n",
    "NUL after a quote that is not closed": b'email,n\n"a@x.org,\0',
    "all bytes": bytes(range(256)),
    "a picture": b"\x89PNG\r\n\x1a\n\0\0",
    "JSON": b'[{"email": "a@x.org"}]',
    "long cell with line breaks": b'email,n\na@x.org,"' + b"x\n" * 66_000 + b'"\n',
    "many columns": b",".join([b"email", *(b"c%d" % each for each in range(WIDTH)), b"n"])
    + b"\na@x.org" + b"," * WIDTH + b",1\n",
    "many empty cells": b"email,n" + b"," * WIDTH + b"\na@x.org,1" + b"," * WIDTH + b"\n",
}  # fmt: skip


@pytest.fixture(autouse=True)
def keep_backend() -> Iterator[None]:
    before = _backend.implementation
    yield
    _backend.use(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lists")


def result(backend: str, path: Path, **options: Any) -> Any:
    """Return what a backend reads: the messages with their tags, and the counts, or the error."""
    _backend.use(backend)
    template = Template.compose(
        sender="n@x.org", to="{{ email }}", subject="s", text="{{ n }} {{ other|default('') }}"
    )
    try:
        merge = template.merge_csv(path, tag="n", **options)
    except ValueError as error:
        return str(error)
    rows = [(type(each).__name__, each.tag, getattr(each, "reason", "")) for each in merge]
    return rows, merge.duplicates, merge.excluded


@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(text=LISTS, duplicates=st.sampled_from(["first", "all", "error"]), excludes=st.booleans())
@example(text=b'1;"a@x.org\xff"b;\n', duplicates="first", excludes=False)
@example(text=b'1;"a\n\xff', duplicates="first", excludes=False)
@example(text=b"1;a@x.org;" + b"x" * 131_072, duplicates="first", excludes=False)
@example(text=b"1;a@x.org;" + b"x" * 131_073, duplicates="first", excludes=False)
@example(text=b"1;a@x.org;" + "\xe9".encode() * 131_073, duplicates="first", excludes=False)
def test_both_backends_read_the_same_rows(
    folder: Path, text: bytes, duplicates: str, excludes: bool
) -> None:
    path, exclude = folder / "list.csv", folder / "exclude.txt"
    path.write_bytes(HEADER + text)
    exclude.write_text("B@x.org\n")
    options = {"duplicates": duplicates, "exclude": [exclude] if excludes else []}
    assert result("rust", path, **options) == result("python", path, **options)


@pytest.mark.parametrize("shape", SHAPES)
def test_both_backends_read_lists_of_all_shapes(folder: Path, shape: str) -> None:
    path = folder / "list.csv"
    path.write_bytes(SHAPES[shape])
    compiled = result("rust", path)
    assert compiled == result("python", path)
    # Every error names the list and its line.
    assert not isinstance(compiled, str) or compiled.startswith("list.csv, line ")


def test_both_backends_find_the_same_duplicates_in_a_long_list(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pure_list, "_IN_MEMORY", 100)
    path = folder / "long.csv"
    names = [f"{'aA'[n % 2]}nn{n * n % 701}\u00e9@{'xX'[n % 3 == 0]}.org" for n in range(3000)]
    rows = "".join(f"{number};{name};\n" for number, name in enumerate(names))
    path.write_bytes(HEADER + rows.encode())
    compiled = result("rust", path)
    assert compiled == result("python", path)
    first = {}
    for number, name in enumerate(names):
        first.setdefault(name.replace("X", "x"), str(number))
    assert [tag for _, tag, _ in compiled[0]] == list(first.values())
    error = result("rust", path, duplicates="error")
    assert error == result("python", path, duplicates="error") and "already in line" in error
