//! The tree of a template: what is left of Jinja2 once everything but writing text is refused.

use std::sync::Arc;

use super::TextError;
use super::value::Value;

/// Expressions within expressions. Every walk over a tree recurses, so this bounds its stack; a
/// chain of `~` is one expression and as long as it likes.
const DEPTH: u16 = 100;

/// A statement.
#[derive(Debug)]
pub(super) enum Statement {
    /// Text as it is.
    Data(String),
    /// `{{ … }}`.
    Output(Output),
    If(If),
    For(Box<For>),
    Set(Target, Expr),
    SetBlock(Box<SetBlock>),
}

/// An expression that is written out.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) expr: Expr,
    /// What an error calls it.
    pub(super) label: Arc<str>,
    /// Its author thought of what to say where there is nothing.
    pub(super) has_default: bool,
}

/// `if`, each `elif`, and `else`.
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
    /// Where `loop` is kept, if the body looks at it.
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

/// What a value is given to.
#[derive(Debug)]
pub(super) enum Target {
    Name(Name),
    Tuple(Vec<Target>),
}

/// A name, and where its value is kept.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) name: Arc<str>,
    pub(super) slot: usize,
    /// What an error says where there is no value.
    pub(super) missing: Arc<str>,
}

/// What a slot holds when the frame that it belongs to is entered.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) slot: usize,
    pub(super) from: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The field of the row.
    Row(Arc<str>),
    /// The slot of an outer frame.
    Slot(usize),
    /// Nothing yet.
    Nothing,
    /// The frame itself sets it before it is entered.
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
    /// The test, the value, and the one after `else`.
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
    /// `is defined`, or with false `is undefined`.
    Defined(bool, Box<Expr>, Arguments),
    /// A field inside of an expression that is written out, and its name; without one it may be
    /// empty, and only has to be there.
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

/// What stands in the parentheses of a filter.
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
    /// An expression around others.
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

    /// Check this field; that is no nesting of the author's.
    pub(super) fn check(&mut self, label: Option<Arc<str>>) {
        let (line, depth) = (self.line, self.depth);
        let kind = ExprKind::Constant(Value::None);
        let field = std::mem::replace(self, Self { kind, line, depth });
        self.kind = ExprKind::Checked(Box::new(field), label);
    }

    /// What stands in here, in the order of the nodes of Jinja2.
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

    /// The same, to change it.
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
