//! The fields of one object of the file, and what is wrong with them.

use serde::de::DeserializeOwned;
use serde_yaml_ng::{Mapping, Value};

use super::Mistake;

/// The fields that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Fields {
    path: String,
    left: Mapping,
    mistakes: Vec<Mistake>,
    /// Those that were asked for, for whoever has mistyped one.
    known: Vec<String>,
}

impl Fields {
    pub(super) fn new(path: &str, fields: Mapping) -> Self {
        Self { path: path.to_owned(), left: fields, mistakes: Vec::new(), known: Vec::new() }
    }

    /// Those of an object within this one.
    pub(super) fn below(&self, path: &str, fields: Mapping) -> Self {
        Self::new(&format!("{}.{path}", self.path), fields)
    }

    pub(super) fn take_mistakes(&mut self, below: Self) {
        self.mistakes.extend(below.mistakes);
    }

    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes
    }

    pub(super) fn mistake(&mut self, field: &str, message: impl Into<String>) {
        self.mistakes.push(Mistake::new(format!("{}.{field}", self.path), message));
    }

    /// Nothing may be left.
    pub(super) fn end(&mut self) {
        for name in std::mem::take(&mut self.left).into_keys() {
            let name = match name {
                Value::String(name) => name,
                other => serde_json::to_string(&other).unwrap_or_default(),
            };
            let message = format!("there is no such field; the fields are {}", self.known.join(", "));
            self.mistake(&name, message);
        }
    }

    /// A field that is there and not null.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.known.push(name.to_owned());
        self.left.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) if !text.trim().is_empty() => Some(text),
            _ => self.not(name, "a text"),
        }
    }

    pub(super) fn needed_text(&mut self, name: &str) -> Option<String> {
        if !self.left.contains_key(name) {
            self.mistake(name, "it is missing");
        }
        self.text(name)
    }

    pub(super) fn bool(&mut self, name: &str) -> Option<bool> {
        match self.take(name)? {
            Value::Bool(value) => Some(value),
            _ => self.not(name, "true or false"),
        }
    }

    pub(super) fn number(&mut self, name: &str) -> Option<u64> {
        let value = self.take(name)?;
        value.as_u64().or_else(|| self.not(name, "a whole number"))
    }

    pub(super) fn mapping(&mut self, name: &str) -> Option<Mapping> {
        match self.take(name)? {
            Value::Mapping(fields) => Some(fields),
            _ => self.not(name, "an object"),
        }
    }

    /// What serde makes of it, or nothing.
    pub(super) fn read<T: DeserializeOwned + Default>(&mut self, name: &str, what: &str) -> T {
        let Some(value) = self.take(name) else { return T::default() };
        serde_yaml_ng::from_value(value).unwrap_or_else(|error| {
            self.mistake(name, format!("it is not {what}: {error}"));
            T::default()
        })
    }

    fn not<T>(&mut self, name: &str, what: &str) -> Option<T> {
        self.mistake(name, format!("it is not {what}"));
        None
    }
}
