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
    /// Creates columns from their names, in order. If a name occurs more than once, its last column
    /// is used.
    pub fn new<Name: Into<Box<str>>>(names: impl IntoIterator<Item = Name>) -> Self {
        let places = names.into_iter().map(Into::into).zip(0..).collect();
        Self { places }
    }
}

/// One row: the values of the merge fields.
#[derive(Clone, Debug, Default)]
pub struct Row {
    columns: Arc<Columns>,
    values: Vec<Value>,
}

impl Row {
    /// Creates a row with its own columns. If a name occurs more than once, its last value is used.
    #[must_use]
    pub fn new(pairs: Vec<(String, Value)>) -> Self {
        let (names, values): (Vec<_>, _) = pairs.into_iter().unzip();
        Self::of_table(Arc::new(Columns::new(names)), values)
    }

    /// Creates a row of a table. A column without a value is a missing field.
    #[must_use]
    pub fn of_table(columns: Arc<Columns>, values: Vec<Value>) -> Self {
        Self { columns, values }
    }

    /// Returns the value of a field; `None` if the row has no value for the field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(*self.columns.places.get(name)?)
    }
}
