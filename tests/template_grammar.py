"""Random templates and rows, for comparisons of the template engines.

`TEMPLATES` generates templates in the supported subset of Jinja2, with fields of `ROW`. No value of
`ROW` is empty, because Jinja2 itself accepts empty values.
"""

from typing import Any

from hypothesis import strategies as st

ROW: dict[str, Any] = {
    "name": "Anna",
    "html": '<b>&"it\'s"</b>',
    "title": "o'neil-smith (the 2nd)",
    "text": "one two-three\nfour  five — six",
    "digits": " 42 ",
    "n": 7,
    "zero": 0,
    "f": 2.5,
    "yes": True,
    "no": False,
    "list": ["b", 1, 2.5, True, "a"],
    "numbers": [3, 1, 2],
    "words": ["pear", "Apple", "fig", "apple"],
    "people": [
        {"name": "Zoë", "ok": True, "age": 30},
        {"name": "Bo", "ok": False, "age": 4},
        {"name": "cy", "ok": True, "age": 30},
    ],
    "dict": {"b": 1, "a": ["x", {"k": "v"}]},
}

_NAMES = ("name", "html", "title", "text", "digits", "n", "zero", "f", "yes", "no", "list")
_LISTS = ("numbers", "words", "people", "list", "dict")

_ATOMS = st.one_of(
    st.sampled_from(_NAMES),
    st.sampled_from(_LISTS),
    st.sampled_from(("x", "item", "missing")),
    st.sampled_from(("1", "0", "-2", "2.5", "10", "'a'", "'<i>'", "' b c '", "true", "false")),
    st.sampled_from(("[1, 2, 3]", "['a', 'b']", "(1, 'x')", "{'k': 1, 'j': 'v'}", "none")),
    st.sampled_from(("dict.b", "dict['a']", "dict.a.1.k", "people[0].name", "numbers[-1]")),
    st.sampled_from(("name[1:]", "numbers[:-1]", "title[2:9]", "list[5]", "dict.zz")),
    st.sampled_from(
        ("loop.index", "loop.first", "loop.length", "loop.revindex", "loop.cycle(1, 2)")
    ),
)

_FILTERS = st.sampled_from(
    (
        "upper", "lower", "title", "capitalize", "trim", "trim('ab')", "length", "count", "first",
        "last", "e", "escape", "safe", "string", "list", "reverse", "join", "join(', ')",
        "join('<')", "sort", "sort(reverse=true)", "sort(attribute='age')", "min", "max",
        "sum", "abs", "int", "int(5)", "float", "float(1.5)", "round", "round(1)",
        "round(-1)", "round(1, 'floor')", "round(method='ceil')", "replace('a', 'o')",
        "replace('n', '<', 1)", "truncate(9)", "truncate(9, true)", "truncate(12, end='…')",
        "wordwrap(7)", "wordwrap(9, false)", "wordwrap(5, break_on_hyphens=false)", "urlencode",
        "striptags", "tojson", "center(9)",
        "default('-')", "d('-')", "default('-', true)", "batch(2)", "batch(2, 0)", "items",
        "map(attribute='name')", "map('upper')", "select", "reject('odd')",
        "select('string')", "selectattr('ok')", "rejectattr('age', 'gt', 5)",
    )
)  # fmt: skip

_TESTS = st.sampled_from(
    (
        "defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "true",
        "false", "mapping", "sequence", "iterable", "lower", "upper", "odd", "even",
        "divisibleby(3)", "divisibleby 2", "eq(7)", "ne 'a'", "gt(2)", "lt(2)", "ge(2)", "le(2)",
        "in [1, 7, 'b']", "equalto('Anna')",
    )
)  # fmt: skip

_METHODS = st.sampled_from(
    (
        "upper()", "lower()", "title()", "capitalize()", "strip()", "strip('A')", "lstrip()",
        "rstrip()", "split()", "split('-')", "split(' ', 1)", "replace('n', 'm')",
        "replace('n', '&', 1)", "startswith('A')", "endswith('a')",
        "items()", "get('b')", "get('zz', 'd')",
    )
)  # fmt: skip

