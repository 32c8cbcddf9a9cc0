//! How are the datagrams of older releases heard?
//!
//! srsRAN Project up to 25.04 sends each object as one datagram to port 55555. One that is not JSON is `Malformed`; a
//! report that does not fit a datagram is never sent, and the silence means busy.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, poll};

use super::Notes;
use super::report::Reports;
use crate::load::mailbox::Poster;
use crate::sys::clock;

/// Largest datagram that UDP has, and one byte more.
const DATAGRAM_BYTES: usize = 65_536;

/// Listens until the mailbox is gone.
pub(super) fn run(poster: &Poster, socket: &UdpSocket, mut reports: Reports) {
    let Ok(address) = socket.local_addr() else { return };
    let mut notes = Notes::new(address);
    let mut buffer = vec![0_u8; DATAGRAM_BYTES];
    let mut has_begun = false;
    while !poster.is_over() {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let now = clock::now();
                if !has_begun {
                    has_begun = true;
                    notes.on_begin(now);
                }
                notes.on_message(now, &buffer[..length], &mut reports, poster);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                let [heard, leave] = [socket.as_fd(), poster.leave_fd()];
                let mut polled = [heard, leave].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
                // An interrupted wait is looked at again.
                let _ = poll(&mut polled, None);
            }
            Err(error) => {
                notes.complain(clock::now(), &format!("the socket cannot be read: {error}"));
                poster.rest(std::time::Duration::from_secs(1));
            }
        }
    }
}
