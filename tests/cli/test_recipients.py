"""The recipients list of `rapidsmtp send`: its options, its warnings and its errors."""

import csv
import json
import tempfile

import pytest

from commandline import CSV, EML, Command, Relays, one_line

FILES = ("--template", "message.eml", "--to", "list.csv")
GERMAN = "Kundennr.;Vorname;E-Mail-Adresse\n1;J\xf6rg;a@example.com\n2;\xc4nne;b@example.com\n"


def test_a_list_as_excel_writes_it(command: Command, relays: Relays) -> None:
    command.write("list.csv", GERMAN.encode("latin-1"))
    relay = relays()
    one_line(
        command.send(relay.url),
        "list.csv, line 1: no column 'name'; the columns are: 'Kundennr.', 'Vorname', "
        "'E-Mail-Adresse'; use --column name='Vorname'",
    )
    one_line(
        command.send(relay.url, "--column", "name=Vorname"),
        "list.csv, line 2: the text is not UTF-8; give its encoding, such as --encoding "
        '"windows-1252"',
    )
    encoding = ("--encoding", "windows-1252")
    result = command.send(relay.url, *encoding, "--column", "name=vorname", "--tag", "kundennr")
    assert (result.returncode, result.stderr, len(relay.bodies)) == (0, "", 2)
    assert "=C3=84nne" in relay.bodies[1]


def test_options_of_the_list(command: Command) -> None:
    command.write("list.csv", "name^who^mail\nA^a@example.com^x@example.com\n")
    options = ("--delimiter", "^", "--recipient-column", "who", "--json", "--preview", "1")
    report = json.loads(command("send", *FILES, *options).stdout)
    assert report["preview"][0]["recipients"] == ["a@example.com", "hidden@example.com"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--delimiter", "::"), "'::' is not a delimiter; use one character"),
        (("--column", "name"), "--column 'name' is not of the form FIELD=COLUMN"),
        (("--column", "a b=id"), "--column 'a b=id' is not of the form FIELD=COLUMN"),
        (("--column", "x=id", "--column", "x=name"), "--column x is given twice"),
        (("--column", "x=Nom"), "list.csv, line 1: no column 'Nom'; the columns are: 'id', 'name'"),
        (("--recipient-column", "Nom"), "list.csv, line 1: no column 'Nom'"),
        (("--sheet", "People"), "list.csv is not a workbook, so it has no sheet 'People'"),
        (("--duplicates", "none"), "--duplicates: invalid choice: 'none'"),
        (("--exclude", "absent.txt"), "absent.txt: No such file"),
        (("--exclude", "names.txt"), "names.txt, line 1: no column with addresses was found"),
    ],
)
def test_wrong_options(command: Command, arguments: tuple[str, ...], expected: str) -> None:
    command.write("names.txt", "name\nann\n")
    one_line(command("send", *FILES, "--dry-run", *arguments), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Email,Name,mail\na@example.com,A,\n",
            "--column email",
        ),
        (
            "Mail,E-Mail-Adresse,name\n,,\n",
            "the address may be in the columns 'Mail', 'E-Mail-Adresse'; choose one, such as "
            "--recipient-column 'Mail'",
        ),
        (
            "emial,name\na@example.com,A\n",
            "no column 'email'; the columns are: 'emial', 'name'; use --column email='emial'",
        ),
        (
            "who,name\na@example.com,A\n",
            "the columns are: 'who', 'name'; name the column with the addresses by "
            "--recipient-column",
        ),
        (
            "anna@example.com\nbo@example.com\n",
            "list.csv, line 1: the list has no header: 'anna@example.com' is an address; write the "
            "names of the columns into the first line, such as email,name",
        ),
    ],
)
def test_errors_name_the_option(command: Command, text: str, expected: str) -> None:
    command.write("list.csv", text)
    result = command("send", *FILES, "--dry-run")
    if text.startswith("Email,Name,mail"):
        assert result.returncode == 0, result.stderr  # `Email` is the field itself
        return
    one_line(result, expected)


def test_an_address_is_not_a_list(command: Command) -> None:
    one_line(
        command("send", "--template", "message.eml", "--to", "me@example.com", "--dry-run"),
        "--to me@example.com is an address, but --to needs a recipients list; write a file with "
        "the line email and below it the address",
    )
    command.write("me@example.com", CSV)
    files = ("--template", "message.eml", "--to", "me@example.com")
    assert command("send", *files, "--dry-run").returncode == 0


def test_standard_input_without_a_temporary_folder(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(command.directory / "absent"))
    files = ("--template", "message.eml", "--to", "-", "--dry-run")
    # The helper that replaces the standard input also needs a temporary folder.
    process = command.start(
        "send", *files, prepare="import tempfile; tempfile.tempdir = '/proc/self/absent'"
    )
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (
        2,
        "rapidsmtp: -: the list must be copied to a temporary file, and no folder for temporary "
        "files can be used; set TMPDIR to a folder\n",
    )


# Duplicates and exclusion lists

