"""One text with merge fields in the pure-Python backend.

Jinja2 parses and runs the templates. Both backends give the same text for each template and row, or
both give an error. So each operator, filter and test of a template becomes a function of
`pure_operators` and `pure_functions`, as in `src/message/text/rewrite.rs`. Everything that the two
backends would not render alike is refused when the text is compiled.

A template may come from an untrusted source. `pure_tags` bounds the work of the parser, and
`Budget` bounds the work and the length of a message. Jinja2's sandbox is a second protection.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rapidsmtp._compose.encode import FIELD_END, FIELD_START, RowError
from rapidsmtp._compose.text_part import has_syntax

try:
    import jinja2
    from jinja2 import lexer
    from jinja2.runtime import LoopContext
    from jinja2.sandbox import SandboxedEnvironment
except ModuleNotFoundError as error:  # pragma: no cover - tested in a process without Jinja2
    raise ImportError(
        "templates need Jinja2, which is not installed: pip install 'rapidsmtp[merge]'"
    ) from error

from rapidsmtp._compose import pure_functions as functions
from rapidsmtp._compose import pure_operators as operators
from rapidsmtp._compose import pure_values as values
from rapidsmtp._compose.pure_format import format_text
from rapidsmtp._compose.pure_rewrite import Rewriter
from rapidsmtp._compose.pure_tags import INVALID, Refusal, Tags
from rapidsmtp._compose.pure_values import MISSING, Blank, Budget, plain

__all__ = ["Budget", "Text", "plain"]

# In a header, `FIELD_START` and `FIELD_END` enclose the text of a merge field, so that the parser
# of the header treats the text as one opaque word. This table removes these marks from the text.
_MARKS_REMOVED = {ord(FIELD_START): None, ord(FIELD_END): None}

# The line ends that a template may have.
_LINE_END = re.compile("\r\n|\r")

_MACRO_STEPS = 20
"""The number of steps for the call of a macro, which is slow in Python."""

_BUDGET = "0budget"
"""The name of the budget among the variables. No template can read it, because a name does not
begin with a digit."""


class Text:
    """One compiled text: the value of a header field, or a body.

    Attributes:
        fields: The fields that the text uses in any branch.
        required: The fields that a row must have.
        constant: The rendered text if it does not depend on the row, else None.
    """

    def __init__(self, source: str, kind: str, where: str) -> None:
        """Compile a text.

        Args:
            source: The text, in Jinja2's syntax.
            kind: The kind of text: "text", "html" (fields are escaped as in MarkupSafe) or "header"
                (fields are marked).
            where: The name of this text in error messages, such as "header Subject".

        Raises:
            ValueError: The syntax is wrong, or outside the allowed subset of Jinja2.
        """
        self.where = where
        self._escapes = kind == "html"
        self.fields = self.required = frozenset[str]()
        self.constant: str | None = None
        source = _LINE_END.sub("\n", source)
        if not has_syntax(source):
            # Jinja2 would need a hundred microseconds, and gives the same result.
            self.constant = source
            return
        tags = Tags(source)
        try:
            self._compile(source, tags, kind)
        except Refusal as error:
            raise ValueError(f"{where}, {tags.error(*error.args)}") from None

    def _compile(self, source: str, tags: Tags, kind: str) -> None:
        tags.find()
        environment = _ENVIRONMENTS[kind]
        try:
            tree = environment.parse(source)
        except jinja2.TemplateSyntaxError as error:
            raise Refusal(error.lineno, INVALID) from None
        except RecursionError:
            raise Refusal(0, "the template is nested too deeply") from None
        rewriter = Rewriter(source)
        self.constant = rewriter.constant(tree)
        if self.constant is not None:
            return
        rewriter.rewrite(tree.body)
        self.fields, self.required = frozenset(rewriter.names.fields), rewriter.names.required
        tree.set_environment(environment)
        try:
            self._template = environment.from_string(tree)
        except jinja2.TemplateSyntaxError as error:
            raise Refusal(error.lineno, INVALID) from None
        except (RecursionError, MemoryError, SyntaxError):
            raise Refusal(0, "the template is nested too deeply") from None

    def render(self, row: Mapping[str, Any], budget: Budget | None = None) -> str:
        """Render the text for one row of plain values.

        Raises:
            RowError: A field is missing or empty, or an operation on its value failed.
        """
        if self.constant is not None:
            return self.constant
        budget = budget or Budget()
        budget.escapes = self._escapes
        pieces = []
        try:
            for piece in self._template.generate({**row, _BUDGET: budget}):
                budget.write(piece)
                pieces.append(piece)
        except RowError as error:
            raise RowError(f"{self.where}: {error}") from None
        except jinja2.UndefinedError as error:
            raise RowError(f"{self.where}: {error.message}") from None
        # A filter or an operator failed on a value of this row. As a RowError, the failure affects
        # only this row, and the other rows are still rendered.
        except (
            jinja2.TemplateError,
            ArithmeticError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise RowError(f"{self.where}: {error}") from None
        return "".join(pieces)


class _Environment(SandboxedEnvironment):
    """Jinja2's sandbox without globals, in which the line of a node is its place in the source."""

    def __init__(self, kind: str) -> None:
        super().__init__(
            autoescape=kind == "html",
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            cache_size=0,
            optimized=False,
        )
        self.globals.clear()
        self.tests.clear()
        mark = _mark if kind == "header" else _shown
        self.filters = {**_FUNCTIONS, "0show": _function(mark)}

    def _tokenize(
        self,
        source: str,
        name: str | None,
        filename: str | None = None,
        state: str | None = None,
    ) -> lexer.TokenStream:
        tokens = self.lexer.tokeniter(source, name, filename, state)
        placed = self.lexer.wrap(_placed(tokens, source), name, filename)
        return lexer.TokenStream(placed, name, filename)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, LoopContext):
            return super().getattr(obj, attribute)
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return self.undefined(obj=obj, name=argument)


