//! Results as a table for people, line by line as they come, or as a JSON array for programs.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

/// Lines of several kinds. Those of one kind have the same fields.
pub(crate) struct Table {
    json: bool,
    lines: Vec<Value>,
    /// The columns of the last line.
    columns: Vec<String>,
}

impl Table {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, lines: Vec::new(), columns: Vec::new() }
    }

    /// A line more: a value with fields.
    pub(crate) fn add(&mut self, line: &impl Serialize) -> Result<()> {
        let value = serde_json::to_value(line)?;
        if !self.json {
            self.print(&value)?;
        }
        self.lines.push(value);
        Ok(())
    }

    /// No line more.
    pub(crate) fn end(self) -> Result<()> {
        if self.json {
            let text = serde_json::to_string_pretty(&self.lines)?;
            writeln!(std::io::stdout().lock(), "{text}")?;
        }
        Ok(())
    }

    fn print(&mut self, line: &Value) -> Result<()> {
        let fields = line.as_object().context("a line has fields")?;
        let mut out = std::io::stdout().lock();
        let columns: Vec<_> = fields.keys().cloned().collect();
        if columns != self.columns {
            let heads = columns.iter().map(|name| format!("{name:>WIDTH$}"));
            writeln!(out, "{}", heads.collect::<Vec<_>>().join(" "))?;
            self.columns = columns;
        }
        let cells = fields
            .iter()
            .map(|(name, value)| format!("{:>width$}", cell(value), width = name.len().max(WIDTH)));
        Ok(writeln!(out, "{}", cells.collect::<Vec<_>>().join(" "))?)
    }
}

/// Of a column, at least.
const WIDTH: usize = 12;

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            format!("{:.2}", number.as_f64().unwrap_or_default())
        }
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join("-"),
        other => other.to_string(),
    }
}
