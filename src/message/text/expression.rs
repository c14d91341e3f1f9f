//! Parses expressions with Jinja2's precedence.
//!
//! Jinja2's precedence differs from Python's: `-2 ** 2` is 4, `2 ** 3 ** 2` is 64, and `~` binds
//! more tightly than `+`.

use std::sync::Arc;

use super::TextError;
use super::lexer::Token;
use super::parser::Parser;
use super::syntax::{Arguments, Arithmetic, Comparison, Expr, ExprKind, Filter, Name};
use super::value::Value;

type Parsed = Result<Expr, TextError>;

impl Parser<'_> {
    pub(super) fn expression(&mut self) -> Parsed {
        self.nested(Self::conditional)
    }

    /// Parses an expression, or a tuple without parentheses.
    pub(super) fn tuple(&mut self, with_conditional: bool, ends: &[&str]) -> Parsed {
        if with_conditional {
            self.tuple_of(ends, false, &mut Self::expression)
        } else {
            self.tuple_of(ends, false, &mut |parser| parser.nested(Self::or))
        }
    }

    pub(super) fn tuple_of(
        &mut self,
        ends: &[&str],
        may_be_empty: bool,
        parse: &mut dyn FnMut(&mut Self) -> Parsed,
    ) -> Parsed {
        let line = self.line();
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if is_tuple {
                self.expect_sign(",")?;
            }
            if self.is_tuple_end(ends) {
                break;
            }
            items.push(parse(self)?);
            if !self.is_sign(",") {
                break;
            }
            is_tuple = true;
        }
        if is_tuple {
            return Expr::new(ExprKind::Tuple(items), line);
        }
        match items.pop() {
            Some(item) => Ok(item),
            None if may_be_empty => Expr::new(ExprKind::Tuple(Vec::new()), line),
            None => Err(self.expected("an expression")),
        }
    }

    fn conditional(&mut self) -> Parsed {
        let line = self.line();
        let mut value = self.or()?;
        while self.skip_name("if") {
            let test = Box::new(self.or()?);
            let otherwise = if self.skip_name("else") {
                Some(Box::new(self.nested(Self::conditional)?))
            } else {
                None
            };
            let kind = ExprKind::Conditional(test, Box::new(value), otherwise);
            value = Expr::new(kind, line)?;
        }
        Ok(value)
    }

    fn or(&mut self) -> Parsed {
        let line = self.line();
        let mut left = self.and()?;
        while self.skip_name("or") {
            let right = Box::new(self.and()?);
            left = Expr::new(ExprKind::Or(Box::new(left), right), line)?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed {
        let line = self.line();
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = Box::new(self.not()?);
            left = Expr::new(ExprKind::And(Box::new(left), right), line)?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Parsed {
        let line = self.line();
        if self.skip_name("not") {
            let inner = self.nested(Self::not)?;
            return Expr::new(ExprKind::Not(Box::new(inner)), line);
        }
        self.compare()
    }

    fn compare(&mut self) -> Parsed {
        let line = self.line();
        let first = self.sum()?;
        let mut rest = Vec::new();
        while let Some(comparison) = self.comparison() {
            rest.push((comparison, self.sum()?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        Expr::new(ExprKind::Compare(Box::new(first), rest), line)
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let comparison = match *self.current() {
            Token::Operator("==") => Comparison::Equal,
            Token::Operator("!=") => Comparison::Unequal,
            Token::Operator("<") => Comparison::Less,
            Token::Operator("<=") => Comparison::LessOrEqual,
            Token::Operator(">") => Comparison::Greater,
            Token::Operator(">=") => Comparison::GreaterOrEqual,
            Token::Name("in") => Comparison::In,
            Token::Name("not") if *self.next() == Token::Name("in") => {
                self.advance();
                Comparison::NotIn
            }
            _ => return None,
        };
        self.advance();
        Some(comparison)
    }

    fn sum(&mut self) -> Parsed {
        let signs = [("+", Arithmetic::Add), ("-", Arithmetic::Subtract)];
        self.arithmetic(&signs, Self::concat)
    }

    fn concat(&mut self) -> Parsed {
        let line = self.line();
        let first = self.product()?;
        if !self.is_sign("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_sign("~") {
            parts.push(self.product()?);
        }
        Expr::new(ExprKind::Concat(parts), line)
    }

    fn product(&mut self) -> Parsed {
        let signs = [
            ("*", Arithmetic::Multiply),
            ("/", Arithmetic::Divide),
            ("//", Arithmetic::FloorDivide),
            ("%", Arithmetic::Remainder),
        ];
        self.arithmetic(&signs, Self::power)
    }

    fn power(&mut self) -> Parsed {
        self.arithmetic(&[("**", Arithmetic::Power)], |parser| parser.unary(true))
    }

    fn arithmetic(
        &mut self,
        signs: &[(&str, Arithmetic)],
        operand: impl Fn(&mut Self) -> Parsed,
    ) -> Parsed {
        let line = self.line();
        let mut left = operand(self)?;
        while let Some((_, arithmetic)) = signs.iter().find(|(sign, _)| self.is_sign(sign)) {
            self.advance();
            let right = Box::new(operand(self)?);
            let kind = ExprKind::Arithmetic(*arithmetic, Box::new(left), right);
            left = Expr::new(kind, line)?;
        }
        Ok(left)
    }

    fn unary(&mut self, with_filter: bool) -> Parsed {
        let line = self.line();
        let mut expr = if self.skip_sign("-") {
            let inner = self.nested(|parser| parser.unary(false))?;
            Expr::new(ExprKind::Negative(Box::new(inner)), line)?
        } else if self.skip_sign("+") {
            let inner = self.nested(|parser| parser.unary(false))?;
            Expr::new(ExprKind::Positive(Box::new(inner)), line)?
        } else {
            self.primary()?
        };
        expr = self.postfix(expr)?;
        if with_filter {
            self.filters(expr)
        } else {
            Ok(expr)
        }
    }

    pub(super) fn primary(&mut self) -> Parsed {
        let line = self.line();
        let kind = match *self.current() {
            Token::Name(name) => {
                self.advance();
                match name {
                    "true" | "True" => ExprKind::Constant(Value::Bool(true)),
                    "false" | "False" => ExprKind::Constant(Value::Bool(false)),
                    "none" | "None" => ExprKind::Constant(Value::None),
                    "self" => return Err(TextError::new(line, "the name 'self' is not allowed")),
                    name => ExprKind::Name(Name::new(name)),
                }
            }
            Token::Text(_) => ExprKind::Constant(self.texts()),
            Token::Operator("(") => {
                self.advance();
                let inner = self.tuple_of(&[], true, &mut Self::expression)?;
                self.expect_sign(")")?;
                return Ok(inner);
            }
            Token::Operator("[") => self.list()?,
            Token::Operator("{") => self.dict()?,
            _ => match self.current().literal() {
                Some(value) => {
                    self.advance();
                    ExprKind::Constant(value)
                }
                None => {
                    let found = self.current().describe();
                    return Err(self.error(format!("unexpected '{found}'")));
                }
            },
        };
        Expr::new(kind, line)
    }

    /// Parses adjacent strings as one string.
    fn texts(&mut self) -> Value {
        let mut whole = String::new();
        while let Token::Text(text) = self.current() {
            whole.push_str(text);
            self.advance();
        }
        Value::from(whole)
    }

    fn list(&mut self) -> Result<ExprKind, TextError> {
        self.advance();
        let mut items = Vec::new();
        while !self.is_sign("]") {
            if !items.is_empty() {
                self.expect_sign(",")?;
            }
            if self.is_sign("]") {
                break;
            }
            items.push(self.expression()?);
        }
        self.advance();
        Ok(ExprKind::List(items))
    }

    fn dict(&mut self) -> Result<ExprKind, TextError> {
        self.advance();
        let mut pairs = Vec::new();
        while !self.is_sign("}") {
            if !pairs.is_empty() {
                self.expect_sign(",")?;
            }
            if self.is_sign("}") {
                break;
            }
            let key = self.expression()?;
            self.expect_sign(":")?;
            pairs.push((key, self.expression()?));
        }
        self.advance();
        Ok(ExprKind::Dict(pairs))
    }

    fn postfix(&mut self, mut expr: Expr) -> Parsed {
        loop {
            let line = self.line();
            if self.skip_sign(".") {
                expr = self.attribute(expr, line)?;
            } else if self.skip_sign("[") {
                expr = self.subscript(expr, line)?;
            } else if self.is_sign("(") {
                return Err(self.error("call is not allowed in a template"));
            } else {
                return Ok(expr);
            }
        }
    }

    fn attribute(&mut self, expr: Expr, line: u32) -> Parsed {
        let expr = Box::new(expr);
        let kind = match self.current() {
            Token::Name(name) => ExprKind::Attribute(expr, Arc::from(*name)),
            Token::Integer(index) => {
                let index = ExprKind::Constant(Value::from(index.clone()));
                ExprKind::Item(expr, Box::new(Expr::new(index, line)?))
            }
            _ => return Err(self.error("expected name or number")),
        };
        self.advance();
        Expr::new(kind, line)
    }

    fn subscript(&mut self, expr: Expr, line: u32) -> Parsed {
        let mut items = Vec::new();
        let mut slice = None;
        while !self.is_sign("]") {
            if !items.is_empty() || slice.is_some() {
                self.expect_sign(",")?;
            }
            if slice.is_some() {
                return Err(self.error("a slice among indices is not allowed"));
            }
            if !self.is_sign(":") {
                items.push(self.expression()?);
            }
            if self.is_sign(":") {
                let start = items.pop().map(Box::new);
                slice = Some([start, self.bound()?, self.bound()?]);
            }
        }
        self.advance();
        let expr = Box::new(expr);
        let item = match (slice, items.len()) {
            (Some(bounds), 0) => return Expr::new(ExprKind::Slice(expr, bounds), line),
            (Some(_), _) => return Err(self.error("a slice among indices is not allowed")),
            (None, 1) => items.swap_remove(0),
            (None, _) => Expr::new(ExprKind::Tuple(items), line)?,
        };
        Expr::new(ExprKind::Item(expr, Box::new(item)), line)
    }

    /// Parses a bound of a slice, after a colon.
    fn bound(&mut self) -> Result<Option<Box<Expr>>, TextError> {
        if !self.skip_sign(":") || [":", "]", ","].iter().any(|sign| self.is_sign(sign)) {
            return Ok(None);
        }
        Ok(Some(Box::new(self.expression()?)))
    }

    fn filters(&mut self, mut expr: Expr) -> Parsed {
        loop {
            let line = self.line();
            if self.skip_sign("|") {
                let line = self.line();
                let name = self.dotted_name()?;
                let Some(filter) = Filter::named(&name) else {
                    let message = format!("the filter '{name}' is not allowed");
                    return Err(TextError::new(line, message));
                };
                let arguments = self.arguments()?.unwrap_or_default();
                expr = Expr::new(ExprKind::Filter(filter, Box::new(expr), arguments), line)?;
            } else if self.skip_name("is") {
                expr = self.test(expr, line)?;
            } else if self.is_sign("(") {
                return Err(self.error("call is not allowed in a template"));
            } else {
                return Ok(expr);
            }
        }
    }

    fn dotted_name(&mut self) -> Result<String, TextError> {
        let mut name = self.expect_name()?.to_owned();
        while self.skip_sign(".") {
            name.push('.');
            name.push_str(self.expect_name()?);
        }
        Ok(name)
    }

    fn test(&mut self, expr: Expr, line: u32) -> Parsed {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let defined = match name.as_str() {
            "defined" => true,
            "undefined" => false,
            _ => {
                let message = format!("the test '{name}' is not allowed");
                return Err(TextError::new(line, message));
            }
        };
        let arguments = match self.arguments()? {
            Some(arguments) => arguments,
            None => self.operand()?,
        };
        let kind = ExprKind::Defined(defined, Box::new(expr), arguments);
        let test = Expr::new(kind, line)?;
        if negated {
            Expr::new(ExprKind::Not(Box::new(test)), line)
        } else {
            Ok(test)
        }
    }

    /// Parses the argument of a test, if the argument has no parentheses.
    fn operand(&mut self) -> Result<Arguments, TextError> {
        let mut arguments = Arguments::default();
        if self.is_name("is") {
            return Err(self.error("two tests in a row are not allowed"));
        }
        if self.begins_operand() {
            let operand = self.nested(Self::primary)?;
            arguments.positional.push(self.postfix(operand)?);
        }
        Ok(arguments)
    }

    fn begins_operand(&self) -> bool {
        match self.current() {
            Token::Name(name) => !matches!(*name, "else" | "or" | "and"),
            Token::Operator(sign) => matches!(*sign, "[" | "{"),
            token => token.literal().is_some(),
        }
    }

    fn arguments(&mut self) -> Result<Option<Arguments>, TextError> {
        let line = self.line();
        if !self.skip_sign("(") {
            return Ok(None);
        }
        let mut arguments = Arguments::default();
        let mut is_first = true;
        while !self.is_sign(")") {
            if !is_first {
                self.expect_sign(",")?;
                if self.is_sign(")") {
                    break;
                }
            }
            is_first = false;
            if !self.argument(&mut arguments)? {
                return Err(TextError::new(line, "invalid order of arguments"));
            }
        }
        self.advance();
        Ok(Some(arguments))
    }

    /// Parses one argument of a call. Returns false if the argument is not allowed after the
    /// previous arguments.
    fn argument(&mut self, arguments: &mut Arguments) -> Result<bool, TextError> {
        let spreads = arguments.spread.is_some();
        let spreads_named = arguments.spread_named.is_some();
        if self.skip_sign("*") {
            arguments.spread = Some(Box::new(self.expression()?));
            return Ok(!spreads && !spreads_named);
        }
        if self.skip_sign("**") {
            arguments.spread_named = Some(Box::new(self.expression()?));
            return Ok(!spreads_named);
        }
        if let (Token::Name(name), Token::Operator("=")) = (self.current(), self.next()) {
            let name = Arc::from(*name);
            self.advance();
            self.advance();
            arguments.named.push((name, self.expression()?));
            return Ok(!spreads_named);
        }
        arguments.positional.push(self.expression()?);
        Ok(!spreads && !spreads_named && arguments.named.is_empty())
    }
}

impl Name {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            slot: 0,
            missing: format!("the field '{name}' is missing").into(),
        }
    }
}
