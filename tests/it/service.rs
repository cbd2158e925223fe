//! The shipped units under a real systemd, which a test boots for itself.

use crate::common::Rig;

const UNITS: &str = "varta-fleet.service varta-fleet-shard@0.socket varta-fleet-control.socket";

#[test]
fn units_are_understood_and_confined() {
    let rig = Rig::boot("");
    // It succeeds in spite of what it complains about, such as a key that it does not know.
    let said = rig.attempt(&format!("systemd-analyze verify {UNITS} 2>&1"));
    assert_eq!(String::from_utf8_lossy(&said.stdout), "");
    assert!(said.status.success());
    rig.run("systemd-analyze security --no-pager --threshold=25 varta-fleet.service");
    // By default it is 0, and everything that is to be stored is dropped without a word.
    assert_ne!(rig.property("varta-fleet.service", "FileDescriptorStoreMax"), "0");
}
