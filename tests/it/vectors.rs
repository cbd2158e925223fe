//! Golden frames: what the two original protocol crates decode and encode, in a file.
//!
//! `frames.json` is the output of those crates, never of this project's own codec, so that the codec is
//! compared with an independent source. The test below generates it again and compares. After a deliberate
//! change of the list, `VARTA_BLESS=1 cargo test --test it vectors::` rewrites the file.
//!
//! An entry has a name and the bytes. `frame`: encoding these fields gives these bytes (absent if no encoder
//! can produce them). `error`: decoding the bytes fails with this word and these `values`; if it is absent,
//! decoding gives `frame`.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    pub hex: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<Fields>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub values: Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fields {
    pub version: String,
    pub status: String,
    pub pid: u32,
    pub timestamp: u64,
    pub nonce: u64,
    pub payload: u64,
}

/// Every committed entry.
pub fn committed() -> Vec<Entry> {
    let text = fs::read_to_string(path()).expect("tests/vectors/frames.json is part of the project");
    serde_json::from_str(&text).expect("tests/vectors/frames.json is a list of entries")
}

pub fn unhex(hex: &str) -> [u8; 32] {
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hexadecimal");
    assert_eq!(hex.len(), 64, "{hex}: not 32 bytes");
    std::array::from_fn(byte)
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_committed_vectors_are_what_the_original_crates_say() {
    let fresh = render(&generate());
    if std::env::var_os("VARTA_BLESS").is_some_and(|value| value == "1") {
        // Rename the file into place: other tests of this run read it.
        let draft = path().with_extension("json.new");
        fs::write(&draft, &fresh).expect("write the new vectors");
        fs::rename(&draft, path()).expect("put the new vectors into place");
    }
    let committed = fs::read_to_string(path()).unwrap_or_default();
    let differing = committed.lines().zip(fresh.lines()).find(|(old, new)| old != new);
    assert!(
        committed == fresh,
        "tests/vectors/frames.json is not what the original crates produce; first difference \
         (committed, produced): {differing:#?}\nVARTA_BLESS=1 cargo test --test it vectors:: rewrites it"
    );
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/frames.json")
}

/// One entry per line, so that a diff shows entries.
fn render(entries: &[Entry]) -> String {
    let lines: Vec<_> =
        entries.iter().map(|entry| serde_json::to_string(entry).expect("plain data")).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

fn generate() -> Vec<Entry> {
    let mut entries = Vec::new();
    frames_01(&mut entries);
    frames_02(&mut entries);
    strangers(&mut entries);
    check_order(&mut entries);
    entries
}

const MAX: u64 = u64::MAX;

/// Everything that 0.1 can encode decodes as 0.1, even what an observer then refuses.
fn frames_01(entries: &mut Vec<Entry>) {
    use Status::{Critical, Degraded, Ok, Stall};
    use varta_vlp_01::{Frame, Status};
    for (name, status, pid, timestamp, nonce, payload) in [
        ("first beat", Ok, 2, 0, 1, 0),
        ("ordinary", Ok, 4_242, 1_234_567_890, 100, 7),
        ("degraded, payload of 64 bits", Degraded, 4_242, 5, 17, 0xdead_beef_cafe_f00d),
        ("critical at an ordinary nonce", Critical, 4_242, 5, 18, 3),
        ("payload just above 32 bits", Ok, 4_242, 5, 19, 1 << 32),
        ("payload of the highest bit alone", Ok, 4_242, 5, 20, 1 << 63),
        ("largest payload", Ok, 4_242, 5, 21, MAX),
        ("largest pid", Ok, u32::MAX, 5, 22, 0),
        ("largest ordinary timestamp", Ok, 4_242, MAX - 1, 23, 0),
        ("largest ordinary nonce", Ok, 4_242, 5, MAX - 1, 0),
        ("nonce 0", Ok, 4_242, 5, 0, 0),
        ("terminal", Critical, 4_242, 5, MAX, 0),
        ("terminal nonce with ok decodes", Ok, 4_242, 5, MAX, 0),
        ("terminal nonce with degraded decodes", Degraded, 4_242, 5, MAX, 0),
        ("status stall decodes", Stall, 4_242, 5, 24, 0),
        ("pid 0 decodes", Ok, 0, 5, 25, 0),
        ("pid 1 decodes", Ok, 1, 5, 26, 0),
        ("reserved timestamp decodes", Ok, 4_242, MAX, 27, 0),
        ("everything largest decodes", Stall, u32::MAX, MAX, MAX, MAX),
    ] {
        let mut bytes = [0; 32];
        Frame::new(status, pid, timestamp, nonce, payload).encode(&mut bytes);
        let fields = fields("0.1", status as u8, pid, timestamp, nonce, payload);
        entries.push(entry(&format!("0.1: {name}"), bytes, Some(fields)));
    }
    for status in [4, 255] {
        let mut bytes = [0; 32];
        Frame::new(Ok, 4_242, 5, 28, MAX).encode(&mut bytes);
        bytes[3] = status;
        entries.push(entry(&format!("0.1: status byte {status}"), bytes, None));
    }
}

fn frames_02(entries: &mut Vec<Entry>) {
    use Status::{Critical, Degraded, Ok, Stall};
    use varta_vlp_02::Status;
    for (name, status, pid, timestamp, nonce, payload) in [
        ("first beat", Ok, 2, 0, 1, 0),
        ("ordinary", Ok, 4_242, 1_234_567_890, 100, 7),
        ("degraded, largest payload", Degraded, 4_242, 5, 17, u32::MAX),
        ("critical at an ordinary nonce", Critical, 4_242, 5, 18, 3),
        ("largest pid", Ok, u32::MAX, 5, 19, 0),
        ("largest timestamp", Ok, 4_242, MAX - 1, 20, 0),
        ("largest ordinary nonce", Ok, 4_242, 5, MAX - 1, 0),
        ("nonce 0, after the wrap", Ok, 4_242, 5, 0, 0),
        ("terminal", Critical, 4_242, 5, MAX, 0),
        ("terminal with a payload", Critical, 4_242, 5, MAX, 0xdead_beef),
        ("everything largest", Critical, u32::MAX, MAX - 1, MAX, u32::MAX),
        ("status stall", Stall, 4_242, 5, 21, 0),
        ("pid 0", Ok, 0, 5, 22, 0),
        ("pid 1", Ok, 1, 5, 23, 0),
        ("reserved timestamp", Ok, 4_242, MAX, 24, 0),
        ("terminal nonce with ok", Ok, 4_242, 5, MAX, 0),
        ("terminal nonce with degraded", Degraded, 4_242, 5, MAX, 0),
    ] {
        let bytes = encode_02(status, pid, timestamp, nonce, payload);
        let fields = fields("0.2", status as u8, pid, timestamp, nonce, u64::from(payload));
        entries.push(entry(&format!("0.2: {name}"), bytes, Some(fields)));
    }
    let good = encode_02(Ok, 4_242, 5, 25, 9);
    for status in [4, 255] {
        let mut bytes = good;
        bytes[3] = status;
        repair_crc(&mut bytes);
        entries.push(entry(&format!("0.2: status byte {status}, checksum right"), bytes, None));
    }
    for (name, at) in [("status", 3), ("pid", 4), ("timestamp", 15), ("nonce", 16), ("payload", 27)] {
        let mut bytes = good;
        bytes[at] ^= 1;
        entries.push(entry(&format!("0.2: a bit of the {name} flipped"), bytes, None));
    }
    let mut bytes = good;
    bytes[31] ^= 0x80;
    entries.push(entry("0.2: a bit of the checksum flipped", bytes, None));
    let mut bytes = good;
    bytes[28..].fill(0);
    entries.push(entry("0.2: checksum absent", bytes, None));
    let mut bytes = good;
    bytes[28..].reverse();
    entries.push(entry("0.2: checksum in the wrong byte order", bytes, None));
}

/// Bytes of no version.
fn strangers(entries: &mut Vec<Entry>) {
    let good = encode_02(varta_vlp_02::Status::Ok, 4_242, 5, 26, 9);
    for (name, at, byte) in [
        ("first magic byte", 0, 0x57),
        ("second magic byte", 1, 0x42),
        ("version byte 0", 2, 0),
        ("version byte 3", 2, 3),
        ("version byte 255", 2, 255),
    ] {
        let mut bytes = good;
        bytes[at] = byte;
        repair_crc(&mut bytes);
        entries.push(entry(&format!("any: {name}"), bytes, None));
    }
    let mut bytes = good;
    bytes.swap(0, 1);
    entries.push(entry("any: magic in the wrong order", bytes, None));
    entries.push(entry("any: all zero", [0; 32], None));
    entries.push(entry("any: all ones", [0xff; 32], None));
    entries.push(entry("any: text", *b"a line of text sent to a socket\n", None));
}

/// Two faults in one frame: the first check decides. Every pair that fits into one frame.
fn check_order(entries: &mut Vec<Entry>) {
    type Break = fn(&mut [u8; 32]);
    let faults: [(&str, Break); 8] = [
        ("bad_magic", |bytes| bytes[0] = 0),
        ("bad_version", |bytes| bytes[2] = 9),
        ("bad_crc", |bytes| bytes[28] ^= 1),
        ("bad_status", |bytes| bytes[3] = 4),
        ("stall_on_wire", |bytes| bytes[3] = 3),
        ("bad_pid", |bytes| bytes[4..8].fill(0)),
        ("bad_timestamp", |bytes| bytes[8..16].fill(0xff)),
        ("bad_nonce", |bytes| bytes[16..24].fill(0xff)),
    ];
    let good = encode_02(varta_vlp_02::Status::Ok, 4_242, 5, 27, 9);
    for (at, (first, break_first)) in faults.iter().enumerate() {
        for (second, break_second) in &faults[at + 1..] {
            if (*first, *second) == ("bad_status", "stall_on_wire") {
                continue; // one byte cannot be both
            }
            let mut bytes = good;
            break_first(&mut bytes);
            break_second(&mut bytes);
            // The checksum is right unless it is one of the two faults.
            repair_crc(&mut bytes);
            if [*first, *second].contains(&"bad_crc") {
                bytes[28] ^= 1;
            }
            let entry = entry(&format!("0.2 order: {first} before {second}"), bytes, None);
            assert_eq!(entry.error.as_deref(), Some(*first), "{}", entry.name);
            entries.push(entry);
        }
    }
    let mut bytes = good;
    bytes[2] = 1;
    bytes[3] = 4;
    entries.push(entry("0.1 order: bad_status is the only check after the version", bytes, None));
    bytes[0] = 0;
    entries.push(entry("0.1 order: bad_magic before bad_status", bytes, None));
}

fn encode_02(status: varta_vlp_02::Status, pid: u32, timestamp: u64, nonce: u64, payload: u32) -> [u8; 32] {
    let mut bytes = [0; 32];
    varta_vlp_02::Frame::new(status, pid, timestamp, nonce, payload).encode(&mut bytes);
    bytes
}

fn repair_crc(bytes: &mut [u8; 32]) {
    let crc = varta_vlp_02::crc32c::compute(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
}

fn fields(version: &str, status: u8, pid: u32, timestamp: u64, nonce: u64, payload: u64) -> Fields {
    Fields { version: version.to_owned(), status: status_word(status), pid, timestamp, nonce, payload }
}

fn status_word(status: u8) -> String {
    ["ok", "degraded", "critical", "stall"][usize::from(status)].to_owned()
}

/// The verdict of the original crate for the version in byte 2; of both for an unknown version.
fn entry(name: &str, bytes: [u8; 32], frame: Option<Fields>) -> Entry {
    let verdict = match bytes[2] {
        1 => judge_01(&bytes),
        2 => judge_02(&bytes),
        _ => {
            let verdict = judge_02(&bytes);
            assert_eq!(verdict, judge_01(&bytes), "{name}: the original crates disagree");
            verdict
        }
    };
    let (error, values) = match verdict {
        Ok(decoded) => {
            assert_eq!(frame.as_ref(), Some(&decoded), "{name}: decodes to something else");
            (None, Value::Null)
        }
        Err((word, values)) => (Some(word.to_owned()), values),
    };
    Entry { name: name.to_owned(), hex: hex(&bytes), frame, error, values }
}

type Verdict = Result<Fields, (&'static str, Value)>;

fn judge_01(bytes: &[u8; 32]) -> Verdict {
    use varta_vlp_01::{DecodeError, Frame};
    match Frame::decode(bytes) {
        Ok(f) => Ok(fields("0.1", f.status as u8, f.pid, f.timestamp, f.nonce, f.payload)),
        Err(DecodeError::BadMagic) => Err(("bad_magic", Value::Null)),
        Err(DecodeError::BadVersion) => Err(("bad_version", Value::Null)),
        Err(DecodeError::BadStatus(byte)) => Err(("bad_status", json!({ "byte": byte }))),
    }
}

fn judge_02(bytes: &[u8; 32]) -> Verdict {
    use varta_vlp_02::{DecodeError, Frame};
    match Frame::decode(bytes) {
        Ok(f) => Ok(fields("0.2", f.status as u8, f.pid, f.timestamp, f.nonce, u64::from(f.payload))),
        Err(DecodeError::BadMagic) => Err(("bad_magic", Value::Null)),
        Err(DecodeError::BadVersion) => Err(("bad_version", Value::Null)),
        Err(DecodeError::BadCrc { expected, actual }) => {
            Err(("bad_crc", json!({ "computed": expected, "received": actual })))
        }
        Err(DecodeError::BadStatus(byte)) => Err(("bad_status", json!({ "byte": byte }))),
        Err(DecodeError::StallOnWire) => Err(("stall_on_wire", Value::Null)),
        Err(DecodeError::BadPid(pid)) => Err(("bad_pid", json!({ "pid": pid }))),
        Err(DecodeError::BadTimestamp(timestamp)) => {
            Err(("bad_timestamp", json!({ "timestamp": timestamp })))
        }
        Err(DecodeError::BadNonce { nonce, status }) => {
            Err(("bad_nonce", json!({ "nonce": nonce, "status": status_word(status as u8) })))
        }
    }
}
