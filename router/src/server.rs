//! The operator's socket, and the one that changes nothing: Unix stream sockets in the main thread's
//! event loop.
//!
//! One line of JSON is a request and one the response; `router/api` has their form. Everything is
//! bounded: connections, bytes of a request, the time of an exchange. Nothing that a client does
//! or omits ends more than its own connection.

mod connection;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mio::net::UnixListener;
use mio::{Interest, Registry, Token};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use spillway_api::limits::{CONNECTIONS_MAX, DOCUMENT_BYTES_MAX, READ_ONLY_REQUEST_BYTES_MAX};
use spillway_api::{Request, Response, os_error};

use connection::{Connection, Progress};

/// Who may open a socket: its owner, root.
const MODE: u32 = 0o600;

/// Who may open one that has a group: its members, too.
const GROUP_MODE: u32 = 0o660;

/// Connections that are accepted, or refused, before others have their turn.
const ACCEPTED_AT_ONCE: usize = CONNECTIONS_MAX;

/// Connections that wait to be accepted, at most.
const BACKLOG: i32 = 64;

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// Another process listens there.
    #[error("another process listens on {0}: stop it, or configure another path for this one")]
    InUse(String),
    /// Something else has the name.
    #[error("{0} exists and is no socket: remove it, or configure another path")]
    NotASocket(String),
    /// The group may not have it.
    #[error(
        "cannot give {path} to the group {group} (`read_only_group`): {}: that needs CAP_CHOWN, or \
         this process to be in the group (in a pod `supplementalGroups`)",
        os_error(.error)
    )]
    Group {
        /// The socket.
        path: String,
        /// The group's number.
        group: u32,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel refused.
    #[error("cannot listen on {path}: {}", os_error(.error))]
    Kernel {
        /// The socket.
        path: String,
        /// What the kernel said.
        error: io::Error,
    },
}

/// What the clients of a socket may do, and who they may be beside root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everything; root alone.
    Full,
    /// Ask what changes nothing; also the members of this group.
    ReadOnly {
        /// Its number.
        group: Option<u32>,
    },
}

impl Access {
    /// Bytes that a request may have.
    const fn request_bytes_max(self) -> usize {
        match self {
            Self::Full => DOCUMENT_BYTES_MAX,
            Self::ReadOnly { .. } => READ_ONLY_REQUEST_BYTES_MAX,
        }
    }

    /// What a client is told whose request it may not make.
    fn refusal(self, request: &Request) -> Option<Response> {
        if self == Self::Full || request.is_read_only() {
            return None;
        }
        Some(Response::refused(
            "this socket is read-only, and the request would change something, or ask for packets or \
             for the whole state document: use the operator's socket (`socket` in the router's \
             configuration), as root",
        ))
    }
}

/// The listening socket and its connections.
#[derive(Debug)]
pub(crate) struct Server {
    path: PathBuf,
    access: Access,
    /// Device and inode of the socket file, to remove at the end no other than our own.
    inode: Option<(u64, u64)>,
    listener: UnixListener,
    registry: Registry,
    first: Token,
    connections: [Option<Connection>; CONNECTIONS_MAX],
}

impl Server {
    /// How many tokens the server uses, from its first one on.
    pub(crate) const TOKENS: usize = 1 + CONNECTIONS_MAX;

    /// Listens on `path`, with the tokens from `first` on. A socket that a dead process has left
    /// behind is replaced; the directory is made when there is none.
    ///
    /// # Errors
    ///
    /// [`ServerError`], also when somebody listens there.
    pub(crate) fn bind(
        path: &Path,
        access: Access,
        registry: &Registry,
        first: Token,
    ) -> Result<Self, ServerError> {
        let name = || path.display().to_string();
        remove_stale(path)?;
        let server = Self::listen(path, access, registry, first)
            .map_err(|error| ServerError::Kernel { path: name(), error })?;
        if let Access::ReadOnly { group: Some(group) } = access {
            give_to_group(path, group).map_err(|error| ServerError::Group {
                path: name(),
                group,
                error,
            })?;
        }
        Ok(server)
    }

