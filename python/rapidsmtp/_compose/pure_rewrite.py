"""Rewrite a template so that Jinja2 computes the values of both backends.

Each operator, literal, filter and test becomes a filter of `pure_text`, as in
`src/message/text/rewrite.rs`. Everything outside the supported subset of Jinja2 is refused here,
with the same texts. The line of each node is its place in the source.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from jinja2 import nodes
from markupsafe import Markup

from rapidsmtp._compose.pure_filters import FILTERS, REQUIRED
from rapidsmtp._compose.pure_methods import METHODS, TESTS
from rapidsmtp._compose.pure_names import Names
from rapidsmtp._compose.pure_tags import Refusal

INVALID = "the syntax of the tag is invalid"
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
_SMALLEST_TOO_LARGE = 2**127


class Rewriter:
    """Rewrites one template in place.

    Attributes:
        names: The names of the template.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self.names = Names()
        self._macros: dict[str, tuple[list[str], int]] = {}
        self._bound: set[str] = set()
        self._depth = 0
        self._captures = 0
        self._is_in_condition = False

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

    def rewrite(self, tree: nodes.Template) -> None:
        """Rewrite a template.

        Raises:
            Refusal: The template uses syntax outside the subset.
        """
        self._bound = {
            name.name for name in tree.find_all(nodes.Name) if name.ctx in ("store", "param")
        }
        self._statements(tree.body)

    def _body(self, statements: Sequence[nodes.Node]) -> None:
        self._depth += 1
        self._statements(statements)
        self._depth -= 1

    def _statements(self, statements: Sequence[nodes.Node]) -> None:
        for statement in statements:
            match statement:
                case nodes.Output():
                    statement.nodes = [self._output(node) for node in statement.nodes]
                case nodes.If():
                    self._condition(statement)
                case nodes.For():
                    self._loop(statement)
                case nodes.Assign():
                    self._assign(statement)
                case nodes.AssignBlock():
                    self._assign_block(statement)
                case nodes.Macro():
                    self._macro(statement)
                case _:
                    _refuse(statement, "a tag of the template is not allowed")

    def _output(self, node: nodes.Expr) -> nodes.Expr:
        if isinstance(node, nodes.TemplateData):
            if not self._captures:
                return node
            return _filter(nodes.Const(Markup(node.data)), "0data", at=node)
        is_optional = _has_default(node)
        name = path_of(node) if _is_variable(node) else first_name(node) or "?"
        if isinstance(node, nodes.Call) and self._is_macro(node):
            is_optional = True
        value = self._expr(node)
        return _filter(value, "0show", nodes.Const(name), nodes.Const(is_optional), at=node)

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
        self.names.enter("loop")
        self._target(statement.target)
        if statement.test is not None:
            self._is_in_condition = True
            statement.test = self._needed(statement.test)
            self._is_in_condition = False
        self._body(statement.body)
        self.names.leave()
        if statement.else_:
            self.names.enter("block")
            self._body(statement.else_)
            self.names.leave()

    def _assign(self, statement: nodes.Assign) -> None:
        target, value = statement.target, statement.node
        is_loop = isinstance(value, nodes.Name) and self.names.is_loop(value.name)
        if not is_loop:
            value = self._expr(value)
        self._target(target)
        if isinstance(target, nodes.Tuple):
            value = _filter(value, "0items", at=statement)
        elif is_loop and isinstance(target, nodes.Name):
            self.names.set_loop(target.name)
        statement.node = value

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

    def _target(self, target: nodes.Node) -> None:
        match target:
            case nodes.Name(name="loop" | "self"):
                _refuse(target, INVALID)
            case nodes.Name():
                if target.name in self._macros or target.name in _RESERVED:
                    _refuse(target, f"the name '{target.name}' cannot be set")
                if message := self.names.set(target.name):
                    _refuse(target, message)
            case nodes.Tuple():
                for item in target.items:
                    self._target(item)
            case _:
                _refuse(target, "only a variable can be set")

    def _macro(self, statement: nodes.Macro) -> None:
        name = statement.name
        if self._depth:
            _refuse(statement, f"the macro '{name}' is inside a block; define it outside")
        if len(self._macros) == _MACROS:
            _refuse(statement, f"the template has more than {_MACROS} macros")
        if name in self._bound or name in self._macros or name in _RESERVED:
            _refuse(statement, f"the name '{name}' of a macro has another use")
        self.names.enter("macro")
        parameters: list[str] = []
        required = len(statement.args) - len(statement.defaults)
        for at, parameter in enumerate(statement.args):
            if parameter.name in parameters:
                _refuse(parameter, f"the parameter '{parameter.name}' occurs twice")
            self._target(parameter)
            if at >= required:
                default = statement.defaults[at - required]
                # Jinja2 and minijinja look up the names of a default in different places.
                if not isinstance(default, nodes.Const):
                    _refuse(default, "the default of a parameter must be a text or a number")
                self._expr(default)
            parameters.append(parameter.name)
        self._captures += 1
        self._body(statement.body)
        self._captures -= 1
        self.names.leave()
        # An empty macro costs steps too, because macros can call each other many times.
        start = nodes.Output([_filter(nodes.Const(Markup("")), "0enter", at=statement)])
        statement.body = [start.set_lineno(statement.lineno), *statement.body]
        self._macros[name] = (parameters, required)

    def _is_macro(self, call: nodes.Call) -> bool:
        return isinstance(call.node, nodes.Name) and call.node.name in self._macros

    def _needed(self, node: nodes.Node) -> nodes.Expr:
        """Rewrite an expression whose value is a condition: a missing field is an error."""
        return _filter(self._expr(node), "0needed", at=node)

    def _all(self, found: Iterable[nodes.Node]) -> list[nodes.Expr]:
        return [self._expr(node) for node in found]

    def _expr(self, node: Any) -> nodes.Expr:
        match node:
            case nodes.Const():
                return _checked_constant(node)
            case nodes.Name():
                return self._name(node)
            case nodes.Getattr():
                return self._item(node, nodes.Const(node.attr))
            case nodes.Getitem(arg=nodes.Slice()):
                return self._slice(node)
            case nodes.Getitem():
                return self._item(node, node.arg)
            case nodes.Not():
                node.node = self._needed(node.node)
                return node
            case nodes.Neg():
                return _filter(self._expr(node.node), "0negative", at=node)
            case nodes.And() | nodes.Or():
                node.left, node.right = self._needed(node.left), self._expr(node.right)
                return node
            case nodes.Concat():
                return self._concat(node)
            case nodes.BinExpr() if type(node) in _SIGNS:
                sign = nodes.Const(_SIGNS[type(node)])
                left, right = self._expr(node.left), self._expr(node.right)
                return _filter(left, "0operator", sign, right, at=node)
            case nodes.Compare():
                return self._compare(node)
            case nodes.CondExpr():
                return self._choice(node)
            case nodes.List():
                node.items = self._all(node.items)
                return _filter(node, "0list", at=node)
            case nodes.Tuple():
                node.items = self._all(node.items)
                return _filter(node, "0tuple", at=node)
            case nodes.Dict():
                pairs = [
                    nodes.Tuple([self._expr(pair.key), self._expr(pair.value)], "load")
                    for pair in node.items
                ]
                return _filter(nodes.List(list(pairs)), "0dict", at=node)
            case nodes.Filter():
                return self._filter(node)
            case nodes.Test():
                return self._test(node)
            case nodes.Call():
                return self._call(node)
        _refuse(node, INVALID)

    def _name(self, node: nodes.Name) -> nodes.Expr:
        name = node.name
        if name == "loop" or self.names.is_loop(name):
            _refuse(node, f"only the attributes of '{name}' can be used, inside of its loop")
        if name in _RESERVED:
            _refuse(node, f"the name '{name}' is not allowed")
        if name in self._macros:
            _refuse(node, f"the macro '{name}' is not called; write {name}(…)")
        self.names.read(name)
        return _filter(node, "0field", nodes.Const(name), at=node)

    def _item(self, node: Any, key: nodes.Expr) -> nodes.Expr:
        base = node.node
        if (
            isinstance(node, nodes.Getattr)
            and isinstance(base, nodes.Name)
            and self.names.is_loop(base.name)
        ):
            if self._is_in_condition:
                _refuse(node, "the condition of a loop cannot use 'loop'")
            if node.attr not in _OF_LOOP:
                _refuse(node, f"'loop' has no attribute '{node.attr}'")
            if node.attr in ("previtem", "nextitem"):
                return _filter(node, "0field", nodes.Const(node.attr), at=node)
            return node
        name = nodes.Const(path_of(node))
        value = self._expr(base)
        return _filter(value, "0item", self._expr(key), name, at=node)

    def _slice(self, node: nodes.Getitem) -> nodes.Expr:
        name = nodes.Const(first_name(node) or "?")
        value = self._expr(node.node)
        assert isinstance(node.arg, nodes.Slice)
        bounds = [
            nodes.Const(None) if bound is None else self._expr(bound)
            for bound in (node.arg.start, node.arg.stop, node.arg.step)
        ]
        return _filter(value, "0slice", *bounds, name, at=node)

    def _concat(self, node: nodes.Concat) -> nodes.Expr:
        value = self._expr(node.nodes[0])
        for right in node.nodes[1:]:
            value = _filter(value, "0operator", nodes.Const("~"), self._expr(right), at=node)
        return value

    def _compare(self, node: nodes.Compare) -> nodes.Expr:
        value = self._expr(node.expr)
        rest: list[nodes.Expr] = []
        for operand in node.ops:
            rest += [nodes.Const(_COMPARISONS[operand.op]), self._expr(operand.expr)]
        return _filter(value, "0compare", *rest, at=node)

    def _choice(self, node: nodes.CondExpr) -> nodes.Expr:
        test = self._needed(node.test)
        value = self._expr(node.expr1)
        if node.expr2 is None:
            line = self._source.count("\n", 0, node.lineno) + 1
            otherwise: nodes.Expr = _filter(nodes.Const(line), "0absent", at=node)
        else:
            otherwise = self._expr(node.expr2)
        node.test, node.expr1, node.expr2 = test, value, otherwise
        return node

    def _filter(self, node: nodes.Filter) -> nodes.Expr:
        name = node.name
        assert node.node is not None
        is_default = name in ("default", "d")
        self.names.optional += is_default
        value = self._expr(node.node)
        self.names.optional -= is_default
        match name:
            case "format":
                return self._format(node, value)
            case "map":
                return self._map(node, value)
            case "select" | "reject" | "selectattr" | "rejectattr":
                return self._select(node, value)
        if name not in FILTERS:
            _refuse(node, f"the filter '{name}' is not allowed")
        given = self._arguments(node, name, node.args, node.kwargs)
        return _filter(value, "0filter", nodes.Const(name), *given, at=node)

    def _arguments(
        self,
        node: Any,
        name: str,
        given: Sequence[nodes.Expr],
        named: Sequence[Any],
    ) -> list[nodes.Expr]:
        """Return the arguments of a filter in the order of its parameters, with all defaults."""
        place = f"the filter '{name}'"
        parameters = FILTERS[name][0]
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            _refuse(node, f"{place} does not accept '*'")
        if len(given) > len(parameters):
            _refuse(node, f"{place} has too many arguments")
        bound = dict(zip(parameters, given, strict=False))
        for keyword in named:
            if keyword.key not in parameters or keyword.key in bound:
                _refuse(node, f"{place} does not accept the argument '{keyword.key}'")
            bound[keyword.key] = keyword.value
        result: list[nodes.Expr] = []
        for parameter, default in parameters.items():
            if parameter in bound:
                result.append(self._expr(bound[parameter]))
            elif default is REQUIRED:
                _refuse(node, f"{place} needs the argument '{parameter}'")
            else:
                result.append(nodes.Const(default))
        return result

    def _format(self, node: nodes.Filter, value: nodes.Expr) -> nodes.Expr:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            _refuse(node, "the filter 'format' does not accept '*'")
        if node.args and node.kwargs:
            _refuse(node, "the filter 'format' needs values either with or without names")
        if node.kwargs:
            pairs = [
                nodes.Tuple([nodes.Const(keyword.key), self._expr(keyword.value)], "load")
                for keyword in node.kwargs
            ]
            given = _filter(nodes.List(list(pairs)), "0dict", at=node)
        else:
            given = _filter(nodes.Tuple(self._all(node.args), "load"), "0tuple", at=node)
        return _filter(value, "0format", given, at=node)

    def _map(self, node: nodes.Filter, value: nodes.Expr) -> nodes.Expr:
        keys = [keyword.key for keyword in node.kwargs]
        if not node.args and keys in (["attribute"], ["attribute", "default"]):
            given = self._all(keyword.value for keyword in node.kwargs)
            return _filter(value, "0map", *given, *[nodes.Const(None)] * (2 - len(given)), at=node)
        if not node.args or not isinstance(node.args[0], nodes.Const):
            _refuse(node, "the filter 'map' needs an attribute or the name of a filter")
        name = node.args[0].value if isinstance(node.args[0].value, str) else ""
        if name not in FILTERS:
            _refuse(node, f"the filter '{name}' is not allowed")
        given = self._arguments(node, name, node.args[1:], node.kwargs)
        return _filter(value, "0each", nodes.Const(name), *given, at=node)

    def _select(self, node: nodes.Filter, value: nodes.Expr) -> nodes.Expr:
        name, given = node.name, list(node.args)
        attribute: nodes.Expr = nodes.Const(None)
        if name.endswith("attr"):
            if not given:
                _refuse(node, f"the filter '{name}' needs an attribute")
            attribute = self._expr(given.pop(0))
        test: nodes.Expr = nodes.Const(None)
        if given:
            test = given.pop(0)
            if not isinstance(test, nodes.Const):
                _refuse(node, f"the filter '{name}' needs the name of a test")
            tested = test.value if isinstance(test.value, str) else ""
            self._check_test(node, tested, len(given))
        if node.kwargs or node.dyn_args is not None or node.dyn_kwargs is not None:
            _refuse(node, f"the filter '{name}' needs arguments without names")
        keeps = nodes.Const(name.startswith("select"))
        return _filter(value, "0select", keeps, attribute, test, *self._all(given), at=node)

    def _check_test(self, node: nodes.Node, name: str, count: int) -> None:
        if name not in TESTS:
            _refuse(node, f"the test '{name}' is not allowed")
        if TESTS[name] != count:
            _refuse(node, f"the test '{name}' needs {TESTS[name]} arguments, not {count}")

    def _test(self, node: nodes.Test) -> nodes.Expr:
        name = node.name
        is_optional = name in ("defined", "undefined")
        self.names.optional += is_optional
        value = self._expr(node.node)
        self.names.optional -= is_optional
        self._check_test(node, name, len(node.args) + len(node.kwargs))
        if node.kwargs or node.dyn_args is not None or node.dyn_kwargs is not None:
            _refuse(node, f"the test '{name}' needs arguments without names")
        return _filter(value, "0is", nodes.Const(name), *self._all(node.args), at=node)

    def _call(self, node: nodes.Call) -> nodes.Expr:
        called = node.node
        match called:
            case nodes.Name(name=name) if name in self._macros:
                return self._macro_call(node, name)
            case nodes.Name(name="range"):
                given = self._positional(node, "range", (1, 3))
                return _filter(nodes.Const(0), "0range", *given, at=node)
            case nodes.Name(name=name):
                _refuse(
                    node,
                    f"the function '{name}' is not allowed; a macro must be defined before its use",
                )
            case nodes.Getattr(node=nodes.Name(name=name), attr=method) if self.names.is_loop(name):
                if method != "cycle" or self._is_in_condition:
                    _refuse(node, f"'loop' has no method '{method}'")
                node.args = self._positional(node, "cycle", (1, 100))
                return node
            case nodes.Getattr(attr=method):
                if method not in METHODS:
                    _refuse(node, f"the method '{method}' is not allowed")
                value = self._expr(called.node)
                given = self._positional(node, method, METHODS[method])
                return _filter(value, "0call", nodes.Const(method), *given, at=node)
        _refuse(node, "only functions and methods can be called")

    def _positional(self, node: nodes.Call, name: str, counts: tuple[int, int]) -> list[nodes.Expr]:
        count = len(node.args) + len(node.kwargs)
        if not counts[0] <= count <= counts[1]:
            _refuse(node, f"'{name}' does not accept {count} arguments")
        if node.kwargs or node.dyn_args is not None or node.dyn_kwargs is not None:
            _refuse(node, f"'{name}' does not accept arguments with names")
        return self._all(node.args)

    def _macro_call(self, node: nodes.Call, name: str) -> nodes.Expr:
        parameters, required = self._macros[name]
        place = f"the macro '{name}'"
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            _refuse(node, f"{place} does not accept '*'")
        if len(node.args) > len(parameters):
            _refuse(node, f"{place} has too many arguments")
        bound = parameters[: len(node.args)]
        node.args = self._all(node.args)
        for keyword in node.kwargs:
            if keyword.key not in parameters or keyword.key in bound:
                _refuse(node, f"{place} does not accept the argument '{keyword.key}'")
            bound.append(keyword.key)
            keyword.value = self._expr(keyword.value)
        for parameter in parameters[:required]:
            if parameter not in bound:
                _refuse(node, f"{place} needs the argument '{parameter}'")
        return node


