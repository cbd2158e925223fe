//! The codec against the two original protocol crates: golden vectors, random bytes, flipped bits.

use proptest::array::uniform32;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;
use varta_fleet::wire::{
    DecodeError, FRAME_BYTES, Frame, NONCE_MAX, NONCE_TERMINAL, Status, Version, decode, decode_attested,
};

use crate::vectors;

type Bytes = [u8; FRAME_BYTES];

// --- golden vectors -------------------------------------------------------------------------------

#[test]
fn golden_vectors_decode_as_the_original_crates_decoded_them() {
    for entry in vectors::committed() {
        let bytes = vectors::unhex(&entry.hex);
        let decoded = decode(&bytes);
        match (decoded, &entry.error) {
            (Ok(frame), None) => assert_eq!(Some(fields_of(&frame)), entry.frame, "{}", entry.name),
            (Err(error), Some(word)) => {
                assert_eq!(error.reason(), word, "{}", entry.name);
                match error {
                    DecodeError::BadMagic(magic) => assert_eq!(magic, bytes[..2], "{}", entry.name),
                    DecodeError::BadVersion(byte) => assert_eq!(byte, bytes[2], "{}", entry.name),
                    other => assert_eq!(values_of(&other), entry.values, "{}", entry.name),
                }
            }
            (decoded, expected) => panic!("{}: {decoded:?}, expected error {expected:?}", entry.name),
        }
    }
}

#[test]
fn golden_vectors_encode_to_the_bytes_of_the_original_crates() {
    for entry in vectors::committed() {
        if let Some(fields) = &entry.frame {
            let bytes = frame_of(fields).encode();
            assert_eq!(vectors::hex(&bytes), entry.hex, "{}", entry.name);
        }
    }
}

/// If the list shrank, the two tests above would pass on nothing.
#[test]
fn fault_15_golden_vectors_cover_both_versions_and_every_error() {
    let entries = vectors::committed();
    for version in ["0.1", "0.2"] {
        let accepted = entries.iter().filter(|entry| {
            entry.error.is_none() && entry.frame.as_ref().is_some_and(|fields| fields.version == version)
        });
        assert!(accepted.count() >= 10, "too few accepted frames of {version}");
    }
    for word in [
        "bad_magic",
        "bad_version",
        "bad_crc",
        "bad_status",
        "stall_on_wire",
        "bad_pid",
        "bad_timestamp",
        "bad_nonce",
    ] {
        assert!(entries.iter().any(|entry| entry.error.as_deref() == Some(word)), "no entry for {word}");
    }
    let mut names: Vec<_> = entries.iter().map(|entry| &entry.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), entries.len(), "a name occurs twice");
}

