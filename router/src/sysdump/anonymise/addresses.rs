//! Other addresses in the place of those in a text. The same always stands for the same, and for two that have
//! their first bits in common two that have as many in common, so that prefixes hold what they held (Xu, Fan,
//! Ammar and Moon, "Prefix-Preserving IP Address Anonymization", ICNP 2002). Well-known ranges stay themselves,
//! as wholes. Pure.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A range that everybody knows: its addresses stay in it.
struct Known {
    /// Its first address, from the first bit on.
    bits: u128,
    length: u32,
    /// Whether each of its addresses stays itself: it tells nothing.
    whole: bool,
}

const fn known(bits: u128, length: u32, whole: bool) -> Known {
    Known { bits, length, whole }
}

/// Of IPv4 (RFC 6890): this network, 10.0.0.0/8, 100.64.0.0/10, loopback, link-local, 172.16.0.0/12,
/// 192.168.0.0/16; multicast and beyond, where masks are too.
const KNOWN_V4: [Known; 8] = [
    known(0, 8, true),
    known(0x0a00 << 112, 8, false),
    known(0x6440 << 112, 10, false),
    known(0x7f00 << 112, 8, true),
    known(0xa9fe << 112, 16, true),
    known(0xac10 << 112, 12, false),
    known(0xc0a8 << 112, 16, false),
    known(0xe000 << 112, 3, true),
];

/// Prefixes that have IPv4 addresses behind them: mapped ones, and those of NAT64 (RFC 4291, 2.5.5.2; RFC 6052).
const EMBEDDING: [u128; 2] = [0xffff << 32, 0x0064_ff9b << 96];

/// Of IPv6: `::` and `::1`, those above, and global, unique local, link-local and multicast ones.
const KNOWN_V6: [Known; 7] = [
    known(0, 127, true),
    known(EMBEDDING[0], 96, false),
    known(EMBEDDING[1], 96, false),
    known(0x2000 << 112, 3, false),
    known(0xfd00 << 112, 8, false),
    known(0xfe80 << 112, 64, false),
    known(0xff00 << 112, 8, true),
];

/// The bits of an Ethernet address that name its maker, and stay.
const OUI_BITS: u32 = 24;

/// How addresses are replaced: by the hasher's key, which nobody shall know.
#[derive(Debug)]
pub(crate) struct Addresses<H> {
    key: H,
    /// Those that have been.
    replaced: HashMap<IpAddr, IpAddr>,
}

impl<H: BuildHasher> Addresses<H> {
    pub(crate) fn new(key: H) -> Self {
        Self { key, replaced: HashMap::new() }
    }

    /// The text with other addresses: those of IPv4, IPv6 and Ethernet in their usual form.
    pub(super) fn in_text(&mut self, text: &str) -> String {
        let mut replaced = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(is_part) {
            let (before, found) = rest.split_at(at);
            replaced.push_str(before);
            let end = found.find(|c| !is_part(c)).unwrap_or(found.len());
            let (run, after) = found.split_at(end);
            self.push(&mut replaced, run, after);
            rest = after;
        }
        replaced + rest
    }

    /// Adds what stands for a run of digits, colons and dots. It is after what is there, and before `after`.
    fn push(&mut self, text: &mut String, run: &str, after: &str) {
        // Behind a word an address begins after a colon.
        let start =
            if ends_in_word(text) { run.find(':').map_or(run.len(), |at| at + 1) } else { 0 };
        let (word, run) = run.split_at(start);
        text.push_str(word);
        let in_word = after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = length(after);
        if !in_word {
            let trimmed = run.trim_end_matches('.');
            for one in [trimmed, trimmed.strip_suffix(':').unwrap_or(trimmed)] {
                if let Some(other) = self.one(one, length) {
                    text.push_str(&other);
                    text.push_str(&run[one.len()..]);
                    return;
                }
            }
        }
        // An address and a port, for instance.
        let last = run.matches(':').count();
        for (index, piece) in run.split(':').enumerate() {
            if index > 0 {
                text.push(':');
            }
            let one = piece.trim_end_matches('.');
            let address = one.parse::<Ipv4Addr>().ok().filter(|_| !(index == last && in_word));
            match address {
                Some(address) => {
                    let length = length.filter(|_| index == last);
                    text.push_str(&self.prefix(address.into(), length).to_string());
                    text.push_str(&piece[one.len()..]);
                }
                None => text.push_str(piece),
            }
        }
    }

    /// What stands for a text that is an address.
    fn one(&mut self, text: &str, length: Option<u8>) -> Option<String> {
        if let Ok(address) = text.parse() {
            return Some(self.prefix(address, length).to_string());
        }
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let digits = parts.next().filter(|digits| digits.len() == 2)?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        parts.next().is_none().then(|| self.ethernet(bytes))
    }

