//! The aggregator thread.

pub mod export;
