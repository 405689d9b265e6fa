//! Scalars of the state document that have a text form: addresses, prefixes, MAC addresses, port
//! ranges. A wrong one is refused with what was expected and what was found.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::shape::list;

/// How much of a wrong value is repeated in an error, in characters.
const QUOTED_CHARS_MAX: usize = 64;

/// A type that a document holds as text.
pub(crate) trait FromText: Sized {
    /// What a person should have written.
    const EXPECTED: &'static str;

    /// Reads the text; `None` when it is no such value.
    fn from_text(text: &str) -> Option<Self>;

    /// What the person may have meant by a text that is no such value.
    fn hint(_text: &str) -> Option<String> {
        None
    }
}

impl FromText for IpAddr {
    const EXPECTED: &'static str = "an IP address such as 192.0.2.1 or 2001:db8::1";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for IpNet {
    const EXPECTED: &'static str = "an IP prefix such as 203.0.113.0/24 or 2001:db8::/32";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn hint(text: &str) -> Option<String> {
        text.parse::<IpAddr>().ok().map(|address| Self::from(address).to_string())
    }
}

/// A link address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl FromText for MacAddress {
    const EXPECTED: &'static str = "a MAC address such as 02:00:00:00:00:01";

    fn from_text(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2)?;
            // `from_str_radix` would take a sign.
            part.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(())?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Self(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Ports from `first` to `last`, both inclusive. Echo identifiers have the same range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl FromText for PortRange {
    const EXPECTED: &'static str = "a range of ports such as 16384-29999";

    fn from_text(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

macro_rules! serde_as_text {
    ($($type:ty),+) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                one(deserializer)
            }
        }
    )+};
}

serde_as_text!(MacAddress, PortRange);

/// Reads one such scalar; for `#[serde(deserialize_with)]`.
pub(crate) fn one<'de, D: Deserializer<'de>, T: FromText>(deserializer: D) -> Result<T, D::Error> {
    Text::deserialize(deserializer).map(|text| text.0)
}

/// Reads one that may be left out; for `#[serde(deserialize_with)]`.
pub(crate) fn some_one<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromText,
{
    one(deserializer).map(Some)
}

/// Reads a list of them that may be left out; for `#[serde(deserialize_with)]`.
pub(crate) fn some_many<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: FromText,
{
    many(deserializer).map(Some)
}

/// Reads a list of them; for `#[serde(deserialize_with)]`.
pub(crate) fn many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromText,
{
    let texts: Vec<Text<T>> = list(deserializer)?;
    Ok(texts.into_iter().map(|text| text.0).collect())
}

/// What `T` says of its text form, as serde wants it.
struct Text<T>(T);

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor(PhantomData)).map(Self)
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: FromText> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).ok_or_else(|| {
            let hint = T::hint(text).map(|meant| format!("; did you mean {meant}?"));
            let quoted = quote(text);
            E::custom(format!(
                "expected {}, found {quoted}{}",
                T::EXPECTED,
                hint.unwrap_or_default()
            ))
        })
    }
}

/// A value as an error repeats it: in quotes, without control characters, not too long.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    if quoted.len() < text.len() {
        quoted.push('…');
    }
    format!("\"{}\"", escape(&quoted))
}

/// A text without control characters, which would play tricks on a terminal.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}
