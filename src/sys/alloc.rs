//! How much heap does this process use, and how much may it? The allocator of every neap process.
//!
//! It counts what the system allocator hands out. In the agent that is a metric; in a worker it is a limit: over the
//! limit the process ends at once with [`EXIT_MEMORY`], because the engine neither asks before it allocates nor survives a
//! refusal, and because the kernel's own answer (the OOM killer) might choose another process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

/// Exit code of a process that would exceed its memory limit.
pub const EXIT_MEMORY: i32 = 112;

/// No limit.
pub const UNLIMITED: u64 = u64::MAX;

/// From here on a block is large, in bytes.
#[cfg(all(target_env = "gnu", target_os = "linux"))]
const LARGE_BYTES: i32 = 128 * 1024;

static USED: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);
static LIMIT: AtomicU64 = AtomicU64::new(UNLIMITED);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The system allocator, counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counting;

/// Bytes allocated now.
pub fn used() -> u64 {
    USED.load(Ordering::Relaxed)
}

/// Most bytes allocated at once since the start or the last [`reset_peak`].
pub fn peak() -> u64 {
    PEAK.load(Ordering::Relaxed)
}

/// Starts a new [`peak`] at what is used now.
pub fn reset_peak() {
    PEAK.store(used(), Ordering::Relaxed);
}

/// Ends the process when it allocates more than `bytes` in all; [`UNLIMITED`] turns that off.
pub fn set_limit(bytes: u64) {
    LIMIT.store(bytes, Ordering::Relaxed);
}

/// Gives memory that is free but still held back to the kernel. Takes milliseconds after much was freed: call it after
/// loading a model, not after each item. Does nothing where the C library has no such call (musl gives back by itself).
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has no preconditions; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Makes the allocator thrifty: one heap for all threads, and whatever large is freed goes back to the kernel at once,
/// instead of staying for the next of its size. For processes that handle large messages now and then. Does nothing
/// where the C library has no such call.
pub fn be_thrifty() {
    #[cfg(all(target_env = "gnu", target_os = "linux"))]
    // SAFETY: mallopt(3) has no preconditions; a parameter that it does not know changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        // Setting it also ends its growth: by itself it would follow the largest block ever freed.
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE_BYTES);
    };
}

/// Counts `bytes` more. Ends the process when that is over the limit.
fn grow(bytes: usize) {
    let used = USED.fetch_add(bytes as u64, Ordering::Relaxed).saturating_add(bytes as u64);
    if used > LIMIT.load(Ordering::Relaxed) {
        over_limit();
    }
    PEAK.fetch_max(used, Ordering::Relaxed);
}

/// Counts `bytes` less.
fn shrink(bytes: usize) {
    USED.fetch_sub(bytes as u64, Ordering::Relaxed);
}

/// The system refused. In a process with a limit that is the same as being over it (`RLIMIT_AS` is its second barrier).
fn refused(bytes: usize) {
    shrink(bytes);
    if LIMIT.load(Ordering::Relaxed) != UNLIMITED {
        over_limit();
    }
}

#[cold]
fn over_limit() -> ! {
    const LINE: &[u8] = b"neap worker: over its memory limit\n";
    // SAFETY: write(2) reads LINE.len() bytes of LINE, which is static; no memory is allocated and no lock is taken,
    // so this is sound at any point inside an allocation. The result does not matter: the exit code says it all.
    unsafe { libc::write(libc::STDERR_FILENO, LINE.as_ptr().cast(), LINE.len()) };
    // SAFETY: _exit(2) has no preconditions; it runs no destructors, which could allocate.
    unsafe { libc::_exit(EXIT_MEMORY) }
}

// SAFETY: every call is passed on to `System` with the caller's layout and pointer unchanged, so its contract is kept;
// the counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is that of `System.alloc`.
        let block = unsafe { System.alloc(layout) };
        if block.is_null() {
            refused(layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: as above.
        let block = unsafe { System.alloc_zeroed(layout) };
        if block.is_null() {
            refused(layout.size());
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; `block` came from `System` with this layout.
        unsafe { System.dealloc(block, layout) };
        shrink(layout.size());
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // Only the difference counts: large blocks are moved by remapping pages, not by copying.
        grow(bytes.saturating_sub(layout.size()));
        // SAFETY: as above; `block` came from `System` with this layout.
        let moved = unsafe { System.realloc(block, layout, bytes) };
        if moved.is_null() {
            refused(bytes.saturating_sub(layout.size()));
        } else {
            shrink(layout.size().saturating_sub(bytes));
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Other tests allocate at the same time: only what is far above their use can be asserted.
    const BYTES: usize = 1 << 30;

    #[test]
    fn a_block_counts_while_it_lives_and_raises_the_peak() {
        let before = used();
        let block = std::hint::black_box(vec![0_u8; BYTES]);
        assert!(used() >= BYTES as u64);
        assert!(peak() >= BYTES as u64);
        drop(block);
        assert!(used() < before + BYTES as u64 / 2);
    }
}