def _placed(tokens: Iterator[tuple[int, str, str]], source: str) -> Iterator[tuple[int, str, str]]:
    """Replace the line of each token with its place in the source."""
    at = 0
    for _, kind, value in tokens:
        # Jinja2 omits white space between the tokens at a "-".
        at = source.index(value, at)
        yield at, kind, value
        at += len(value)


def _function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a filter of Jinja2 from a function of this backend."""

    # Jinja2 does not evaluate a filter with the context at compile time.
    @jinja2.pass_context
    def apply(context: jinja2.runtime.Context, *arguments: Any) -> Any:
        budget: Budget = context.parent[_BUDGET]
        budget.work(1)
        return function(budget, *arguments)

    return apply


def _defined(value: Any) -> Any:
    return MISSING if isinstance(value, jinja2.Undefined) else value


def _field(budget: Budget, value: Any, name: str) -> Any:
    return values.field(_defined(value), name)


def _absent(budget: Budget, line: int) -> Blank:
    return Blank(
        f"line {line}: the condition of an `if` without `else` is false, so the value is empty",
        MISSING,
    )


def _any(budget: Budget, value: Any, name: str, is_optional: bool) -> Any:
    """Check the value of an output. The name is that of the first field in the output."""
    if isinstance(value, Blank):
        value.refuse()
    if values.is_empty(value):
        if not is_optional:
            raise RowError(f"the field {name!r} is empty and has no |default")
        return value if isinstance(value, str) else ""
    return value


def _shown(budget: Budget, value: Any, name: str, is_optional: bool) -> str:
    shown = values.text(budget, _any(budget, value, name, is_optional))
    budget.work(len(shown) // 64)
    return shown


def _mark(budget: Budget, value: Any, name: str, is_optional: bool) -> str:
    shown = _shown(budget, value, name, is_optional).translate(_MARKS_REMOVED)
    return f"{FIELD_START}{shown}{FIELD_END}"


def _data(budget: Budget, data: str) -> str:
    budget.work(1 + len(data) // 64)
    return data


def _enter(budget: Budget, data: str) -> str:
    budget.work(_MACRO_STEPS)
    return data


def _unpack(budget: Budget, value: Any, count: int) -> Any:
    if not isinstance(value, (list, tuple, dict)) or len(value) != count:
        raise RowError(f"a value for {count} variables must be a list with {count} items")
    return value


def _part(budget: Budget, value: Any) -> Any:
    values.needed(value)
    # Lists that contain variables with lists could be nested without a limit.
    if isinstance(value, (list, tuple, dict)):
        kind = type(value).__name__
        raise RowError(f"a value of the type {kind} is too large for an item of a list")
    return value


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "0field": _field,
    "0absent": _absent,
    "0data": _data,
    "0enter": _enter,
    "0needed": lambda _, value: values.needed(value),
    "0items": values.items,
    "0unpack": _unpack,
    "0pairs": lambda budget, value, count: [_unpack(budget, each, count) for each in value],
    "0part": _part,
    "0item": lambda _, value, key, name: operators.item(_defined(value), key, name),
    "0slice": operators.part,
    "0operator": operators.operator,
    "0compare": operators.compare,
    "0call": lambda budget, value, name, *given: functions.apply(budget, name, value, *given),
    "0format": lambda budget, value, *given: format_text(budget, value, given),
    "0map": functions.map_attribute,
    "0each": lambda budget, value, name, *given: [
        functions.apply(budget, name, each, *given) for each in values.items(budget, value)
    ],
    "0select": functions.select,
}

_FUNCTIONS = {name: _function(function) for name, function in _OPERATIONS.items()}

_ENVIRONMENTS = {kind: _Environment(kind) for kind in ("text", "html", "header")}
