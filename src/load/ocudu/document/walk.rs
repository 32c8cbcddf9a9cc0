//! How are numbers and lists taken from JSON so that nothing absurd and nothing endless gets through?

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{SLOTS_MAX, USERS_MAX};

/// Most that one executor may say to use: a thousand cores, in percent of one.
const LOAD_PERCENT_MAX: f64 = 100_000.0;
/// Most that one user may say to move: a terabit a second.
const BITS_MAX: f64 = 1e12;
/// Longest time: a minute is longer than any report.
const MICROS_MAX: f64 = 60e6;
/// Highest count of one report.
const COUNT_MAX: f64 = 4e9;
/// Highest physical cell id.
const PCI_MAX: f64 = 1007.0;
/// Most PRBs that can stand in one slot's place; a carrier has 275, some releases tell sums.
const PRBS_MAX: f64 = 60_000.0;
/// Levels of lists and objects below `ru` that are looked into.
const DEPTH_MAX: usize = 12;

fn within<E: de::Error>(number: f64, max: f64) -> Result<f64, E> {
    if number.is_finite() && (0.0..=max).contains(&number) {
        return Ok(number);
    }
    Err(E::custom("a number out of its range"))
}

/// Whole part of a number that [`within`] has passed.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 4e9, as was looked at")]
fn whole(number: f64) -> u64 {
    number as u64
}

macro_rules! figure {
    ($(#[$doc:meta])* $name:ident($type:ty), $max:expr, $of:expr) => {
        $(#[$doc])*
        pub(super) struct $name(pub(super) $type);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let number = within(f64::deserialize(deserializer)?, $max)?;
                Ok(Self($of(number)))
            }
        }
    };
}

figure!(/** Percent of a core. */ Load(f64), LOAD_PERCENT_MAX, |number| number);
figure!(/** Bits a second. */ Bits(f64), BITS_MAX, |number| number);
figure!(/** A count of one report. */ Count(u64), COUNT_MAX, whole);
figure!(/** A physical cell id. */ Pci(u64), PCI_MAX, whole);
figure!(/** µs of one report. */ Micros(u32), MICROS_MAX, |number| u32::try_from(whole(number)).unwrap_or(u32::MAX));
figure!(/** PRBs of a slot. */ Prb(u16), PRBS_MAX, |number| u16::try_from(whole(f64::ceil(number))).unwrap_or(u16::MAX));

/// A list of at most `MAX`.
pub(super) struct Few<T, const MAX: usize>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Few<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
            type Value = Few<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() == MAX {
                        return Err(de::Error::invalid_length(MAX + 1, &self));
                    }
                    items.push(item);
                }
                Ok(Few(items))
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// PRBs by slot of the TDD pattern.
pub(super) struct Prbs(pub(super) Vec<u16>);

impl<'de> Deserialize<'de> for Prbs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let slots = Few::<Prb, SLOTS_MAX>::deserialize(deserializer)?;
        Ok(Self(slots.0.into_iter().map(|prb| prb.0).collect()))
    }
}

/// Transport blocks.
#[derive(Clone, Copy, Default)]
pub(super) struct Blocks {
    pub(super) dl: u64,
    pub(super) ul: u64,
}

/// The users of a cell, added up.
pub(super) struct Users {
    pub(super) bits: Option<f64>,
    pub(super) blocks: Option<Blocks>,
    pub(super) pci: Option<u64>,
}

impl Users {
    /// Nobody.
    pub(super) fn none() -> Self {
        Self { bits: Some(0.0), blocks: Some(Blocks::default()), pci: None }
    }

    fn add<C>(&mut self, user: &User<C>) {
        self.bits = match (self.bits, &user.dl_brate, &user.ul_brate) {
            (Some(sum), Some(dl), Some(ul)) => Some(sum + dl.0 + ul.0),
            (None, _, _) | (_, None, _) | (_, _, None) => None,
        };
        let counts = [&user.dl_nof_ok, &user.dl_nof_nok, &user.ul_nof_ok, &user.ul_nof_nok];
        let [dl_ok, dl_bad, ul_ok, ul_bad] = counts.map(|count| count.as_ref().map(|count| count.0));
        let of = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
        self.blocks = match (self.blocks, of(dl_ok, dl_bad), of(ul_ok, ul_bad)) {
            (Some(sum), Some(dl), Some(ul)) => {
                Some(Blocks { dl: sum.dl.saturating_add(dl), ul: sum.ul.saturating_add(ul) })
            }
            (None, _, _) | (_, None, _) | (_, _, None) => None,
        };
        self.pci = self.pci.or(user.pci.as_ref().map(|pci| pci.0));
    }
}

/// A user, who may contain one, who may contain anything: as deep as it goes, whatever is sent.
#[derive(serde::Deserialize)]
struct User<C> {
    pci: Option<Pci>,
    dl_brate: Option<Bits>,
    ul_brate: Option<Bits>,
    dl_nof_ok: Option<Count>,
    dl_nof_nok: Option<Count>,
    ul_nof_ok: Option<Count>,
    ul_nof_nok: Option<Count>,
    /// Where the same stood up to 25.04.
    ue_container: Option<C>,
}

impl<'de> Deserialize<'de> for Users {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Users;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {USERS_MAX} users")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Users, A::Error> {
                let mut users = Users::none();
                let mut count = 0;
                while let Some(user) = list.next_element::<User<User<IgnoredAny>>>()? {
                    count += 1;
                    if count > USERS_MAX {
                        return Err(de::Error::invalid_length(count, &self));
                    }
                    match &user.ue_container {
                        Some(contained) => users.add(contained),
                        None => users.add(&user),
                    }
                }
                Ok(users)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// Sum of a list of counts; `None` for anything else.
pub(super) fn sum(list: &str) -> Option<u64> {
    let counts: Few<Count, 1024> = serde_json::from_str(list).ok()?;
    Some(counts.0.iter().fold(0, |sum: u64, count| sum.saturating_add(count.0)))
}

/// Sum of the counts of late work below `ru`, at whatever depth they stand; `None` without any.
pub(super) fn late_below(ru: &RawValue) -> serde_json::Result<Option<u64>> {
    let mut found = None;
    let mut reader = serde_json::Deserializer::from_str(ru.get());
    de::DeserializeSeed::deserialize(Walk { found: &mut found, depth: 0 }, &mut reader)?;
    Ok(found)
}

struct Walk<'f> {
    found: &'f mut Option<u64>,
    depth: usize,
}

impl<'de> de::DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.depth > DEPTH_MAX {
            return Err(de::Error::custom("nested too deeply"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match key.as_ref() {
                "late_dl_slots" | "late_dl_grids" | "nof_missed_uplink_symbols" => {
                    if let Some(count) = map.next_value::<Option<Count>>()? {
                        *self.found = Some(self.found.unwrap_or(0).saturating_add(count.0));
                    }
                }
                _ => map.next_value_seed(Walk { found: &mut *self.found, depth: self.depth + 1 })?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Walk { found: &mut *self.found, depth: self.depth + 1 })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
