//! Is this text JSON that we are willing to read? Depth, numbers that JSON does not have, one error sentence.
//!
//! Unknown and repeated fields are refused by the structs themselves (`deny_unknown_fields`, derived `Deserialize`).

use serde::Deserialize;

use crate::fault::{Code, Fault};

/// Deepest nesting of a message.
pub const DEPTH_MAX: usize = 16;

/// Reads `text` as `T`, after the depth and the numbers were checked.
///
/// # Errors
/// `job.malformed` naming `what`, the reason, line and column; `input.value` for `NaN` and `Infinity`.
pub fn parse<'a, T: Deserialize<'a>>(what: &str, text: &'a str) -> Result<T, Fault> {
    if text.trim().is_empty() {
        return Err(Fault::new(Code::JobMalformed, format!("{what}: the body is empty; send JSON")));
    }
    check(what, text)?;
    serde_json::from_str(text).map_err(|error| {
        let path = path(text, error.line(), error.column());
        let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
        Fault::new(Code::JobMalformed, format!("{what}: {place}{}", plain(&error.to_string())))
    })
}

/// An object, read by [`parse`]. (Serde would also take an array with the fields in order.)
///
/// # Errors
/// As [`parse`].
pub fn object<'a, T: Deserialize<'a>>(what: &str, text: &'a str) -> Result<T, Fault> {
    match text.trim_start().chars().next() {
        Some('{') | None => parse(what, text),
        Some(first) => {
            let why = format!("{what}: begins with {first:?}; send one JSON object, {{...}}, and nothing before it");
            Err(Fault::new(Code::JobMalformed, why))
        }
    }
}

/// Names of types as they are read outside Rust.
fn plain(error: &str) -> String {
    [
        ("expected i64", "expected an integer"),
        ("expected u64", "expected an integer from 0 to 18446744073709551615"),
        ("expected usize", "expected an integer from 0 to 18446744073709551615"),
        ("expected u32", "expected an integer from 0 to 4294967295"),
        ("expected f64", "expected a number"),
    ]
    .iter()
    .fold(error.to_owned(), |text, (rust, plain)| text.replace(rust, plain))
}

/// The members that lead to a place in the text, such as `limits.wall_ms`; empty at the top.
fn path(text: &str, line: usize, column: usize) -> String {
    let before = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum::<usize>();
    let end = (before + column).min(text.len());
    let bytes = &text.as_bytes()[..end];
    // The last key of each open object; an array has none.
    let mut keys: Vec<Option<&str>> = vec![None];
    let (mut at, mut last) = (0, "");
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let start = at + 1;
                at = string_end(bytes, at).min(bytes.len());
                last = text.get(start..at).unwrap_or_default();
            }
            b':' => keys.iter_mut().last().into_iter().for_each(|key| *key = Some(last)),
            b'[' | b'{' => keys.push(None),
            // The place of a fault is often one past the value, where its array or object has just ended.
            b']' | b'}' if at + 1 < bytes.len() => drop(keys.pop()),
            _ => {}
        }
        at += 1;
    }
    let keys: Vec<String> = keys.into_iter().flatten().map(|key| key.chars().take(40).collect()).collect();
    keys.join(".")
}

/// Bytes as text.
///
/// # Errors
/// `job.malformed` with the place of the first byte that is not UTF-8.
pub fn text<'a>(what: &str, bytes: &'a [u8]) -> Result<&'a str, Fault> {
    std::str::from_utf8(bytes).map_err(|error| {
        Fault::new(Code::JobMalformed, format!("{what}: not UTF-8 at byte {}; send JSON text", error.valid_up_to()))
    })
}

fn check(what: &str, text: &str) -> Result<(), Fault> {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0_usize, 0_usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at),
            b'[' | b'{' if depth == DEPTH_MAX => {
                let text = format!("{what}: nested deeper than {DEPTH_MAX} levels at byte {at}; flatten it");
                return Err(Fault::new(Code::JobMalformed, text));
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'N' | b'I' => {
                if let Some(word) =
                    ["NaN", "Infinity"].into_iter().find(|word| bytes[at..].starts_with(word.as_bytes()))
                {
                    let text =
                        format!("{what}: {word} at byte {at} is not a JSON number; only finite numbers are allowed");
                    return Err(Fault::new(Code::InputValue, text));
                }
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Where the string that starts with the quote at `start` ends: at its closing quote, or at the end of the text.
pub(super) fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<serde_json::Value, Fault> {
        parse("test", text)
    }

    #[test]
    fn sixteen_levels_are_read_and_seventeen_refused() {
        let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(read(&nested(16)).is_ok());
        let fault = read(&nested(17)).unwrap_err();
        assert_eq!(fault.code, Code::JobMalformed);
        assert!(fault.message.contains("16 levels"), "{fault}");
        assert!(read(&nested(100_000)).is_err());
    }

    #[test]
    fn brackets_and_nan_inside_strings_are_text() {
        assert!(read(&format!("\"{}\"", "[".repeat(50))).is_ok());
        assert!(read(r#""a \" [NaN] Infinity""#).is_ok());
    }

    #[test]
    fn nan_and_infinity_are_named() {
        for word in ["NaN", "Infinity"] {
            let fault = read(&format!("[1, -{word}]")).unwrap_err();
            assert_eq!(fault.code, Code::InputValue);
            assert!(fault.message.contains(word), "{fault}");
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_place_and_without_words_of_rust() {
        #[derive(Debug, Deserialize)]
        struct Limits {
            #[expect(dead_code, reason = "only its type matters")]
            wall_ms: u32,
        }
        #[derive(Debug, Deserialize)]
        struct Job {
            #[expect(dead_code, reason = "only its type matters")]
            limits: Limits,
        }
        let why = |text: &str| parse::<Job>("job", text).unwrap_err().message;
        let sentence = why("{\"a\": [\"b\", {\"c\": 1}],\n \"limits\": {\"wall_ms\": -1}}");
        assert!(sentence.starts_with("job: limits.wall_ms: invalid value: integer `-1`"), "{sentence}");
        assert!(sentence.contains("0 to 4294967295"), "{sentence}");
        let sentence = why("{\"limits\": {\"wall_ms\": \"long\"}}");
        assert!(sentence.starts_with("job: limits.wall_ms: invalid type: string \"long\""), "{sentence}");
        assert!(why(" \n").contains("empty"));
        let sentence = object::<Job>("job", "[1]").unwrap_err().message;
        assert!(sentence.contains("'['") && sentence.contains("{...}"), "{sentence}");
    }

    #[test]
    fn broken_text_is_refused_with_its_place() {
        let fault = read("{\"a\": ").unwrap_err();
        assert_eq!(fault.code, Code::JobMalformed);
        assert!(fault.message.contains("line 1"), "{fault}");
        assert!(read("\"abc\\").is_err());
        assert!(text("test", b"ab\xff").unwrap_err().message.contains("byte 2"));
    }
}