_SIGNS = st.sampled_from(
    ("+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in")
)
_FORMATS = st.sampled_from(
    (
        "%s",
        "%d",
        "%.2f",
        "%5s|%-5s",
        "%05d",
        "%+d",
        "%-7.1f|",
        "%07.2f",
        "%s%%",
        "<i>%s</i>",
        "%.2s",
    )
)


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("{}|{}".format, inner, _FILTERS),
        st.builds("({})|{}|{}".format, inner, _FILTERS, _FILTERS),
        st.builds("({} {} {})".format, inner, _SIGNS, inner),
        st.builds("({} {} {} {} {})".format, inner, _SIGNS, inner, _SIGNS, inner),
        st.builds("({} is {})".format, inner, _TESTS),
        st.builds("({} is not {})".format, inner, _TESTS),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("({} and {} or {})".format, inner, inner, inner),
        st.builds("(not {})".format, inner),
        st.builds("(-{})".format, inner),
        st.builds("({}).{}".format, inner, _METHODS),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("('{}' % {})".format, _FORMATS, inner),
        st.builds("('{}'|format({}))".format, _FORMATS, inner),
        st.builds("('{}'|safe % ({}, {}))".format, _FORMATS, inner, inner),
        st.builds("m({})".format, inner),
        st.builds("range({}, 5)|list".format, inner),
    )


EXPRESSIONS = st.recursive(_ATOMS, _larger, max_leaves=5)

_TEXTS = st.sampled_from(("", "a", " b ", "\n", " \n c", "<p>", "{", "é ", "% ", "{ }", "\n\n"))
_DASH = st.sampled_from(("", "", "", "-"))


def _tag(content: str) -> st.SearchStrategy[str]:
    return st.builds(f"{{}}{content}{{}}".format, _DASH, _DASH)


def _blocks(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def tag(dash: str, content: str, other: str) -> str:
        return "{%" + dash + " " + content + " " + other + "%}"

    def make(parts: list[str], dashes: list[str], expression: str, kind: str) -> str:
        first, second = parts
        one, two, three, four = dashes
        if kind == "if":
            return (
                tag(one, f"if {expression}", two) + first + tag(three, "else", four) + second
                + tag(two, "endif", one)
            )  # fmt: skip
        if kind == "elif":
            return (
                tag(one, "if no", two) + first + tag(three, f"elif {expression}", four) + second
                + tag(two, "endif", one)
            )  # fmt: skip
        if kind == "for":
            return (
                tag(one, f"for item in {expression}", two) + first + tag(three, "else", four)
                + second + tag(two, "endfor", one)
            )  # fmt: skip
        if kind == "for if":
            return (
                tag(one, f"for item in people if item.{second or 'ok'}", two) + first
                + tag(three, "endfor", four)
            )  # fmt: skip
        if kind == "pairs":
            return (
                tag(one, f"for x, item in ({expression})|items", two) + first
                + tag(three, "endfor", four)
            )  # fmt: skip
        if kind == "set":
            return tag(one, f"set x = {expression}", two) + first
        return tag(one, "set x", two) + first + tag(three, "endset", four) + second

    kinds = ("if", "elif", "for", "for if", "pairs", "set", "set block")
    return st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds(
            make,
            st.lists(inner, min_size=2, max_size=2),
            st.lists(_DASH, min_size=4, max_size=4),
            EXPRESSIONS,
            st.sampled_from(kinds),
        ),
    )


_OUTPUTS = st.one_of(
    _TEXTS,
    st.builds("{{{{{} {} {}}}}}".format, _DASH, EXPRESSIONS, _DASH),
    st.builds("{{{{ ({})|default('-') }}}}".format, EXPRESSIONS),
    st.sampled_from(("{# c #}", "{#- c -#}", "{% raw %}{{ x }}{% endraw %}")),
)
_MACRO = "{% macro m(x, y='z') %}[{{ x }}{{ y }}]{% endmacro %}"

TEMPLATES = st.recursive(_OUTPUTS, _blocks, max_leaves=6).map(_MACRO.__add__)
