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
