//! One recipient's fields.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::value::Object;

use super::value::{Value, field};

/// The maximum number of columns whose names are compared one by one.
const FEW: usize = 12;

/// The names of a table's columns, shared by all of its rows.
#[derive(Debug, Default)]
pub struct Columns {
    /// The sorted names, each with its place.
    places: Vec<(Box<str>, usize)>,
}

impl Columns {
    /// Creates columns from their names, in order. If a name occurs more than once, its last column
    /// is used.
    pub fn new<Name: Into<Box<str>>>(names: impl IntoIterator<Item = Name>) -> Self {
        let places: BTreeMap<Box<str>, usize> =
            names.into_iter().map(Into::into).zip(0..).collect();
        Self {
            places: places.into_iter().collect(),
        }
    }

    fn place(&self, name: &str) -> Option<usize> {
        if self.places.len() <= FEW {
            let found = self.places.iter().find(|(each, _)| **each == *name);
            return found.map(|(_, place)| *place);
        }
        let found = self.places.binary_search_by(|(each, _)| (**each).cmp(name));
        found.ok().map(|found| self.places[found].1)
    }
}

/// One row: the values of the merge fields.
#[derive(Clone, Debug)]
pub struct Row {
    /// The fields, as the variables of a template.
    pub(super) fields: Value,
}

#[derive(Debug)]
struct Fields {
    columns: Arc<Columns>,
    values: Vec<Value>,
}

impl Row {
    /// Creates a row with its own columns. If a name occurs more than once, its last value is used.
    #[must_use]
    pub fn new(pairs: Vec<(String, Value)>) -> Self {
        let values = pairs.iter().map(|(name, value)| field(value.clone(), name));
        let values = values.collect();
        let columns = Columns::new(pairs.into_iter().map(|(name, _)| name));
        Self::of(Arc::new(columns), values)
    }

    /// Creates a row of a table: the values of `names`, which are the names of the columns. A
    /// column without a value is a missing field.
    #[must_use]
    pub fn of_table(columns: Arc<Columns>, names: &[String], values: Vec<Option<Value>>) -> Self {
        let values = names.iter().zip(values);
        let values = values.map(|(name, value)| {
            // minijinja itself checks for missing values.
            value.map_or(Value::UNDEFINED, |value| field(value, name))
        });
        Self::of(columns, values.collect())
    }

    fn of(columns: Arc<Columns>, values: Vec<Value>) -> Self {
        Self {
            fields: Value::from_object(Fields { columns, values }),
        }
    }
}

impl Default for Row {
    fn default() -> Self {
        Self::of(Arc::default(), Vec::new())
    }
}

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let place = self.columns.place(key)?;
        self.values.get(place).cloned()
    }
}
