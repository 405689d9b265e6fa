//! `spillway detach`: removes the steering program that outlives the router.

use std::path::Path;

use anyhow::Context as _;

use crate::config::pin_directory;

/// Detaches every pinned program of this network namespace, and says what was done.
pub(super) fn detach(runtime_dir: &Path) -> anyhow::Result<String> {
    let directory = pin_directory(runtime_dir);
    let done = spillway_xdp::steering::detach(&directory)
        .with_context(|| format!("cannot detach what is pinned in {}", directory.display()))?;
    if done.is_empty() {
        return Ok(format!("nothing is attached: {} has no pinned program\n", directory.display()));
    }
    Ok(done.iter().map(|line| format!("{line}\n")).collect())
}
