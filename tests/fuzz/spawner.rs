//! Any bytes as a message to a spawner, and as one of it: no panic, and what is understood is understood again when it
//! is written.
//!
//! Input: the message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use varta_fleet::fuzzing::{MESSAGE_BYTES_MAX, Order, Report};

fuzz_target!(|input: &[u8]| {
    if let Ok(order) = Order::decode(input) {
        let _ = order.fault();
        let message = order.encode().expect("no longer than what was read, but for escapes");
        assert!(message.len() <= MESSAGE_BYTES_MAX);
        assert_eq!(Order::decode(&message), Ok(order));
    }
    if let Ok(report) = Report::decode(input) {
        let message = report.encode().expect("no longer than what was read, but for escapes");
        assert!(message.len() <= MESSAGE_BYTES_MAX);
        assert_eq!(Report::decode(&message), Ok(report), "the input is too short to be shortened");
    }
});
