//! For tests and benches alone: whole fleets in worlds of their own, planted bugs, and what benches and fuzz targets
//! drive. Nothing of it is in a release.

#[macro_use]
pub mod planted;

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(fuzzing)]
pub mod fuzzing;
#[cfg(feature = "bench")]
pub mod mass_stall;
#[cfg(test)]
pub mod simulator;
