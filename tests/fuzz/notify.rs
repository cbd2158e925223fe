//! Any bytes as a datagram of the notification protocol: no panic, and the same result as a naive reader.
//!
//! Input: one byte of what the kernel says of the datagram (bits: truncated, control truncated, unattested; then the
//! number of descriptors), then the datagram.

#![no_main]

use libfuzzer_sys::fuzz_target;
use varta_fleet::fuzzing::{
    Envelope, Fault, Fields, Main, Message, NOTIFY_BYTES_MAX, STATUS_BYTES_MAX, Watchdog, read,
};

fuzz_target!(|input: &[u8]| {
    let Some((kernel, bytes)) = input.split_first() else { return };
    let envelope = Envelope {
        is_truncated: kernel & 1 != 0,
        is_control_truncated: kernel & 2 != 0,
        is_attested: kernel & 4 == 0,
        fds: usize::from(kernel >> 3),
    };
    let message = read(bytes, envelope);
    assert_eq!(message, naive(bytes, envelope));
    if let Ok(Message::Fields(fields)) = message {
        let texts = [fields.status, fields.bus_error, fields.name];
        for text in texts.into_iter().flatten() {
            assert!(text.len() <= STATUS_BYTES_MAX && !text.contains(['\n', '\r', '\0']), "{text:?}");
        }
    }
});

/// What the manual says, with a list of lines and a list of assignments.
fn naive(bytes: &[u8], envelope: Envelope) -> Result<Message<'_>, Fault> {
    let is_too_long = envelope.is_truncated || bytes.len() > NOTIFY_BYTES_MAX;
    let text = if bytes.last() == Some(&0) { &bytes[..bytes.len() - 1] } else { bytes };
    match () {
        () if bytes.is_empty() && !is_too_long => return Err(Fault::Empty),
        () if is_too_long => return Err(Fault::TooLong),
        () if envelope.is_control_truncated => return Err(Fault::TruncatedControl),
        () if !envelope.is_attested => return Err(Fault::Unattested),
        () if text.contains(&0) => return Err(Fault::InnerNul),
        () => {}
    }
    let lines: Vec<&[u8]> =
        text.split(|byte| *byte == b'\n' || *byte == b'\r').filter(|line| !line.is_empty()).collect();
    if lines.contains(&b"BARRIER=1".as_slice()) {
        let is_alone = lines.len() == 1 && envelope.fds == 1;
        return if is_alone { Ok(Message::Barrier) } else { Err(Fault::BadBarrier) };
    }
    let first = |variable: &str| {
        let start = format!("{variable}=").into_bytes();
        lines.iter().find_map(|line| line.strip_prefix(start.as_slice()))
    };
    let mut invalid = 0;
    let mut understood = |is_understood: bool| invalid += u16::from(!is_understood);
    let number = |value: &[u8]| -> Option<u64> {
        let is_decimal = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        if is_decimal { std::str::from_utf8(value).ok()?.parse().ok() } else { None }
    };

    let watchdog = first("WATCHDOG").and_then(|value| {
        let read = match value {
            b"1" => Some(Watchdog::Beat),
            b"trigger" => Some(Watchdog::Trigger),
            _ => None,
        };
        understood(read.is_some());
        read
    });
    let mut positive = |variable| {
        let read = first(variable).map(|value| number(value).filter(|us| *us > 0));
        understood(read != Some(None));
        read.flatten()
    };
    let (watchdog_us, extend_us) = (positive("WATCHDOG_USEC"), positive("EXTEND_TIMEOUT_USEC"));
    let mut up_to = |variable, from: u64, max: u64| {
        let read = first(variable).map(|value| number(value).filter(|read| (from..=max).contains(read)));
        understood(read != Some(None));
        read.flatten()
    };
    let errno = up_to("ERRNO", 0, 4095).map(|errno| errno as u16);
    let exit_status = up_to("EXIT_STATUS", 0, 255).map(|status| status as u8);
    let main_pid = up_to("MAINPID", 1, 4_194_304).map(|pid| pid as u32);
    let pidfd_inode = up_to("MAINPIDFDID", 0, u64::MAX);
    let mut name = |variable, is_valid: fn(&str) -> bool| {
        let read = first(variable).map(|value| std::str::from_utf8(value).ok().filter(|text| is_valid(text)));
        understood(read != Some(None));
        read.flatten()
    };
    let status = name("STATUS", |_| true).map(|status| {
        let end = (0..=STATUS_BYTES_MAX).rev().find(|end| status.is_char_boundary(*end) || *end == 0);
        if status.len() <= STATUS_BYTES_MAX { status } else { &status[..end.unwrap_or(0)] }
    });
    let bus_error = name("BUSERROR", |text| {
        (1..=255).contains(&text.len()) && text.chars().all(|char| char.is_ascii_graphic())
    });
    let instance = name("X_VARTA_NAME", |text| (1..=255).contains(&text.len()));
    let has = |line: &str| lines.contains(&line.as_bytes());
    let main = match () {
        () if has("MAINPIDFD=1") => {
            understood(envelope.fds == 1);
            (envelope.fds == 1).then_some(Main::Pidfd)
        }
        () if first("MAINPIDFDID").is_some() && pidfd_inode.is_none() => None,
        () => main_pid.map(|pid| Main::Pid { pid, pidfd_inode }),
    };
    Ok(Message::Fields(Fields {
        is_ready: has("READY=1"),
        is_reloading: has("RELOADING=1"),
        is_stopping: has("STOPPING=1"),
        watchdog,
        watchdog_us,
        extend_us,
        status,
        errno,
        exit_status,
        bus_error,
        main,
        name: instance,
        invalid,
    }))
}
