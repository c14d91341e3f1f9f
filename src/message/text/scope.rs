//! Determines, for each name, the slot of its value.
//!
//! Jinja2 has a frame for the template, for each iteration of a loop, and for each `set` block.
//! Nested loops and blocks have their own frames. The names that a frame reads or sets are known
//! before the frame is entered. So the source of each name's initial value is also known in
//! advance: the field of the row, the value of an outer frame, or nothing. An `if` has no frame. If
//! only some branches of an `if` set a name, the other branches leave the name unset. So the name
//! gets an initial value, like a name that is only read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::TextError;
use super::syntax::{Expr, ExprKind, For, If, Load, Name, SetBlock, Source, Statement, Target};

/// The maximum number of names in a template, counted separately for each nesting level of frames.
/// More names are an error. A message needs only several tens of names. The compiler copies all
/// names for each branch of an `if`, so many names in an untrusted template would take too much
/// time and memory.
const NAMES: usize = 300;

/// The slots of the whole template.
#[derive(Debug)]
pub(super) struct Scope {
    /// The number of slots.
    pub(super) slots: usize,
    /// The initial values of the outermost frame.
    pub(super) loads: Vec<Load>,
    /// The fields that are read from the row.
    pub(super) fields: BTreeSet<String>,
}

/// Assigns a slot to each name, and initial values to each frame.
pub(super) fn resolve(statements: &mut [Statement]) -> Result<Scope, TextError> {
    let mut resolver = Resolver::default();
    let mut frame = Frame::new(None);
    frame.statements(statements, &mut resolver);
    resolver.statements(statements, &frame)?;
    let loads = resolver.loads(frame);
    if resolver.is_full {
        return Err(TextError::new(1, "the template has too many names"));
    }
    Ok(Scope {
        slots: resolver.slots.len(),
        loads,
        fields: resolver.fields,
    })
}

/// The names of one frame.
struct Frame<'outer> {
    outer: Option<&'outer Frame<'outer>>,
    level: usize,
    names: Names,
}

#[derive(Clone, Default)]
struct Names {
    slots: HashMap<Arc<str>, usize>,
    sources: BTreeMap<usize, Source>,
    stores: BTreeSet<Arc<str>>,
}

#[derive(Default)]
struct Resolver {
    /// The slot of each name at each nesting level. Frames of one level never run at the same time,
    /// so they share slots.
    slots: HashMap<(usize, Arc<str>), usize>,
    fields: BTreeSet<String>,
    /// Whether the template has too many names. If it has, no more names are recorded, and
    /// `resolve` returns an error.
    is_full: bool,
}

impl Resolver {
    fn slot(&mut self, level: usize, name: &Arc<str>) -> usize {
        let next = self.slots.len();
        if next >= NAMES {
            self.is_full = true;
            return 0;
        }
        *self.slots.entry((level, name.clone())).or_insert(next)
    }

    /// Returns the initial values of a frame.
    fn loads(&mut self, frame: Frame<'_>) -> Vec<Load> {
        let mut loads = Vec::new();
        for (slot, from) in frame.names.sources {
            if let Source::Row(name) = &from {
                self.fields.insert(name.to_string());
            }
            if from != Source::Parameter {
                loads.push(Load { slot, from });
            }
        }
        loads
    }

    fn statements(
        &mut self,
        statements: &mut [Statement],
        frame: &Frame<'_>,
    ) -> Result<(), TextError> {
        for statement in statements {
            match statement {
                Statement::Data(_) => {}
                Statement::Output(output) => frame.resolve_expr(&mut output.expr),
                Statement::If(condition) => {
                    for (test, body) in &mut condition.branches {
                        frame.resolve_expr(test);
                        self.statements(body, frame)?;
                    }
                    self.statements(&mut condition.otherwise, frame)?;
                }
                Statement::For(repetition) => self.repetition(repetition, frame)?,
                Statement::Set(target, expr) => {
                    frame.resolve_expr(expr);
                    frame.resolve_target(target);
                }
                Statement::SetBlock(block) => self.block(block, frame)?,
            }
        }
        Ok(())
    }

    fn block(&mut self, block: &mut SetBlock, outer: &Frame<'_>) -> Result<(), TextError> {
        let mut frame = Frame::new(Some(outer));
        frame.statements(&block.body, self);
        self.statements(&mut block.body, &frame)?;
        block.loads = self.loads(frame);
        outer.resolve_target(&mut block.target);
        Ok(())
    }

