//! Events to files and standard output.
