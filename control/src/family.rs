//! Something of each family of addresses.

use std::net::IpAddr;

use spillway_api::IpFamily;

/// One for IPv4, one for IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PerFamily<T> {
    /// That of IPv4.
    pub v4: T,
    /// That of IPv6.
    pub v6: T,
}

/// An address of each family, where there is one.
pub type Addresses = PerFamily<Option<IpAddr>>;

impl<T> PerFamily<T> {
    /// Makes both.
    pub fn of(mut make: impl FnMut(IpFamily) -> T) -> Self {
        Self { v4: make(IpFamily::V4), v6: make(IpFamily::V6) }
    }

    /// That of a family.
    #[must_use]
    pub fn get(&self, family: IpFamily) -> &T {
        match family {
            IpFamily::V4 => &self.v4,
            IpFamily::V6 => &self.v6,
        }
    }
}

impl Addresses {
    /// Of several addresses the first of each family.
    pub fn first_of(addresses: impl Iterator<Item = IpAddr>) -> Self {
        let mut first = Self::default();
        for address in addresses {
            let place = match IpFamily::of(address) {
                IpFamily::V4 => &mut first.v4,
                IpFamily::V6 => &mut first.v6,
            };
            place.get_or_insert(address);
        }
        first
    }

    /// Those that there are.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [self.v4, self.v6].into_iter().flatten()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}