TWICE = CSV + "4,Anna,anna@EXAMPLE.com\n5,Bo,Bo@example.com\n6,Anna,anna@example.com\n"
REPEATED = "2 rows repeat a recipient of an earlier row: line 5 (anna@example.com), line 7 (anna@ex"
SIMILAR = (
    "1 address differs from an earlier one only in upper and lower case before the @: line 6 "
    "(Bo@example.com); it is sent too [similar-address]"
)


def test_duplicates_are_not_sent(command: Command, relays: Relays) -> None:
    relay = relays()
    command.write("list.csv", TWICE)
    status, report, _ = command.report(relay.url)
    assert (status, report["messages"], report["accepted"], len(relay.bodies)) == (0, 4, 4, 4)
    assert (report["duplicates"], report["excluded"]) == (2, 0)
    first, second = report["warnings"]
    assert first.startswith(REPEATED)
    assert first.endswith("; they are not sent without --duplicates all [duplicate]")
    assert second == SIMILAR
    shown = command.send(relay.url).stdout
    assert [line.split() for line in shown.splitlines() if "duplicates" in line] == [
        ["duplicates", "2"]
    ]


def test_duplicates_are_sent_or_are_an_error(command: Command, relays: Relays) -> None:
    relay = relays()
    command.write("list.csv", TWICE)
    status, report, _ = command.report(relay.url, "--duplicates", "all")
    assert (status, len(relay.bodies), report["duplicates"]) == (0, 6, 0)
    assert report["warnings"][0].endswith(
        "; --duplicates first sends to the first row only [duplicate]"
    )
    _, report, _ = command.report(relay.url, "--duplicates", "all", "--no-warnings")
    assert report["warnings"] == []
    one_line(
        command.send(relay.url, "--duplicates", "error"),
        "list.csv, line 5: the address anna@example.com is already in line 2; 2 rows repeat an "
        "address; use --duplicates first to send to the first one only",
    )


def test_excluded_addresses_are_not_sent(command: Command, relays: Relays) -> None:
    relay = relays()
    command.write("list.csv", TWICE)
    command.write("unsubscribed.txt", "BO@example.com\n")
    command.write("bounced.csv", "Email,Reason\nanna@example.com,full\n")
    exclude = ("--exclude", "unsubscribed.txt", "--exclude", "bounced.csv")
    status, report, _ = command.report(relay.url, *exclude)
    assert (status, report["messages"], report["excluded"], report["duplicates"]) == (0, 1, 5, 0)
    assert [line for line in relay.lines if "cy@" in line] and len(relay.bodies) == 1
    result = command("send", *FILES, "--dry-run", *exclude)
    assert ["excluded", "5"] in [line.split() for line in result.stdout.splitlines()]
    command.write("unsubscribed.txt", "bo@example.com\ncy@example.com\n")
    result = command.send(relay.url, *exclude)
    assert (result.returncode, len(relay.bodies)) == (0, 1)


def test_skipped_rows_keep_the_numbers_of_others(command: Command, relays: Relays) -> None:
    command.write("list.csv", TWICE + "7,No,nobody\n")
    relay = relays()
    status, report, _ = command.report(relay.url, "--not-accepted", "failed.csv")
    (failed,) = report["not_accepted"]
    assert (status, failed["row"], failed["line"], failed["tag"]) == (1, 7, 8, "7")
    with (command.directory / "failed.csv").open(newline="") as file:
        assert [line["id"] for line in csv.DictReader(file)] == ["7"]
    result = command("send", *FILES, "--preview", "6", "--json")
    assert [each["row"] for each in json.loads(result.stdout)["preview"]] == [1, 2, 3, 5]


def test_the_limit_counts_rows_of_the_list(command: Command, relays: Relays) -> None:
    relay = relays()
    command.write("list.csv", TWICE)
    status, report, _ = command.report(relay.url, "--limit", "5")
    assert (status, report["messages"], report["duplicates"], len(relay.bodies)) == (0, 4, 1, 4)


# Fields without a column

TOWN = EML.replace("Dear {{ name }}", "Dear {{ name }} in {{ first_nam|default('Ulm') }}")


def test_a_field_without_a_column_is_a_warning(command: Command, relays: Relays) -> None:
    command.write("message.eml", TOWN)
    command.write("list.csv", CSV.replace("id", "First Name", 1))
    warning = (
        "rapidsmtp: warning: the list has no column for the field 'first_nam'; the most similar "
        "column is 'First Name' [field-without-column]\n"
    )
    error = "rapidsmtp: 1 warning, and --strict allows none; nothing was sent\n"
    relay = relays()
    result = command.send(relay.url)
    assert (result.returncode, result.stderr, len(relay.bodies)) == (0, warning, 3)
    assert command.send(relay.url, "--no-warnings").stderr == ""
    bodies = len(relay.bodies)
    result = command.send(relay.url, "--strict")
    assert (result.returncode, result.stderr, len(relay.bodies)) == (2, warning + error, bodies)
    result = command("send", *FILES, "--dry-run", "--strict")
    assert (result.returncode, result.stderr) == (1, warning + error)
    command.write("message.eml", EML)
    assert command("send", *FILES, "--dry-run", "--strict").returncode == 0