    fn repetition(&mut self, repetition: &mut For, outer: &Frame<'_>) -> Result<(), TextError> {
        outer.resolve_expr(&mut repetition.items);
        if sets_loop(&repetition.target)
            || any_sets_loop(&repetition.body)
            || any_sets_loop(&repetition.otherwise)
        {
            let message = "Can't assign to special loop variable in for-loop";
            return Err(TextError::new(repetition.line, message));
        }
        if let Some(test) = &mut repetition.test {
            let mut frame = Frame::new(Some(outer));
            frame.parameters(&repetition.target, self);
            frame.expr(test, self);
            frame.resolve_expr(test);
            repetition.test_loads = self.loads(frame);
        }
        let mut frame = Frame::new(Some(outer));
        if reads_loop(&repetition.body) {
            repetition.loop_slot = Some(frame.parameter(&"loop".into(), self));
        }
        frame.parameters(&repetition.target, self);
        frame.statements(&repetition.body, self);
        frame.resolve_target(&mut repetition.target);
        self.statements(&mut repetition.body, &frame)?;
        repetition.body_loads = self.loads(frame);
        let mut frame = Frame::new(Some(outer));
        frame.statements(&repetition.otherwise, self);
        self.statements(&mut repetition.otherwise, &frame)?;
        repetition.otherwise_loads = self.loads(frame);
        Ok(())
    }
}

