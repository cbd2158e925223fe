//! For tests and benches only: simulated fleets and inputs, planted bugs and faults, samples, and what benches and
//! fuzz targets drive. No release contains it.

#[macro_use]
pub mod planted;

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "bench")]
mod crowd;
#[cfg(test)]
pub mod fault;
#[cfg(fuzzing)]
pub mod fuzzing;
#[cfg(any(test, fuzzing))]
pub mod inheritance;
#[cfg(feature = "bench")]
pub mod mass_stall;
#[cfg(test)]
pub mod replay;
#[cfg(test)]
pub mod samples;
#[cfg(all(feature = "http", feature = "bench"))]
mod served;
#[cfg(test)]
pub mod simulator;
#[cfg(all(feature = "http", any(test, feature = "bench")))]
pub mod standin;
