//! Any 32 bytes as a frame: no panic, and the same result as the original crates.
//!
//! Input: the frame, then optionally one byte (odd: correct the CRC, so that the later checks are reached)
//! and four of the attested pid.

#![no_main]

use libfuzzer_sys::fuzz_target;
use varta_fleet::wire::{self, DecodeError, FRAME_BYTES, Frame, Status, Version};

fuzz_target!(|input: &[u8]| {
    let Some((bytes, rest)) = input.split_first_chunk::<FRAME_BYTES>() else { return };
    let mut bytes = *bytes;
    let (mode, rest) = rest.split_first().unwrap_or((&0, &[]));
    if mode % 2 == 1 {
        let crc = varta_vlp_02::crc32c::compute(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
    }
    let decoded = wire::decode(&bytes);
    assert_eq!(decoded, if bytes[2] == 1 { original_01(&bytes) } else { original_02(&bytes) });
    if let Ok(frame) = decoded {
        assert_eq!(wire::decode(&frame.encode()), Ok(frame), "what was understood can be said again");
        if frame.version == Version::V02 {
            assert_eq!(frame.encode(), bytes, "a frame of 0.2 has one form");
        }
    }

    // With an attested sender, only the pid check differs.
    let attested = rest.first_chunk().map_or(4711, |pid| u32::from_le_bytes(*pid));
    match (wire::decode_attested(&bytes, attested), decoded) {
        (Ok(frame), Ok(same)) => assert_eq!(frame, same),
        (Ok(frame), Err(DecodeError::BadPid(pid))) => assert_eq!(frame.pid, pid),
        (Err(DecodeError::BadPid(pid)), _) => assert_eq!(pid, attested),
        (Err(error), Err(DecodeError::BadPid(_))) => {
            // The pid is checked before these.
            assert!(
                matches!(error, DecodeError::BadTimestamp(_) | DecodeError::BadNonce { .. }),
                "{error:?}"
            );
        }
        (Err(error), Err(same)) => assert_eq!(error, same),
        (attested, plain) => panic!("attested {attested:?}, else {plain:?}"),
    }
});

fn original_01(bytes: &[u8; FRAME_BYTES]) -> Result<Frame, DecodeError> {
    use varta_vlp_01::DecodeError as Original;
    match varta_vlp_01::Frame::decode(bytes) {
        Ok(frame) => Ok(Frame {
            version: Version::V01,
            status: status_of(frame.status as u8),
            pid: frame.pid,
            timestamp: frame.timestamp,
            nonce: frame.nonce,
            payload: frame.payload,
        }),
        Err(Original::BadMagic) => Err(DecodeError::BadMagic([bytes[0], bytes[1]])),
        Err(Original::BadVersion) => Err(DecodeError::BadVersion(bytes[2])),
        Err(Original::BadStatus(byte)) => Err(DecodeError::BadStatus(byte)),
    }
}

fn original_02(bytes: &[u8; FRAME_BYTES]) -> Result<Frame, DecodeError> {
    use varta_vlp_02::DecodeError as Original;
    match varta_vlp_02::Frame::decode(bytes) {
        Ok(frame) => Ok(Frame {
            version: Version::V02,
            status: status_of(frame.status as u8),
            pid: frame.pid,
            timestamp: frame.timestamp,
            nonce: frame.nonce,
            payload: u64::from(frame.payload),
        }),
        Err(Original::BadMagic) => Err(DecodeError::BadMagic([bytes[0], bytes[1]])),
        Err(Original::BadVersion) => Err(DecodeError::BadVersion(bytes[2])),
        Err(Original::BadCrc { expected, actual }) => {
            Err(DecodeError::BadCrc { computed: expected, received: actual })
        }
        Err(Original::BadStatus(byte)) => Err(DecodeError::BadStatus(byte)),
        Err(Original::StallOnWire) => Err(DecodeError::StallOnWire),
        Err(Original::BadPid(pid)) => Err(DecodeError::BadPid(pid)),
        Err(Original::BadTimestamp(timestamp)) => Err(DecodeError::BadTimestamp(timestamp)),
        Err(Original::BadNonce { nonce, status }) => {
            Err(DecodeError::BadNonce { nonce, status: status_of(status as u8) })
        }
    }
}

fn status_of(byte: u8) -> Status {
    Status::from_byte(byte).expect("the original crates know the same four")
}
