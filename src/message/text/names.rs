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
    /// The variables that hold the `loop` of an outer loop.
    loops: HashSet<String>,
    kind: FrameKind,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum FrameKind {
    #[default]
    Block,
    Loop,
    Macro,
}

/// The names of a template, in the order of the template.
#[derive(Default)]
pub(super) struct Names {
    frames: Vec<Frame>,
    /// The fields that the template reads in any branch.
    pub(super) fields: BTreeSet<String>,
    /// The names that are used at least once without a default.
    used: BTreeSet<String>,
    /// The number of enclosing filters `default` and tests `defined`.
    pub(super) optional: usize,
}

impl Names {
    pub(super) fn new() -> Self {
        Self {
            frames: vec![Frame::default()],
            ..Self::default()
        }
    }

    /// The fields that a row must have.
    pub(super) fn required(&self) -> BTreeSet<String> {
        self.used.intersection(&self.fields).cloned().collect()
    }

    pub(super) fn enter(&mut self, kind: FrameKind) {
        self.frames.push(Frame {
            kind,
            ..Frame::default()
        });
    }

    pub(super) fn leave(&mut self) {
        self.frames.pop();
    }

    /// The names that the current frame has surely set, for a branch of an `if`.
    pub(super) fn branch(&self) -> HashSet<String> {
        self.frames
            .last()
            .map(|frame| frame.names.clone())
            .unwrap_or_default()
    }

    /// Ends a branch and returns its names.
    pub(super) fn end_branch(&mut self, before: &HashSet<String>) -> HashSet<String> {
        let frame = self.frames.last_mut();
        frame
            .map(|frame| std::mem::replace(&mut frame.names, before.clone()))
            .unwrap_or_default()
    }

    /// Adds the names that every branch of an `if` has set.
    pub(super) fn join(&mut self, branches: Vec<HashSet<String>>) {
        let mut branches = branches.into_iter();
        let first = branches.next().unwrap_or_default();
        let common = branches.fold(first, |common, branch| &common & &branch);
        if let Some(frame) = self.frames.last_mut() {
            frame.names.extend(common);
        }
    }

    pub(super) fn read(&mut self, name: &str) {
        let last = self.frames.len() - 1;
        let place = self
            .frames
            .iter()
            .rposition(|frame| frame.names.contains(name));
        let is_in_macro = self
            .frames
            .iter()
            .any(|frame| frame.kind == FrameKind::Macro);
        // A macro reads the names of the template when it is called.
        let from = if is_in_macro && place == Some(0) {
            0
        } else {
            place.map_or(0, |place| place + 1)
        };
        for frame in &mut self.frames[from.min(last)..last] {
            frame.read.insert(name.to_owned());
        }
        if place.is_none() {
            self.fields.insert(name.to_owned());
        }
        if self.optional == 0 {
            self.used.insert(name.to_owned());
        }
    }

    /// Sets a name in the current frame.
    pub(super) fn set(&mut self, name: &str) -> Result<(), String> {
        let Some(frame) = self.frames.last_mut() else {
            return Ok(());
        };
        if frame.read.contains(name) {
            return Err(format!(
                "the variable '{name}' is set after a loop, a block or a macro that reads it; set \
                 it before"
            ));
        }
        frame.loops.remove(name);
        frame.names.insert(name.to_owned());
        Ok(())
    }

    /// Records that a variable holds the `loop` of the current loop.
    pub(super) fn set_loop(&mut self, name: &str) {
        if let Some(frame) = self.frames.last_mut() {
            frame.loops.insert(name.to_owned());
        }
    }

    /// Whether a name is the variable `loop` of a running loop, or a variable that holds it.
    pub(super) fn is_loop(&self, name: &str) -> bool {
        for frame in self.frames.iter().rev() {
            if frame.loops.contains(name) || (name == "loop" && frame.kind == FrameKind::Loop) {
                return true;
            }
            if frame.kind == FrameKind::Macro || frame.names.contains(name) {
                return false;
            }
        }
        false
    }
}
