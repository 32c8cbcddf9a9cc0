//! What are the members of a flat JSON object? A scanner that allocates nothing, not even for its errors.
//!
//! `serde_json` would box every error and copy nested unknown values, on the thread that must not allocate while
//! somebody sends nonsense. The tests hold this scanner against `serde_json`.

/// Deepest nesting of a value that is skipped.
const DEPTH_MAX: u32 = 16;

const NOT_JSON: &str = "not a JSON object";

/// Value of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// As it was written.
    Number(&'a str),
    /// `true` or `false`.
    Bool(bool),
    /// `null`, a string, an array or an object: checked and skipped.
    Other,
}

/// Calls `member` with each key and value of the one object in `text`; ends at its first error.
///
/// A key with an escape in it is an error: it might spell a known name, and a level must not be overlooked.
pub(super) fn each_member<'a>(
    text: &'a str,
    mut member: impl FnMut(&'a str, Value<'a>) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    let mut scan = Scan { text, at: 0 };
    scan.space();
    scan.expect(b'{')?;
    scan.space();
    if !scan.skip_if(b'}') {
        loop {
            scan.space();
            let (key, escaped) = scan.string()?;
            if escaped {
                return Err("a key with an escape in it");
            }
            scan.space();
            scan.expect(b':')?;
            scan.space();
            let value = scan.value(0)?;
            member(key, value)?;
            scan.space();
            if !scan.skip_if(b',') {
                break;
            }
        }
        scan.expect(b'}')?;
    }
    scan.space();
    if scan.at < text.len() { Err("more than one JSON object in a line") } else { Ok(()) }
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, &'static str> {
        let byte = self.peek().ok_or(NOT_JSON)?;
        self.at += 1;
        Ok(byte)
    }

    fn skip_if(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), &'static str> {
        if self.skip_if(byte) { Ok(()) } else { Err(NOT_JSON) }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: u32) -> Result<Value<'a>, &'static str> {
        if depth > DEPTH_MAX {
            return Err("nested too deeply");
        }
        match self.peek().ok_or(NOT_JSON)? {
            b'"' => self.string().map(|_| Value::Other),
            b'-' | b'0'..=b'9' => self.number().map(Value::Number),
            b't' => self.word("true", Value::Bool(true)),
            b'f' => self.word("false", Value::Bool(false)),
            b'n' => self.word("null", Value::Other),
            b'[' => self.nested(depth, b']', false),
            b'{' => self.nested(depth, b'}', true),
            _ => Err(NOT_JSON),
        }
    }

    /// An array or an object that is skipped.
    fn nested(&mut self, depth: u32, close: u8, keyed: bool) -> Result<Value<'a>, &'static str> {
        self.at += 1;
        self.space();
        if self.skip_if(close) {
            return Ok(Value::Other);
        }
        loop {
            self.space();
            if keyed {
                self.string()?;
                self.space();
                self.expect(b':')?;
                self.space();
            }
            self.value(depth + 1)?;
            self.space();
            if !self.skip_if(b',') {
                break;
            }
        }
        self.expect(close)?;
        Ok(Value::Other)
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, &'static str> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(NOT_JSON);
        }
        self.at += word.len();
        Ok(value)
    }

    /// The text between the quotes as it stands, and whether there is an escape in it.
    fn string(&mut self) -> Result<(&'a str, bool), &'static str> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.next()? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                0..0x20 => return Err("a control character in a string"),
                _ => {}
            }
        }
        Ok((&self.text[start..self.at - 1], escaped))
    }

    fn escape(&mut self) -> Result<(), &'static str> {
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
            b'u' => {
                for _ in 0..4 {
                    if !self.next()?.is_ascii_hexdigit() {
                        return Err(NOT_JSON);
                    }
                }
            }
            _ => return Err(NOT_JSON),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<&'a str, &'static str> {
        let start = self.at;
        self.skip_if(b'-');
        if !self.skip_if(b'0') {
            self.digits()?;
        }
        if self.skip_if(b'.') {
            self.digits()?;
        }
        if self.skip_if(b'e') || self.skip_if(b'E') {
            let _ = self.skip_if(b'+') || self.skip_if(b'-');
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    /// At least one digit.
    fn digits(&mut self) -> Result<(), &'static str> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(NOT_JSON) } else { Ok(()) }
    }
}
