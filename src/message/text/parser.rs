//! Parses statements as Jinja2 does, and refuses statements outside the supported subset.

use super::TextError;
use super::lexer::{Lexeme, Token};
use super::syntax::{Expr, ExprKind, For, If, Output, SetBlock, Statement, Target};

/// The maximum nesting of statements and brackets. Deeper nesting is an error. The limit bounds the
/// parser's stack. It refuses no nested loops that Jinja2 accepts: Jinja2 compiles loops to Python,
/// and Python allows only 20 nested loops.
const DEPTH: usize = 50;

/// The refused tags, each with the name of its node in Jinja2. The error text contains this name.
const REFUSED: [(&str, &str); 10] = [
    ("macro", "macro"),
    ("import", "import"),
    ("from", "fromimport"),
    ("include", "include"),
    ("extends", "extends"),
    ("block", "block"),
    ("call", "callblock"),
    ("filter", "filterblock"),
    ("with", "with"),
    ("autoescape", "scope"),
];

/// Parses a whole template.
pub(super) fn parse(tokens: Vec<Lexeme<'_>>) -> Result<Vec<Statement>, TextError> {
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
    };
    parser.statements(&[])
}

pub(super) struct Parser<'source> {
    tokens: Vec<Lexeme<'source>>,
    at: usize,
    depth: usize,
}

impl<'source> Parser<'source> {
    // Access to the tokens. The last token is the end of the template. The parser never consumes
    // this token, so a current token always exists.

