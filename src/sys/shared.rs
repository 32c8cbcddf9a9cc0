//! How do processes share figures? A piece of memory that holds atomics only, mapped by both.
//!
//! The other side may write anything at any time, so nothing but atomics is ever read from it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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

    /// As [`SharedPage::create`], but whoever gets the descriptor can only read: see [`ReadPage`].
    ///
    /// # Errors
    /// As [`SharedPage::create`], and `EINVAL` before Linux 5.1.
    pub fn create_for_readers(name: &str) -> io::Result<(Self, OwnedFd)> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, PAGE_BYTES as u64)?;
        let page = Self::map(fd.as_fd())?;
        // Mappings made so far go on writing, new ones cannot.
        let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&fd, seals)?;
        Ok((page, fd))
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

/// A shared page of somebody else, mapped for reading only. Unmapped when dropped.
#[derive(Debug)]
pub struct ReadPage {
    address: NonNull<u8>,
}

// SAFETY: as for `SharedPage`.
unsafe impl Send for ReadPage {}
// SAFETY: as for `SharedPage`.
unsafe impl Sync for ReadPage {}

impl ReadPage {
    /// Maps the first page of a file for reading. As with [`SharedPage::map`], the file must stay as long as a page.
    ///
    /// # Errors
    /// `EACCES` when the descriptor is not open for reading, `ENOMEM`.
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory of ours.
        let address = unsafe { mmap(std::ptr::null_mut(), PAGE_BYTES, ProtFlags::READ, MapFlags::SHARED, fd, 0) }?;
        let address = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap gave the null address"))?;
        Ok(Self { address })
    }

    /// What the 32-bit word number `index` holds. There is none for 64 bits: on 32-bit ARM, reading such a word in one
    /// piece takes an instruction that may want to write.
    ///
    /// # Panics
    /// When it is not within the page.
    pub fn load_u32(&self, index: usize) -> u32 {
        assert!(index < PAGE_BYTES / size_of::<AtomicU32>(), "word {index} is outside the shared page");
        // SAFETY: the word lies within the page (just checked), is aligned, stays mapped as long as `self` lives, and is
        // written by atomic instructions only. It is loaded and never stored, so a read-only mapping is enough.
        unsafe { self.address.cast::<AtomicU32>().add(index).as_ref() }.load(Ordering::Acquire)
    }
}

impl Drop for ReadPage {
    fn drop(&mut self) {
        // SAFETY: the page was mapped by `map`, and no reference into it is ever given out.
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
    fn a_reader_sees_what_is_written_and_has_no_way_to_write() {
        use rustix::io::Errno;
        use rustix::mm::{MprotectFlags, mprotect};
        let (page, fd) = SharedPage::create_for_readers("neap-test").unwrap();
        let reader = ReadPage::map(fd.as_fd()).unwrap();
        page.u32(3).store(7, SeqCst);
        assert_eq!(reader.load_u32(3), 7, "the seal leaves the writer's own mapping alone");

        assert_eq!(SharedPage::map(fd.as_fd()).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(rustix::io::pwrite(&fd, &[1], 0), Err(Errno::PERM));
        assert_eq!(ftruncate(&fd, 0), Err(Errno::PERM));
        assert_eq!(fcntl_add_seals(&fd, SealFlags::WRITE), Err(Errno::PERM));
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        let again = std::fs::File::options().read(true).write(true).open(path).unwrap();
        assert!(SharedPage::map(again.as_fd()).is_err(), "opened anew for writing");
        // SAFETY: the mapping is the reader's; if the call worked, it could be written and nothing else would change.
        let unlocked =
            unsafe { mprotect(reader.address.as_ptr().cast(), PAGE_BYTES, MprotectFlags::READ | MprotectFlags::WRITE) };
        assert_eq!(unlocked, Err(Errno::ACCESS));
        assert_eq!(reader.load_u32(3), 7);
    }

    #[test]
    fn nobody_can_make_the_page_vanish() {
        let (_page, fd) = SharedPage::create("neap-test").unwrap();
        assert_eq!(ftruncate(&fd, 0), Err(rustix::io::Errno::PERM));
    }
}
