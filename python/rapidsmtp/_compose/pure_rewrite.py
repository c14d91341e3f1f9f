"""Rewrite a template so that Jinja2 computes the values of both backends.

Each operator, literal, filter and test becomes a filter of `pure_text`, as in
`src/message/text/rewrite.rs` and `expression.rs`. Everything outside the supported subset of Jinja2
is refused here, with the same texts. The line of each node is its place in the source.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

from jinja2 import nodes
from markupsafe import Markup

from rapidsmtp._compose.pure_functions import FUNCTIONS, REQUIRED
from rapidsmtp._compose.pure_names import Names
from rapidsmtp._compose.pure_tags import INVALID, Refusal

_RESERVED = frozenset(("self", "super", "caller", "varargs", "kwargs"))
_MACROS = 50
"""The maximum number of macros. Python calls itself for each call of a macro."""

_OF_LOOP = frozenset(
    """
    index index0 revindex revindex0 first last length depth depth0 previtem nextitem
    """.split()  # noqa: SIM905  (a list literal would fill a page)
)
_SIGNS: dict[type[nodes.Expr], str] = {
    nodes.Add: "+",
    nodes.Sub: "-",
    nodes.Mul: "*",
    nodes.Div: "/",
    nodes.FloorDiv: "//",
    nodes.Mod: "%",
    nodes.Pow: "**",
}
_COMPARISONS = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "lteq": "<=",
    "gt": ">",
    "gteq": ">=",
    "in": "in",
    "notin": "not in",
}


class Rewriter:
    """Rewrites one template in place.

    Attributes:
        names: The names of the template.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self.names = Names()
        self._macros: dict[str, dict[str, Any]] = {}
        self._depth = 0
        self._captures = 0
        # The first name of the current output, and whether the value of the output may be empty.
        self._first: str | None = None
        self._is_optional = False

    @staticmethod
    def constant(tree: nodes.Template) -> str | None:
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

    def rewrite(self, statements: Sequence[nodes.Node]) -> None:
        """Rewrite the statements of a template.

        Raises:
            Refusal: The template uses syntax outside the subset.
        """
        for statement in statements:
            match statement:
                case nodes.Output():
                    statement.nodes = [self._output(node) for node in statement.nodes]
                case nodes.If():
                    self._condition(statement)
                case nodes.For():
                    self._loop(statement)
                case nodes.Assign():
                    value = self._expr(statement.node)
                    count = self._target(statement.target)
                    if count is not None:
                        value = _filter(value, "0unpack", nodes.Const(count), at=statement)
                    statement.node = value
                case nodes.AssignBlock():
                    self._assign_block(statement)
                case nodes.Macro():
                    self._macro(statement)
                case _:
                    _refuse(statement, "a tag of the template is not allowed")

    def _body(self, statements: Sequence[nodes.Node]) -> None:
        self._depth += 1
        self.rewrite(statements)
        self._depth -= 1

    def _output(self, node: nodes.Expr) -> nodes.Expr:
        if isinstance(node, nodes.TemplateData):
            if not self._captures:
                return node
            return _filter(nodes.Const(Markup(node.data)), "0data", at=node)
        self._first, self._is_optional = None, False
        path = _path_of(node) if isinstance(node, (nodes.Name, nodes.Getattr)) else None
        is_macro = isinstance(node, nodes.Call) and self._macro_of(node) is not None
        value = self._expr(node)
        is_optional = nodes.Const(is_macro or self._is_optional)
        return _filter(
            value, "0show", nodes.Const(path or self._first or "?"), is_optional, at=node
        )

    def _condition(self, statement: nodes.If) -> None:
        before = self.names.branch()
        branches = []
        for each in (statement, *statement.elif_):
            each.test = self._needed(each.test)
            known = self.names.branch()
            self._body(each.body)
            branches.append(self.names.end_branch(known))
        self._body(statement.else_)
        branches.append(self.names.end_branch(before))
        self.names.join(branches)

    def _loop(self, statement: nodes.For) -> None:
        if statement.recursive:
            _refuse(statement.iter, "a recursive loop is not allowed")
        statement.iter = _filter(self._expr(statement.iter), "0items", at=statement)
        self.names.enter("test")
        count = self._target(statement.target)
        if count is not None:
            statement.iter = _filter(statement.iter, "0pairs", nodes.Const(count), at=statement)
        if statement.test is not None:
            statement.test = self._needed(statement.test)
        self.names.begin_loop()
        self._body(statement.body)
        self.names.leave()
        self.names.enter("block")
        self._body(statement.else_)
        self.names.leave()

    def _assign_block(self, statement: nodes.AssignBlock) -> None:
        if statement.filter is not None:
            _refuse(statement, "a filter on a set block is not allowed")
        if not isinstance(statement.target, nodes.Name):
            _refuse(statement, "a set block sets one variable")
        self.names.enter("block")
        self._captures += 1
        self._body(statement.body)
        self._captures -= 1
        self.names.leave()
        self._target(statement.target)

    def _target(self, target: nodes.Node) -> int | None:
        """Check the variables that a tag sets. Return their number if they are in a list."""
        match target:
            case nodes.Name(name="loop" | "self"):
                _refuse(target, INVALID)
            case nodes.Name():
                if target.name in self._macros or target.name in _RESERVED:
                    _refuse(target, f"the name '{target.name}' cannot be set")
                if message := self.names.set(target.name):
                    _refuse(target, message)
                return None
            case nodes.Tuple() if all(isinstance(item, nodes.Name) for item in target.items):
                for item in target.items:
                    self._target(item)
                return len(target.items)
        _refuse(target, "only variables can be set")

    def _macro(self, statement: nodes.Macro) -> None:
        name = statement.name
        if self._depth:
            _refuse(statement, f"the macro '{name}' is inside a block; define it outside")
        if len(self._macros) == _MACROS:
            _refuse(statement, f"the template has more than {_MACROS} macros")
        if self.names.is_known(name) or self._wrong_name(name):
            _refuse(statement, f"the name '{name}' of a macro has another use")
        self.names.enter("macro")
        parameters: dict[str, Any] = {}
        required = len(statement.args) - len(statement.defaults)
        for at, parameter in enumerate(statement.args):
            if parameter.name in parameters:
                _refuse(parameter, f"the parameter '{parameter.name}' occurs twice")
            self._target(parameter)
            parameters[parameter.name] = REQUIRED
            if at >= required:
                default = statement.defaults[at - required]
                # Jinja2 and minijinja look up the names of a default in different places.
                if not isinstance(default, nodes.Const):
                    _refuse(default, "the default of a parameter must be a text or a number")
                parameters[parameter.name] = default.value
        self._captures += 1
        self._body(statement.body)
        self._captures -= 1
        self.names.leave()
        # An empty macro costs steps too, because macros can call each other many times.
        start = nodes.Output([_filter(nodes.Const(Markup("")), "0enter", at=statement)])
        statement.body = [start.set_lineno(statement.lineno), *statement.body]
        self._macros[name] = parameters

    def _macro_of(self, call: nodes.Call) -> str | None:
        """Return the name of the macro that an expression calls."""
        node = call.node
        return node.name if isinstance(node, nodes.Name) and node.name in self._macros else None

    def _needed(self, node: nodes.Node) -> nodes.Expr:
        """Rewrite an expression whose value is a condition: a missing field is an error."""
        return _filter(self._expr(node), "0needed", at=node)

    def _all(self, found: Sequence[nodes.Expr]) -> list[nodes.Expr]:
        return [self._expr(node) for node in found]

    def _expr(self, node: Any) -> nodes.Expr:
        match node:
            case nodes.Const():
                return node
            case nodes.Name():
                if message := self._wrong_name(node.name):
                    _refuse(node, message)
                self.names.read(node.name)
                self._first = self._first or node.name
                return _filter(node, "0field", nodes.Const(node.name), at=node)
            case nodes.Getattr(node=nodes.Name(name=name)) if self.names.is_loop(name):
                if node.attr not in _OF_LOOP:
                    _refuse(node, f"'loop' has no attribute '{node.attr}'")
                return _filter(node, "0field", nodes.Const(node.attr), at=node)
            case nodes.Getitem(arg=nodes.Slice()):
                return self._slice(node)
            case nodes.Getattr() | nodes.Getitem():
                value, path = self._expr(node.node), nodes.Const(_path_of(node))
                if isinstance(node, nodes.Getattr):
                    key: nodes.Expr = nodes.Const(node.attr)
                else:
                    key = self._expr(node.arg)
                return _filter(value, "0item", key, path, at=node)
            case nodes.Not():
                node.node = self._needed(node.node)
                return node
            case nodes.Neg():
                sign, value = nodes.Const("-"), self._expr(node.node)
                return _filter(nodes.Const(0), "0operator", sign, value, at=node)
            case nodes.And() | nodes.Or():
                node.left, node.right = self._needed(node.left), self._expr(node.right)
                return node
            case nodes.Concat():
                value = self._expr(node.nodes[0])
                for right in node.nodes[1:]:
                    sign = nodes.Const("~")
                    value = _filter(value, "0operator", sign, self._expr(right), at=node)
                return value
            case nodes.BinExpr() if type(node) in _SIGNS:
                sign = nodes.Const(_SIGNS[type(node)])
                left, right = self._expr(node.left), self._expr(node.right)
                return _filter(left, "0operator", sign, right, at=node)
            case nodes.Compare():
                if len(node.ops) > 1:
                    _refuse(node, "a comparison has two values; write 'a < b and b < c'")
                left, sign = self._expr(node.expr), nodes.Const(_COMPARISONS[node.ops[0].op])
                return _filter(left, "0compare", sign, self._expr(node.ops[0].expr), at=node)
            case nodes.CondExpr():
                node.test, node.expr1 = self._needed(node.test), self._expr(node.expr1)
                if node.expr2 is None:
                    line = self._source.count("\n", 0, node.lineno) + 1
                    node.expr2 = _filter(nodes.Const(line), "0absent", at=node)
                else:
                    node.expr2 = self._expr(node.expr2)
                return node
            case nodes.List() | nodes.Tuple():
                node.items = [self._part(item) for item in node.items]
                return node
            case nodes.Dict():
                for pair in node.items:
                    if not isinstance(pair.key, nodes.Const) or not isinstance(pair.key.value, str):
                        _refuse(pair.key, "the keys of a dict must be texts in quotes")
                    pair.value = self._part(pair.value)
                return node
            case nodes.Filter():
                return self._filter(node)
            case nodes.Test():
                is_optional = node.name in ("defined", "undefined")
                self.names.optional += is_optional
                value = self._expr(node.node)
                self.names.optional -= is_optional
                return self._function(node, "test", f"?{node.name}", value)
            case nodes.Call():
                return self._call(node)
        _refuse(node, INVALID)

    def _wrong_name(self, name: str) -> str | None:
        """Return the reason why a name is no variable."""
        if name == "loop":
            return "only the attributes of 'loop' can be used, inside of its loop"
        if name in _RESERVED:
            return f"the name '{name}' is not allowed"
        if name in self._macros:
            return f"the macro '{name}' is not called; write {name}(…)"
        return None

    def _slice(self, node: nodes.Getitem) -> nodes.Expr:
        assert isinstance(node.arg, nodes.Slice)
        if node.arg.step is not None:
            _refuse(node, "a step of [start:stop] is not allowed")
        name = nodes.Const(_path_of(node.node))
        value = self._expr(node.node)
        bounds = [
            nodes.Const(None) if bound is None else self._expr(bound)
            for bound in (node.arg.start, node.arg.stop)
        ]
        return _filter(value, "0slice", *bounds, name, at=node)

    def _part(self, node: Any) -> nodes.Expr:
        """Rewrite an item of a list or dict."""
        is_literal = isinstance(node, (nodes.Const, nodes.List, nodes.Tuple, nodes.Dict))
        value = self._expr(node)
        return value if is_literal else _filter(value, "0part", at=node)

    def _filter(self, node: nodes.Filter) -> nodes.Expr:
        name = node.name
        assert node.node is not None
        is_default = name in ("default", "d")
        self._is_optional |= is_default
        self.names.optional += is_default
        value = self._expr(node.node)
        self.names.optional -= is_default
        match name:
            case "format":
                return _filter(
                    value, "0format", *self._positional(node, "the filter 'format'"), at=node
                )
            case "map":
                return self._map(node, value)
            case "select" | "reject" | "selectattr" | "rejectattr":
                return self._select(node, value)
        return self._function(node, "filter", name, value)

    def _map(self, node: nodes.Filter, value: nodes.Expr) -> nodes.Expr:
        if not node.args and [keyword.key for keyword in node.kwargs] == ["attribute"]:
            return _filter(value, "0map", self._expr(node.kwargs[0].value), at=node)
        return _filter(value, "0each", *self._named(node, "filter", node.args), at=node)

    def _select(self, node: nodes.Filter, value: nodes.Expr) -> nodes.Expr:
        given = list(node.args)
        attribute: nodes.Expr = nodes.Const(None)
        if node.name.endswith("attr"):
            if not given:
                _refuse(node, f"the filter '{node.name}' needs an attribute")
            attribute = self._expr(given.pop(0))
        keeps, test = nodes.Const(node.name.startswith("select")), self._named(node, "test", given)
        return _filter(value, "0select", keeps, attribute, *test, at=node)

    def _named(self, node: Any, what: str, given: Sequence[nodes.Expr]) -> list[nodes.Expr]:
        """Return the name and the arguments of a function whose name is an argument."""
        has_more = node.kwargs or node.dyn_args is not None or node.dyn_kwargs is not None
        if what == "test" and not given and not has_more:
            return [nodes.Const(None)]
        if not given or not isinstance(given[0], nodes.Const):
            _refuse(node, f"the filter '{node.name}' needs the name of a {what}")
        name = given[0].value if isinstance(given[0].value, str) else ""
        name = f"?{name}" if what == "test" else name
        return [nodes.Const(name), *self._known(node, what, name, given[1:])]

    def _call(self, node: nodes.Call) -> nodes.Expr:
        if (name := self._macro_of(node)) is not None:
            parameters = self._macros[name]
            node.args = self._bind(node, f"the macro '{name}'", parameters, node.args)
            node.kwargs = []
            return node
        match node.node:
            case nodes.Name(name="range"):
                return self._function(node, "function", "range()", nodes.Const(0))
            case nodes.Name(name=name):
                message = "is not allowed; a macro must be defined before its use"
                _refuse(node, f"the function '{name}' {message}")
            case nodes.Getattr(node=nodes.Name(name=name), attr=method) if self.names.is_loop(name):
                has_any = node.args or node.kwargs
                if method != "cycle" or not has_any:
                    _refuse(node, f"'loop' has no method '{method}()'")
                node.args = self._positional(node, "'loop.cycle'")
                return node
            case nodes.Getattr(node=called, attr=method):
                return self._function(node, "method", f".{method}", self._expr(called))
        _refuse(node, "only functions and methods can be called")

    def _positional(self, node: Any, callee: str) -> list[nodes.Expr]:
        """Return arguments without names."""
        given = self._all(node.args)
        if node.kwargs or node.dyn_args is not None or node.dyn_kwargs is not None:
            _refuse(node, f"{callee} needs arguments without names")
        return given

    def _function(self, node: Any, what: str, name: str, value: nodes.Expr) -> nodes.Expr:
        """Return the call of a function for a value."""
        given = self._known(node, what, name, node.args)
        return _filter(value, "0call", nodes.Const(name), *given, at=node)

    def _known(
        self, node: Any, what: str, name: str, given: Sequence[nodes.Expr]
    ) -> list[nodes.Expr]:
        shown = name.removeprefix("." if what == "method" else "?" if what == "test" else "")
        shown = shown.removesuffix("()")
        if name not in FUNCTIONS:
            _refuse(node, f"the {what} '{shown}' is not allowed")
        return self._bind(node, f"the {what} '{shown}'", FUNCTIONS[name].parameters, given)

    def _bind(
        self, node: Any, callee: str, parameters: dict[str, Any], given: Sequence[nodes.Expr]
    ) -> list[nodes.Expr]:
        """Return arguments in the order of the parameters, with all defaults."""
        if len(given) > len(parameters):
            _refuse(node, f"{callee} has too many arguments")
        bound = dict(zip(parameters, given, strict=False))
        for keyword in node.kwargs:
            if keyword.key not in parameters or keyword.key in bound:
                _refuse(node, f"{callee} does not accept the argument '{keyword.key}'")
            bound[keyword.key] = keyword.value
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            _refuse(node, f"{callee} does not accept '*'")
        result: list[nodes.Expr] = []
        for parameter, default in parameters.items():
            if parameter in bound:
                result.append(self._expr(bound[parameter]))
            elif default is REQUIRED:
                _refuse(node, f"{callee} needs the argument '{parameter}'")
            else:
                result.append(nodes.Const(default))
        return result


def _refuse(node: nodes.Node, message: str) -> NoReturn:
    raise Refusal(node.lineno or 0, message)


def _filter(value: Any, name: str, *given: nodes.Expr, at: nodes.Node) -> nodes.Filter:
    made = nodes.Filter(value, name, list(given), [], None, None)
    # A node without a place, such as a constant of this module, gets the place of the whole.
    made.set_lineno(at.lineno)
    return made


def _path_of(node: nodes.Node) -> str:
    """Return the name of a variable or an item, such as `person.name`, for an error text."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Getattr):
        return f"{_path_of(node.node)}.{node.attr}"
    if isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Slice):
        path = _path_of(node.node)
        return f"{path}.{node.arg.value}" if isinstance(node.arg, nodes.Const) else path
    return "?"
