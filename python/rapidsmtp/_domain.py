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

# The characters with the property Joining_Type D, R and L (Unicode 14), which `unicodedata` lacks.
# They join the next letter (L and D), or the letter before them (R and D).
_DUAL_JOINING = (
    "\u0620\u0626\u0628\u062a-\u062e\u0633-\u063f\u0641-\u0647\u0649\u064a\u066e\u066f"
    "\u0678-\u0687\u069a-\u06bf\u06c1\u06c2\u06cc\u06ce\u06d0\u06d1\u06fa-\u06fc\u06ff"
    "\u0712-\u0714\u071a-\u071d\u071f-\u0727\u0729\u072b\u072d\u072e\u074e-\u0758\u075c-\u076a"
    "\u076d-\u0770\u0772\u0775-\u0777\u077a-\u077f\u07ca-\u07ea\u0841-\u0845\u0848\u084a-\u0853"
    "\u0855\u0860\u0862-\u0865\u0868\u0886\u0889-\u088d\u08a0-\u08a9\u08af\u08b0\u08b3-\u08b8"
    "\u08ba-\u08c8\u1807\u1820-\u1878\u1887-\u18a8\u18aa\ua840-\ua871\U00010ac0-\U00010ac4"
    "\U00010ad3-\U00010ad6\U00010ad8-\U00010adc\U00010ade-\U00010ae0\U00010aeb-\U00010aee"
    "\U00010b80\U00010b82\U00010b86-\U00010b88\U00010b8a\U00010b8b\U00010b8d\U00010b90"
    "\U00010bad\U00010bae\U00010d01-\U00010d21\U00010d23\U00010f30-\U00010f32"
    "\U00010f34-\U00010f44\U00010f51-\U00010f53\U00010f70-\U00010f73\U00010f76-\U00010f81"
    "\U00010fb0\U00010fb2\U00010fb3\U00010fb8\U00010fbb\U00010fbc\U00010fbe\U00010fbf\U00010fc1"
    "\U00010fc4\U00010fca\U0001e900-\U0001e943"
)
_RIGHT_JOINING = (
    "\u0622-\u0625\u0627\u0629\u062f-\u0632\u0648\u0671-\u0673\u0675-\u0677\u0688-\u0699\u06c0"
    "\u06c3-\u06cb\u06cd\u06cf\u06d2\u06d3\u06d5\u06ee\u06ef\u0710\u0715-\u0719\u071e\u0728"
    "\u072a\u072c\u072f\u074d\u0759-\u075b\u076b\u076c\u0771\u0773\u0774\u0778\u0779\u0840"
    "\u0846\u0847\u0849\u0854\u0856-\u0858\u0867\u0869\u086a\u0870-\u0882\u088e\u08aa-\u08ac"
    "\u08ae\u08b1\u08b2\u08b9\U00010ac5\U00010ac7\U00010ac9\U00010aca\U00010ace-\U00010ad2"
    "\U00010add\U00010ae1\U00010ae4\U00010aef\U00010b81\U00010b83-\U00010b85\U00010b89"
    "\U00010b8c\U00010b8e\U00010b8f\U00010b91\U00010ba9-\U00010bac\U00010d22\U00010f33"
    "\U00010f54\U00010f74\U00010f75\U00010fb4-\U00010fb6\U00010fb9\U00010fba\U00010fbd"
    "\U00010fc2\U00010fc3\U00010fc9"
)
_LEFT_JOINING = "\ua872\U00010acd\U00010ad7\U00010d00\U00010fcb"
_JOINS_NEXT = re.compile(f"[{_DUAL_JOINING}{_LEFT_JOINING}]")
_JOINS_PREVIOUS = re.compile(f"[{_DUAL_JOINING}{_RIGHT_JOINING}]")

_DOTS = "\u3002\uff0e\uff61"
_NON_JOINER = "\u200c"
_JOINERS = _NON_JOINER + "\u200d"
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
    try:
        text = label[4:].encode("ascii").decode("punycode")
    except UnicodeError:
        text = ""
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
    for place, character in enumerate(label):
        if character in _JOINERS:
            if not _may_join(label, place):
                raise _invalid(character)
        elif category(character)[0] in "CZ" or _REFUSED.match(character):
            raise _invalid(character)
    if is_bidi:
        _check_direction(label)


def _may_join(label: str, place: int) -> bool:
    """Return whether a joiner is valid at a place of a label (RFC 5892 A.1 and A.2)."""
    if place and combining(label[place - 1]) == _VIRAMA:
        return True
    before = next(filter(_is_opaque, label[:place][::-1]), "")
    after = next(filter(_is_opaque, label[place + 1 :]), "")
    return (
        label[place] == _NON_JOINER
        and _JOINS_NEXT.match(before) is not None
        and _JOINS_PREVIOUS.match(after) is not None
    )


def _is_opaque(character: str) -> bool:
    """Return whether a character has another Joining_Type than T (transparent)."""
    return character in _JOINERS or category(character) not in ("Mn", "Me", "Cf")


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
