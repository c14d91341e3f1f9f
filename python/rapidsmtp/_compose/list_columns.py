"""Find the columns of a recipients list for the fields of a template.

A column has the name in the header, and an identifier: that of `First Name` is `first_name`, and
that of `E-mail 1 - Value` is `e_mail_1_value`. The field `email` is the recipient column. This
column is also found by other names that programs use for the column with the addresses.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from unicodedata import normalize

from rapidsmtp._compose.encode import RowError, check_address
from rapidsmtp._compose.invisible import trim, without_invisible
from rapidsmtp._compose.list_file import ListFile

# The maximum number of columns that an error text names. An ellipsis replaces the others.
_SHOWN_COLUMNS = 8
RECIPIENT_FIELD = "email"
"""The field of a template that is the recipient column of every list."""

# The usual names of the recipient column, as identifiers without underscores. If a list has none of
# the first group, the second group is searched.
_RECIPIENT_NAMES = (
    """
    email mail emailaddress mailaddress emailadresse mailadresse emailadres adresseemail adressemail
    adressedecourriel courriel correo correoelectronico correoelectrónico direcciondecorreo
    direccióndecorreo indirizzoemail indirizzomail postaelettronica endereçodeemail enderecodeemail
    adresemail sähköposti epost epostadress
    """,
    """
    email1value primaryemail emailprimary emailaddressrequired email1 email1address customeremail
    emailcustomer billingemail emailbilling buyeremail attendeeemail contactemail subscriberemail
    useremail workemail emailwork personalemail emailpersonal recipientemail recipient
    recipientaddress
    """,
)


class ListColumns:
    """The columns of a recipients list.

    Args:
        file: The list.
        given: The columns that the program names, by field.
        recipient: The recipient column that the program names, or None.

    Raises:
        ValueError: The first line is a row and not a header, or a named column does not exist.
    """

    def __init__(
        self, file: ListFile, given: Mapping[str, str] | None = None, recipient: str | None = None
    ) -> None:
        self._where = file.where(file.header_number)
        self.names = [_name(cell) for cell in file.header]
        self._identifiers = [identifier(name) for name in self.names]
        self._check_header()
        self._given = {field: self.named(name) for field, name in (given or {}).items()}
        if recipient is not None:
            self._given.setdefault(RECIPIENT_FIELD, self.named(recipient))

    def place_of(self, field: str, *, is_required: bool = True) -> int | None:
        """Return the column of a field; None if the list has none.

        Args:
            field: The field.
            is_required: Whether several columns with exactly this name are an error. Otherwise the
                first of them is used.

        Raises:
            ValueError: Several columns may be the column of the field.
        """
        if field in self._given:
            return self._given[field]
        field = _name(field)
        exact = [place for place, name in enumerate(self.names) if name == field]
        found = exact or [place for place, name in enumerate(self._identifiers) if name == field]
        if len(found) > 1 and exact and is_required:
            raise ValueError(f"{self._where}: more than one column {field!r}")
        if len(found) > 1 and not exact:
            first = {field: self.names[found[0]]}
            raise ValueError(self._ambiguous(f"the field {field!r}", found, f"columns={first!r}"))
        if found:
            return found[0]
        return self.recipient() if field == RECIPIENT_FIELD else None

    def recipient(self) -> int | None:
        """Return the recipient column; None if the list has none.

        Raises:
            ValueError: Several columns have a usual name.
        """
        if RECIPIENT_FIELD in self._given:
            return self._given[RECIPIENT_FIELD]
        bare = [name.replace("_", "") for name in self._identifiers]
        for usual in _RECIPIENT_NAMES:
            found = [place for place, name in enumerate(bare) if name in usual.split()]
            if len(found) > 1:
                cure = f"recipient={self.names[found[0]]!r}"
                raise ValueError(self._ambiguous("the address", found, cure))
            if found:
                return found[0]
        return None

    def missing(self, field: str) -> str:
        """Return the error text for a field without a column."""
        if not any(self.names):
            return f"{self._where}: no column {field!r}; the list is empty"
        nearest = self.nearest(field)
        hint = f"; use columns={ {field: nearest}!r}" if nearest else self._as_expression(field)
        if field == RECIPIENT_FIELD and not nearest:
            hint = "; name the column with the addresses by recipient="
        return f"{self._where}: no column {field!r}; the columns are: {self._listed()}{hint}"

    def _as_expression(self, field: str) -> str:
        """Return a hint for a column whose name is an expression in a template, such as E-Mail."""
        for name, field_of_name in zip(self.names, self._identifiers, strict=True):
            words = re.findall(r"\w+", name)
            if len(words) > 1 and field.lower() in map(str.lower, words):
                return f"; the column {name!r} is the field {field_of_name}"
        return ""

    def warning(self, field: str) -> str:
        """Return the warning for a field of a template without a column."""
        nearest = self.nearest(field)
        hint = f"; the most similar column is {nearest!r}" if nearest else ""
        return f"the list has no column for the field {field!r}{hint}"

    def nearest(self, field: str) -> str | None:
        """Return the name of the column that is most similar to a field, or None."""
        named = dict(zip(self._identifiers, self.names, strict=True))
        found = difflib.get_close_matches(identifier(field), [*filter(None, named)], 1, 0.7)
        return named[found[0]] if found else None

    def named(self, column: str) -> int:
        """Return the place of a column, by its name or its identifier.

        Raises:
            ValueError: There is no such column, or more than one.
        """
        name = _name(column)
        found = [place for place, each in enumerate(self.names) if each == name]
        if not found:
            found = [
                place
                for place, each in enumerate(self._identifiers)
                if each and each == identifier(name)
            ]
        if not found:
            raise ValueError(
                f"{self._where}: no column {column!r}; the columns are: {self._listed()}"
            )
        if len(found) > 1:
            raise ValueError(f"{self._where}: more than one column {column!r}")
        return found[0]

    def _ambiguous(self, what: str, places: Iterable[int], cure: str) -> str:
        names = ", ".join(repr(self.names[place]) for place in places)
        return f"{self._where}: {what} may be in the columns {names}; choose one, such as {cure}"

    def _listed(self) -> str:
        shown = ", ".join(map(repr, filter(None, self.names[:_SHOWN_COLUMNS]))) or "none"
        return f"{shown}, …" if len(self.names) > _SHOWN_COLUMNS else shown

    def _check_header(self) -> None:
        address = next((name for name in self.names if is_address(name)), None)
        if address is not None:
            raise ValueError(
                f"{self._where}: the list has no header: {address!r} is an address; write the "
                "names of the columns into the first line, such as email,name"
            )


def _name(cell: str) -> str:
    """Return the name of a column: one line of visible characters, in the Unicode form NFC."""
    return normalize("NFC", without_invisible(cell))


def identifier(name: str) -> str:
    """Return the identifier of a column: lower case, with an underscore between two words."""
    words = re.sub(r"\W+", "_", name.lower()).strip("_")
    return f"_{words}" if words[:1].isdecimal() else words


def is_address(text: str) -> bool:
    """Return whether a text is the address of a mailbox."""
    text = trim(text)
    bare = text.rpartition("<")[2].removesuffix(">") if text.endswith(">") else text
    try:
        check_address(bare, "")
    except RowError:
        return False
    return True
