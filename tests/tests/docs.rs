//! `docs/compatibility.md` against the API and the tests: every field of a pod has a row, every row is about a
//! field, and what a row claims is shown by a test that exists. Needs no cluster.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    marker::PhantomData,
    path::Path,
};

use k8s_openapi::api::core::v1 as core;
use kubewasm_tests::guests;
use serde::{
    Deserialize,
    de::{Deserializer, Error as _, Visitor, value::Error},
    forward_to_deserialize_any,
};

/// What a row may say becomes of its field, and whether a test must show it.
const FATES: [(&str, bool); 6] = [
    ("honoured", true),
    ("without effect", true),
    ("held", true),
    ("fails", true),
    ("elsewhere", false),
    ("not yet", false),
];

/// One row: the fields it is about, what becomes of them, and the tests that show it.
#[derive(Debug)]
struct Row {
    fields: Vec<String>,
    fate: String,
    tests: Vec<String>,
}

/// The sections of the document that are about a type of the API, with its fields.
fn types() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let container = fields_of::<core::Container>();
    let ephemeral = fields_of::<core::EphemeralContainer>();
    BTreeMap::from([
        ("PodSpec", fields_of::<core::PodSpec>()),
        ("EphemeralContainer", ephemeral.difference(&container).copied().collect()),
        ("Container", container),
        ("PodSecurityContext", fields_of::<core::PodSecurityContext>()),
        ("SecurityContext", fields_of::<core::SecurityContext>()),
        ("Probe", fields_of::<core::Probe>()),
        ("Lifecycle", fields_of::<core::Lifecycle>()),
        ("LifecycleHandler", fields_of::<core::LifecycleHandler>()),
        ("Volume", fields_of::<core::Volume>()),
        ("VolumeMount", fields_of::<core::VolumeMount>()),
    ])
}

#[test]
fn every_field_has_a_row_and_every_row_a_field() {
    let document = document();
    for (name, fields) in types() {
        let rows = rows(&document, name);
        let (mut told, mut covered) = (BTreeSet::new(), BTreeSet::new());
        for field in rows.iter().flat_map(|row| &row.fields) {
            // A field may have several rows, one for each of its parts.
            let first = field.split('.').next().unwrap_or_default();
            assert!(fields.contains(first), "{name} has no field {first}, but a row");
            assert!(told.insert(field), "{name}: two rows are about {field}");
            covered.insert(first);
        }
        let missing: Vec<_> = fields.difference(&covered).collect();
        assert!(missing.is_empty(), "docs/compatibility.md, {name}, has no row for {missing:?}");
    }
}

#[test]
fn every_claim_names_a_test_that_exists() {
    let document = document();
    let known = tests();
    for name in types().keys() {
        for row in rows(&document, name) {
            let about = format!("{name}: {:?}", row.fields);
            let fate = FATES.iter().find(|(fate, _)| *fate == row.fate);
            let (_, wants_test) = fate.unwrap_or_else(|| panic!("{about}: what is {:?}?", row.fate));
            assert!(!(*wants_test && row.tests.is_empty()), "{about} is {}, but by which test?", row.fate);
            for test in &row.tests {
                assert!(known.contains(test), "{about}: there is no test {test}");
            }
        }
    }
}

fn document() -> String {
    fs::read_to_string(guests::repository().join("docs/compatibility.md")).unwrap()
}

/// The rows of the table below a heading. Cells are: fields, what becomes of them, a note, tests.
fn rows(document: &str, heading: &str) -> Vec<Row> {
    let mut sections = document.split("\n## ");
    let section = sections.find(|section| section.lines().next() == Some(heading));
    let section = section.unwrap_or_else(|| panic!("docs/compatibility.md has no section {heading}"));
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `").map(|_| line));
    rows.map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", fields, fate, _, tests, ""] = cells[..] else { panic!("not four cells: {line}") };
        Row { fields: quoted(fields), fate: fate.to_owned(), tests: quoted(tests) }
    })
    .collect()
}

/// What is in backquotes.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The names of all tests of the workspace.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder in ["node", "providers", "tests"] {
        collect(&guests::repository().join(folder), &mut names);
    }
    names
}

fn collect(path: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            collect(&entry, names);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&entry).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
                if let Some(function) = function.filter(|_| std::mem::take(&mut is_test)) {
                    names.extend(function.split('(').next().map(str::to_owned));
                }
            }
        }
    }
}

/// The names of a type's fields, as the API spells them.
///
/// They are what the type tells a deserialiser that it wants to read, before anything is read.
fn fields_of<'de, T: Deserialize<'de>>() -> BTreeSet<&'static str> {
    let mut fields = BTreeSet::new();
    let listener = FieldListener { fields: &mut fields, lifetime: PhantomData };
    // It fails by design: there is nothing to read.
    let _ = T::deserialize(listener);
    assert!(!fields.is_empty(), "{} is no structure", std::any::type_name::<T>());
    fields
}

struct FieldListener<'a, 'de> {
    fields: &'a mut BTreeSet<&'static str>,
    lifetime: PhantomData<&'de ()>,
}

impl<'de> Deserializer<'de> for FieldListener<'_, 'de> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.fields.extend(fields);
        Err(Error::custom("heard"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("not a structure"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
