//! For tests and benches only: simulated fleets, planted bugs, and what benches and fuzz targets drive. No
//! release contains it.

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
