//! How do processes share figures? A piece of memory that holds atomics only, mapped by both.
//!
//! The other side may write anything at any time, so nothing but atomics is ever read from it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes of a page that is shared; smaller pieces take one all the same.
pub const PAGE_BYTES: usize = 4096;

/// One shared page. Unmapped when dropped.
#[derive(Debug)]
pub struct SharedPage {
    address: NonNull<u8>,
}

// SAFETY: the page holds atomics only, and it is reached through `&AtomicU32` and `&AtomicU64` alone.
unsafe impl Send for SharedPage {}
// SAFETY: as above.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// A new page, all zero, and a descriptor of it to hand to another process. It can be neither shrunk nor grown, so
    /// no access to it can fail. `name` is shown in `/proc/PID/maps`.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM` and their like.
    pub fn create(name: &str) -> io::Result<(Self, OwnedFd)> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, PAGE_BYTES as u64)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let page = Self::map(fd.as_fd())?;
        Ok((page, fd))
    }

    /// Maps the first page of a file for reading and writing. If the file is shorter, or is made shorter later, an
    /// access raises SIGBUS; a page of [`SharedPage::create`] cannot be.
    ///
    /// # Errors
    /// `EACCES` when the descriptor is not open for writing, `ENOMEM`.
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory of ours.
        let address = unsafe { mmap(std::ptr::null_mut(), PAGE_BYTES, protection, MapFlags::SHARED, fd, 0) }?;
        let address = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap gave the null address"))?;
        Ok(Self { address })
    }

    /// Where the page begins.
    pub(super) fn address(&self) -> usize {
        self.address.addr().get()
    }

    /// The 64-bit word number `index`.
    ///
    /// # Panics
    /// When it is not within the page.
    pub fn u64(&self, index: usize) -> &AtomicU64 {
        assert!(index < PAGE_BYTES / size_of::<AtomicU64>(), "word {index} is outside the shared page");
        // SAFETY: the word lies within the page (just checked), is aligned (a page is), stays mapped as long as `self`
        // lives, and is written by atomic instructions only, whoever else has the page mapped.
        unsafe { self.address.cast::<AtomicU64>().add(index).as_ref() }
    }

    /// The 32-bit word number `index`.
    ///
    /// # Panics
    /// When it is not within the page.
    pub fn u32(&self, index: usize) -> &AtomicU32 {
        assert!(index < PAGE_BYTES / size_of::<AtomicU32>(), "word {index} is outside the shared page");
        // SAFETY: as for `u64`.
        unsafe { self.address.cast::<AtomicU32>().add(index).as_ref() }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: the page was mapped by `map`, and every reference into it has the lifetime of `self`.
        let _unmapped = unsafe { munmap(self.address.as_ptr().cast(), PAGE_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;

    #[test]
    fn what_one_mapping_writes_the_other_reads() {
        let (page, fd) = SharedPage::create("neap-test").unwrap();
        let other = SharedPage::map(fd.as_fd()).unwrap();
        page.u64(511).store(u64::MAX, SeqCst);
        assert_eq!((other.u64(511).load(SeqCst), other.u32(1023).load(SeqCst)), (u64::MAX, u32::MAX));
        drop(page);
        assert_eq!(other.u64(511).load(SeqCst), u64::MAX);
    }

    #[test]
    fn nobody_can_make_the_page_vanish() {
        let (_page, fd) = SharedPage::create("neap-test").unwrap();
        assert_eq!(ftruncate(&fd, 0), Err(rustix::io::Errno::PERM));
    }
}
