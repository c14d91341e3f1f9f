"""Both backends load a list into the same chunks, and find the same repeated rows."""

from pathlib import Path
from typing import Any

import pytest

from campaign.judge import TEMPLATE
from rapidsmtp import Campaign, Status, Template, _backend
from rapidsmtp.campaign import loading

SHAPES: dict[str, bytes] = {
    "quotes, line ends and empty cells": (
        b'email,name,note\na@x.org,"A ""x"", y",\r\nb@x.org,"two\nlines","a\rb"\n'
        b",,\nc@x.org\nd@x.org,,,,\n"
    ),
    "another delimiter": b'email;name\na@x.org;1,5\nb@x.org; x \nc@x.org;"a;b"\n',
    "tab": b'email\tname\na@x.org\t"a\tb"\nb@x.org\t, ;\n',
    "no line end at the end": b"email\na@x.org\nb@x.org",
    "repeated addresses": (
        "email,name\nA@x.org,1\na@X.org,2\nA@X.ORG,3\nü@bücher.example,4\n"
        "ü@xn--bcher-kva.example,5\n\u200ba@x.org ,6\nnobody,7\nnobody,8\n"
    ).encode(),
    "byte order mark": b"\xef\xbb\xbfemail,name\na@x.org,1\na@x.org,2\n",
    "another encoding": "\ufeffemail,name\na@x.org,ü\nb@x.org,ü\n".encode("utf-16"),
}
WITH_KEYS = b"id,email\n1,a@x.org\n 1 ,b@x.org\n\x1f2,c@x.org\n,d@x.org\n ,e@x.org\n2,f@x.org\n"


def loaded(path: Path, folder: Path, backend: str, **settings: Any) -> tuple[Any, ...]:
    """Load a list, and return what the journal has: the columns, the chunks and the outcomes."""
    before = _backend.implementation
    _backend.use(backend)
    try:
        with Campaign.create(
            folder / f"{backend}.campaign",
            Template.from_eml(TEMPLATE),
            path,
            relays="smtp://127.0.0.1",
            **settings,
        ) as campaign:
            execute = campaign._opened.database.execute
            return (
                execute("SELECT columns, rows, list_sha256 FROM campaign").fetchall(),
                execute("SELECT * FROM chunk ORDER BY no").fetchall(),
                execute("SELECT row, status, text FROM outcome ORDER BY row").fetchall(),
                execute("SELECT chunk, state, suppressed FROM lease ORDER BY chunk").fetchall(),
                [(values, result and result.text) for values, result in campaign.rows()],
            )
    finally:
        _backend.use(before)


@pytest.mark.rust
@pytest.mark.parametrize("duplicates", ["first", "all"])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_backends_load_the_same_chunks(tmp_path: Path, shape: str, duplicates: str) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(SHAPES[shape])
    compiled, pure = (
        loaded(path, tmp_path, backend, duplicates=duplicates) for backend in ("rust", "python")
    )
    assert compiled == pure
    assert compiled[1]


@pytest.mark.rust
def test_both_backends_compare_the_same_keys(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(WITH_KEYS)
    compiled, pure = (loaded(path, tmp_path, each, key="id") for each in ("rust", "python"))
    assert compiled == pure
    text = "the recipient is that of row"
    assert compiled[2] == [(2, 7, f"{text} 1"), (6, 7, f"{text} 3")]


def test_repeated_rows_of_many_chunks(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are compared in several parts, and a repeated row is in another chunk than the first."""
    monkeypatch.setattr(loading, "_KEYS_AT_ONCE", 500)
    monkeypatch.setattr(loading, "MIN_CHUNK", 1000)
    path = tmp_path / "list.csv"
    rows = "".join(f"{row},r{row % 1400}@d{row % 7}.example\n" for row in range(2500))
    path.write_text(f"id,email\n{rows}")
    _, chunks, outcomes, leases, _ = loaded(path, tmp_path, backend)
    assert [count for _, _, _, count, *_ in chunks] == [1000, 1000, 500]
    expected = [(row, row - 1400) for row in range(1401, 2501)]
    assert [(row, int(text.split()[-1])) for row, _, text in outcomes] == expected
    assert [suppressed for *_, suppressed in leases] == [0, 600, 500]
    with pytest.raises(ValueError, match=r"^row 1401 has the recipient of row 1; 1100 rows repeat"):
        Campaign.create(
            tmp_path / "other",
            Template.from_eml(TEMPLATE),
            path,
            relays="smtp://127.0.0.1",
            duplicates="error",
        )
    assert not (tmp_path / "other").exists()


def test_a_list_that_changes_while_it_is_loaded(
    backend: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A list below /dev, where `tmp_path` is, is copied to a temporary file.
    folder = tmp_path_factory.mktemp("changing")
    path = folder / "list.csv"
    path.write_text("email\n" + "".join(f"r{row}@x.org\n" for row in range(30_000)))
    create = loading.create_campaign

    def changing(*positional: Any, **named: Any) -> Any:
        path.write_text("email\n" + "".join(f"r{row}@x.org\n" for row in range(20_000)))
        return create(*positional, **named)

    monkeypatch.setattr("rapidsmtp.campaign.creating.create_campaign", changing)
    with pytest.raises(OSError, match=r"^list\.csv was changed while it was read$"):
        loaded(path, folder, backend)
    assert [each.name for each in folder.iterdir()] == ["list.csv"]


def test_an_excluded_row_is_not_loaded(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("email\na@x.org\nb@x.org\nc@x.org\n")
    (tmp_path / "no.txt").write_text("B@x.org\n")
    with Campaign.create(
        tmp_path / "j",
        Template.from_eml(TEMPLATE),
        path,
        relays="smtp://127.0.0.1",
        list_options={"exclude": [tmp_path / "no.txt"]},
    ) as campaign:
        assert [values["email"] for values, _ in campaign.rows()] == ["a@x.org", "c@x.org"]
        assert campaign.status().accepted == 0
        assert not list(campaign.rows(status=Status.SUPPRESSED))
