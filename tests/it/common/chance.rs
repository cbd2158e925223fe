//! Seeded random numbers.

use super::mono_ns;

/// xorshift64*.
pub struct Chance(u64);

impl Chance {
    /// Seeded by `VARTA_TEST_SEED`, else by the clock. Prints the seed, so that a run can be repeated.
    pub fn from_environment() -> Self {
        let seed = std::env::var("VARTA_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| mono_ns() | 1);
        println!("VARTA_TEST_SEED={seed}");
        Self(seed)
    }

    /// A number in 0..end, nearly uniform.
    pub fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        u32::try_from(high).expect("32 bits are left") % end
    }
}
