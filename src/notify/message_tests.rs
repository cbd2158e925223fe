//! Tests of the reader of notification messages: vectors, limits, and properties of any bytes.

use proptest::prelude::*;

use super::*;
use crate::sys::allocations::during;

const PLAIN: Envelope =
    Envelope { is_truncated: false, is_control_truncated: false, is_attested: true, fds: 0 };

fn fields(text: &[u8]) -> Fields<'_> {
    fields_with(text, 0)
}

fn fields_with(text: &[u8], fds: usize) -> Fields<'_> {
    match read(text, Envelope { fds, ..PLAIN }) {
        Ok(Message::Fields(fields)) => fields,
        other => panic!("{:?}: {other:?}", String::from_utf8_lossy(text)),
    }
}

const NONE: Fields<'static> = Fields {
    is_ready: false,
    is_reloading: false,
    is_stopping: false,
    watchdog: None,
    watchdog_us: None,
    extend_us: None,
    status: None,
    errno: None,
    exit_status: None,
    bus_error: None,
    main: None,
    name: None,
    invalid: 0,
};
const REFUSED: Fields<'static> = Fields { invalid: 1, ..NONE };

const fn main_pid(pid: u32) -> Option<Main> {
    Some(Main::Pid { pid, pidfd_inode: None })
}