impl<'outer> Frame<'outer> {
    fn new(outer: Option<&'outer Frame<'outer>>) -> Self {
        Self {
            outer,
            level: outer.map_or(0, |outer| outer.level + 1),
            names: Names::default(),
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        let here = self.names.slots.get(name).copied();
        here.or_else(|| self.outer?.find(name))
    }

    fn define(&mut self, name: &Arc<str>, from: Source, resolver: &mut Resolver) -> usize {
        let slot = resolver.slot(self.level, name);
        if resolver.is_full {
            return slot;
        }
        self.names.slots.insert(name.clone(), slot);
        self.names.sources.insert(slot, from);
        slot
    }

    fn read(&mut self, name: &Arc<str>, resolver: &mut Resolver) {
        if self.find(name).is_none() {
            self.define(name, Source::Row(name.clone()), resolver);
        }
    }

    fn store(&mut self, name: &Arc<str>, resolver: &mut Resolver) {
        self.names.stores.insert(name.clone());
        if self.names.slots.contains_key(name) {
            return;
        }
        let outer = self.outer.and_then(|outer| outer.find(name));
        let from = outer.map_or(Source::Nothing, Source::Slot);
        self.define(name, from, resolver);
    }

    fn parameter(&mut self, name: &Arc<str>, resolver: &mut Resolver) -> usize {
        self.names.stores.insert(name.clone());
        self.define(name, Source::Parameter, resolver)
    }

    fn parameters(&mut self, target: &Target, resolver: &mut Resolver) {
        match target {
            Target::Name(name) => {
                self.parameter(&name.name, resolver);
            }
            Target::Tuple(targets) => {
                for target in targets {
                    self.parameters(target, resolver);
                }
            }
        }
    }

    // Names that are read and set, in the order of the template

    fn statements(&mut self, statements: &[Statement], resolver: &mut Resolver) {
        for statement in statements {
            match statement {
                Statement::Data(_) => {}
                Statement::Output(output) => self.expr(&output.expr, resolver),
                Statement::If(condition) => self.condition(condition, resolver),
                Statement::For(repetition) => self.expr(&repetition.items, resolver),
                Statement::Set(target, expr) => {
                    self.expr(expr, resolver);
                    self.target(target, resolver);
                }
                Statement::SetBlock(block) => self.target(&block.target, resolver),
            }
        }
    }

    fn condition(&mut self, condition: &If, resolver: &mut Resolver) {
        let mut branches = condition.branches.iter();
        if let Some((test, body)) = branches.next() {
            self.expr(test, resolver);
            let body = self.branch(resolver, |frame, resolver| {
                frame.statements(body, resolver);
            });
            let mut ends = vec![body];
            // A missing `elif` or `else` sets no names, so no copy of the names is needed for it.
            if branches.len() > 0 {
                ends.push(self.branch(resolver, |frame, resolver| {
                    for (test, body) in branches {
                        frame.expr(test, resolver);
                        let body = frame.branch(resolver, |frame, resolver| {
                            frame.statements(body, resolver);
                        });
                        frame.join(vec![body]);
                    }
                }));
            }
            if !condition.otherwise.is_empty() {
                ends.push(self.branch(resolver, |frame, resolver| {
                    frame.statements(&condition.otherwise, resolver);
                }));
            }
            self.join(ends);
        }
    }

    /// Returns the names as they are at the end of one branch. The names of this frame stay
    /// unchanged.
    fn branch(
        &mut self,
        resolver: &mut Resolver,
        visit: impl FnOnce(&mut Self, &mut Resolver),
    ) -> Names {
        let before = self.names.clone();
        visit(self, resolver);
        std::mem::replace(&mut self.names, before)
    }

    fn join(&mut self, branches: Vec<Names>) {
        let mut stores = BTreeSet::new();
        for names in &branches {
            stores.extend(names.stores.difference(&self.names.stores).cloned());
        }
        for names in branches {
            self.names.slots.extend(names.slots);
            self.names.sources.extend(names.sources);
            self.names.stores.extend(names.stores);
        }
        for name in stores {
            let Some(slot) = self.find(&name) else {
                continue;
            };
            let outer = self.outer.and_then(|outer| outer.find(&name));
            let from = outer.map_or(Source::Row(name), Source::Slot);
            self.names.sources.insert(slot, from);
        }
    }

    fn target(&mut self, target: &Target, resolver: &mut Resolver) {
        match target {
            Target::Name(name) => self.store(&name.name, resolver),
            Target::Tuple(targets) => {
                for target in targets {
                    self.target(target, resolver);
                }
            }
        }
    }

    fn expr(&mut self, expr: &Expr, resolver: &mut Resolver) {
        match &expr.kind {
            ExprKind::Name(name) => self.read(&name.name, resolver),
            _ => expr.each_child(&mut |child| self.expr(child, resolver)),
        }
    }

    // Slots of the names

    fn resolve_name(&self, name: &mut Name) {
        name.slot = self.find(&name.name).unwrap_or_default();
    }

    fn resolve_expr(&self, expr: &mut Expr) {
        match &mut expr.kind {
            ExprKind::Name(name) => self.resolve_name(name),
            _ => expr.each_child_mut(&mut |child| self.resolve_expr(child)),
        }
    }

    fn resolve_target(&self, target: &mut Target) {
        match target {
            Target::Name(name) => self.resolve_name(name),
            Target::Tuple(targets) => {
                for target in targets {
                    self.resolve_target(target);
                }
            }
        }
    }
}

fn sets_loop(target: &Target) -> bool {
    match target {
        Target::Name(name) => &*name.name == "loop",
        Target::Tuple(targets) => targets.iter().any(sets_loop),
    }
}

fn any_sets_loop(statements: &[Statement]) -> bool {
    statements.iter().any(|statement| match statement {
        Statement::Data(_) | Statement::Output(_) => false,
        Statement::If(condition) => {
            let mut branches = condition.branches.iter();
            branches.any(|(_, body)| any_sets_loop(body)) || any_sets_loop(&condition.otherwise)
        }
        // The statements of a nested loop are checked when that loop is resolved.
        Statement::For(_) => false,
        Statement::Set(target, _) => sets_loop(target),
        Statement::SetBlock(block) => sets_loop(&block.target) || any_sets_loop(&block.body),
    })
}

fn reads_loop(statements: &[Statement]) -> bool {
    let reads = expr_reads_loop;
    statements.iter().any(|statement| match statement {
        Statement::Data(_) => false,
        Statement::Output(output) => reads(&output.expr),
        Statement::If(condition) => {
            let mut branches = condition.branches.iter();
            branches.any(|(test, body)| reads(test) || reads_loop(body))
                || reads_loop(&condition.otherwise)
        }
        Statement::For(repetition) => {
            reads(&repetition.items)
                || repetition.test.as_ref().is_some_and(reads)
                || reads_loop(&repetition.body)
                || reads_loop(&repetition.otherwise)
        }
        Statement::Set(_, expr) => reads(expr),
        Statement::SetBlock(block) => reads_loop(&block.body),
    })
}

fn expr_reads_loop(expr: &Expr) -> bool {
    let mut found = matches!(&expr.kind, ExprKind::Name(name) if &*name.name == "loop");
    expr.each_child(&mut |child| found = found || expr_reads_loop(child));
    found
}
