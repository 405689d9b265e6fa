//! `spillway check`: the configuration and the state document, without running anything.

use std::path::Path;

use anyhow::Context as _;

use crate::config::Config;

/// What was checked, in words.
pub(super) fn check(config: &Path, state: Option<&Path>) -> anyhow::Result<String> {
    let checked = Config::load(config)?;
    let mut text = format!("{}: good, {} devices\n", config.display(), checked.devices.len());
    if let Some(path) = state {
        let document = checked
            .parse_document(&super::read_document(path)?)
            .with_context(|| format!("cannot use the state document {}", path.display()))?;
        text.push_str(&format!(
            "{}: good, generation {}, {} policies\n",
            path.display(),
            document.generation,
            document.policies.len()
        ));
    }
    Ok(text)
}
