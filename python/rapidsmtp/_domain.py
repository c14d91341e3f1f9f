"""Convert a domain with characters beyond ASCII to A-labels (UTS 46, non-transitional processing).

The pure-Python backend uses this module; the compiled backend uses the crate `idna`. The standard
library implements only IDNA 2003, which converts some domains to the domain of somebody else: faß
to fass. UTS 46 maps a character to its NFKC_Casefold with few exceptions, and `unicodedata`
computes this mapping. A domain is refused if its result could differ from the result of UTS 46. So
both backends convert a domain to the same A-labels, or this module refuses it.
"""

import re
import unicodedata
from unicodedata import bidirectional, category, combining, normalize

_DOTS = "\u3002\uff0e\uff61"
_JOINERS = "\u200c\u200d"
_VIRAMA = 9
"""The canonical combining class of a virama, after which a joiner is valid (RFC 5892 A.1, A.2)."""

_IGNORED = re.compile("[\u00ad\u034f\u180b-\u180d\u200b\u2060\ufe00-\ufe0f\ufeff]")
"""Characters that UTS 46 and IDNA 2003 remove."""
_REFUSED = re.compile(
    # The other characters with the property Default_Ignorable_Code_Point. Versions of UTS 46 differ
    # in their treatment.
    "[\u061c\u115f\u1160\u17b4\u17b5\u180e\u180f\u3164\uffa0\U000e0000-\U000e0fff"
    # Ideographic description characters, and the object and the replacement character.
    "\u2ff0-\u2fff\u31ef\ufffc\ufffd]"
)
_UNCHANGED = frozenset("\u00df\u03c2" + _JOINERS)
"""The characters that non-transitional processing keeps, although NFKC_Casefold changes them."""

# RFC 5893 section 2: the bidirectional classes in a label, by the direction of the label.
_NEUTRAL = frozenset(("EN", "ES", "CS", "ET", "ON", "BN", "NSM"))
_RIGHT_TO_LEFT = frozenset(("R", "AL", "AN"))
_DIRECTIONS = {
    "L": (_NEUTRAL | {"L"}, frozenset(("L", "EN"))),
    "R": (_NEUTRAL | _RIGHT_TO_LEFT, _RIGHT_TO_LEFT | {"EN"}),
    "AL": (_NEUTRAL | _RIGHT_TO_LEFT, _RIGHT_TO_LEFT | {"EN"}),
}


def to_a_labels(domain: str) -> str:
    """Return a domain in ASCII.

    Args:
        domain: The domain. A domain in ASCII is returned unchanged.

    Raises:
        ValueError: The domain is invalid in UTS 46, or this module cannot convert it.
    """
    if domain.isascii():
        return domain
    mapped = normalize("NFC", "".join(map(_mapped, _IGNORED.sub("", domain))))
    labels = [_decoded(label) for label in mapped.split(".")]
    is_bidi = not _RIGHT_TO_LEFT.isdisjoint(map(bidirectional, mapped + "".join(labels)))
    for label in labels:
        _check_label(label, is_bidi)
    return ".".join(map(_encoded, labels))


def _mapped(character: str) -> str:
    if character in _DOTS:
        return "."
    if character in _UNCHANGED:
        return character
    if character == "\u1e9e":
        return "\u00df"
    # NFKC_Casefold (Unicode section 3.13), without the removal of ignorable characters.
    folded = normalize("NFKC", normalize("NFD", character).casefold())
    folded = normalize("NFKC", folded.casefold())
    if character != "." and not {".", "\u3002"}.isdisjoint(folded):
        raise _invalid(character)  # such as U+2488, which looks like "1."
    return folded


def _decoded(label: str) -> str:
    """Return a label with its Punycode decoded, so that the decoded label is checked too."""
    if not label.startswith("xn--"):
        return label
    text = label[4:].encode("ascii").decode("punycode")
    if text.isascii() or normalize("NFC", "".join(map(_mapped, text))) != text:
        raise ValueError(f"{label} is not an A-label")
    return text


def _encoded(label: str) -> str:
    return label if label.isascii() else f"xn--{label.encode('punycode').decode('ascii')}"


def _check_label(label: str, is_bidi: bool) -> None:
    if not label:
        return
    if category(label[0])[0] == "M":
        raise _invalid(label[0])
    for before, character in zip("\0" + label, label, strict=False):
        if character in _JOINERS:
            # Without a virama, only the property Joining_Type permits a joiner, and `unicodedata`
            # lacks this property.
            if combining(before) != _VIRAMA:
                raise _invalid(character)
        elif category(character)[0] in "CZ" or _REFUSED.match(character):
            raise _invalid(character)
    if is_bidi:
        _check_direction(label)


def _check_direction(label: str) -> None:
    classes = [bidirectional(character) for character in label]
    allowed, last = _DIRECTIONS.get(classes[0], (frozenset(), frozenset()))
    while classes[-1] == "NSM" and len(classes) > 1:
        classes.pop()
    if not allowed.issuperset(classes) or classes[-1] not in last or {"EN", "AN"} <= set(classes):
        raise ValueError(f"{label} violates the rule for right-to-left labels")


def _invalid(character: str) -> ValueError:
    name = unicodedata.name(character, "a character without a name")
    return ValueError(f"U+{ord(character):04X}, {name}, is not allowed in a domain")
