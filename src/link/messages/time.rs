//! Wall-clock moments as text: RFC 3339, UTC, milliseconds.

use crate::units::WallTime;

/// For `#[serde(with)]` on fields of type [`WallTime`].
pub(super) mod required {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::WallTime;

    pub(crate) fn serialize<S: Serializer>(at: &WallTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(at)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<WallTime, D::Error> {
        WallTime::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// For `#[serde(with)]` on fields of type `Option<WallTime>`; needs `default` too.
pub(super) mod optional {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::WallTime;

    #[expect(clippy::ref_option, reason = "the signature that serde's `with` asks for")]
    pub(crate) fn serialize<S: Serializer>(at: &Option<WallTime>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => serializer.serialize_some(&at.to_string()),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<WallTime>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| WallTime::parse(&text)).transpose().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_read_as_the_protocol_writes_them() {
        let at = WallTime::parse("2026-11-22T01:02:03.120Z").unwrap();
        assert_eq!(at.to_string(), "2026-11-22T01:02:03.120Z");
        assert_eq!(WallTime::parse("2026-11-22T02:02:03.12+01:00").unwrap(), at);
        assert_eq!(WallTime::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(WallTime::from_millis(-1).to_string(), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn what_is_no_time_is_refused_with_an_example() {
        for bad in [
            "",
            "tomorrow",
            "2026-11-22",
            "2026-11-22T01:02:03",
            "2026-02-30T00:00:00Z",
            "1700000000",
            "-009999-02-01T00:00:00Z",
            "+002026-11-22T01:02:03Z",
            "0000-01-01T00:00:00+00:01",
        ] {
            let why = WallTime::parse(bad).unwrap_err();
            assert!(why.contains("2026-11-22T06:00:00.000Z"), "{why}");
        }
    }

    proptest! {
        #[test]
        fn every_moment_of_four_digit_years_survives(millis in -62_000_000_000_000_i64..253_000_000_000_000) {
            let at = WallTime::from_millis(millis);
            prop_assert_eq!(WallTime::parse(&at.to_string()).unwrap(), at);
        }

        #[test]
        fn any_moment_is_written_and_any_text_read_without_panic(millis: i64, text in "\\PC{0,40}") {
            prop_assert!(WallTime::parse(&WallTime::from_millis(millis).to_string()).is_ok());
            let _ = WallTime::parse(&text);
        }
    }
}
