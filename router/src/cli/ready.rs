//! `spillway ready`: whether the gateway is ready to forward.

use std::path::Path;

use spillway_api::Client;

/// Says what must hold for a gateway to forward, and what is missing.
///
/// # Errors
/// When something is.
pub(super) fn ready(socket: &Path) -> anyhow::Result<()> {
    let status = Client::connect(socket).and_then(|mut router| router.status());
    let (is_ready, text) = crate::serve::readiness(&status.map_err(Into::into));
    super::print(&text)?;
    anyhow::ensure!(is_ready, "the gateway is not ready");
    Ok(())
}
