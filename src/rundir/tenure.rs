//! Whose the files of a fleet are, while one observer takes over from another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by all files of one fleet. As long as they are another observer's, nothing is changed or removed.
#[derive(Clone, Debug, Default)]
pub struct Tenure {
    is_anothers: Arc<AtomicBool>,
}

impl Tenure {
    /// The files are another observer's.
    pub fn of_another() -> Self {
        let tenure = Self::default();
        tenure.give();
        tenure
    }

    /// Whether they are another observer's.
    pub fn is_anothers(&self) -> bool {
        self.is_anothers.load(Ordering::Acquire)
    }

    /// They are ours from now on.
    pub fn take(&self) {
        self.is_anothers.store(false, Ordering::Release);
    }

    /// They are another observer's from now on.
    pub fn give(&self) {
        self.is_anothers.store(true, Ordering::Release);
    }
}
