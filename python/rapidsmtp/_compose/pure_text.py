"""The subset of Jinja2 that a template may use, checked at compile time and enforced at run time.

A newsletter needs variables, if, for, set and a few filters. Everything else (macros, imports,
calls, other filters) is refused when the template is compiled. So a template gives the same text in
both backends, and an untrusted template can only write text. Jinja2's sandbox is a second
protection against untrusted templates.

A message must not contain an empty value by accident. So each `{{ … }}` is wrapped in a filter. The
filter raises an error if a field is missing, or if a field is empty and the expression has no
`|default`.
"""

import re
from collections.abc import Mapping
from typing import Any

from rapidsmtp._compose.encode import FIELD_END, FIELD_START, RowError
from rapidsmtp._compose.text_part import has_syntax

try:
    import jinja2
    from jinja2 import meta, nodes
    from jinja2.runtime import LoopContext
    from jinja2.sandbox import SandboxedEnvironment
    from jinja2.visitor import NodeTransformer
except ModuleNotFoundError as error:  # pragma: no cover - tested in a process without Jinja2
    raise ImportError(
        "templates need Jinja2, which is not installed: pip install rapidsmtp[merge]"
    ) from error

FILTERS = frozenset(
    """
    default escape safe upper lower capitalize title trim replace join length first last
    urlencode round int
    """.split()  # noqa: SIM905  (a list literal would fill a page)
)
TESTS = frozenset(("defined", "undefined"))

# The allowed statements and expressions. They can only write text and set variables of the
# template.
_ALLOWED: tuple[type[nodes.Node], ...] = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.If,
    nodes.For,
    nodes.Assign,
    nodes.AssignBlock,
    nodes.Name,
    nodes.Const,
    nodes.List,
    nodes.Tuple,
    nodes.Dict,
    nodes.Pair,
    nodes.Keyword,
    nodes.Slice,
    nodes.Getattr,
    nodes.Getitem,
    nodes.CondExpr,
    nodes.Concat,
    nodes.Compare,
    nodes.Operand,
    nodes.BinExpr,
    nodes.UnaryExpr,
    nodes.Filter,
    nodes.Test,
)

# The maximum depth of nested lists and dicts in a row, as in `src/python/row.rs`. A row with a
# deeper value, or with a value that contains itself, is refused.
_DEPTH = 60

# In a header, `FIELD_START` and `FIELD_END` enclose the text of a merge field, so that the parser
# of the header treats the text as one opaque word. This table removes these marks from the text.
_MARKS_REMOVED = {ord(FIELD_START): None, ord(FIELD_END): None}

# The line ends that Jinja2 converts to LF.
_LINE_END = re.compile("\r\n|\r")


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
        self.constant: str | None
        try:
            self._compile(source, _ENVIRONMENTS[kind])
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"{where}, line {error.lineno}: {error.message}") from None
        except RecursionError:
            raise ValueError(f"{where}: nested too deeply") from None
        except (jinja2.TemplateError, SyntaxError) as error:
            raise ValueError(f"{where}: {error}") from None

    def _compile(self, source: str, environment: "_Environment") -> None:
        if not has_syntax(source):
            # Jinja2 would need a hundred microseconds, and gives the same result.
            self.fields = self.required = frozenset[str]()
            self.constant = _LINE_END.sub("\n", source)
            return
        tree = environment.parse(source)
        _refuse_beyond_subset(tree)
        self.fields = frozenset(meta.find_undeclared_variables(tree))
        self.required = _used_names(tree) & self.fields
        self.constant = _constant(tree)
        if self.constant is None:
            _wrap_outputs(tree, environment)
            self._template = environment.from_string(tree)

    def render(self, row: Mapping[str, Any]) -> str:
        """Render the text for one row of plain values.

        Raises:
            RowError: A field is missing or empty, or an operation on its value failed.
        """
        if self.constant is not None:
            return self.constant
        try:
            return self._template.render(row)
        except RowError as error:
            raise RowError(f"{self.where}: {error}") from None
        except jinja2.UndefinedError as error:
            raise RowError(f"{self.where}: {error.message}") from None
        # A filter or an operator failed on a value of this row. As a RowError, the failure affects
        # only this row, and the other rows are still rendered.
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise RowError(f"{self.where}: {error}") from None


