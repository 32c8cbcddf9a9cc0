//! What if somebody truncates a file that we have mapped? Then the page turns to zeros, instead of us being killed.
//!
//! A page of a file that others may truncate raises SIGBUS when it is touched after that. The handler here maps a spare
//! page of zeros over it, if it is a [`GuardedPage`], and the access runs again. Any other SIGBUS goes to whoever was
//! there before.
//!
//! The spare is a page of a memory file made in advance, so that two threads which meet the fault at the same time map
//! the same page, whoever comes second: nothing that one of them has written there meanwhile is lost.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering::SeqCst};

use super::shared::{PAGE_BYTES, SharedPage};

/// Most guarded pages of a process at once.
pub const PAGES_MAX: usize = 64;

/// The first page of a file that others may truncate: it reads as zeros from then on. Unmapped when dropped.
#[derive(Debug)]
pub struct GuardedPage {
    place: &'static Place,
    page: SharedPage,
    /// Named by `place`, so it has to live as long as `page`.
    _spare: OwnedFd,
}

/// What the handler knows of a page.
#[derive(Debug)]
struct Place {
    taken: AtomicBool,
    /// Where it begins; 0 while there is none.
    address: AtomicUsize,
    /// The file of its spare.
    spare: AtomicI32,
}

static PLACES: [Place; PAGES_MAX] =
    [const { Place { taken: AtomicBool::new(false), address: AtomicUsize::new(0), spare: AtomicI32::new(-1) } };
        PAGES_MAX];

/// What was done about SIGBUS before; `None` inside when the handler could not be put in place.
static BEFORE: OnceLock<Option<libc::sigaction>> = OnceLock::new();

impl GuardedPage {
    /// Maps the first page of a file for reading and writing.
    ///
    /// # Errors
    /// `EACCES` when the descriptor is not open for writing, `EMFILE`, `ENOMEM`; an error of its own kind when
    /// [`PAGES_MAX`] pages are mapped already.
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        install()?;
        let (_, spare) = SharedPage::create("neap-spare")?;
        let page = SharedPage::map(fd)?;
        let free = PLACES.iter().find(|place| !place.taken.swap(true, SeqCst));
        let place = free.ok_or_else(|| io::Error::other("at most 64 pages of files are guarded at once"))?;
        place.spare.store(spare.as_raw_fd(), SeqCst);
        place.address.store(page.address(), SeqCst);
        Ok(Self { place, page, _spare: spare })
    }

    /// The 32-bit word number `index`.
    ///
    /// # Panics
    /// When it is not within the page.
    pub fn u32(&self, index: usize) -> &AtomicU32 {
        self.page.u32(index)
    }
}

impl Drop for GuardedPage {
    fn drop(&mut self) {
        // Nobody holds a reference into the page any more, so no access to it can be under way.
        self.place.address.store(0, SeqCst);
        self.place.taken.store(false, SeqCst);
    }
}

/// Puts the handler in place, once.
fn install() -> io::Result<()> {
    let before = BEFORE.get_or_init(current_action);
    let refused = || io::Error::other("the handler of SIGBUS cannot be set");
    before.as_ref().ok_or_else(refused)?;
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    if *INSTALLED.get_or_init(set_action) { Ok(()) } else { Err(refused()) }
}

fn current_action() -> Option<libc::sigaction> {
    let mut before = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: no new action is given, and the old one is written to a place that is valid for it.
    let result = unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), before.as_mut_ptr()) };
    // SAFETY: the call has filled it when it says so.
    (result == 0).then(|| unsafe { before.assume_init() })
}

fn set_action() -> bool {
    // SAFETY: all zero is a valid `sigaction`: no handler, no flag; the mask is set right below.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the mask is a valid place for a signal set. The action is fully set, and its handler keeps to what a
    // handler may do: atomics, system calls, no lock, no allocation, no unwinding.
    unsafe {
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) == 0
    }
}

