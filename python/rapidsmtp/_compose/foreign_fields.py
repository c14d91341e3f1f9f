"""Texts that look like fields of other programs. They are not filled, so recipients would see them.

Some notations are always fields, such as `*|FNAME|*`. Others may also be ordinary text, such as
`#name#`. They count as fields only if they contain the name of a field, the name of a column, or a
usual name. All expressions take linear time.

A message may have a megabyte of text, and `in` is many times as fast as an expression. So the
tables contain the characters with which each expression begins. An expression is tried only if the
text contains these characters.
"""

import re
from collections.abc import Iterator, Set

from rapidsmtp._compose.list_columns import identifier

_CLEAR = tuple(
    (start, re.compile(pattern))
    for start, pattern in (
        ("*|", r"\*\|[A-Za-z][\w:.]{0,40}\|\*"),  # Mailchimp, Mandrill
        ("[", r"\[[A-Z][A-Z0-9]{0,20}(?:_[A-Z0-9]{1,20}){1,5}\]"),
        ("[", r"\[(?:FIRSTNAME|LASTNAME|FULLNAME|NAME|FNAME|LNAME|EMAIL|UNSUBSCRIBE)\]"),
        ("[", r"\[(?:[Ff]irst|[Ll]ast|[Ff]ull)[ _-]?[Nn]ame\]"),
        ("[[", r"\[\[[A-Za-z][\w .]{0,40}\]\]"),
        ("[", r"\[(?:subscriber|newsletter|link):(?!http)\w[^\[\]<>\n]{1,60}\]"),  # MailPoet
        ("[%", r"\[%-?\s*[A-Za-z_][^\[\]<>%\n]{0,60}%\]"),  # Template Toolkit
        ("%%", r"%%[A-Za-z][\w .]{0,40}%%"),  # Salesforce
        ("%%=", r"%%=[^\n]{1,80}?=%%"),
        ("%", r"%(?<![\w%]%)[A-Z][A-Z]{2,20}(?:[_-][A-Z]{1,20}){0,4}%"),  # ActiveCampaign
        ("%(", r"%\([A-Za-z_]\w{0,40}\)s"),  # Python
        ("{", r"\{!?[A-Za-z_][\w.]{0,40}\}"),
        ("<%", r"<%[=-]?\s*[\w.@]{1,40}[^<>%]{0,60}%>"),  # ERB, EJS
        ("&lt;%", r"&lt;%=?[^<>%]{1,60}%&gt;"),
        ("<?", r"<\?(?:php\b|=)[^<>?]{0,60}\?>"),
        ("«", r"«[A-Za-z]\w{0,40}»"),  # word processors
        ("<<", r"<<[A-Za-z][\w ]{0,40}>>"),
        ("&lt;&lt;", r"&lt;&lt;[A-Za-z][\w ]{0,40}&gt;&gt;"),
    )
)
# The first group is the name. In angle brackets, it has three letters or more, because many tags of
# HTML have fewer.
_NAMED = tuple(
    (start, re.compile(pattern))
    for start, pattern in (
        ("#", r"##?([^\W\d][\w .-]{0,40})#{1,2}"),
        ("%", r"%(?<![\w%]%)([^\W\d][\w .-]{0,40})%"),
        # In Markdown, a link or its name follows a text in brackets.
        ("[", r"\[[*!%$@]{0,2}([^\W\d][\w .-]{0,40}?)[*!%$@]{0,2}\](?![(\[:])"),
        ("{", r"\{\s?[*!%$@:#]{0,2}([^\W\d][\w .-]{0,40}?)\s?[*!%]{0,2}(?:\|[^{}<>\n]{0,40})?\}"),
        ("|*", r"\|\*([^\W\d][\w .-]{0,40})\*\|"),
        ("@", r"@(?<![\w@]@)@?([^\W\d][\w .-]{0,40})@{1,2}(?!\w)"),
        ("_", r"_(?<!\w_)_?([^\W\d][^\W_ ]{0,40}(?:_[^\W_]{1,40}){0,4})__(?!\w)"),
        ("-", r"-(?<![\w-]-)([^\W\d][\w.]{0,40})-(?![\w-])"),  # SendGrid
        ("$", r"\$(?<![\w$]\$)([^\W\d]\w{0,40})(?!\w)\$?"),
        ("<", r"<([^\W\d][\w .-]{2,40})>"),
        ("&lt;", r"&lt;([^\W\d][\w .-]{0,40})&gt;"),
        ("\u2039", r"\u2039([^\W\d][\w .-]{0,40})\u203a"),
    )
)
# A brace after one of these characters does not begin a foreign field. It belongs to a field of
# Jinja2, or to other text such as a path or code.
_BEFORE_NO_FIELD = re.compile(r"[{%@\\\w]")
# The usual names of fields, without spaces and underscores.
_USUAL = frozenset(
    re.findall(
        r"\w+",
        """
        name firstname lastname fullname surname givenname familyname fname lname username nickname
        email emailaddress salutation greeting customername contactname recipientname
        recipientemail companyname unsubscribe unsubscribelink unsubscribeurl unsub unsublink
        optout optoutlink vorname nachname anrede briefanrede firma abmelden abmeldelink abmeldeurl
        prenom nom civilite desabonnement nombre apellido apellidos cognome voornaam achternaam
        aanhef fornamn efternamn fornavn etternavn imie nazwisko
        """,
    )
)
# In square brackets, one of these words may be the text of a link in Markdown.
_LINK_TEXTS = frozenset(("unsubscribe", "unsub", "optout", "abmelden", "desabonnement"))
# In angle brackets, other names may be elements of HTML, such as `<title>`.
_ANGLES = ("<", "&lt;")


def known_names(names: Set[str]) -> frozenset[str]:
    """Return the usual names and the names of fields and columns, in the form for `_is_known`."""
    return _USUAL | {_bare(name) for name in names if len(name) > 1}


def foreign_fields(text: str, known: Set[str]) -> Iterator[tuple[int, str]]:
    """Yield the places of the fields of other programs in a text, and the fields, in order.

    Args:
        text: A text that a reader sees.
        known: The result of `known_names`.
    """
    found = [
        (match.start(), match.end())
        for start, pattern in _CLEAR
        if start in text
        for match in pattern.finditer(text)
        if not _is_no_field(text, match)
    ]
    found += [
        (match.start(), match.end())
        for start, pattern in _NAMED
        if start in text
        for match in pattern.finditer(text)
        if _is_known(match, known) and not _is_no_field(text, match)
    ]
    last = 0
    for start, end in sorted(found, key=lambda place: (place[0], -place[1])):
        if start >= last:
            yield start, text[start:end]
            last = end


def _is_no_field(text: str, match: re.Match[str]) -> bool:
    start = match.start()
    if match[0][0] != "{":
        return False
    return _BEFORE_NO_FIELD.match(text[start - 1 : start]) is not None


def _is_known(match: re.Match[str], known: Set[str]) -> bool:
    """Return whether a name, or its last part as in `contact.name`, is known."""
    names = _USUAL if match[0].startswith(_ANGLES) else known
    found = {_bare(match[1]), _bare(match[1].rpartition(".")[2])}
    if match[0][0] == "[":
        found -= _LINK_TEXTS
    return not names.isdisjoint(found)


def _bare(name: str) -> str:
    return identifier(name).replace("_", "")
