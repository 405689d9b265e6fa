//! Packets as the router saw them: what is to be captured, and what was.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes kept of a packet that a capture is not told: more than a frame has.
pub const SNAPLEN_DEFAULT: u32 = 65_535;

/// Bytes kept of a packet, at the least: the headers that a filter looks at are there then.
pub const SNAPLEN_MIN: u32 = 64;

/// A place on a packet's way where it can be captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapturePoint {
    /// As steering gave it to a worker.
    Received,
    /// With its new addresses, without the tunnel's headers.
    Translated,
    /// As it was given to a device, to be sent.
    Sent,
    /// As it stood when it was dropped.
    Dropped,
}

impl CapturePoint {
    /// Every point, in the order in which a packet passes them.
    pub const ALL: [Self; 4] = [Self::Received, Self::Translated, Self::Sent, Self::Dropped];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Translated => "translated",
            Self::Sent => "sent",
            Self::Dropped => "dropped",
        }
    }
}

/// What is to be captured. A packet is taken at all its points if it has what is asked for as it came
/// or as it leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRequest {
    /// Where.
    pub points: Vec<CapturePoint>,
    /// Only packets from or to this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
    /// Only packets from or to this pod; before its translation a reply has the egress address, and is
    /// known by what it is translated to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<IpAddr>,
    /// Only TCP, UDP and SCTP packets from or to this port; later fragments have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Only packets of this IP protocol, by number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Only packets that are dropped for this reason, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<String>,
    /// Bytes kept of a packet, from [`SNAPLEN_MIN`] on; as many as a frame has at most.
    #[serde(default = "snaplen_default")]
    pub snaplen: u32,
}

fn snaplen_default() -> u32 {
    SNAPLEN_DEFAULT
}

/// Some packets of a capture, in the order in which workers saw them; those of one moment may be in
/// another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturePage {
    /// The packets.
    pub packets: Vec<CapturedPacket>,
    /// Whether there are more already. Of a capture that is to end: the page without is its last one.
    pub more: bool,
    /// What was captured since the start, and what was lost, at each point that was asked for.
    pub points: Vec<CaptureCount>,
}

/// What became of packets at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureCount {
    /// The point.
    pub point: CapturePoint,
    /// Packets that were captured.
    pub captured: u64,
    /// Packets that would have been, but there was no room: nobody took those before them in time.
    pub lost: u64,
}

/// One packet at one point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedPacket {
    /// When, in nanoseconds since 1970, by the router's wall clock when the capture began. The packets
    /// of a burst have one time.
    pub time_ns: u64,
    /// Where.
    pub point: CapturePoint,
    /// The worker that had it.
    pub worker: u32,
    /// The same for what is of one packet at different points. A packet that waited, or was handed to
    /// another worker, has another number from then on.
    pub number: u64,
    /// How long the whole frame is, in bytes.
    pub length: u32,
    /// The frame, from its Ethernet header on, as far as it was kept.
    pub data: Bytes,
    /// Where a received or dropped packet came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The drop reason of a dropped one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<String>,
    /// The device that a sent one leaves through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// Where a steered packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Origin {
    /// A pod, through the tunnel. Of its Ethernet header the destination is not known: zeros.
    Tunnel {
        /// The VXLAN network identifier that it came with.
        vni: u32,
        /// The tunnel peer: its outer source address.
        peer: IpAddr,
    },
    /// The outside: a reply to an egress address. Every byte is as it came.
    Outside,
    /// A link: ARP, neighbour discovery or a ping of an address that Spillway announces. Of its Ethernet
    /// header the destination is not known: zeros.
    Link,
}

/// Bytes; base64 (RFC 4648, section 4) in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_base64_in_json() {
        let bytes = Bytes(vec![0, 255, 16, 62]);
        let json = serde_json::to_string(&bytes).unwrap();
        assert_eq!(json, r#""AP8QPg==""#);
        assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap(), bytes);
        serde_json::from_str::<Bytes>(r#""AP8QP""#).unwrap_err();
    }

    #[test]
    fn a_request_needs_no_more_than_its_points() {
        let request: CaptureRequest =
            serde_json::from_str(r#"{"points":["sent","dropped"]}"#).unwrap();
        assert_eq!(request.points, [CapturePoint::Sent, CapturePoint::Dropped]);
        assert_eq!(request.snaplen, SNAPLEN_DEFAULT);
        for point in CapturePoint::ALL {
            assert_eq!(serde_json::to_value(point).unwrap(), point.name());
        }
    }
}
