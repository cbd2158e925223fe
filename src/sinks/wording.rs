//! What the forms of a line say where the kernel has no word.

/// Where the kernel has no word to say.
pub const CUT: &str =
    "the file was cut by somebody else, and what was written since it was copied is lost; rename it instead";
/// Where the kernel has no word to say.
pub const PUT_BACK: &str = "it had been removed or replaced, and is in place again";
