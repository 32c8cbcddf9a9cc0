//! Does our memory stay where it is, and do we hold no more of it than we use?

use std::ffi::{c_int, c_void};
use std::io;

use rustix::mm::{MlockAllFlags, MlockFlags, mlock_with, mlockall, munlock};
use rustix::process::{Resource, getrlimit};

use super::alloc;

/// The largest page of any supported machine: what is aligned to it is aligned to every page.
const PAGE_BYTES_MAX: usize = 64 * 1024;

/// Memory of a process that is in RAM, in bytes: the kernel's `VmRSS`. `None` when it has ended, or where the kernel does
/// not say.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmRSS:")
}

/// The most memory that a process has had in RAM at once since it was executed, in bytes: the kernel's `VmHWM`. `None` as
/// for [`resident_bytes`].
pub fn resident_bytes_max(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmHWM:")
}

fn status_bytes(pid: u32, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kibibytes = text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok());
    kibibytes.map(|kibibytes: u64| kibibytes * 1024)
}

/// Keeps every page that the process has touched, or will touch, from being paged out. Pages become resident when they
/// are first used, so this costs no memory by itself. Children do not inherit it.
///
/// # Errors
/// `EPERM` without the privilege, or when the process has a limit on locked memory: under such a limit, locking what
/// is to come would turn a later allocation into an abort.
pub fn lock_all() -> io::Result<()> {
    if getrlimit(Resource::Memlock).current.is_some() && !rustix::process::geteuid().is_root() {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    Ok(())
}

/// Lets go of what only the start needed: free heap, and the clean pages of the program's and its libraries' code and
/// constants. What is used again comes back from the page cache by itself, at the cost of a minor fault.
///
/// Call it after everything is read and built and before [`lock_all`], which would keep all of it: the kernel maps
/// sixteen pages for each one touched, and relocating the program alone reads megabytes that nobody looks at again.
pub fn shed() {
    let ranges = clean_ranges();
    alloc::trim();
    ranges.iter().for_each(Range::let_go);
}

/// Does as [`shed`] in a process that has locked its memory, where the kernel drops nothing: each range is unlocked, let
/// go, and locked again as [`lock_all`] does, so that what is used again is locked when it comes back. Says whether all of
/// it is locked again.
///
/// Until then a page that somebody needs may be missing: at the cost of a minor fault, while the page cache has it.
pub fn shed_locked() -> bool {
    let ranges = clean_ranges();
    alloc::trim();
    let mut all_locked = true;
    for range in &ranges {
        range.unlock();
        range.let_go();
        all_locked &= range.lock();
    }
    all_locked
}

/// Whole pages of a loaded object that are not writable and never were.
///
/// Relocated constants (RELRO) lie in a writable segment that was protected afterwards, so they are none: their pages are
/// ours and nowhere else.
struct Range {
    first: *mut c_void,
    bytes: usize,
}

impl Range {
    /// Drops its pages. A system that refuses (`EINVAL` on locked memory) keeps them, and no harm is done.
    fn let_go(&self) {
        // SAFETY: the range lies in one private, read-only mapping of a file that was never written through (segments
        // without PF_W are not relocated), so every page that is dropped is read back unchanged. The code that runs right
        // now may be in such a page, and comes back the same way.
        let _kept = unsafe { libc::madvise(self.first, self.bytes, libc::MADV_DONTNEED) };
    }

    fn unlock(&self) {
        // SAFETY: unlocking changes nothing that a program can see; the range is mapped.
        let _let_go_anyway = unsafe { munlock(self.first, self.bytes) };
    }

    /// Whether what is used of it from now on is locked.
    fn lock(&self) -> bool {
        // SAFETY: locking changes nothing that a program can see; the range is mapped.
        unsafe { mlock_with(self.first, self.bytes, MlockFlags::ONFAULT) }.is_ok()
    }
}

/// Those of the program and its libraries. All of them stay mapped as long as the process lives: nothing unloads a library.
fn clean_ranges() -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    // SAFETY: the callback matches the type that dl_iterate_phdr(3) wants, and does not unwind; it gets the address of
    // `ranges`, which outlives the call and nobody else has.
    unsafe { libc::dl_iterate_phdr(Some(add_clean_ranges), (&raw mut ranges).cast()) };
    ranges
}

/// Adds the ranges of one loaded object to `data`, the address of a `Vec<Range>`.
unsafe extern "C" fn add_clean_ranges(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
    // SAFETY: `clean_ranges` passes the address of its list, which nobody else uses during the call.
    let ranges = unsafe { &mut *data.cast::<Vec<Range>>() };
    // SAFETY: sysconf(3) has no preconditions.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(PAGE_BYTES_MAX);
    // SAFETY: the loader passes a valid `info` for the time of this call.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: the loader's table has `dlpi_phnum` headers and lives as long as the object is loaded.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        // The loader's words are as wide as ours; a header that does not fit is none.
        let (Ok(begin), Ok(length)) =
            (usize::try_from(info.dlpi_addr.wrapping_add(header.p_vaddr)), usize::try_from(header.p_memsz))
        else {
            continue;
        };
        // Only whole pages of this segment: an edge may share its page with data.
        let (first, end) = (begin.next_multiple_of(page), (begin + length) / page * page);
        if first < end {
            ranges.push(Range { first: first as *mut c_void, bytes: end - first });
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_resident_until_it_has_ended() {
        assert!(resident_bytes(std::process::id()).unwrap() > 1 << 20);
        assert_eq!(resident_bytes(u32::MAX), None);
        assert!(resident_bytes_max(std::process::id()) >= Some(1 << 20));
    }

    /// Kilobytes of file pages that this process has in memory.
    fn file_kib() -> u64 {
        kib("RssFile:")
    }

    fn kib(field: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn what_only_the_start_needed_is_let_go_and_the_program_goes_on() {
        let sentence = format!("{:?}", "constants and code come back");
        // Other tests run meanwhile and bring pages back: one moment in which fewer are there is enough.
        let lets_go = |shed: &mut dyn FnMut()| {
            (0..100).any(|_| {
                let before = file_kib();
                shed();
                file_kib() < before
            })
        };
        assert!(lets_go(&mut shed), "never fewer file pages than before");
        // From here on they are locked, and the first way lets nothing go any more.
        let mut all_locked = true;
        assert!(lets_go(&mut || all_locked &= shed_locked()), "never fewer file pages than before, unlocked for it");
        if all_locked {
            assert!(kib("VmLck:") > 0);
        } else {
            eprintln!("SKIPPED: this user may not lock as much as a program is long");
        }
        assert_eq!(sentence, "\"constants and code come back\"");
    }
}
