//! How is the broker's host reached? Every address that its name has, in a short while after one another.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// An address that has not answered for so long is not the only one tried any more (RFC 8305).
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// Probes of the kernel that may stay unanswered.
const PROBES: u32 = 3;

/// A connection to that host. Nothing limits the time but the kernel: the caller does.
///
/// # Errors
/// What the resolver, or the last address that was tried, said.
pub(super) async fn dial(host: &str, port: u16, keep_alive: Duration) -> io::Result<TcpStream> {
    let found = lookup_host((host, port)).await?.collect();
    let stream = first_of(interleaved(found)).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, keep_alive)?;
    sockopt::set_tcp_keepintvl(&stream, keep_alive / PROBES)?;
    sockopt::set_tcp_keepcnt(&stream, PROBES)?;
    // What was sent and is not acknowledged for so long ends the connection, however full the buffers are.
    let unacknowledged_ms = u32::try_from((2 * keep_alive).as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(&stream, unacknowledged_ms)?;
    Ok(stream)
}

/// Both families in turn, beginning with that of the first address.
fn interleaved(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = found.first().is_some_and(SocketAddr::is_ipv6);
    let (same, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| address.is_ipv6() == first);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut order = Vec::new();
    loop {
        let pair = [same.next(), other.next()];
        if pair == [None, None] || order.len() >= ADDRESSES_MAX {
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

/// The first that answers. The others are given up.
async fn first_of(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut tries = JoinSet::new();
    let mut last = io::Error::other("the name has no address");
    loop {
        match waiting.next() {
            Some(address) => drop(tries.spawn(TcpStream::connect(address))),
            None if tries.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            Some(Ok(outcome)) = tries.join_next() => match outcome {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            },
            () = sleep(NEXT_AFTER), if waiting.len() > 0 => {}
            // A try that ended without an outcome: only the end of the runtime does that.
            else => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns_and_there_are_not_too_many() {
        let found = ["[::1]:1", "[::2]:1", "10.0.0.1:1", "[::3]:1"].map(address).to_vec();
        assert_eq!(interleaved(found), ["[::1]:1", "10.0.0.1:1", "[::2]:1", "[::3]:1"].map(address));
        assert_eq!(interleaved(vec![address("10.0.0.1:1"); 100]).len(), ADDRESSES_MAX);
        assert_eq!(interleaved(Vec::new()), []);
    }

    #[tokio::test]
    async fn an_address_that_refuses_or_is_silent_does_not_hide_the_one_that_answers() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let good = listener.local_addr().unwrap();
        let refuses = {
            let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            gone.local_addr().unwrap()
        };
        // TEST-NET-1: nobody is there; a network may also refuse it at once.
        let silent = address("192.0.2.1:9");
        let stream = first_of(vec![refuses, silent, good]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        assert_eq!(first_of(vec![refuses]).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(first_of(Vec::new()).await.is_err());
    }
}
