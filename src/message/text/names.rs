//! Determines which names of a template are fields of the row, and refuses names whose values
//! would differ between minijinja and Jinja2.
//!
//! Each loop, macro and `set` block has a frame. A name that no frame has surely set before its use
//! is a field of the row. If an outer frame sets a name after an inner frame has read it, Jinja2
//! gives the inner frame an undefined value, and minijinja the field of the row. So this is an
//! error.

use std::collections::{BTreeSet, HashSet};

#[derive(Default)]
struct Frame {
    /// The names that are surely set.
    names: HashSet<String>,
    /// The names that inner frames have read.
    read: HashSet<String>,
    kind: FrameKind,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum FrameKind {
    #[default]
    Block,
    Loop,
    Macro,
    /// The condition of a loop, in which Jinja2 has no `loop`.
    Test,
}

/// The names of a template, in the order of the template.
pub(super) struct Names {
    /// The outer frames.
    outer: Vec<Frame>,
    frame: Frame,
    /// The fields that the template reads in any branch.
    pub(super) fields: BTreeSet<String>,
    /// The names that are used at least once without a default.
    used: BTreeSet<String>,
    /// The names that the template has set in any frame.
    pub(super) set: HashSet<String>,
    /// The number of enclosing filters `default` and tests `defined`.
    pub(super) optional: usize,
}

impl Names {
    pub(super) fn new() -> Self {
        Self {
            outer: Vec::new(),
            frame: Frame::default(),
            fields: BTreeSet::new(),
            used: BTreeSet::new(),
            set: HashSet::new(),
            optional: 0,
        }
    }

    /// The fields that a row must have.
    pub(super) fn required(&self) -> BTreeSet<String> {
        self.used.intersection(&self.fields).cloned().collect()
    }

    pub(super) fn enter(&mut self, kind: FrameKind) {
        let inner = Frame {
            kind,
            ..Frame::default()
        };
        self.outer.push(std::mem::replace(&mut self.frame, inner));
    }

    pub(super) fn leave(&mut self) {
        self.frame = self.outer.pop().unwrap_or_default();
    }

    /// Enters the body of the loop whose condition has ended.
    pub(super) fn begin_loop(&mut self) {
        self.frame.kind = FrameKind::Loop;
    }

    /// Whether the template has used a name outside of loops and blocks.
    pub(super) fn is_known(&self, name: &str) -> bool {
        self.frame.names.contains(name) || self.fields.contains(name)
    }

    /// The names that the current frame has surely set, for a branch of an `if`.
    pub(super) fn branch(&self) -> HashSet<String> {
        self.frame.names.clone()
    }

    /// Ends a branch and returns its names.
    pub(super) fn end_branch(&mut self, before: HashSet<String>) -> HashSet<String> {
        std::mem::replace(&mut self.frame.names, before)
    }

    /// Adds the names that every branch of an `if` has set.
    pub(super) fn join(&mut self, branches: Vec<HashSet<String>>) {
        let common = branches.into_iter().reduce(|one, other| &one & &other);
        self.frame.names.extend(common.unwrap_or_default());
    }

    pub(super) fn read(&mut self, name: &str) {
        if self.optional == 0 {
            self.used.insert(name.to_owned());
        }
        if self.frame.names.contains(name) {
            return;
        }
        let place = self.outer.iter().rposition(|f| f.names.contains(name));
        let is_macro = |frame: &Frame| frame.kind == FrameKind::Macro;
        let is_in_macro = is_macro(&self.frame) || self.outer.iter().any(is_macro);
        // A macro reads the names of the template when it is called.
        let from = match place {
            Some(place) if place > 0 || !is_in_macro => place + 1,
            _ => 0,
        };
        for frame in &mut self.outer[from..] {
            frame.read.insert(name.to_owned());
        }
        if place.is_none() {
            self.fields.insert(name.to_owned());
        }
    }

    /// Sets a name in the current frame.
    pub(super) fn set(&mut self, name: &str) -> Result<(), String> {
        if self.frame.read.contains(name) {
            return Err(format!(
                "the variable '{name}' is set after a loop, a block or a macro that reads it; set \
                 it before"
            ));
        }
        self.frame.names.insert(name.to_owned());
        self.set.insert(name.to_owned());
        Ok(())
    }

    /// Whether `name` is the variable `loop` of a running loop.
    pub(super) fn is_loop(&self, name: &str) -> bool {
        let frames = std::iter::once(&self.frame).chain(self.outer.iter().rev());
        let mut frames = frames.filter(|frame| frame.kind != FrameKind::Block);
        name == "loop" && frames.next().is_some_and(|f| f.kind == FrameKind::Loop)
    }
}