    fn listen(path: &Path, access: Access, registry: &Registry, first: Token) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The file that `bind` makes takes the socket's mode: nobody can connect in between.
        rustix::fs::fchmod(&socket, MODE.into())?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let mut listener = UnixListener::from_std(socket.into());
        registry.register(&mut listener, first, Interest::READABLE)?;
        Ok(Self {
            path: path.to_owned(),
            access,
            inode: inode(path),
            listener,
            registry: registry.try_clone()?,
            first,
            connections: Default::default(),
        })
    }

    /// Takes what an event brings: connections, requests, room for responses. `answer` is asked
    /// for each whole request. False when the token is not one of the server's.
    pub(crate) fn ready(
        &mut self,
        token: Token,
        answer: &mut dyn FnMut(Request) -> Response,
    ) -> bool {
        match token.0.checked_sub(self.first.0) {
            Some(0) => self.accept(),
            Some(slot) if slot < Self::TOKENS => self.advance(slot - 1, answer),
            _ => return false,
        }
        true
    }

    /// When [`Server::expire`] must be called at the latest; `None` without connections.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.connections.iter().flatten().map(|connection| connection.deadline).min()
    }

    /// Closes the connections whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        for slot in &mut self.connections {
            // Closing the socket also takes it out of the event loop.
            slot.take_if(|connection| connection.deadline <= now);
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTED_AT_ONCE {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if is_momentary(&error) => continue,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::warn!("cannot accept on {}: {error}", self.path.display());
                    }
                    return;
                }
            };
            let Some(slot) = self.connections.iter().position(Option::is_none) else {
                Connection::refuse(stream);
                continue;
            };
            let mut connection = Connection::new(stream, self.access.request_bytes_max());
            if connection.register(&self.registry, self.token(slot)).is_ok() {
                self.connections[slot] = Some(connection);
            }
        }
        // Who comes without end waits until others have had their turn.
        if let Err(error) =
            self.registry.reregister(&mut self.listener, self.first, Interest::READABLE)
        {
            tracing::warn!("cannot accept on {}: {error}", self.path.display());
        }
    }

    fn advance(&mut self, slot: usize, answer: &mut dyn FnMut(Request) -> Response) {
        let (token, access) = (self.token(slot), self.access);
        let Some(connection) = &mut self.connections[slot] else { return };
        let mut allowed = |request| access.refusal(&request).unwrap_or_else(|| answer(request));
        let goes_on = match connection.advance(&mut allowed) {
            Progress::Waits => true,
            // Others have their turn before this one's next request.
            Progress::HasMore => connection.reregister(&self.registry, token).is_ok(),
            Progress::Ended => false,
        };
        if !goes_on {
            self.connections[slot] = None;
        }
    }

    fn token(&self, slot: usize) -> Token {
        Token(self.first.0 + 1 + slot)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Lets the members of a group use a socket, too. Until it is theirs it is no other group's.
fn give_to_group(path: &Path, group: u32) -> io::Result<()> {
    std::os::unix::fs::chown(path, None, Some(group))?;
    std::fs::set_permissions(path, Permissions::from_mode(GROUP_MODE))
}

/// Removes a socket file on which nobody listens.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    if !is_stale(path)? {
        return Ok(());
    }
    std::fs::remove_file(path)
        .map_err(|error| ServerError::Kernel { path: path.display().to_string(), error })
}

/// Whether a dead process has left a socket of this name; else nothing has it.
///
/// # Errors
///
/// When somebody listens there, or something else has the name.
pub(crate) fn is_stale(path: &Path) -> Result<bool, ServerError> {
    let name = || path.display().to_string();
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => Err(ServerError::NotASocket(name())),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
            _ => Err(ServerError::InUse(name())),
        },
        Err(_) => Ok(false),
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Whether accepting again may do: the error was of one connection, or none.
fn is_momentary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted)
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