    pub(super) fn current(&self) -> &Token<'source> {
        &self.tokens[self.at].token
    }

    pub(super) fn next(&self) -> &Token<'source> {
        let last = self.tokens.len() - 1;
        &self.tokens[last.min(self.at + 1)].token
    }

    pub(super) fn line(&self) -> u32 {
        self.tokens[self.at].line
    }

    pub(super) fn advance(&mut self) -> Token<'source> {
        let token = self.tokens[self.at].token.clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        *self.current() == Token::Name(name)
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn is_sign(&self, sign: &str) -> bool {
        matches!(self.current(), Token::Operator(operator) if *operator == sign)
    }

    pub(super) fn skip_sign(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn expect_sign(&mut self, sign: &str) -> Result<(), TextError> {
        if self.skip_sign(sign) {
            Ok(())
        } else {
            Err(self.expected(sign))
        }
    }

    pub(super) fn expect_name(&mut self) -> Result<&'source str, TextError> {
        match *self.current() {
            Token::Name(name) => {
                self.advance();
                Ok(name)
            }
            _ => Err(self.expected("name")),
        }
    }

    fn expect(&mut self, token: &Token<'_>) -> Result<(), TextError> {
        if self.current() != token {
            return Err(self.expected(token.describe()));
        }
        self.advance();
        Ok(())
    }

    pub(super) fn expected(&self, what: &str) -> TextError {
        let found = self.current().describe();
        self.error(match self.current() {
            Token::End => format!("unexpected end of template, expected '{what}'."),
            _ => format!("expected token '{what}', got '{found}'"),
        })
    }

    pub(super) fn error(&self, message: impl Into<String>) -> TextError {
        TextError::new(self.line(), message)
    }

    /// Parses a nested construct. Returns an error if it exceeds the maximum depth.
    pub(super) fn nested<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, TextError>,
    ) -> Result<T, TextError> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.error("nested too deeply"));
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    // Statements

    /// Parses statements up to a tag in `ends` or to the end of the template. The name of the
    /// ending tag is not consumed.
    fn statements(&mut self, ends: &[&str]) -> Result<Vec<Statement>, TextError> {
        let mut statements = Vec::new();
        loop {
            match *self.current() {
                Token::End if ends.is_empty() => return Ok(statements),
                Token::End => {
                    let looked_for = ends.join("' or '");
                    return Err(self.error(format!("the template ends without '{looked_for}'")));
                }
                Token::Data(text) => {
                    self.advance();
                    statements.push(Statement::Data(text.to_owned()));
                }
                Token::VariableBegin => {
                    self.advance();
                    let expr = self.tuple(true, &[])?;
                    statements.push(output(expr));
                    self.expect(&Token::VariableEnd)?;
                }
                _ => {
                    self.expect(&Token::BlockBegin)?;
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(statements);
                    }
                    self.nested(|parser| parser.statement(&mut statements))?;
                    self.expect(&Token::BlockEnd)?;
                }
            }
        }
    }

    fn statement(&mut self, statements: &mut Vec<Statement>) -> Result<(), TextError> {
        let line = self.line();
        let Token::Name(tag) = *self.current() else {
            return Err(self.error("tag name expected"));
        };
        self.advance();
        match tag {
            "if" => statements.push(self.condition()?),
            "for" => statements.push(self.repetition(line)?),
            "set" => statements.push(self.assignment()?),
            "print" => self.print(statements)?,
            _ => return Err(TextError::new(line, refusal(tag))),
        }
        Ok(())
    }

    /// Parses the end of an opening tag, and the statements up to a tag in `ends`.
    fn body(&mut self, ends: &[&str]) -> Result<Vec<Statement>, TextError> {
        self.skip_sign(":");
        self.expect(&Token::BlockEnd)?;
        self.statements(ends)
    }

    fn condition(&mut self) -> Result<Statement, TextError> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, &[])?;
            branches.push((test, self.body(&["elif", "else", "endif"])?));
            if !self.skip_name("elif") {
                break;
            }
        }
        let otherwise = if self.skip_name("else") {
            self.body(&["endif"])?
        } else {
            Vec::new()
        };
        self.advance();
        Ok(Statement::If(If {
            branches,
            otherwise,
        }))
    }

    fn repetition(&mut self, line: u32) -> Result<Statement, TextError> {
        let target = self.target(&["in"])?;
        if !self.skip_name("in") {
            return Err(self.expected("in"));
        }
        let items = self.tuple(false, &["recursive"])?;
        let test = if self.skip_name("if") {
            Some(self.expression()?)
        } else {
            None
        };
        if self.is_name("recursive") {
            return Err(TextError::new(line, "a recursive loop is not allowed"));
        }
        let body = self.body(&["endfor", "else"])?;
        let otherwise = if self.skip_name("else") {
            self.body(&["endfor"])?
        } else {
            Vec::new()
        };
        self.advance();
        Ok(Statement::For(Box::new(For {
            target,
            items,
            test,
            body,
            otherwise,
            line,
            loop_slot: None,
            body_loads: Vec::new(),
            test_loads: Vec::new(),
            otherwise_loads: Vec::new(),
        })))
    }

    fn assignment(&mut self) -> Result<Statement, TextError> {
        let target = self.target(&[])?;
        if self.skip_sign("=") {
            return Ok(Statement::Set(target, self.tuple(true, &[])?));
        }
        if self.is_sign("|") {
            return Err(self.error("a filter on a set block is not allowed"));
        }
        let body = self.body(&["endset"])?;
        self.advance();
        Ok(Statement::SetBlock(Box::new(SetBlock {
            target,
            body,
            loads: Vec::new(),
        })))
    }

    fn print(&mut self, statements: &mut Vec<Statement>) -> Result<(), TextError> {
        let begin = statements.len();
        while *self.current() != Token::BlockEnd {
            if statements.len() > begin {
                self.expect_sign(",")?;
            }
            statements.push(output(self.expression()?));
        }
        Ok(())
    }

    /// Parses the target of an assignment.
    fn target(&mut self, ends: &[&str]) -> Result<Target, TextError> {
        let line = self.line();
        if matches!(self.current(), Token::Name(_)) && *self.next() == Token::Operator(".") {
            return Err(self.error("nsref is not allowed in a template"));
        }
        let expr = self.tuple_of(ends, false, &mut Self::primary)?;
        into_target(expr).map_err(|what| TextError::new(line, format!("can't assign to '{what}'")))
    }

    pub(super) fn is_tuple_end(&self, ends: &[&str]) -> bool {
        matches!(self.current(), Token::VariableEnd | Token::BlockEnd)
            || self.is_sign(")")
            || ends.iter().any(|end| self.is_name(end))
    }
}

fn output(expr: Expr) -> Statement {
    // After the whole tree is parsed, the module `check` sets the name and the checks of this
    // output.
    Statement::Output(Output {
        expr,
        label: "".into(),
        has_default: false,
    })
}

fn refusal(tag: &str) -> String {
    match REFUSED.iter().find(|(name, _)| *name == tag) {
        Some((_, node)) => format!("{node} is not allowed in a template"),
        None => format!("Encountered unknown tag '{tag}'."),
    }
}

fn into_target(expr: Expr) -> Result<Target, &'static str> {
    match expr.kind {
        ExprKind::Name(name) => Ok(Target::Name(name)),
        ExprKind::Tuple(items) => Ok(Target::Tuple(
            items
                .into_iter()
                .map(into_target)
                .collect::<Result<_, _>>()
                .map_err(|_| "tuple")?,
        )),
        ExprKind::Constant(_) => Err("const"),
        ExprKind::List(_) => Err("list"),
        ExprKind::Dict(_) => Err("dict"),
        _ => Err("an expression"),
    }
}
