//! What is known of a frame that does not come straight from steering.

use crate::reassembly::Datagram;

/// What a frame takes along that its worker holds, or hands to another one: from the verdict, and
/// back to the engine that goes on with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    /// Of a fragment: what its first one has told.
    pub(crate) datagram: Option<Datagram>,
    /// How many other workers have been asked for a port, in turn.
    pub(crate) asked: u8,
    /// Where the owner of its port has sent it, because its flow should live there.
    pub(crate) redirected_to: Option<u8>,
}
