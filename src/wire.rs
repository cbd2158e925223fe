//! The 32-byte frame of the Varta Lifeline Protocol, versions 0.1 and 0.2.
//!
//! Integers are unsigned little-endian. Byte 2 selects the version; the two are independent formats.
//!
//! | Offset | Size | 0.1 (byte 2 = 1) | 0.2 (byte 2 = 2) |
//! |---|---|---|---|
//! | 0 | 2 | magic `VA` | same |
//! | 2 | 1 | version | version |
//! | 3 | 1 | status | status |
//! | 4 | 4 | pid | pid |
//! | 8 | 8 | timestamp | timestamp |
//! | 16 | 8 | nonce | nonce |
//! | 24 | 8 / 4 | payload, 64 bit | payload, 32 bit |
//! | 28 | - / 4 | (part of payload) | CRC-32C of bytes 0..28 |

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of a frame; a datagram of any other length is no frame.
pub const FRAME_BYTES: usize = 32;
/// The nonce that only a crash hook sends, together with [`Status::Critical`].
pub const NONCE_TERMINAL: u64 = u64::MAX;
/// The largest nonce of an ordinary frame. After it, 0.2 agents continue at 0, and 0.1 agents repeat it.
pub const NONCE_MAX: u64 = u64::MAX - 1;

const MAGIC: [u8; 2] = *b"VA";
const TIMESTAMP_RESERVED: u64 = u64::MAX;
/// The CRC covers everything before it.
const CRC_OFFSET: usize = 28;

/// Wire format of a frame.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Hash, Serialize)]
pub enum Version {
    /// 0.1: 64-bit payload, no checksum.
    #[serde(rename = "0.1")]
    V01,
    /// 0.2: 32-bit payload, CRC-32C.
    #[default]
    #[serde(rename = "0.2")]
    V02,
}

impl Version {
    /// The word of the API and the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V01 => "0.1",
            Self::V02 => "0.2",
        }
    }
}

/// An agent's own status.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Status {
    /// In order.
    #[default]
    Ok = 0,
    /// Working, with trouble.
    Degraded = 1,
    /// Not working; with the terminal nonce: crashed.
    Critical = 2,
    /// The observer's own verdict, never sent by an agent.
    Stall = 3,
}

impl Status {
    /// The status of a byte; `None` above 3.
    #[inline]
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Ok),
            1 => Some(Self::Degraded),
            2 => Some(Self::Critical),
            3 => Some(Self::Stall),
            _ => None,
        }
    }

    /// The word used in events and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Critical => "critical",
            Self::Stall => "stall",
        }
    }
}

/// One decoded heartbeat. Plain data: the kernel attests none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Format it was sent in.
    pub version: Version,
    /// The agent's own status.
    pub status: Status,
    /// The sender's process id in its own pid namespace, as it claims.
    pub pid: u32,
    /// Sender-local, normally ns since it connected. Never comparable between processes.
    pub timestamp: u64,
    /// Counter of one connection handle: 1, 2, 3…; [`NONCE_TERMINAL`] from a crash hook.
    pub nonce: u64,
    /// Opaque to the protocol. 64 bits in 0.1, 32 in 0.2.
    pub payload: u64,
}

/// Why 32 bytes are not a frame. The first failing check is reported; variants are in the order of the
/// checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Bytes 0 and 1 are not `VA`.
    #[error("bad magic {0:02x?}")]
    BadMagic([u8; 2]),
    /// Byte 2 is neither 1 nor 2.
    #[error("bad version byte {0}")]
    BadVersion(u8),
    /// 0.2: the checksum does not match.
    #[error("bad checksum: computed {computed:08x}, received {received:08x}")]
    BadCrc {
        /// CRC-32C of bytes 0..28.
        computed: u32,
        /// Bytes 28..32.
        received: u32,
    },
    /// The status byte is above 3.
    #[error("bad status byte {0}")]
    BadStatus(u8),
    /// 0.2: status 3 is the observer's verdict and must not be sent.
    #[error("status stall on the wire")]
    StallOnWire,
    /// 0.2: pid 0 or 1.
    #[error("bad pid {0}")]
    BadPid(u32),
    /// 0.2: the reserved timestamp 2^64-1.
    #[error("bad timestamp {0}")]
    BadTimestamp(u64),
    /// 0.2: the terminal nonce with a status other than critical.
    #[error("terminal nonce with status {}", .status.as_str())]
    BadNonce {
        /// The terminal nonce.
        nonce: u64,
        /// The status sent with it.
        status: Status,
    },
}

