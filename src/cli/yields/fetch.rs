//! How is the agent asked? One HTTP request over its status socket.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::cli::failure::{Class, Failure};

/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
/// Longest wait for each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The body of that page.
///
/// # Errors
/// When nobody listens, the socket may not be used, or the answer is not a page.
pub(in crate::cli) fn get(socket: &Path, page: &str) -> Result<Vec<u8>, Failure> {
    let mut stream = UnixStream::connect(socket).map_err(|error| unreachable(socket, &error))?;
    let failed = |error: io::Error| unreachable(socket, &error);
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    write!(stream, "GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(failed)?;
    body(&answer).map_err(|why| {
        let text = format!("{}: {why}: is this the status socket of an agent?", socket.display());
        Failure::new(Class::Data, text)
    })
}

fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied, TimedOut, WouldBlock};
    let path = socket.display();
    let is = |kinds: &[io::ErrorKind]| kinds.contains(&error.kind());
    if is(&[NotFound, ConnectionRefused]) {
        let text = format!(
            "no agent listens at {path} ({error}): start it with neap run, or name the socket of the one that runs \
             with --socket PATH or --config FILE"
        );
        return Failure::new(Class::Unavailable, text);
    }
    if is(&[PermissionDenied]) {
        let text = format!(
            "{path} may not be used ({error}): run this as the agent's user or a member of the socket's group, see \
             [status] mode"
        );
        return Failure::new(Class::NoPermission, text);
    }
    if is(&[WouldBlock, TimedOut]) {
        let text = format!("the agent at {path} does not answer within {} s: try again", PATIENCE.as_secs());
        return Failure::new(Class::TemporaryFailure, text);
    }
    Failure::io(&format!("cannot ask the agent at {path}"), error)
}

/// Takes the head off. The answer must be complete.
fn body(answer: &[u8]) -> Result<Vec<u8>, String> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or("the answer is no HTTP")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    let code: Option<u16> = status.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    let body = &answer[end + 4..];
    if code != Some(200) {
        return Err(format!("the answer is {code:?} instead of 200"));
    }
    let length = lines.find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    if length != Some(body.len()) {
        return Err(format!("the answer has {} bytes instead of {length:?}", body.len()));
    }
    Ok(body.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_taken_only_from_a_complete_answer() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), Ok(b"{}".to_vec()));
        for bad in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}"[..],
            b"HTTP/1.1 200 OK\r\n\r\n{}",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2",
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"",
        ] {
            assert!(body(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn nobody_listening_is_told_with_the_remedy() {
        let failure = get(Path::new("/nowhere/status.sock"), "/yields").unwrap_err();
        assert_eq!(failure.class, Class::Unavailable);
        assert!(failure.text.contains("/nowhere/status.sock") && failure.text.contains("neap run"), "{failure:?}");
    }
}
