//! Lists and numbers of the state document and of the configuration, refused with what was
//! expected and what was found.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use crate::scalar::quote;

/// Reads a list; for `#[serde(deserialize_with)]`. Unlike serde's own, it refuses a field without
/// a value: a document that was cut off must not pass for one that selects nothing.
///
/// # Errors
///
/// The deserializer's.
pub fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_any(ListVisitor(PhantomData))
}

/// The same of a list that may be left out.
pub(crate) fn some_list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    list(deserializer).map(Some)
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            list.push(element);
        }
        Ok(list)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
        Err(E::custom(format!("expected a list, found the value {}", quote(text))))
    }

    fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
        Err(E::custom("expected a list, found nothing; an empty list is []"))
    }
}

/// Reads fields that may be left out together; for `#[serde(deserialize_with)]`. Unlike serde's own,
/// it refuses them when nothing follows their name.
pub(crate) fn fields<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let nothing = || D::Error::custom("expected fields, found nothing");
    Option::deserialize(deserializer)?.ok_or_else(nothing)
}

/// Reads a whole number from `MIN` to `MAX`; for `#[serde(deserialize_with)]`.
///
/// # Errors
///
/// The deserializer's, saying the range and what was found instead.
pub fn whole<'de, D, T, const MIN: u64, const MAX: u64>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    deserializer.deserialize_any(WholeVisitor::<T, MIN, MAX>(PhantomData))
}

/// The same of one that may be left out.
pub(crate) fn some_whole<'de, D, T, const MIN: u64, const MAX: u64>(
    deserializer: D,
) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    whole::<D, T, MIN, MAX>(deserializer).map(Some)
}

struct WholeVisitor<T, const MIN: u64, const MAX: u64>(PhantomData<T>);

impl<T: TryFrom<u64>, const MIN: u64, const MAX: u64> WholeVisitor<T, MIN, MAX> {
    fn refused<E: Error>(found: impl fmt::Display) -> E {
        E::custom(format!("expected a whole number from {MIN} to {MAX}, found {found}"))
    }
}

impl<T: TryFrom<u64>, const MIN: u64, const MAX: u64> Visitor<'_> for WholeVisitor<T, MIN, MAX> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {MIN} to {MAX}")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        let in_range = (MIN..=MAX).contains(&number).then_some(number);
        in_range.and_then(|number| T::try_from(number).ok()).ok_or_else(|| Self::refused(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        u64::try_from(number).map_err(|_| Self::refused(number)).and_then(|n| self.visit_u64(n))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        Err(Self::refused(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        Err(Self::refused(quote(text)))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        Err(Self::refused(value))
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        Err(Self::refused("nothing"))
    }
}