    /// The addresses of `/proc/net/route`: destination, gateway and mask are numbers in the machine's order.
    pub(super) fn in_route(&mut self, text: &str) -> String {
        let mut line_of = |line: &str| -> Option<String> {
            let mut fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
            let number = |field: &String| u32::from_str_radix(field, 16).ok();
            let (to, gateway) = (number(fields.get(1)?)?, number(fields.get(2)?)?);
            let mask = u32::from_be(number(fields.get(7)?)?);
            let length = u8::try_from(mask.leading_ones()).ok();
            for (at, number, length) in [(1, to, length), (2, gateway, None)] {
                let address = Ipv4Addr::from_bits(u32::from_be(number));
                let IpAddr::V4(other) = self.prefix(address.into(), length) else { return None };
                fields[at] = format!("{:08X}", other.to_bits().to_be());
            }
            Some(fields.join("\t"))
        };
        text.lines().map(|line| line_of(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
    }

    /// The addresses of `/proc/net/if_inet6` and `ipv6_route`, which have all their digits and no colons. The
    /// field behind a destination is its length.
    pub(super) fn in_digits(&mut self, text: &str) -> String {
        let mut replaced = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let words: Vec<&str> = line.split(' ').collect();
            for (at, word) in words.iter().enumerate() {
                let length = words.get(at + 1).and_then(|next| u8::from_str_radix(next, 16).ok());
                let bits = u128::from_str_radix(word, 16).ok().filter(|_| word.len() == 32);
                let other = bits.map(|bits| self.prefix(Ipv6Addr::from_bits(bits).into(), length));
                if at > 0 {
                    replaced.push(' ');
                }
                match other {
                    Some(IpAddr::V6(other)) => {
                        replaced.push_str(&format!("{:032x}", other.to_bits()));
                    }
                    _ => replaced.push_str(word),
                }
            }
        }
        replaced
    }

    /// What stands for an address; for the first of a prefix of this length, the first of another.
    fn prefix(&mut self, address: IpAddr, length: Option<u8>) -> IpAddr {
        let other = self.address(address);
        let is_first =
            |length: &u8| IpNet::new(address, *length).is_ok_and(|net| net.trunc() == net);
        let prefix = length.filter(is_first).and_then(|length| IpNet::new(other, length).ok());
        prefix.map_or(other, |prefix| prefix.network())
    }

    fn address(&mut self, address: IpAddr) -> IpAddr {
        if let Some(other) = self.replaced.get(&address) {
            return *other;
        }
        let other = match address {
            IpAddr::V4(address) => self.ipv4(address).into(),
            IpAddr::V6(address) => self.ipv6(address).into(),
        };
        self.replaced.insert(address, other);
        other
    }

    fn ipv4(&self, address: Ipv4Addr) -> Ipv4Addr {
        let other = self.bits(u128::from(address.to_bits()) << 96, 32, &KNOWN_V4);
        let [a, b, c, d, ..] = other.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    }

    fn ipv6(&self, address: Ipv6Addr) -> Ipv6Addr {
        let bits = address.to_bits();
        if EMBEDDING.contains(&leading(bits, 96)) {
            let [.., a, b, c, d] = address.octets();
            let ipv4 = self.ipv4(Ipv4Addr::new(a, b, c, d));
            return Ipv6Addr::from_bits(leading(bits, 96) | u128::from(ipv4.to_bits()));
        }
        Ipv6Addr::from_bits(self.bits(bits, 128, &KNOWN_V6))
    }

    /// Of an Ethernet address the part that its maker has counted.
    fn ethernet(&self, bytes: [u8; 6]) -> String {
        let mut all = [0; 16];
        all[..6].copy_from_slice(&bytes);
        let bits = u128::from_be_bytes(all);
        let is_group = bytes[0] & 1 == 1;
        let maker = known(leading(bits, OUI_BITS), OUI_BITS, is_group || bytes == [0; 6]);
        let other = self.bits(bits, 48, &[maker]).to_be_bytes();
        let [a, b, c, d, e, f, ..] = other;
        format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }

    /// Other bits, `width` of them: whether one is turned depends on the key and on those before it. None is
    /// on the way into a known range: so what is in one stays in it, and nothing else gets there.
    fn bits(&self, bits: u128, width: u32, known: &[Known]) -> u128 {
        let is_in = |range: &Known, at| leading(bits, at) == leading(range.bits, at);
        if known.iter().any(|range| range.whole && is_in(range, range.length)) {
            return bits;
        }
        let turned = (0..width)
            .filter(|at| !known.iter().any(|range| *at < range.length && is_in(range, *at)))
            .filter(|at| self.key.hash_one((width, *at, leading(bits, *at))) & 1 == 1)
            .map(|at| 1_u128 << (127 - at));
        turned.fold(bits, |bits, turned| bits ^ turned)
    }
}

/// The first bits; zeros behind them.
const fn leading(bits: u128, length: u32) -> u128 {
    match length {
        0 => 0,
        _ => bits & (u128::MAX << (128 - length)),
    }
}

/// Whether an address is written with it.
fn is_part(c: char) -> bool {
    c.is_ascii_hexdigit() || c == ':' || c == '.'
}

/// Whether a word goes on behind a text; what JSON escapes is none.
fn ends_in_word(text: &str) -> bool {
    let escaped = ["\\n", "\\r", "\\t"].iter().any(|escape| text.ends_with(escape));
    !escaped && text.ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// The length of a prefix, if what follows its address begins with one.
fn length(after: &str) -> Option<u8> {
    let digits = after.strip_prefix('/')?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