extern "C" fn on_bus_error(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid `siginfo_t` to a handler that was set with SA_SIGINFO; for a SIGBUS of the
    // kernel (a positive code) it holds the address, otherwise what is read as one is not used.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    let from_kernel = code > 0;
    if from_kernel && replace(address & !(PAGE_BYTES - 1)) {
        return;
    }
    pass_on(from_kernel);
}

/// Maps the spare over the guarded page at that address. False when there is none, or the kernel refuses.
fn replace(page: usize) -> bool {
    let guarded = PLACES.iter().find(|place| page != 0 && place.address.load(SeqCst) == page);
    let Some(place) = guarded else { return false };
    let address = std::ptr::without_provenance_mut::<libc::c_void>(page);
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
    // SAFETY: the address is that of one whole page which a living `GuardedPage` has mapped, so the mapping that
    // MAP_FIXED takes away is that page and nothing else. Every reference into it is to an atomic, stays valid, and may
    // see its value change at any time, as before. The spare is a page of its own that cannot be truncated.
    let mapped = unsafe { libc::mmap(address, PAGE_BYTES, protection, flags, place.spare.load(SeqCst), 0) };
    mapped == address
}

/// Gives SIGBUS back to whoever had it; the access that raised it runs again and meets them.
fn pass_on(from_kernel: bool) {
    let before = BEFORE.get().and_then(Option::as_ref);
    // SAFETY: all zero is the valid action SIG_DFL.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid actions, one of them set by somebody else for this very signal.
    unsafe {
        libc::sigaction(libc::SIGBUS, before.map_or(&raw const default, std::ptr::from_ref), std::ptr::null_mut())
    };
    if !from_kernel {
        // Sent by a process: no access will raise it again.
        // SAFETY: raise(3) may be called in a handler and touches no memory of ours.
        unsafe { libc::raise(libc::SIGBUS) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    const INSIDE: &str = "NEAP_TEST_INSIDE";

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64).unwrap();
        file
    }

    #[test]
    fn a_truncated_page_reads_as_zeros_and_can_be_written() {
        if crate::emulation::tells_faults_elsewhere() {
            return;
        }
        let file = file();
        let page = GuardedPage::map(file.as_fd()).unwrap();
        page.u32(3).store(7, SeqCst);
        file.set_len(0).unwrap();
        assert_eq!(page.u32(3).load(SeqCst), 0);
        page.u32(3).fetch_add(1, SeqCst);
        assert_eq!(page.u32(3).load(SeqCst), 1);
    }

    #[test]
    fn threads_that_meet_the_fault_together_lose_nothing() {
        if crate::emulation::tells_faults_elsewhere() {
            return;
        }
        for _ in 0..50 {
            let file = file();
            let page = GuardedPage::map(file.as_fd()).unwrap();
            file.set_len(0).unwrap();
            std::thread::scope(|scope| {
                (0..4).for_each(|_| drop(scope.spawn(|| page.u32(0).fetch_add(1, SeqCst))));
            });
            assert_eq!(page.u32(0).load(SeqCst), 4);
        }
    }

    #[test]
    fn places_are_given_back() {
        for _ in 0..2 * PAGES_MAX {
            GuardedPage::map(file().as_fd()).unwrap();
        }
    }

    #[test]
    fn any_other_bus_error_still_ends_the_process() {
        if crate::emulation::tells_faults_elsewhere() {
            return;
        }
        if std::env::var_os(INSIDE).is_some() {
            let (guarded, other) = (file(), file());
            let _page = GuardedPage::map(guarded.as_fd()).unwrap();
            let unguarded = SharedPage::map(other.as_fd()).unwrap();
            other.set_len(0).unwrap();
            std::process::exit(i32::from(unguarded.u32(0).load(SeqCst) == 0));
        }
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "sys::guarded::tests::any_other_bus_error_still_ends_the_process"]).env(INSIDE, "1");
        let output = again.output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
    }
}
