//! Reading YAML (and so JSON) with errors that name the place: line, column, field, what was
//! expected. Rules that no type can express are checked on the finished value; their errors carry
//! a [`FieldPath`], and the place is then looked up in the text.

use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_path_to_error::Segment;
use serde_saphyr::options::MergeKeyPolicy;
use serde_saphyr::{
    Error as YamlError, Location, MessageFormatter, Options, Spanned, UserMessageFormatter,
};

use crate::limits::DOCUMENT_BYTES_MAX;
use crate::scalar::{escape, quote};

/// Nested lists and mappings, at most. No document of ours needs more than six.
const DEPTH_MAX: usize = 16;

/// What is wrong with a document, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Problem {
    /// The line, from 1; 0 when the place is not known.
    pub line: u64,
    /// The column, from 1; 0 when the place is not known.
    pub column: u64,
    /// The field, such as `policies[0].pods[2]`; empty for the document as a whole.
    pub field: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Where a value is inside a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(&'static str),
    Index(usize),
}

impl FieldPath {
    /// A field of the document itself.
    #[must_use]
    pub fn root(field: &'static str) -> Self {
        Self(vec![Step::Field(field)])
    }

    /// A field of this value.
    #[must_use]
    pub fn field(mut self, field: &'static str) -> Self {
        self.0.push(Step::Field(field));
        self
    }

    /// An element of this list.
    #[must_use]
    pub fn index(mut self, index: usize) -> Self {
        self.0.push(Step::Index(index));
        self
    }

    /// A problem at this place. The line is filled in when the text is known.
    #[must_use]
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { line: 0, column: 0, field: self.to_string(), message: message.into() }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(field) if position == 0 => f.write_str(field)?,
                Step::Field(field) => write!(f, ".{field}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Reads a value and checks it.
///
/// # Errors
///
/// A [`Problem`] with line, column and field: for text that is no YAML, for a field that is
/// missing, unknown or of a wrong type, and for what `check` refuses.
pub fn parse<T: DeserializeOwned>(
    text: &str,
    check: impl FnOnce(&T) -> Result<(), Problem>,
) -> Result<T, Problem> {
    if text.len() > DOCUMENT_BYTES_MAX {
        let message = format!("{} bytes; at most {DOCUMENT_BYTES_MAX} are read", text.len());
        return Err(FieldPath::default().problem(message));
    }
    let value = deserialize(text)?;
    check(&value).map_err(|problem| located(text, problem))?;
    Ok(value)
}

/// Fills in the line and column of a problem that knows its field only.
///
/// A field that the text leaves out is placed where the nearest value around it begins.
fn located(text: &str, problem: Problem) -> Problem {
    let tree = serde_saphyr::from_str_with_options::<Spanned<Tree>>(text, options());
    match tree {
        Ok(tree) => {
            let place = place_of(&tree, &problem.field);
            Problem { line: place.line(), column: place.column(), ..problem }
        }
        Err(_) => problem,
    }
}

fn deserialize<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    // Programs send JSON, and a JSON parser is many times faster; what is wrong with one that cannot
    // be read, the YAML parser says as it does of any text.
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    let mut field = String::new();
    serde_saphyr::with_deserializer_from_str_with_options(text, options(), |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            field = display_path(error.path());
            error.into_inner()
        })
    })
    .map_err(|error| {
        let error = error.without_snippet();
        let place = error.location().unwrap_or(Location::UNKNOWN);
        // The parser reads ahead of the fields: its errors have a place, but no field.
        let syntax = matches!(error, YamlError::ExternalMessage { .. } | YamlError::Eof { .. });
        let field = if syntax { String::new() } else { field };
        Problem { line: place.line(), column: place.column(), field, message: describe(error) }
    })
}

fn options() -> Options {
    serde_saphyr::options! {
        // The text's length is the limit: each event takes a byte of it at least.
        budget: serde_saphyr::budget! {
            max_events: DOCUMENT_BYTES_MAX,
            max_nodes: DOCUMENT_BYTES_MAX,
            max_depth: DEPTH_MAX,
            max_documents: 2,
            max_buffered_comment_events: DOCUMENT_BYTES_MAX,
        },
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
        emit_comments: false,
    }
}

/// The path as people write it. A path that ends in an unknown step is cut there.
fn display_path(path: &serde_path_to_error::Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&escape(key));
            }
            Segment::Unknown => break,
        }
    }
    text
}

/// The library's message, or a plainer one where it speaks of Rust.
fn describe(error: &YamlError) -> String {
    match error {
        YamlError::NullIntoString { .. } => "expected a value, found nothing".to_owned(),
        YamlError::Unexpected { expected: "string scalar", .. }
        | YamlError::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => {
            "expected one value, found a list or fields".to_owned()
        }
        YamlError::Unexpected { expected: "mapping start", .. } => "expected fields".to_owned(),
        YamlError::InvalidBooleanStrict { .. } => "expected true or false".to_owned(),
        YamlError::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the field {} occurs twice", quote(key))
        }
        YamlError::SerdeUnknownField { field, expected, .. } => {
            format!("unknown field {}; expected {}", quote(field), one_of(expected))
        }
        YamlError::SerdeUnknownVariant { variant, expected, .. } => {
            let found = if variant == "~" { "nothing".to_owned() } else { quote(variant) };
            format!("expected {}, found {found}", one_of(expected))
        }
        YamlError::SerdeMissingField { field, .. } => format!("the field \"{field}\" is missing"),
        _ => escape(&UserMessageFormatter.format_message(error)),
    }
}

fn one_of(names: &[&str]) -> String {
    match names {
        [] => "no field".to_owned(),
        [name] => (*name).to_owned(),
        names => format!("one of {}", names.join(", ")),
    }
}

/// A document of any shape, with the place of every value.
enum Tree {
    Scalar,
    List(Vec<Spanned<Tree>>),
    Mapping(Vec<(String, Spanned<Tree>)>),
}

fn place_of(tree: &Spanned<Tree>, field: &str) -> Location {
    let mut tree = tree;
    for name in field.split(['.', '[']).filter(|name| !name.is_empty()) {
        let next = match &tree.value {
            Tree::Scalar => None,
            Tree::List(list) => {
                name.trim_end_matches(']').parse().ok().and_then(|index: usize| list.get(index))
            }
            Tree::Mapping(fields) => {
                fields.iter().find(|(key, _)| key == name).map(|(_, value)| value)
            }
        };
        match next {
            Some(next) => tree = next,
            None => break,
        }
    }
    tree.referenced
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Tree::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = mapping.next_entry()? {
            fields.push(field);
        }
        Ok(Tree::Mapping(fields))
    }
}
