//! Atomic words as a trait, so that the protocols built on them run unchanged under loom.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// An atomic integer.
pub trait Word: Sync {
    /// Its plain value.
    type Value: Copy;
    /// A word holding `value`.
    fn new(value: Self::Value) -> Self;
    /// Atomic load.
    fn load(&self, order: Ordering) -> Self::Value;
    /// Atomic store.
    fn store(&self, value: Self::Value, order: Ordering);
    /// Stores `value` and returns the old one.
    fn swap(&self, value: Self::Value, order: Ordering) -> Self::Value;
    /// Sets the bits of `value` and returns the old value.
    fn fetch_or(&self, value: Self::Value, order: Ordering) -> Self::Value;
    /// Stores `new` if the word holds `old`; otherwise returns the present value.
    ///
    /// # Errors
    /// The present value, if it is not `old`.
    fn compare_exchange(&self, old: Self::Value, new: Self::Value) -> Result<Self::Value, Self::Value>;
    /// A memory fence for this kind of word (std or loom).
    fn fence(order: Ordering);
}

macro_rules! word {
    ($atomic:ty, $value:ty, $fence:path) => {
        impl Word for $atomic {
            type Value = $value;
            #[inline]
            fn new(value: $value) -> Self {
                <$atomic>::new(value)
            }
            #[inline]
            fn load(&self, order: Ordering) -> $value {
                <$atomic>::load(self, order)
            }
            #[inline]
            fn store(&self, value: $value, order: Ordering) {
                <$atomic>::store(self, value, order);
            }
            #[inline]
            fn swap(&self, value: $value, order: Ordering) -> $value {
                <$atomic>::swap(self, value, order)
            }
            #[inline]
            fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                <$atomic>::fetch_or(self, value, order)
            }
            #[inline]
            fn compare_exchange(&self, old: $value, new: $value) -> Result<$value, $value> {
                <$atomic>::compare_exchange(self, old, new, Ordering::AcqRel, Ordering::Relaxed)
            }
            #[inline]
            fn fence(order: Ordering) {
                $fence(order);
            }
        }
    };
}

word!(AtomicU32, u32, fence);
word!(AtomicU64, u64, fence);
#[cfg(test)]
word!(loom::sync::atomic::AtomicU32, u32, loom::sync::atomic::fence);
#[cfg(test)]
word!(loom::sync::atomic::AtomicU64, u64, loom::sync::atomic::fence);
