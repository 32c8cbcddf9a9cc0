//! What does a request ask for, and how is it answered? The little of HTTP/1.1 that a scraper needs. Pure.
//!
//! One request for each connection, GET only, no body, nothing of the request in the answer.

/// Longest request, in bytes, headers included.
pub(super) const REQUEST_BYTES_MAX: usize = 1024;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Page {
    /// Prometheus text.
    Metrics,
    /// The ledger of yields, JSON.
    Yields,
    /// Thresholds and what was tuned, JSON.
    Tuning,
}

impl Page {
    /// Every page.
    pub(in crate::agent) const ALL: [Self; 3] = [Self::Metrics, Self::Yields, Self::Tuning];

    const fn path(self) -> &'static str {
        match self {
            Self::Metrics => "/metrics",
            Self::Yields => "/yields",
            Self::Tuning => "/tuning",
        }
    }

    /// Its media type.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Metrics => "text/plain; version=0.0.4; charset=utf-8",
            Self::Yields | Self::Tuning => "application/json",
        }
    }
}

/// Why a request is not answered with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is no HTTP/1.
    Malformed,
    /// There is no such page.
    NotFound,
    /// Another method than GET.
    Method,
    /// Longer than [`REQUEST_BYTES_MAX`].
    TooLong,
    /// The agent is ending.
    Unavailable,
}

impl Refusal {
    const fn status(self) -> &'static str {
        match self {
            Self::Malformed => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::Method => "405 Method Not Allowed",
            Self::TooLong => "431 Request Header Fields Too Large",
            Self::Unavailable => "503 Service Unavailable",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Malformed => "this is no HTTP/1.1 request: send GET /metrics HTTP/1.1\n",
            Self::NotFound => "there are three pages here: /metrics, /yields and /tuning\n",
            Self::Method => "only GET is answered here\n",
            Self::TooLong => "the request is longer than 1024 bytes: send fewer headers\n",
            Self::Unavailable => "the agent is ending\n",
        }
    }

    /// The whole answer.
    pub(super) fn answer(self) -> Vec<u8> {
        let allow = if self == Self::Method { "Allow: GET\r\n" } else { "" };
        let text = self.text();
        let mut answer = head(self.status(), "text/plain; charset=utf-8", text.len(), allow);
        answer.extend_from_slice(text.as_bytes());
        answer
    }
}

/// The head of an answer with a page.
pub(super) fn page_head(page: Page, body_bytes: usize) -> Vec<u8> {
    head("200 OK", page.content_type(), body_bytes, "")
}

fn head(status: &str, content_type: &str, body_bytes: usize, more: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {body_bytes}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{more}Connection: close\r\n\r\n"
    )
    .into_bytes()
}

/// Reads what has come so far; `None` while the end of the headers is missing and there is room for more.
pub(super) fn read(request: &[u8]) -> Option<Result<Page, Refusal>> {
    let ends = |end: &[u8]| request.windows(end.len()).any(|window| window == end);
    if ends(b"\r\n\r\n") || ends(b"\n\n") {
        return Some(page(request));
    }
    // What does not even begin like a request will not become one.
    let begins = request.iter().take_while(|byte| **byte != b' ').all(u8::is_ascii_uppercase);
    match () {
        () if !begins => Some(Err(Refusal::Malformed)),
        () if request.len() >= REQUEST_BYTES_MAX => Some(Err(Refusal::TooLong)),
        () => None,
    }
}

fn page(request: &[u8]) -> Result<Page, Refusal> {
    let line = request.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| Refusal::Malformed)?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, words.next()) else {
        return Err(Refusal::Malformed);
    };
    let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
    if !is_method || !version.starts_with("HTTP/1.") {
        return Err(Refusal::Malformed);
    }
    if method != "GET" {
        return Err(Refusal::Method);
    }
    let path = target.split('?').next().unwrap_or_default();
    Page::ALL.into_iter().find(|page| page.path() == path).ok_or(Refusal::NotFound)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_pages_are_found_with_and_without_a_query() {
        for (request, page) in [
            (&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"[..], Page::Metrics),
            (b"GET /yields HTTP/1.0\n\n", Page::Yields),
            (b"GET /tuning HTTP/1.1\r\n\r\n", Page::Tuning),
            (b"GET /metrics?a=b HTTP/1.1\r\n\r\n", Page::Metrics),
        ] {
            assert_eq!(read(request), Some(Ok(page)));
        }
    }

    #[test]
    fn a_request_is_waited_for_until_its_end() {
        let whole = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for (request, refusal) in [
            (&b"POST /metrics HTTP/1.1\r\n\r\n"[..], Refusal::Method),
            (b"HEAD /metrics HTTP/1.1\r\n\r\n", Refusal::Method),
            (b"GET / HTTP/1.1\r\n\r\n", Refusal::NotFound),
            (b"GET /metrics/../yields HTTP/1.1\r\n\r\n", Refusal::NotFound),
            (b"GET http://x/metrics HTTP/1.1\r\n\r\n", Refusal::NotFound),
            (b"GET /metrics HTTP/2\r\n\r\n", Refusal::Malformed),
            (b"GET  /metrics HTTP/1.1\r\n\r\n", Refusal::Malformed),
            (b"GET /metrics\r\n\r\n", Refusal::Malformed),
            (b"\r\n\r\n", Refusal::Malformed),
            (b"\x16\x03\x01\x02", Refusal::Malformed),
            (&[b'A'; REQUEST_BYTES_MAX], Refusal::TooLong),
        ] {
            assert_eq!(read(request), Some(Err(refusal)), "{:?}", String::from_utf8_lossy(request));
        }
    }

    #[test]
    fn an_answer_has_the_length_that_it_says() {
        let answer = String::from_utf8(Refusal::Method.answer()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("Allow: GET"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    }

    proptest! {
        #[test]
        fn no_request_breaks_the_reader_and_a_full_buffer_is_always_decided(
            bytes in prop::collection::vec(any::<u8>(), 0..=REQUEST_BYTES_MAX),
        ) {
            let decided = read(&bytes);
            prop_assert!(decided.is_some() || bytes.len() < REQUEST_BYTES_MAX);
        }
    }
}