impl DecodeError {
    /// The spelling in metrics and events.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::BadMagic(_) => "bad_magic",
            Self::BadVersion(_) => "bad_version",
            Self::BadCrc { .. } => "bad_crc",
            Self::BadStatus(_) => "bad_status",
            Self::StallOnWire => "stall_on_wire",
            Self::BadPid(_) => "bad_pid",
            Self::BadTimestamp(_) => "bad_timestamp",
            Self::BadNonce { .. } => "bad_nonce",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Decodes a frame exactly as the protocol defines it, for either version.
///
/// Never panics and never allocates; about 10 ns.
///
/// # Errors
/// The first failing check, in the order of [`DecodeError`]'s variants.
#[inline]
pub fn decode(bytes: &[u8; FRAME_BYTES]) -> Result<Frame, DecodeError> {
    let claimed = u32_at(bytes, 4);
    decode_attested(bytes, claimed)
}

/// [`decode`] for a frame whose sender the kernel attests to be process `pid`.
///
/// The check for the reserved pids 0 and 1 applies to `pid` instead of the claimed pid: the first process of
/// a container claims 1 and is an ordinary agent.
///
/// # Errors
/// As [`decode`].
#[inline]
pub fn decode_attested(bytes: &[u8; FRAME_BYTES], pid: u32) -> Result<Frame, DecodeError> {
    let magic = [bytes[0], bytes[1]];
    if magic != MAGIC {
        return Err(DecodeError::BadMagic(magic));
    }
    match bytes[2] {
        1 => decode_v01(bytes),
        2 => decode_v02(bytes, pid),
        other => Err(DecodeError::BadVersion(other)),
    }
}

#[inline]
fn decode_v01(bytes: &[u8; FRAME_BYTES]) -> Result<Frame, DecodeError> {
    let status = Status::from_byte(bytes[3]).ok_or(DecodeError::BadStatus(bytes[3]))?;
    Ok(Frame {
        version: Version::V01,
        status,
        pid: u32_at(bytes, 4),
        timestamp: u64_at(bytes, 8),
        nonce: u64_at(bytes, 16),
        payload: u64_at(bytes, 24),
    })
}

#[inline]
fn decode_v02(bytes: &[u8; FRAME_BYTES], pid: u32) -> Result<Frame, DecodeError> {
    let computed = crc32c::crc32c(&bytes[..CRC_OFFSET]);
    let received = u32_at(bytes, CRC_OFFSET);
    if computed != received {
        return Err(DecodeError::BadCrc { computed, received });
    }
    let status = Status::from_byte(bytes[3]).ok_or(DecodeError::BadStatus(bytes[3]))?;
    if status == Status::Stall {
        return Err(DecodeError::StallOnWire);
    }
    if pid <= 1 {
        return Err(DecodeError::BadPid(pid));
    }
    let timestamp = u64_at(bytes, 8);
    if timestamp == TIMESTAMP_RESERVED {
        return Err(DecodeError::BadTimestamp(timestamp));
    }
    let nonce = u64_at(bytes, 16);
    if nonce == NONCE_TERMINAL && status != Status::Critical {
        return Err(DecodeError::BadNonce { nonce, status });
    }
    Ok(Frame {
        version: Version::V02,
        status,
        pid: u32_at(bytes, 4),
        timestamp,
        nonce,
        payload: u64::from(u32_at(bytes, 24)),
    })
}

/// Whether the bytes have the nonce that only a crash hook sends, without decoding them.
#[inline]
#[must_use]
pub fn claims_terminal(bytes: &[u8; FRAME_BYTES]) -> bool {
    u64_at(bytes, 16) == NONCE_TERMINAL
}

impl Frame {
    /// The 32 bytes of this frame.
    ///
    /// A payload above 32 bits loses its upper half in [`Version::V02`]. Fields are encoded without checks;
    /// the receiver refuses a frame that the protocol forbids.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_BYTES] {
        let mut bytes = [0; FRAME_BYTES];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[3] = self.status as u8;
        bytes[4..8].copy_from_slice(&self.pid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.timestamp.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.nonce.to_le_bytes());
        match self.version {
            Version::V01 => {
                bytes[2] = 1;
                bytes[24..].copy_from_slice(&self.payload.to_le_bytes());
            }
            Version::V02 => {
                bytes[2] = 2;
                bytes[24..CRC_OFFSET].copy_from_slice(&self.payload.to_le_bytes()[..4]);
                let crc = crc32c::crc32c(&bytes[..CRC_OFFSET]);
                bytes[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
            }
        }
        bytes
    }

    /// Whether a crash hook sent it: the process reports a panic or unhandled exception.
    #[inline]
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        self.nonce == NONCE_TERMINAL
    }
}

#[inline]
fn u32_at(bytes: &[u8; FRAME_BYTES], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

#[inline]
fn u64_at(bytes: &[u8; FRAME_BYTES], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}