def plain(value: Any, depth: int = 0) -> Any:
    """Convert a row's value to str, int, float, bool or None, or to lists and dicts of these.

    Raises:
        RowError: The value's lists and dicts are nested too deeply, or contain themselves.
        Exception: Any exception that `str(value)` raises.
    """
    if depth > _DEPTH:
        raise RowError("a list or dict is nested too deeply")
    kind = type(value)
    if kind in (str, int, float, bool) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    # A Markup object becomes plain text too, because data is never markup and must be escaped.
    return str.__str__(str(value))


class _Environment(SandboxedEnvironment):
    """Jinja2's sandbox without globals, in which a dot reads a key and never an attribute."""

    def __init__(self, kind: str) -> None:
        super().__init__(
            autoescape=kind == "html",
            undefined=_FieldMissing,
            keep_trailing_newline=True,
            cache_size=0,
        )
        self.globals.clear()
        self.filters = {name: self.filters[name] for name in FILTERS}
        self.filters["default"] = _default
        self.filters[_FIELD] = _mark_field if kind == "header" else _field
        self.filters[_CHECKED] = _field
        self.filters[_ABSENT] = _absent
        self.filters[_OPTIONAL] = _mark_optional if kind == "header" else _optional
        self.tests = {name: self.tests[name] for name in TESTS}

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, LoopContext):
            return super().getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        try:
            return obj[argument]
        except (LookupError, TypeError, AttributeError):
            return self.undefined(obj=obj, name=argument)


class _FieldMissing(jinja2.StrictUndefined):
    """A missing field, with an error text for the author of the recipients list."""

    @property
    def _undefined_message(self) -> str:
        return f"the field {self._undefined_name!r} is missing"


class _Absent(jinja2.Undefined):
    """The value of an `if` without `else` whose condition is false.

    As in Jinja2, this value is false and has no items. Unlike in Jinja2, it cannot be converted to
    text.
    """

    def __str__(self) -> str:
        raise jinja2.UndefinedError(self._undefined_message)

    __repr__ = __str__


@jinja2.pass_context  # so that Jinja2 does not evaluate the filter at compile time
def _absent(context: Any, line: int) -> _Absent:
    return _Absent(
        f"line {line}: the condition of an `if` without `else` is false, so the value is empty"
    )


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _default(value: Any, default: Any = "", boolean: bool = False) -> Any:
    """Apply Jinja2's `default`, also to empty values, because a CSV file has no undefined cells."""
    if isinstance(value, jinja2.Undefined) or _is_empty(value) or (boolean and not value):
        return default
    return value


def _field(value: Any, name: str) -> Any:
    if isinstance(value, jinja2.Undefined):
        raise RowError(value._undefined_message)
    if _is_empty(value):
        raise RowError(f"the field {name!r} is empty and has no |default")
    return value


def _optional(value: Any, name: str) -> Any:
    if isinstance(value, jinja2.Undefined):
        raise RowError(value._undefined_message)
    return "" if value is None else value


def _mark_field(value: Any, name: str) -> str:
    return _mark(_field(value, name))


def _mark_optional(value: Any, name: str) -> str:
    return _mark(_optional(value, name))


def _mark(value: Any) -> str:
    return f"{FIELD_START}{str(value).translate(_MARKS_REMOVED)}{FIELD_END}"


# The names of the internal filters. No template can use these filters, because the parser refuses a
# name with a leading digit.
_FIELD, _OPTIONAL, _CHECKED, _ABSENT = "0field", "0optional", "0checked", "0absent"


def _refuse_beyond_subset(tree: nodes.Template) -> None:
    for node in (tree, *tree.find_all(nodes.Node)):
        if isinstance(node, nodes.Filter) and node.name not in FILTERS:
            _fail(node, f"the filter {node.name!r} is not allowed")
        if isinstance(node, nodes.Test) and node.name not in TESTS:
            _fail(node, f"the test {node.name!r} is not allowed")
        if isinstance(node, nodes.Name) and node.name == "self":
            _fail(node, "the name 'self' is not allowed")
        if isinstance(node, nodes.For) and node.recursive:
            _fail(node, "a recursive loop is not allowed")
        if isinstance(node, nodes.AssignBlock) and node.filter is not None:
            _fail(node, "a filter on a set block is not allowed")
        if not isinstance(node, _ALLOWED):
            _fail(node, f"{type(node).__name__.lower()} is not allowed in a template")


