//! `spillway apply`: puts a state document over the socket.

use std::path::Path;

use anyhow::Context as _;
use spillway_api::Client;

/// Has the router that listens at `socket` use the document in `file`.
pub(super) fn apply(file: &Path, socket: &Path) -> anyhow::Result<String> {
    let document = super::read_document(file)?;
    let applied = Client::connect(socket)?
        .put_state(document)
        .with_context(|| format!("{} is not applied", file.display()))?;
    Ok(format!("generation {} is programmed\n", applied.generation))
}
