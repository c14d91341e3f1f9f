//! The syntax tree of a template's text. It represents a subset of Jinja2.

use std::sync::Arc;

use super::TextError;
use super::value::Value;

/// The maximum nesting of expressions; a template with deeper nesting is refused. The functions
/// that visit the tree are recursive, so this limit bounds the size of the stack. A chain of the
/// operator `~` counts as one level, whatever its length.
const DEPTH: u16 = 100;

/// A statement.
#[derive(Debug)]
pub(super) enum Statement {
    /// Constant text.
    Data(String),
    /// `{{ … }}`.
    Output(Output),
    If(If),
    For(Box<For>),
    Set(Target, Expr),
    SetBlock(Box<SetBlock>),
}

/// The statement `{{ … }}`: an expression whose value is written to the text.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) expr: Expr,
    /// The name of the expression in error messages.
    pub(super) label: Arc<str>,
    /// Whether the expression contains a `default`. If so, the value of the expression may be
    /// empty; otherwise an empty value is an error.
    pub(super) has_default: bool,
}

/// An `if` with its `elif` branches and its `else`.
#[derive(Debug)]
pub(super) struct If {
    pub(super) branches: Vec<(Expr, Vec<Statement>)>,
    pub(super) otherwise: Vec<Statement>,
}

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) items: Expr,
    pub(super) test: Option<Expr>,
    pub(super) body: Vec<Statement>,
    pub(super) otherwise: Vec<Statement>,
    pub(super) line: u32,
    /// The slot of the variable `loop`; `None` if the body does not read `loop`.
    pub(super) loop_slot: Option<usize>,
    pub(super) body_loads: Vec<Load>,
    pub(super) test_loads: Vec<Load>,
    pub(super) otherwise_loads: Vec<Load>,
}

#[derive(Debug)]
pub(super) struct SetBlock {
    pub(super) target: Target,
    pub(super) body: Vec<Statement>,
    pub(super) loads: Vec<Load>,
}

/// The target of an assignment or of a `for`: one name, or a tuple of targets.
#[derive(Debug)]
pub(super) enum Target {
    Name(Name),
    Tuple(Vec<Target>),
}

/// A name and its slot.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) name: Arc<str>,
    pub(super) slot: usize,
    /// The error message for a use of the name while it has no value.
    pub(super) missing: Arc<str>,
}

/// The initial value of a slot. Entering the slot's frame assigns this value.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) slot: usize,
    pub(super) from: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The field of the row with this name.
    Row(Arc<str>),
    /// The value of this slot in the outer frame.
    Slot(usize),
    /// No value.
    Nothing,
    /// A variable of a loop. The loop sets it for each item.
    Parameter,
}

/// An expression.
#[derive(Debug)]
pub(super) struct Expr {
    pub(super) kind: ExprKind,
    pub(super) line: u32,
    depth: u16,
}

#[derive(Debug)]
pub(super) enum ExprKind {
    Constant(Value),
    Name(Name),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, Arc<str>),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, [Option<Box<Expr>>; 3]),
    /// `value if condition else other`, in the order condition, value, other.
    Conditional(Box<Expr>, Box<Expr>, Option<Box<Expr>>),
    Concat(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    Arithmetic(Arithmetic, Box<Expr>, Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Filter(Filter, Box<Expr>, Arguments),
    /// `is defined` (true) or `is undefined` (false).
    Defined(bool, Box<Expr>, Arguments),
    /// A field whose value is written to the text. Rendering fails if the field is missing. If the
    /// name for error messages is given, rendering also fails if the field is empty.
    Checked(Box<Expr>, Option<Arc<str>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

/// The arguments of a filter.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expr>,
    pub(super) named: Vec<(Arc<str>, Expr)>,
    /// `*values`
    pub(super) spread: Option<Box<Expr>>,
    /// `**values`
    pub(super) spread_named: Option<Box<Expr>>,
}

/// The filters of the subset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Default,
    Escape,
    Safe,
    Upper,
    Lower,
    Capitalize,
    Title,
    Trim,
    Replace,
    Join,
    Length,
    First,
    Last,
    UrlEncode,
    Round,
    Int,
}

impl Filter {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "default" => Self::Default,
            "escape" => Self::Escape,
            "safe" => Self::Safe,
            "upper" => Self::Upper,
            "lower" => Self::Lower,
            "capitalize" => Self::Capitalize,
            "title" => Self::Title,
            "trim" => Self::Trim,
            "replace" => Self::Replace,
            "join" => Self::Join,
            "length" => Self::Length,
            "first" => Self::First,
            "last" => Self::Last,
            "urlencode" => Self::UrlEncode,
            "round" => Self::Round,
            "int" => Self::Int,
            _ => return None,
        })
    }
}

