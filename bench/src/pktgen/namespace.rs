//! Threads in network namespaces.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace's file, from its name or path.
fn path(name: &str) -> PathBuf {
    if name.contains('/') { name.into() } else { PathBuf::from("/run/netns").join(name) }
}

/// Moves the calling thread into a namespace; without a name, it stays where it is.
///
/// # Errors
///
/// When there is no such namespace, or it may not be entered.
pub(crate) fn enter(name: Option<&str>) -> Result<()> {
    let Some(path) = name.map(path) else { return Ok(()) };
    let shown = path.display();
    let file = File::open(&path)
        .with_context(|| format!("cannot open the network namespace {shown}: see `ip netns`"))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter the network namespace {shown} (needs root)"))
}

/// Does `work` on a thread of its own in a namespace.
///
/// # Errors
///
/// When it cannot be entered, and what `work` returns.
pub(crate) fn within<T: Send>(
    name: Option<&str>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| enter(name).and_then(|()| work()));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_ip_netns_and_a_path_is_a_path() {
        assert_eq!(path("here"), PathBuf::from("/run/netns/here"));
        assert_eq!(path("/proc/1/ns/net"), PathBuf::from("/proc/1/ns/net"));
    }

    #[test]
    fn a_namespace_that_does_not_exist_is_named() {
        let error = within(Some("no-such"), || Ok(())).unwrap_err().to_string();
        assert!(error.contains("/run/netns/no-such"), "{error}");
    }
}