/// Each assignment of the table, its edges, and what daemons really send.
#[test]
fn each_assignment_is_read_as_it_is_meant() {
    let vectors: &[(&str, Fields<'_>)] = &[
        ("READY=1", Fields { is_ready: true, ..NONE }),
        ("READY=1\n", Fields { is_ready: true, ..NONE }),
        ("READY=1\0", Fields { is_ready: true, ..NONE }),
        ("READY=1\n\0", Fields { is_ready: true, ..NONE }),
        ("\r\n\nREADY=1\r\n", Fields { is_ready: true, ..NONE }),
        ("READY=0", NONE),
        ("READY=", NONE),
        ("READY=11", NONE),
        (" READY=1", NONE),
        ("ready=1", NONE),
        ("READY", NONE),
        ("READY=0\nREADY=1", Fields { is_ready: true, ..NONE }),
        ("RELOADING=1\nMONOTONIC_USEC=123456", Fields { is_reloading: true, ..NONE }),
        ("RELOADING=1", Fields { is_reloading: true, ..NONE }),
        ("STOPPING=1", Fields { is_stopping: true, ..NONE }),
        ("WATCHDOG=1", Fields { watchdog: Some(Watchdog::Beat), ..NONE }),
        ("WATCHDOG=trigger", Fields { watchdog: Some(Watchdog::Trigger), ..NONE }),
        ("WATCHDOG=0", REFUSED),
        ("WATCHDOG=", REFUSED),
        ("WATCHDOG=Trigger", REFUSED),
        ("WATCHDOG=0\nWATCHDOG=1", REFUSED),
        ("WATCHDOG=1\nWATCHDOG=0", Fields { watchdog: Some(Watchdog::Beat), ..NONE }),
        ("WATCHDOG_USEC=30000000", Fields { watchdog_us: Some(30_000_000), ..NONE }),
        ("WATCHDOG_USEC=1", Fields { watchdog_us: Some(1), ..NONE }),
        ("WATCHDOG_USEC=18446744073709551615", Fields { watchdog_us: Some(u64::MAX), ..NONE }),
        ("WATCHDOG_USEC=18446744073709551616", REFUSED),
        ("WATCHDOG_USEC=99999999999999999999999", REFUSED),
        ("WATCHDOG_USEC=0", REFUSED),
        ("WATCHDOG_USEC=000", REFUSED),
        ("WATCHDOG_USEC=007", Fields { watchdog_us: Some(7), ..NONE }),
        ("WATCHDOG_USEC=-1", REFUSED),
        ("WATCHDOG_USEC=+1", REFUSED),
        ("WATCHDOG_USEC=1 ", REFUSED),
        ("WATCHDOG_USEC=0x10", REFUSED),
        ("WATCHDOG_USEC=1e6", REFUSED),
        ("WATCHDOG_USEC=", REFUSED),
        ("EXTEND_TIMEOUT_USEC=5000000", Fields { extend_us: Some(5_000_000), ..NONE }),
        ("EXTEND_TIMEOUT_USEC=0", REFUSED),
        ("EXTEND_TIMEOUT_USEC=18446744073709551615", Fields { extend_us: Some(u64::MAX), ..NONE }),
        ("STATUS=Serving 7 clients", Fields { status: Some("Serving 7 clients"), ..NONE }),
        ("STATUS=", Fields { status: Some(""), ..NONE }),
        ("STATUS=a=b=c", Fields { status: Some("a=b=c"), ..NONE }),
        ("STATUS=50%\r100%", Fields { status: Some("50%"), ..NONE }),
        ("STATUS=\u{1b}[31mred\u{7}", Fields { status: Some("\u{1b}[31mred\u{7}"), ..NONE }),
        ("STATUS=bereit für Ämter", Fields { status: Some("bereit für Ämter"), ..NONE }),
        ("STATUS=one\nSTATUS=two", Fields { status: Some("one"), ..NONE }),
        ("ERRNO=2", Fields { errno: Some(2), ..NONE }),
        ("ERRNO=4095", Fields { errno: Some(4095), ..NONE }),
        ("ERRNO=4096", REFUSED),
        ("ERRNO=ENOENT", REFUSED),
        ("EXIT_STATUS=255", Fields { exit_status: Some(255), ..NONE }),
        ("EXIT_STATUS=256", REFUSED),
        ("BUSERROR=org.example.Failed", Fields { bus_error: Some("org.example.Failed"), ..NONE }),
        ("BUSERROR=", REFUSED),
        ("BUSERROR=two words", REFUSED),
        ("MAINPID=4711", Fields { main: main_pid(4711), ..NONE }),
        ("MAINPID=1", Fields { main: main_pid(1), ..NONE }),
        ("MAINPID=4194304", Fields { main: main_pid(4_194_304), ..NONE }),
        ("MAINPID=4194305", REFUSED),
        ("MAINPID=0", REFUSED),
        ("MAINPID=-4711", REFUSED),
        (
            "MAINPID=4711\nMAINPIDFDID=98765",
            Fields { main: Some(Main::Pid { pid: 4711, pidfd_inode: Some(98765) }), ..NONE },
        ),
        ("MAINPID=4711\nMAINPIDFDID=x", REFUSED),
        ("MAINPIDFDID=98765", NONE),
        ("MAINPIDFD=1", REFUSED),
        ("MAINPIDFD=0", NONE),
        ("X_VARTA_NAME=worker-7", Fields { name: Some("worker-7"), ..NONE }),
        ("X_VARTA_NAME=", REFUSED),
        ("X_OTHER=1", NONE),
        ("FDSTORE=1\nFDNAME=x\nNOTIFYACCESS=all\nRESTART_RESET=1", NONE),
        ("=1", NONE),
        ("=", NONE),
        ("\n", NONE),
        ("\0", NONE),
        ("BARRIER=0", NONE),
        (
            "READY=1\nSTATUS=Ready\nMAINPID=7\nWATCHDOG=1",
            Fields {
                is_ready: true,
                status: Some("Ready"),
                main: main_pid(7),
                watchdog: Some(Watchdog::Beat),
                ..NONE
            },
        ),
        (
            "RELOADING=1\nREADY=1\nSTOPPING=1",
            Fields { is_ready: true, is_reloading: true, is_stopping: true, ..NONE },
        ),
        (
            "WATCHDOG_USEC=0\nWATCHDOG=1\nERRNO=x",
            Fields { watchdog: Some(Watchdog::Beat), invalid: 2, ..NONE },
        ),
    ];
    for (text, expected) in vectors {
        assert_eq!(fields(text.as_bytes()), *expected, "{text:?}");
    }
}

#[test]
fn a_status_that_is_no_text_is_refused_alone() {
    let read = fields(b"STATUS=\xff\xfe\nWATCHDOG=1\nX_VARTA_NAME=\xc3");
    assert_eq!(read, Fields { watchdog: Some(Watchdog::Beat), invalid: 2, ..NONE });
    assert_eq!(fields(b"\xff\xff=\xff\n\xff"), NONE);
}

#[test]
fn a_long_status_is_cut_between_characters() {
    // The character that does not fit is dropped whole.
    for (unit, kept) in [("x", 255), ("ü", 254), ("€", 255), ("🦀", 252)] {
        let text = format!("STATUS={}", unit.repeat(900));
        let status = fields(text.as_bytes()).status.expect("a status");
        assert_eq!(status.len(), kept, "{unit}");
        assert!(text[7..].starts_with(status));
    }
    let escapes = format!("STATUS={}", "\u{1b}".repeat(MESSAGE_BYTES_MAX - 7));
    assert_eq!(fields(escapes.as_bytes()).status.map(str::len), Some(STATUS_BYTES_MAX));
}

#[test]
fn a_name_that_is_too_long_is_refused_and_not_cut() {
    for (length, is_valid) in [(NAME_BYTES_MAX, true), (NAME_BYTES_MAX + 1, false)] {
        let name = "n".repeat(length);
        let (text, error) = (format!("X_VARTA_NAME={name}"), format!("BUSERROR={name}"));
        assert_eq!(fields(text.as_bytes()).name.is_some(), is_valid);
        assert_eq!(fields(error.as_bytes()).bus_error.is_some(), is_valid);
    }
}

#[test]
fn what_is_no_message_is_refused_by_the_first_reason() {
    let good = b"WATCHDOG=1".as_slice();
    let longest = [b'a'; MESSAGE_BYTES_MAX];
    let longer = [b'a'; MESSAGE_BYTES_MAX + 1];
    let cut = Envelope { is_truncated: true, ..PLAIN };
    let control_cut = Envelope { is_control_truncated: true, ..PLAIN };
    let nobody = Envelope { is_attested: false, ..PLAIN };
    let all = Envelope { is_truncated: true, is_control_truncated: true, is_attested: false, fds: 3 };
    let cases: &[(&[u8], Envelope, Result<(), Fault>)] = &[
        (good, PLAIN, Ok(())),
        (&longest, PLAIN, Ok(())),
        (&longer, PLAIN, Err(Fault::TooLong)),
        (&longest, cut, Err(Fault::TooLong)),
        (b"", PLAIN, Err(Fault::Empty)),
        (b"", cut, Err(Fault::TooLong)),
        (b"", nobody, Err(Fault::Empty)),
        (good, control_cut, Err(Fault::TruncatedControl)),
        (good, nobody, Err(Fault::Unattested)),
        (good, all, Err(Fault::TooLong)),
        (good, Envelope { is_truncated: false, ..all }, Err(Fault::TruncatedControl)),
        (b"WATCHDOG=1\0\0", PLAIN, Err(Fault::InnerNul)),
        (b"\0WATCHDOG=1", PLAIN, Err(Fault::InnerNul)),
        (b"READY=1\0WATCHDOG=1", PLAIN, Err(Fault::InnerNul)),
        (b"READY=1\0WATCHDOG=1", nobody, Err(Fault::Unattested)),
    ];
    for (bytes, envelope, expected) in cases {
        assert_eq!(read(bytes, *envelope).map(|_| ()), *expected, "{envelope:?}");
    }
}

#[test]
fn a_barrier_is_alone_and_has_one_descriptor() {
    let with = |fds| Envelope { fds, ..PLAIN };
    for text in ["BARRIER=1", "BARRIER=1\n", "\nBARRIER=1\0"] {
        assert_eq!(read(text.as_bytes(), with(1)), Ok(Message::Barrier), "{text:?}");
        for fds in [0, 2, 253] {
            assert_eq!(read(text.as_bytes(), with(fds)), Err(Fault::BadBarrier), "{text:?} with {fds}");
        }
    }
    for text in [
        "BARRIER=1\nREADY=1",
        "READY=1\nBARRIER=1",
        "BARRIER=1\nBARRIER=1",
        "X_A=1\nBARRIER=1",
        "x\nBARRIER=1",
    ] {
        assert_eq!(read(text.as_bytes(), with(1)), Err(Fault::BadBarrier), "{text:?}");
    }
}

#[test]
fn the_main_process_is_that_of_the_descriptor_if_one_came() {
    assert_eq!(fields_with(b"MAINPIDFD=1", 1), Fields { main: Some(Main::Pidfd), ..NONE });
    assert_eq!(fields_with(b"MAINPIDFD=1\nMAINPID=7", 1), Fields { main: Some(Main::Pidfd), ..NONE });
    for fds in [0, 2] {
        assert_eq!(fields_with(b"MAINPIDFD=1\nMAINPID=7", fds), REFUSED);
    }
    assert_eq!(fields_with(b"MAINPID=7", 1), Fields { main: main_pid(7), ..NONE });
}

#[test]
fn only_what_was_understood_is_something() {
    for text in ["X_OTHER=1", "WATCHDOG=2", "FDSTORE=1", "\n"] {
        assert!(fields(text.as_bytes()).is_empty(), "{text}");
    }
    for text in ["STATUS=", "WATCHDOG=1", "READY=1", "MAINPID=7", "ERRNO=0", "X_VARTA_NAME=a"] {
        assert!(!fields(text.as_bytes()).is_empty(), "{text}");
    }
}

/// Lines that a sender might send, whole and spoilt.
fn lines() -> impl Strategy<Value = Vec<u8>> {
    let known = prop_oneof![
        Just("READY"),
        Just("RELOADING"),
        Just("STOPPING"),
        Just("WATCHDOG"),
        Just("WATCHDOG_USEC"),
        Just("EXTEND_TIMEOUT_USEC"),
        Just("STATUS"),
        Just("ERRNO"),
        Just("EXIT_STATUS"),
        Just("BUSERROR"),
        Just("MAINPID"),
        Just("MAINPIDFD"),
        Just("MAINPIDFDID"),
        Just("BARRIER"),
        Just("X_VARTA_NAME"),
        Just("X_OTHER"),
    ];
    let value = prop_oneof![
        Just(b"1".to_vec()),
        Just(b"trigger".to_vec()),
        any::<u64>().prop_map(|number| number.to_string().into_bytes()),
        proptest::collection::vec(any::<u8>(), 0..20),
    ];
    let line = (known, value).prop_map(|(variable, value)| [variable.as_bytes(), b"=", &value].concat());
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join(&b'\n'))
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic_and_without_allocation(
        bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 0..4200), lines()],
        is_truncated: bool, is_control_truncated: bool, is_attested: bool, fds in 0..4_usize,
    ) {
        for envelope in [PLAIN, Envelope { is_truncated, is_control_truncated, is_attested, fds }] {
            let mut message = Err(Fault::Empty);
            prop_assert_eq!(during(|| message = read(&bytes, envelope)), 0);
            if let Ok(Message::Fields(fields)) = message {
                prop_assert!(fields.status.is_none_or(|status| status.len() <= STATUS_BYTES_MAX));
                prop_assert!(fields.status.is_none_or(|status| !status.contains(['\n', '\r', '\0'])));
                prop_assert!(fields.watchdog_us != Some(0) && fields.extend_us != Some(0));
            }
        }
    }

    /// Lines in between that say nothing change nothing, unless a barrier must be alone.
    #[test]
    fn what_is_not_understood_has_no_effect(text in lines()) {
        let padded = [b"X_ONE=1\n".as_slice(), &text, b"\n\nY\n=\n"].concat();
        let (plain, padded) = (read(&text, PLAIN), read(&padded, PLAIN));
        if plain != Err(Fault::Empty) && !text.ends_with(b"\0") {
            prop_assert_eq!(plain, padded);
        }
    }
}