def _refuse(node: nodes.Node, message: str) -> NoReturn:
    raise Refusal(node.lineno or 0, message)


def _filter(value: Any, name: str, *given: nodes.Expr, at: nodes.Node) -> nodes.Filter:
    made = nodes.Filter(value, name, list(given), [], None, None)
    # A node without a place, such as a constant of this module, gets the place of the whole.
    made.set_lineno(at.lineno)
    return made


def _checked_constant(node: nodes.Const) -> nodes.Const:
    value = node.value
    if isinstance(value, int) and value >= _SMALLEST_TOO_LARGE:
        _refuse(node, "an integer of the template is too large")
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        _refuse(node, "a number of the template is too large")
    return node


def _is_variable(node: nodes.Node) -> bool:
    """Return whether an expression is only a variable or an attribute of it."""
    while isinstance(node, (nodes.Getattr, nodes.Getitem)):
        node = node.node
    return isinstance(node, nodes.Name)


def first_name(node: nodes.Node) -> str | None:
    """Return the first name of an expression. The error about an empty value contains it."""
    found = [node, *node.find_all(nodes.Name)]
    return next((each.name for each in found if isinstance(each, nodes.Name)), None)


def path_of(node: nodes.Node) -> str:
    """Return the name of a variable or an item, such as `person.name`, for an error text."""
    if isinstance(node, nodes.Getattr):
        return f"{path_of(node.node)}.{node.attr}"
    if isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Slice):
        path = path_of(node.node)
        return f"{path}.{node.arg.value}" if isinstance(node.arg, nodes.Const) else path
    return first_name(node) or "?"


def _has_default(node: nodes.Node) -> bool:
    found = [node, *node.find_all(nodes.Filter)]
    return any(isinstance(each, nodes.Filter) and each.name in ("default", "d") for each in found)
