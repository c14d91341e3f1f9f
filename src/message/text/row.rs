//! One recipient's fields.

use std::collections::HashMap;
use std::sync::Arc;

use super::value::Value;

/// The names of a table's columns, shared by all of its rows.
#[derive(Debug, Default)]
pub struct Columns {
    places: HashMap<Box<str>, usize>,
}

impl Columns {
    /// The names in their order; of equal names the last one counts.
    pub fn new<Name: Into<Box<str>>>(names: impl IntoIterator<Item = Name>) -> Self {
        let places = names.into_iter().map(Into::into).zip(0..).collect();
        Self { places }
    }
}

/// One row: what the fields of a text are filled in with.
#[derive(Clone, Debug, Default)]
pub struct Row {
    columns: Arc<Columns>,
    values: Vec<Value>,
}

impl Row {
    /// A row of its own; of equal names the last one counts.
    #[must_use]
    pub fn new(pairs: Vec<(String, Value)>) -> Self {
        let (names, values): (Vec<_>, _) = pairs.into_iter().unzip();
        Self::of_table(Arc::new(Columns::new(names)), values)
    }

    /// A row of a table. A name without a value is a missing field.
    #[must_use]
    pub fn of_table(columns: Arc<Columns>, values: Vec<Value>) -> Self {
        Self { columns, values }
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(*self.columns.places.get(name)?)
    }
}