// --- differences from the original crates: none ---------------------------------------------------

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_decode_as_the_original_crates_decode_them(bytes in uniform32(any::<u8>())) {
        prop_assert_eq!(decode(&bytes), original(&bytes));
    }

    /// Random bytes fail at the magic; these reach every later check.
    #[test]
    fn plausible_bytes_decode_as_the_original_crates_decode_them(bytes in plausible()) {
        prop_assert_eq!(decode(&bytes), original(&bytes));
    }

    #[test]
    fn frames_encode_as_the_original_crates_encode_them(frame in any_frame()) {
        prop_assert_eq!(frame.encode(), original_encode(&frame));
    }

    #[test]
    fn what_is_decoded_encodes_to_the_same_bytes(bytes in plausible()) {
        if let Ok(frame) = decode(&bytes) {
            prop_assert_eq!(frame.encode(), bytes);
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same_frame(frame in any_frame()) {
        let bytes = frame.encode();
        match decode(&bytes) {
            Ok(decoded) => prop_assert_eq!(decoded, on_the_wire(frame)),
            Err(error) => {
                let reason = error.reason();
                prop_assert_eq!(frame.version, Version::V02, "0.1 refuses nothing it can encode");
                prop_assert!(!["bad_magic", "bad_version", "bad_crc", "bad_status"].contains(&reason), "{}", reason);
            }
        }
    }

    /// The attested pid replaces the claimed one in the check for reserved pids. It changes neither the order
    /// of checks nor the pid of the decoded frame.
    #[test]
    fn an_attested_pid_replaces_the_claim_in_the_pid_check_only(bytes in plausible(), attested in any_pid()) {
        let claimed = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let checksum_holds = !matches!(decode(&bytes), Err(DecodeError::BadCrc { .. }));
        let expected = if bytes[2] == 2 && checksum_holds {
            let mut substituted = bytes;
            substituted[4..8].copy_from_slice(&attested.to_le_bytes());
            repair_crc(&mut substituted);
            original(&substituted).map(|frame| Frame { pid: claimed, ..frame })
        } else {
            original(&bytes)
        };
        prop_assert_eq!(decode_attested(&bytes, attested), expected);
        prop_assert_eq!(decode_attested(&bytes, claimed), decode(&bytes));
    }

    #[test]
    fn checksums_are_those_of_the_original_crate(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(crc32c::crc32c(&bytes), varta_vlp_02::crc32c::compute(&bytes));
    }
}

#[test]
fn the_first_process_of_a_container_is_an_ordinary_agent_when_attested() {
    let bytes = Frame { pid: 1, ..good_frames()[0] }.encode();
    assert_eq!(decode(&bytes), Err(DecodeError::BadPid(1)));
    assert_eq!(decode_attested(&bytes, 4_242).map(|frame| frame.pid), Ok(1));
    for reserved in [0, 1] {
        let bytes = good_frames()[0].encode();
        assert_eq!(decode_attested(&bytes, reserved), Err(DecodeError::BadPid(reserved)));
    }
}

#[test]
fn a_payload_of_0_1_is_whole_at_every_bit() {
    for bit in 0..64 {
        let frame = Frame { version: Version::V01, payload: 1 << bit, ..good_frames()[0] };
        assert_eq!(decode(&frame.encode()), Ok(frame));
        let inverted = Frame { payload: !frame.payload, ..frame };
        assert_eq!(decode(&inverted.encode()), Ok(inverted));
    }
}

#[test]
fn a_payload_of_0_2_keeps_its_lower_half() {
    let frame = Frame { payload: 0xdead_beef_cafe_f00d, ..good_frames()[0] };
    assert_eq!(decode(&frame.encode()).map(|frame| frame.payload), Ok(0xcafe_f00d));
}

#[test]
fn the_checksum_is_crc32c() {
    let cases: [(&[u8], u32); 5] = [
        (b"", 0x0000_0000),
        (b"a", 0xc1d0_4330),
        (b"123456789", 0xe306_9283),
        (&[0; 32], 0x8a91_36aa),
        (&[0xff; 32], 0x62a8_ab43),
    ];
    for (input, crc) in cases {
        assert_eq!(crc32c::crc32c(input), crc, "{input:02x?}");
    }
}

// --- flipped bits ---------------------------------------------------------------------------------

const BITS: usize = FRAME_BYTES * 8;

#[test]
fn fault_16_every_flipped_bit_of_a_0_2_frame_is_refused_as_what_it_hit() {
    for frame in good_frames() {
        for bit in 0..BITS {
            let bytes = flip(frame.encode(), &[bit]);
            let error = decode(&bytes).expect_err("a flipped bit went unnoticed");
            assert_eq!(error.reason(), reason_of_flips(&[bit]), "bit {bit} of {frame:?}");
            // Attestation of the sender does not make a corrupt frame valid.
            assert_eq!(decode_attested(&bytes, frame.pid), Err(error), "bit {bit} of {frame:?}");
        }
    }
}

/// One pair in 32 640 turns version 2 into 1, which has no checksum. The codec cannot detect such a frame,
/// which is why a single 0.1 frame in a 0.2 session must not count as a beat.
#[test]
fn fault_16_every_two_flipped_bits_are_refused_except_the_pair_that_makes_it_version_1() {
    for frame in good_frames() {
        let (mut refused, mut accepted) = (0, Vec::new());
        for first in 0..BITS {
            for second in first + 1..BITS {
                let bytes = flip(frame.encode(), &[first, second]);
                match decode(&bytes) {
                    Err(error) => {
                        refused += 1;
                        let expected = reason_of_flips(&[first, second]);
                        assert_eq!(error.reason(), expected, "bits {first} and {second} of {frame:?}");
                    }
                    Ok(decoded) => accepted.push((first, second, decoded)),
                }
            }
        }
        let crc = u64::from(crc32c::crc32c(&frame.encode()[..28]));
        let misread = Frame { version: Version::V01, payload: frame.payload | crc << 32, ..frame };
        assert_eq!(accepted, [(16, 17, misread)]);
        assert_eq!(refused, 32_640 - 1);
    }
}

/// With the version pair flipped, only the status byte is still checked.
#[test]
fn a_frame_flipped_to_version_1_is_refused_only_for_its_status() {
    for frame in good_frames() {
        for bit in 18..BITS {
            let bytes = flip(frame.encode(), &[16, 17, bit]);
            let status = bytes[3];
            match decode(&bytes) {
                Ok(decoded) => assert_eq!(Some(decoded.status), Status::from_byte(status)),
                Err(error) if bit < 24 => assert_eq!(error, DecodeError::BadVersion(bytes[2])),
                Err(error) => assert_eq!(error, DecodeError::BadStatus(status)),
            }
        }
    }
}

fn flip(mut bytes: Bytes, bits: &[usize]) -> Bytes {
    for bit in bits {
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    bytes
}

/// The expected reason for refusing a frame with these bits flipped, by their position.
fn reason_of_flips(bits: &[usize]) -> &'static str {
    match bits.iter().map(|bit| bit / 8).min() {
        Some(0 | 1) => "bad_magic",
        Some(2) => "bad_version",
        _ => "bad_crc",
    }
}

// --- words ----------------------------------------------------------------------------------------

#[test]
fn statuses_are_the_bytes_0_to_3() {
    for byte in 0..=u8::MAX {
        let original = varta_vlp_02::Status::try_from_u8(byte).ok().map(|status| status as u8);
        assert_eq!(Status::from_byte(byte).map(|status| status as u8), original);
    }
    for status in [Status::Ok, Status::Degraded, Status::Critical, Status::Stall] {
        assert_eq!(status.to_string(), status.as_str());
    }
}

#[test]
fn a_refusal_says_what_it_saw() {
    for (error, message) in [
        (DecodeError::BadMagic([0x47, 0x45]), "bad magic [47, 45]"),
        (DecodeError::BadVersion(9), "bad version byte 9"),
        (
            DecodeError::BadCrc { computed: 0xc1d0_4330, received: 1 },
            "bad checksum: computed c1d04330, received 00000001",
        ),
        (DecodeError::BadStatus(4), "bad status byte 4"),
        (DecodeError::StallOnWire, "status stall on the wire"),
        (DecodeError::BadPid(1), "bad pid 1"),
        (DecodeError::BadTimestamp(u64::MAX), "bad timestamp 18446744073709551615"),
        (
            DecodeError::BadNonce { nonce: NONCE_TERMINAL, status: Status::Ok },
            "terminal nonce with status ok",
        ),
    ] {
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn only_the_terminal_nonce_is_terminal() {
    assert_eq!(NONCE_TERMINAL, varta_vlp_01::NONCE_TERMINAL);
    assert_eq!(NONCE_TERMINAL, varta_vlp_02::NONCE_TERMINAL);
    for frame in good_frames() {
        assert_eq!(frame.is_terminal(), frame.nonce == u64::MAX);
    }
    assert!(!Frame { nonce: NONCE_MAX, ..good_frames()[0] }.is_terminal());
}

// --- the original crates, in our types ------------------------------------------------------------

/// The result of the original crate for the version in byte 2; of the newer crate for any other byte.
fn original(bytes: &Bytes) -> Result<Frame, DecodeError> {
    if bytes[2] == 1 { original_01(bytes) } else { original_02(bytes) }
}

fn original_01(bytes: &Bytes) -> Result<Frame, DecodeError> {
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

fn original_02(bytes: &Bytes) -> Result<Frame, DecodeError> {
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

fn original_encode(frame: &Frame) -> Bytes {
    let mut bytes = [0; FRAME_BYTES];
    let Frame { version, status, pid, timestamp, nonce, payload } = on_the_wire(*frame);
    match version {
        Version::V01 => {
            let status = varta_vlp_01::Status::try_from_u8(status as u8).expect("the same four");
            varta_vlp_01::Frame::new(status, pid, timestamp, nonce, payload).encode(&mut bytes);
        }
        Version::V02 => {
            let status = varta_vlp_02::Status::try_from_u8(status as u8).expect("the same four");
            let payload = u32::try_from(payload).expect("cut to what 0.2 carries");
            varta_vlp_02::Frame::new(status, pid, timestamp, nonce, payload).encode(&mut bytes);
        }
    }
    bytes
}

/// The frame as its version can carry it: 0.2 has no room for the upper half of the payload.
fn on_the_wire(frame: Frame) -> Frame {
    match frame.version {
        Version::V01 => frame,
        Version::V02 => Frame { payload: frame.payload & u64::from(u32::MAX), ..frame },
    }
}

fn status_of(byte: u8) -> Status {
    Status::from_byte(byte).expect("the original crates know the same four")
}

fn repair_crc(bytes: &mut Bytes) {
    let crc = varta_vlp_02::crc32c::compute(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
}

// --- the vectors, in our types --------------------------------------------------------------------

fn fields_of(frame: &Frame) -> vectors::Fields {
    vectors::Fields {
        version: match frame.version {
            Version::V01 => "0.1".to_owned(),
            Version::V02 => "0.2".to_owned(),
        },
        status: frame.status.as_str().to_owned(),
        pid: frame.pid,
        timestamp: frame.timestamp,
        nonce: frame.nonce,
        payload: frame.payload,
    }
}

fn frame_of(fields: &vectors::Fields) -> Frame {
    let statuses = [Status::Ok, Status::Degraded, Status::Critical, Status::Stall];
    Frame {
        version: match fields.version.as_str() {
            "0.1" => Version::V01,
            "0.2" => Version::V02,
            other => panic!("version {other}"),
        },
        status: statuses.into_iter().find(|status| status.as_str() == fields.status).expect("a status"),
        pid: fields.pid,
        timestamp: fields.timestamp,
        nonce: fields.nonce,
        payload: fields.payload,
    }
}

fn values_of(error: &DecodeError) -> serde_json::Value {
    match *error {
        DecodeError::BadMagic(_) | DecodeError::BadVersion(_) | DecodeError::StallOnWire => json!(null),
        DecodeError::BadCrc { computed, received } => json!({ "computed": computed, "received": received }),
        DecodeError::BadStatus(byte) => json!({ "byte": byte }),
        DecodeError::BadPid(pid) => json!({ "pid": pid }),
        DecodeError::BadTimestamp(timestamp) => json!({ "timestamp": timestamp }),
        DecodeError::BadNonce { nonce, status } => json!({ "nonce": nonce, "status": status.as_str() }),
    }
}

// --- inputs ---------------------------------------------------------------------------------------

/// Valid 0.2 frames: few bits set, most bits set, and in between; each status, one frame terminal.
fn good_frames() -> [Frame; 4] {
    let ordinary = Frame {
        version: Version::V02,
        status: Status::Ok,
        pid: 4_242,
        timestamp: 1_234_567_890,
        nonce: 100,
        payload: 7,
    };
    [
        ordinary,
        Frame { status: Status::Degraded, pid: 2, timestamp: 0, nonce: 1, payload: 0, ..ordinary },
        Frame { status: Status::Critical, nonce: NONCE_TERMINAL, payload: 0xdead_beef, ..ordinary },
        Frame {
            status: Status::Critical,
            pid: u32::MAX,
            timestamp: u64::MAX - 1,
            nonce: NONCE_MAX,
            payload: u64::from(u32::MAX),
            ..ordinary
        },
    ]
}

fn any_pid() -> impl Strategy<Value = u32> {
    prop_oneof![1 => select(vec![0, 1, 2, u32::MAX]), 2 => any::<u32>()]
}

fn any_counter() -> impl Strategy<Value = u64> {
    prop_oneof![1 => select(vec![0, 1, u64::MAX - 1, u64::MAX]), 2 => any::<u64>()]
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let version = select(vec![Version::V01, Version::V02]);
    let status = select(vec![Status::Ok, Status::Degraded, Status::Critical, Status::Stall]);
    (version, status, any_pid(), any_counter(), any_counter(), any::<u64>()).prop_map(
        |(version, status, pid, timestamp, nonce, payload)| Frame {
            version,
            status,
            pid,
            timestamp,
            nonce,
            payload,
        },
    )
}

/// Bytes with a valid magic and mostly valid version, status and checksum, the other fields often at a limit.
/// One in five then has one byte replaced at random.
fn plausible() -> impl Strategy<Value = Bytes> {
    let version = prop_oneof![2 => Just(1), 6 => Just(2), 1 => any::<u8>()];
    let status = prop_oneof![6 => 0..=2_u8, 1 => Just(3), 1 => any::<u8>()];
    let damage = proptest::option::weighted(0.2, (0..FRAME_BYTES, any::<u8>()));
    let repaired = prop::bool::weighted(0.9);
    (any_frame(), version, status, repaired, uniform32(any::<u8>()), damage).prop_map(
        |(frame, version, status, repaired, noise, damage)| {
            let mut bytes = frame.encode();
            bytes[2] = version;
            bytes[3] = status;
            bytes[28..].copy_from_slice(&noise[28..]);
            if repaired {
                repair_crc(&mut bytes);
            }
            if let Some((at, byte)) = damage {
                bytes[at] = byte;
            }
            bytes
        },
    )
}
