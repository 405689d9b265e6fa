//! The extension headers of IPv6 (RFC 8200, section 4), as far as one must look past them to find the
//! transport header: options, routing, fragment. How many there may be is bounded, here and in the
//! steering program alike.

use crate::DropReason;
use crate::steer::{EXTENSION_BYTES_MAX, EXTENSIONS_MAX};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Length of a fragment header, in bytes.
pub(crate) const FRAGMENT_LEN: usize = 8;

/// The flag "more fragments" in the word of offset and flags; the offset begins at bit 3.
const MORE_FRAGMENTS: u16 = 1;

/// What was found behind an IPv6 header. Places are in bytes behind that header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// The transport protocol. Of a fragment that is not the first, what the fragment header says:
    /// that may be another extension header.
    pub(crate) protocol: u8,
    /// Where the transport header is.
    pub(crate) at: u16,
    pub(crate) fragment: Option<FragmentHeader>,
}

/// A fragment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentHeader {
    /// Where it is.
    pub(crate) at: u16,
    /// Where its payload belongs in the packet's, in units of 8 bytes.
    pub(crate) start: u16,
    pub(crate) is_last: bool,
    pub(crate) identification: u32,
}

/// Whether a protocol number is that of a header that [`walk`] looks past.
pub(crate) fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}

/// Looks past all extension headers of a payload whose first header is `protocol`.
///
/// # Errors
/// [`DropReason::IpOptions`]: there are too many; hop-by-hop options do not come first, as they must;
/// a second fragment header; or a route that is still to be travelled (RFC 5095), which a translated
/// packet cannot be. [`DropReason::BadIpLength`]: the payload ends before they do.
pub(crate) fn walk(mut protocol: u8, payload: &[u8]) -> Result<Chain, DropReason> {
    let (mut at, mut fragment, mut count) = (0, None, 0);
    while is_extension(protocol) {
        let header = payload.get(usize::from(at)..).and_then(|rest| rest.first_chunk::<8>());
        let header = header.ok_or(DropReason::BadIpLength)?;
        let [next, length, w0, w1, i0, i1, i2, i3] = *header;
        let is_misplaced = match protocol {
            HOP_BY_HOP => count > 0,
            // Segments left.
            ROUTING => w1 > 0,
            FRAGMENT => fragment.is_some(),
            _ => false,
        };
        let length = if protocol == FRAGMENT { 8 } else { (u16::from(length) + 1) * 8 };
        count += 1;
        if is_misplaced || count > EXTENSIONS_MAX || at + length > EXTENSION_BYTES_MAX {
            return Err(DropReason::IpOptions);
        }
        if protocol == FRAGMENT {
            let word = u16::from_be_bytes([w0, w1]);
            let found = FragmentHeader {
                at,
                start: word >> 3,
                is_last: word & MORE_FRAGMENTS == 0,
                identification: u32::from_be_bytes([i0, i1, i2, i3]),
            };
            if found.start > 0 {
                return Ok(Chain { protocol: next, at: at + length, fragment: Some(found) });
            }
            fragment = Some(found);
        }
        (protocol, at) = (next, at + length);
    }
    Ok(Chain { protocol, at, fragment })
}