def _fail(node: nodes.Node, message: str) -> None:
    raise jinja2.TemplateSyntaxError(message, node.lineno or 1)


def _has_default(expression: nodes.Node) -> bool:
    filters = [expression] if isinstance(expression, nodes.Filter) else []
    return any(node.name == "default" for node in (*filters, *expression.find_all(nodes.Filter)))


def _wrap_outputs(tree: nodes.Template, environment: jinja2.Environment) -> None:
    """Wrap every output expression, and every field in such an expression, in a check."""
    for condition in tree.find_all(nodes.CondExpr):
        if condition.expr2 is None:
            line = nodes.Const(condition.lineno)
            condition.expr2 = nodes.Filter(line, _ABSENT, [], [], None, None)
    for output in tree.find_all(nodes.Output):
        for index, expression in enumerate(output.nodes):
            if isinstance(expression, nodes.TemplateData):
                continue
            name = _OPTIONAL if _has_default(expression) else _FIELD
            output.nodes[index] = _wrapped(_CheckFields().visit(expression), expression, name)
    tree.set_environment(environment)


def _wrapped(inner: nodes.Expr, expression: nodes.Expr, check: str) -> nodes.Expr:
    wrapped = nodes.Filter(inner, check, [nodes.Const(_label(expression))], [], None, None)
    wrapped.set_lineno(expression.lineno)
    return wrapped


class _CheckFields(NodeTransformer):
    """A visitor that wraps each field of an expression in a check.

    The check of the whole expression would not find an empty `name` in `"Dear " ~ name`, because
    the result is not empty. A field with a default is not wrapped. A field in a condition, such as
    `name` in `name or "friend"` and in `… if name else …`, is not wrapped either, because its value
    may be empty. The value that the condition selects is wrapped.
    """

    def visit_field(self, node: nodes.Expr) -> nodes.Expr:
        return _wrapped(node, node, _CHECKED)

    visit_Name = visit_Getattr = visit_Getitem = visit_field

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        return node if node.name == "default" else self.generic_visit(node)

    def leave_alone(self, node: nodes.Expr) -> nodes.Expr:
        return node

    visit_Not = visit_Compare = visit_Test = visit_Call = leave_alone

    def visit_And(self, node: nodes.And) -> nodes.Node:
        node.right = self.visit(node.right)
        return node

    def visit_Or(self, node: nodes.Or) -> nodes.Node:
        node.right = self.visit(node.right)
        return node

    def visit_CondExpr(self, node: nodes.CondExpr) -> nodes.Node:
        node.expr1 = self.visit(node.expr1)
        if node.expr2 is not None:
            node.expr2 = self.visit(node.expr2)
        return node


def _label(expression: nodes.Expr) -> str:
    """Return the name by which error messages refer to an expression."""
    names = [expression, *expression.find_all(nodes.Name)]
    return next((node.name for node in names if isinstance(node, nodes.Name)), "?")


def _constant(tree: nodes.Template) -> str | None:
    """Return the text of a tree that contains only text; otherwise None."""
    texts: list[str] = []
    for output in tree.body:
        if not isinstance(output, nodes.Output):
            return None
        for node in output.nodes:
            if not isinstance(node, nodes.TemplateData):
                return None
            texts.append(node.data)
    return "".join(texts)


def _used_names(tree: nodes.Template) -> frozenset[str]:
    """Return the names of the fields that are used at least once without a default."""
    found: set[str] = set()
    _collect_names(tree, found)
    return frozenset(found)


def _collect_names(node: nodes.Node, found: set[str]) -> None:
    if isinstance(node, nodes.Test):
        return
    if isinstance(node, nodes.Filter) and node.name == "default":
        for argument in node.args:
            _collect_names(argument, found)
        return
    if isinstance(node, nodes.Name) and node.ctx == "load":
        found.add(node.name)
    for child in node.iter_child_nodes():
        _collect_names(child, found)


_ENVIRONMENTS = {kind: _Environment(kind) for kind in ("text", "html", "header")}