impl Expr {
    /// Creates an expression from its subexpressions.
    pub(super) fn new(kind: ExprKind, line: u32) -> Result<Self, TextError> {
        let mut expr = Self {
            kind,
            line,
            depth: 0,
        };
        let mut depth = 0;
        expr.each_child(&mut |child| depth = depth.max(child.depth + 1));
        if depth > DEPTH {
            return Err(TextError::new(line, "nested too deeply"));
        }
        expr.depth = depth;
        Ok(expr)
    }

    /// Wraps the expression in a check. The check does not count towards the maximum nesting.
    pub(super) fn check(&mut self, label: Option<Arc<str>>) {
        let (line, depth) = (self.line, self.depth);
        let kind = ExprKind::Constant(Value::None);
        let field = std::mem::replace(self, Self { kind, line, depth });
        self.kind = ExprKind::Checked(Box::new(field), label);
    }

    /// Visits the direct subexpressions, in the order of the child nodes in Jinja2's own syntax
    /// tree.
    pub(super) fn each_child<'tree>(&'tree self, visit: &mut dyn FnMut(&'tree Expr)) {
        use ExprKind::*;
        match &self.kind {
            Constant(_) | Name(_) => {}
            List(items) | Tuple(items) | Concat(items) => items.iter().for_each(visit),
            Dict(pairs) => pairs.iter().for_each(|(key, value)| {
                visit(key);
                visit(value);
            }),
            Item(left, right) | Arithmetic(_, left, right) | And(left, right) | Or(left, right) => {
                visit(left);
                visit(right);
            }
            Attribute(inner, _)
            | Not(inner)
            | Negative(inner)
            | Positive(inner)
            | Checked(inner, _) => visit(inner),
            Slice(inner, bounds) => {
                visit(inner);
                bounds.iter().flatten().for_each(|bound| visit(bound));
            }
            Conditional(test, value, otherwise) => {
                visit(test);
                visit(value);
                otherwise.iter().for_each(|value| visit(value));
            }
            Compare(first, rest) => {
                visit(first);
                rest.iter().for_each(|(_, operand)| visit(operand));
            }
            Filter(_, inner, arguments) | Defined(_, inner, arguments) => {
                visit(inner);
                arguments.each(visit);
            }
        }
    }

    /// Visits the direct subexpressions in the order of `each_child`, and gives `visit` mutable
    /// access to them.
    pub(super) fn each_child_mut(&mut self, visit: &mut dyn FnMut(&mut Expr)) {
        use ExprKind::*;
        match &mut self.kind {
            Constant(_) | Name(_) => {}
            List(items) | Tuple(items) | Concat(items) => items.iter_mut().for_each(visit),
            Dict(pairs) => pairs.iter_mut().for_each(|(key, value)| {
                visit(key);
                visit(value);
            }),
            Item(left, right) | Arithmetic(_, left, right) | And(left, right) | Or(left, right) => {
                visit(left);
                visit(right);
            }
            Attribute(inner, _)
            | Not(inner)
            | Negative(inner)
            | Positive(inner)
            | Checked(inner, _) => visit(inner),
            Slice(inner, bounds) => {
                visit(inner);
                bounds.iter_mut().flatten().for_each(|bound| visit(bound));
            }
            Conditional(test, value, otherwise) => {
                visit(test);
                visit(value);
                otherwise.iter_mut().for_each(|value| visit(value));
            }
            Compare(first, rest) => {
                visit(first);
                rest.iter_mut().for_each(|(_, operand)| visit(operand));
            }
            Filter(_, inner, arguments) | Defined(_, inner, arguments) => {
                visit(inner);
                arguments.each_mut(visit);
            }
        }
    }
}

impl Arguments {
    fn each<'tree>(&'tree self, visit: &mut dyn FnMut(&'tree Expr)) {
        self.positional.iter().for_each(&mut *visit);
        self.named.iter().for_each(|(_, value)| visit(value));
        self.spread.iter().for_each(|value| visit(value));
        self.spread_named.iter().for_each(|value| visit(value));
    }

    fn each_mut(&mut self, visit: &mut dyn FnMut(&mut Expr)) {
        self.positional.iter_mut().for_each(&mut *visit);
        self.named.iter_mut().for_each(|(_, value)| visit(value));
        self.spread.iter_mut().for_each(|value| visit(value));
        self.spread_named.iter_mut().for_each(|value| visit(value));
    }
}
