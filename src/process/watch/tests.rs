//! The watch thread with processes that start and exit.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;
use crate::sys::clock::SystemClock;

/// Longer than any wait takes; exceeding it is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    watch: Option<Watch>,
    findings: Receiver<Finding>,
    thread: JoinHandle<()>,
}

impl Fixture {
    fn new(pidfds_max: u32) -> Self {
        let (finder, findings) = unbounded();
        let doorbell = Arc::new(Doorbell::default());
        let (kills, names) = (Arc::new(OomKills::new(8)), Arc::new(Names::new(0)));
        let (watch, thread) =
            Watch::spawn(SystemClock, finder, doorbell, (kills, names), pidfds_max as usize, || {})
                .expect("a thread");
        Self { watch: Some(watch), findings, thread }
    }

    fn order(&self, order: Order) {
        let watch = self.watch.as_ref().expect("not stopped");
        watch.order(order);
        watch.begin();
    }

    fn watch(&self, slot: u32, pid: u32) {
        self.order(Order::Watch { holder: holder(slot), pid, incarnation: None });
    }

    fn next(&self) -> Finding {
        self.findings.recv_timeout(PATIENCE).expect("a finding")
    }

    /// Whether it exists, asked after all orders so far were taken.
    fn is_there(&self, slot: u32, pid: u32) -> Finding {
        self.order(Order::Exists { holder: holder(slot), pid, incarnation: None, is_urgent: false });
        self.next()
    }

    fn stop(mut self) {
        self.watch = None;
        self.thread.join().expect("no panic");
        assert_eq!(self.findings.try_iter().count(), 0, "nothing else was said");
    }
}

fn holder(slot: u32) -> Holder {
    Holder { place: Place { shard: 1, slot }, generation: 3 }
}

fn process(script: &str) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::piped()).spawn().expect("sh")
}

#[test]
fn an_end_is_told_once_unasked_and_with_its_cause() {
    let ends = [("read x; exit 0", ExitHow::Code(0)), ("read x; exit 3", ExitHow::Code(3))];
    let killed = ("read x; kill -KILL $$", ExitHow::Signal(9));
    for (script, expected) in ends.into_iter().chain([killed]) {
        let fixture = Fixture::new(4);
        let mut child = process(script);
        fixture.watch(7, child.id());
        assert!(matches!(fixture.is_there(7, child.id()), Finding::There { .. }));
        drop(child.stdin.take());
        let status = child.wait().expect("reaped");
        let Finding::Gone { holder: of, how, .. } = fixture.next() else { panic!("not gone: {script}") };
        assert_eq!((of, how), (holder(7), Some(expected)), "{script}: {status}");
        fixture.stop();
    }
}

#[test]
fn who_is_dead_already_or_never_was_is_told_gone() {
    let fixture = Fixture::new(4);
    let mut child = process("exit 0");
    child.wait().expect("reaped");
    fixture.watch(1, child.id());
    assert!(matches!(fixture.next(), Finding::Gone { .. }));
    let me = std::process::id();
    let other = Some(Incarnation::new(1));
    fixture.order(Order::Watch { holder: holder(2), pid: me, incarnation: other });
    let Finding::Gone { holder: of, .. } = fixture.next() else { panic!("another process holds the pid") };
    assert_eq!(of, holder(2));
    fixture.stop();
}

#[test]
fn who_gets_no_descriptor_is_said_to_be_unwatched_and_gets_the_next_one() {
    let fixture = Fixture::new(1);
    let mut first = process("read x");
    let mut second = process("read x");
    fixture.watch(1, first.id());
    fixture.watch(2, second.id());
    let Finding::Watching { holder: of, is_watched: false } = fixture.next() else { panic!("room for one") };
    assert_eq!(of, holder(2));
    assert!(matches!(fixture.is_there(2, second.id()), Finding::There { .. }), "asked, it is looked for");
    drop(first.stdin.take());
    first.wait().expect("reaped");
    let Finding::Gone { holder: of, .. } = fixture.next() else { panic!("the first ended") };
    assert_eq!(of, holder(1));
    let Finding::Watching { holder: of, is_watched: true } = fixture.next() else { panic!("its turn") };
    assert_eq!(of, holder(2));
    drop(second.stdin.take());
    second.wait().expect("reaped");
    assert!(matches!(fixture.next(), Finding::Gone { .. }), "told unasked");
    fixture.stop();
}

#[test]
fn nobody_is_told_of_whom_nobody_wants_to_know_any_more() {
    let fixture = Fixture::new(1);
    let mut first = process("read x");
    let mut second = process("read x");
    fixture.watch(1, first.id());
    // The slot has another holder: an order for the one before does not concern it.
    fixture.watch(1, second.id());
    fixture.order(Order::Unwatch { holder: Holder { generation: 2, ..holder(1) } });
    assert!(matches!(fixture.is_there(1, second.id()), Finding::There { .. }), "and the orders were taken");
    drop(first.stdin.take());
    first.wait().expect("reaped");
    assert!(matches!(fixture.is_there(1, second.id()), Finding::There { .. }));
    fixture.order(Order::Unwatch { holder: holder(1) });
    assert!(matches!(fixture.is_there(1, second.id()), Finding::There { .. }), "and the order was taken");
    drop(second.stdin.take());
    second.wait().expect("reaped");
    let Finding::Gone { how: None, .. } = fixture.is_there(1, second.id()) else { panic!("asked") };
    fixture.stop();
}

#[test]
fn the_limit_on_descriptors_is_kept_and_nobody_is_forgotten() {
    const PROCESSES: u32 = 40;
    let fixture = Fixture::new(5);
    let mut children: Vec<Child> = (0..PROCESSES).map(|_| process("read x")).collect();
    for (slot, child) in (0..).zip(&children) {
        fixture.watch(slot, child.id());
    }
    let mut gone = 0;
    for child in &mut children {
        child.kill().expect("kill");
        child.wait().expect("reaped");
    }
    let (mut unwatched, mut let_in) = (0, 0);
    while gone < PROCESSES {
        match fixture.next() {
            Finding::Gone { .. } => gone += 1,
            Finding::Watching { is_watched: false, .. } => unwatched += 1,
            Finding::Watching { is_watched: true, .. } => let_in += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(unwatched >= let_in, "{unwatched} {let_in}");
    fixture.stop();
}
