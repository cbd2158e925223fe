//! Zeroed memory, accessed as atomics: anonymous, or a sealed memfd that another process can map.
//!
//! The kernel allocates a page when it is first touched, so reserving a large table costs address space only.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::os::fd::OwnedFd;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, SeekFrom, fallocate, fcntl_add_seals, fcntl_get_seals, fstat,
    memfd_create, seek,
};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// An atomic integer that may be in memory shared with other threads and processes.
///
/// # Safety
/// The type is an atomic integer: every bit pattern, including zero, is a valid value, and its alignment is
/// at most 8.
pub unsafe trait SharedWord: Sync + Send + 'static {}
// SAFETY: an atomic integer of 4 bytes, alignment 4.
unsafe impl SharedWord for AtomicU32 {}
// SAFETY: an atomic integer of 8 bytes, alignment 8.
unsafe impl SharedWord for AtomicU64 {}

/// Prefetches the cache line where `place` begins. A hint: nothing is read or changed.
#[inline]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction is no memory access in the sense of the language, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// The seals of a table: its size never changes, and nobody can add a seal.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A mapping of words, zeroed when they were created, unmapped on drop.
#[derive(Debug)]
pub struct Words<T: SharedWord> {
    start: NonNull<T>,
    words: usize,
    /// Kept open so that the table can be handed over to a successor by its descriptor.
    memfd: Option<OwnedFd>,
}

// SAFETY: this value owns the mapping, reached only through `&[T]` of atomics, and
// moving or sharing the owner between threads moves or shares nothing else.
unsafe impl<T: SharedWord> Send for Words<T> {}
// SAFETY: as above.
unsafe impl<T: SharedWord> Sync for Words<T> {}

impl<T: SharedWord> Words<T> {
    /// Maps `words` zeroed words of private memory.
    ///
    /// # Errors
    /// `OutOfMemory` if the kernel grants no address space, `InvalidInput` for a size beyond it.
    pub fn anonymous(words: usize) -> io::Result<Self> {
        let bytes = byte_length::<T>(words)?;
        // SAFETY: a new mapping at an address the kernel chooses overlaps nothing (mmap(2)).
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        Self::from_mapping(start, words, None)
    }

    /// Maps `words` zeroed words of a new memfd, sealed so that its size never changes.
    ///
    /// `name` appears in `/proc/PID/maps`.
    ///
    /// # Errors
    /// The kernel's, from memfd_create, ftruncate, F_ADD_SEALS and mmap.
    pub fn sealed(name: &str, words: usize) -> io::Result<Self> {
        let bytes = byte_length::<T>(words)?;
        let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        file.set_len(bytes as u64)?;
        // The size is fixed from here on: no holder of the descriptor can make reads fault.
        fcntl_add_seals(&file, SEALS)?;
        Self::shared(file.into(), words)
    }

    /// Maps all words of a memfd that another process created with [`Words::sealed`]. They hold what was stored
    /// there. Touches none of them: [`Words::grant`] first makes sure that the kernel has memory for them.
    ///
    /// # Errors
    /// `InvalidData`, with what is wrong, for a descriptor that is no such memfd; the kernel's.
    pub fn adopt(memfd: OwnedFd) -> io::Result<Self> {
        let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        let seals = match fcntl_get_seals(&memfd) {
            Err(Errno::INVAL) => return refused("it is no memfd"),
            seals => seals?,
        };
        if !seals.contains(SEALS) {
            return refused("it is a memfd of another kind: its size is not sealed");
        }
        if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
            return refused("it is a memfd of another kind: it is sealed against writing");
        }
        let bytes = usize::try_from(fstat(&memfd)?.st_size).unwrap_or(0);
        if bytes == 0 || bytes % size_of::<T>() != 0 {
            return refused("it is a memfd of another kind: its size is no whole number of words");
        }
        Self::shared(memfd, bytes / size_of::<T>())
    }

    /// Maps a memfd of this many words whose size is sealed.
    fn shared(memfd: OwnedFd, words: usize) -> io::Result<Self> {
        let bytes = byte_length::<T>(words)?;
        // SAFETY: a new mapping at an address the kernel chooses overlaps nothing (mmap(2)); the file is
        // `bytes` long and sealed, so no access inside the mapping reaches beyond its end. An access for
        // which the kernel has no memory raises SIGBUS, unless `grant` allocated that memory before.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &memfd,
                0,
            )
        }?;
        Self::from_mapping(start, words, Some(memfd))
    }

    /// The memfd that holds the words; `None` for anonymous memory.
    pub fn memfd(&self) -> Option<BorrowedFd<'_>> {
        self.memfd.as_ref().map(AsFd::as_fd)
    }

    fn from_mapping(start: *mut core::ffi::c_void, words: usize, memfd: Option<OwnedFd>) -> io::Result<Self> {
        let start = NonNull::new(start.cast::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, words, memfd })
    }

    /// Makes the kernel allocate memory for these words of a memfd now. If it were short of memory at the
    /// first touch, it would raise SIGBUS. Takes about half a microsecond a page, a twentieth of that if it has
    /// memory already; does nothing for anonymous memory.
    ///
    /// # Errors
    /// `ENOSPC` or `ENOMEM` if there is no memory.
    pub fn grant(&self, words: Range<usize>) -> io::Result<()> {
        let Some(memfd) = &self.memfd else { return Ok(()) };
        if words.is_empty() {
            return Ok(());
        }
        let bytes = |words: usize| (words * size_of::<T>()) as u64;
        // Nothing else uses the offset of the descriptor. An error is left to the call below.
        let is_allocated =
            seek(memfd, SeekFrom::Hole(bytes(words.start))).is_ok_and(|hole| hole >= bytes(words.end));
        if is_allocated {
            return Ok(());
        }
        loop {
            match fallocate(memfd, FallocateFlags::KEEP_SIZE, bytes(words.start), bytes(words.len())) {
                Err(Errno::INTR) => {}
                granted => return Ok(granted?),
            }
        }
    }
}

fn byte_length<T>(words: usize) -> io::Result<usize> {
    words.max(1).checked_mul(size_of::<T>()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

impl<T: SharedWord> Deref for Words<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping is page-aligned, `words` elements long, of any bits (valid for T by `SharedWord`),
        // lives as long as self, and is accessed only as shared atomics.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl<T: SharedWord> Drop for Words<T> {
    fn drop(&mut self) {
        let bytes = self.words.max(1) * size_of::<T>();
        // SAFETY: exactly the range that mmap returned; no borrow of it outlives self. An error could only
        // leave the range mapped.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    /// A memfd of this many bytes under these seals.
    fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
        let file = File::from(memfd_create("test", MemfdFlags::ALLOW_SEALING).expect("memfd"));
        file.set_len(bytes).expect("length");
        fcntl_add_seals(&file, seals).expect("seals");
        file.into()
    }

    #[test]
    fn anonymous_words_start_at_zero_and_keep_what_is_stored() {
        let words = Words::<AtomicU32>::anonymous(3000).expect("map");
        assert_eq!(words.len(), 3000);
        assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        words[2999].store(7, Ordering::Relaxed);
        assert_eq!(words[2999].load(Ordering::Relaxed), 7);
    }

    #[test]
    fn a_memfd_is_sealed_against_growing_shrinking_and_unsealing() {
        let words = Words::<AtomicU64>::sealed("test", 1000).expect("map");
        let fd = words.memfd().expect("has a memfd");
        let seals = fcntl_get_seals(fd).expect("seals");
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
        assert!(rustix::fs::ftruncate(fd, 0).is_err(), "shrinking must be refused");
    }

    #[test]
    fn two_mappings_of_one_memfd_show_the_same_words() {
        let words = Words::<AtomicU64>::sealed("test", 16).expect("map");
        words[3].store(42, Ordering::Relaxed);
        let file = File::from(words.memfd().expect("memfd").try_clone_to_owned().expect("dup"));
        let mut bytes = [0; 8];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 24).expect("read");
        assert_eq!(u64::from_ne_bytes(bytes), 42);
    }
    #[test]
    fn a_memfd_is_adopted_with_its_words() {
        let first = Words::<AtomicU64>::sealed("test", 16).expect("map");
        first[3].store(42, Ordering::Relaxed);
        let adopted =
            Words::<AtomicU64>::adopt(first.memfd().expect("memfd").try_clone_to_owned().expect("dup"));
        let adopted = adopted.expect("adopted");
        drop(first);
        assert_eq!((adopted.len(), adopted[3].load(Ordering::Relaxed)), (16, 42));
        adopted[15].store(7, Ordering::Relaxed);
    }

    #[test]
    fn what_is_no_sealed_memfd_is_refused_and_the_reason_given() {
        let pipe = io::pipe().expect("pipe").0.into();
        let file = OwnedFd::from(File::open("/proc/self/exe").expect("file"));
        let cases = [
            (pipe, "it is no memfd"),
            (file, "it is no memfd"),
            (memfd(64, SealFlags::empty()), "its size is not sealed"),
            (memfd(64, SealFlags::SHRINK | SealFlags::GROW), "its size is not sealed"),
            (memfd(64, SEALS | SealFlags::WRITE), "sealed against writing"),
            (memfd(64, SEALS | SealFlags::FUTURE_WRITE), "sealed against writing"),
            (memfd(0, SEALS), "no whole number of words"),
            (memfd(63, SEALS), "no whole number of words"),
        ];
        for (number, (descriptor, why)) in cases.into_iter().enumerate() {
            let error = Words::<AtomicU64>::adopt(descriptor).expect_err("refused");
            assert!(error.to_string().contains(why), "case {number}: {error}");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
