//! Identity of a process: its pid and which holder of that pid it is. A new process with the same pid
//! inherits nothing, and what one process does hides nothing about another.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{
    Agent, AgentOptions, Client, Event, Observer, Options, PidNamespace, SOON, T, copy_program,
    in_pid_namespace, ns, program, python, rust_program, signal,
};
use rustix::process::Signal;

/// An agent that beats only on command.
fn silent(client: Client) -> AgentOptions {
    AgentOptions { client, beats: Some(0), ..AgentOptions::default() }
}

/// One shard whose queue holds the frames that arrive while the observer is stopped.
fn with_room() -> Options {
    Options { shards: 1, queue_limit: Some(512), ..Options::default() }
}

fn end(agent: &mut Agent) {
    agent.signal(Signal::KILL);
    agent.wait();
}

/// All events of this pid so far.
fn told(observer: &mut Observer, pid: u32) -> Vec<Event> {
    observer.events().iter().filter(|event| event.pid() == Some(pid)).cloned().collect()
}

/// The kinds of all events of this pid so far, in order.
fn story(observer: &mut Observer, pid: u32) -> Vec<String> {
    told(observer, pid).iter().map(|event| event.kind().to_owned()).collect()
}

/// Waits until the events of this pid are of these kinds, in this order, and returns them.
fn expect_story(observer: &mut Observer, pid: u32, expected: &[&str]) -> Vec<Event> {
    for kind in expected {
        let is_there = |events: &[Event]| events.iter().filter(|event| event.is(kind, pid)).count();
        let due = expected.iter().filter(|other| *other == kind).count();
        while is_there(observer.events()) < due {
            observer
                .expect_that(&format!("{expected:?} of {pid}"), T + SOON, |event| event.pid() == Some(pid));
        }
    }
    let told = told(observer, pid);
    let kinds: Vec<_> = told.iter().map(Event::kind).collect();
    assert_eq!(kinds, expected, "{told:#?}");
    told
}

/// Waits for the exit of one holder of the pid and the `up` of the next, with no other events than `before`:
/// two sessions, which share no event.
fn expect_heir(observer: &mut Observer, pid: u32, before: &[&str]) -> Event {
    let expected: Vec<_> = before.iter().copied().chain(["exit", "up"]).collect();
    let mut told = expect_story(observer, pid, &expected);
    let up = told.pop().expect("two at least");
    let session = |event: &Event| event.u64("session");
    assert!(told.iter().all(|event| session(event) == session(&told[0])), "one session: {told:#?}");
    assert!(session(&up) > session(&told[0]), "another process is another session: {up}");
    up
}

/// The new process is observed like any other: alive while it beats, stalled when silent, resumed, exited.
fn expect_ordinary_life(observer: &mut Observer, agent: &mut Agent) {
    let pid = agent.pid();
    let count = story(observer, pid).len();
    observer.watch(T + T / 2);
    let before = story(observer, pid);
    // On a busy machine the agent may wait for a core.
    let gap = agent.report().gap + T / 4;
    let is_silence = |event: &Event| ["stall", "resume"].contains(&event.kind());
    let more = &told(observer, pid)[count..];
    assert!(more.iter().all(|event| is_silence(event) && event.u64("silent_ns") <= ns(gap)), "{more:#?}");
    let expect = |observer: &mut Observer, more: &[&str]| {
        let expected: Vec<_> = before.iter().map(String::as_str).chain(more.iter().copied()).collect();
        expect_story(observer, pid, &expected)
    };
    agent.signal(Signal::STOP);
    expect(observer, &["stall"]);
    agent.signal(Signal::CONT);
    expect(observer, &["stall", "resume"]);
    end(agent);
    let told = expect(observer, &["stall", "resume", "exit"]);
    let sessions: Vec<_> = told[before.len() - 1..].iter().map(|event| event.u64("session")).collect();
    assert!(sessions.iter().all(|session| *session == sessions[0]), "one session: {told:#?}");
}

// --- a pid that is used again ---------------------------------------------------------------------

/// A process exits and another one gets its pid and beats before the silence is a stall. The exit is
/// reported, the new process is a new agent, and neither process affects the verdicts of the other.
#[test]
fn fault_07_a_pid_used_again_within_the_threshold_is_an_exit_and_a_new_agent() {
    in_pid_namespace(|pids| {
        let mut observer = Observer::start(Options { shards: 1, ..Options::default() });
        for client in Client::ALL {
            let mut dead = Agent::start(client, &observer);
            let pid = dead.pid();
            observer.expect("up", pid, SOON);
            observer.watch(T / 4);
            end(&mut dead);
            let mut heir = pids.start_as(pid, || Agent::start(Client::Rust02, &observer));
            expect_heir(&mut observer, pid, &["up"]);
            expect_ordinary_life(&mut observer, &mut heir);
        }
        observer.stop();
    });
}

/// The same, long after the exit was reported.
#[test]
fn fault_07_a_pid_used_again_after_the_threshold_is_a_new_agent() {
    in_pid_namespace(|pids| {
        let mut observer = Observer::start(Options::default());
        let mut dead = Agent::start(Client::Rust02, &observer);
        let pid = dead.pid();
        observer.expect("up", pid, SOON);
        end(&mut dead);
        observer.expect("exit", pid, T + SOON);
        observer.watch(T + T / 2);
        assert_eq!(story(&mut observer, pid), ["up", "exit"]);
        let mut heir = pids.start_as(pid, || Agent::start(Client::Rust01, &observer));
        observer.expect("up", pid, SOON);
        assert_eq!(story(&mut observer, pid), ["up", "exit", "up"]);
        expect_ordinary_life(&mut observer, &mut heir);
        observer.stop();
    });
}

/// An agent stalls and exits, and its pid goes to a process that beats. That beat is not a resume.
#[test]
fn fault_07_a_newcomer_does_not_end_the_silence_of_the_dead() {
    in_pid_namespace(|pids| {
        let mut observer = Observer::start(with_room());
        for client in Client::RUST {
            let mut dead = Agent::start_with(&observer, silent(client));
            let pid = dead.pid();
            for _ in 0..20 {
                dead.beat();
            }
            observer.expect("up", pid, SOON);
            observer.expect("stall", pid, T + SOON);
            // The observer finds the exit and the new process's beats at the same time.
            observer.signal(Signal::STOP);
            end(&mut dead);
            let mut heir = pids.start_as(pid, || Agent::start(client, &observer));
            heir.ask("beat");
            observer.signal(Signal::CONT);
            expect_heir(&mut observer, pid, &["up", "stall"]);
            expect_ordinary_life(&mut observer, &mut heir);
        }
        observer.stop();
    });
}

/// An agent stalls and exits, and its pid goes to a process whose first nonce follows the last one of the old
/// process. It is a different process all the same.
#[test]
fn fault_07_a_newcomer_whose_numbers_go_on_does_not_end_the_silence_of_the_dead() {
    in_pid_namespace(|pids| {
        let mut observer = Observer::start(with_room());
        let mut dead = Agent::start_with(&observer, silent(Client::Rust02));
        let pid = dead.pid();
        dead.beat();
        observer.expect("up", pid, SOON);
        observer.expect("stall", pid, T + SOON);
        observer.signal(Signal::STOP);
        end(&mut dead);
        let mut heir = pids.start_as(pid, || Agent::start_with(&observer, silent(Client::Rust02)));
        let frame = crate::common::wire::frame(pid, 2);
        assert!(heir.send(&frame));
        observer.signal(Signal::CONT);
        expect_heir(&mut observer, pid, &["up", "stall"]);
        heir.ask("go");
        end(&mut heir);
        observer.expect("exit", pid, T + SOON);
        observer.none_of("resume", pid);
        observer.stop();
    });
}

/// A process exits and its pid goes to a process that never beats. The exit is reported: the new process
/// neither keeps the agent alive nor stalls.
#[test]
fn fault_07_a_newcomer_that_never_beats_neither_resurrects_nor_condemns() {
    in_pid_namespace(|pids| {
        let mut observer = Observer::start(Options::default());
        for client in Client::RUST {
            let mut dead = Agent::start(client, &observer);
            let pid = dead.pid();
            observer.expect("up", pid, SOON);
            observer.watch(T / 4);
            end(&mut dead);
            let _sleeper = Sleeper::start_as(pids, pid);
            observer.expect("exit", pid, T + SOON);
            observer.watch(2 * T);
            assert_eq!(story(&mut observer, pid), ["up", "exit"], "{:#?}", told(&mut observer, pid));
        }
        observer.stop();
    });
}

/// A process that is no agent. Killed on drop.
struct Sleeper(Child);

impl Sleeper {
    fn start_as(pids: &PidNamespace, pid: u32) -> Self {
        pids.choose(pid, || {
            let child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("sleep");
            Some(Self(child)).filter(|sleeper| sleeper.0.id() == pid)
        })
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// --- late frames ----------------------------------------------------------------------------------

/// Frames of a known agent are read after it exited and was reaped, and a new process with its pid beats.
#[test]
fn fault_08_late_frames_of_a_known_agent_are_not_its_heirs() {
    in_pid_namespace(|pids| {
        let mut observer = Observer::start(with_room());
        for client in Client::RUST {
            let mut dead = Agent::start_with(&observer, silent(client));
            let pid = dead.pid();
            for _ in 0..5 {
                dead.beat();
            }
            observer.expect("up", pid, SOON);
            observer.signal(Signal::STOP);
            for _ in 0..20 {
                dead.beat();
            }
            end(&mut dead);
            let mut heir = pids.start_as(pid, || Agent::start(client, &observer));
            heir.ask("beat");
            observer.signal(Signal::CONT);
            let up = expect_heir(&mut observer, pid, &["up"]);
            assert!(up.u64("nonce") < 25, "the heir counts for itself: {up}");
            expect_ordinary_life(&mut observer, &mut heir);
        }
        observer.stop();
    });
}

/// The same for an unknown agent: its first frames are read together with those of the new process, so that a
/// lookup finds only the new one. If the old process sent one beat, even the nonces are equal.
#[test]
fn fault_08_late_frames_of_an_unknown_agent_are_an_agent_that_is_dead() {
    in_pid_namespace(|pids| {
        let mut observer = Observer::start(with_room());
        for (client, beats) in [(Client::Rust01, 1), (Client::Rust02, 1), (Client::Rust02, 20)] {
            let mut dead = Agent::start_with(&observer, silent(client));
            let pid = dead.pid();
            observer.signal(Signal::STOP);
            for _ in 0..beats {
                dead.beat();
            }
            // The kernel reports start times in steps of 10 ms: within a step, both holders look the same.
            observer_is_stopped_for_a_moment();
            end(&mut dead);
            let mut heir = pids.start_as(pid, || Agent::start(client, &observer));
            heir.ask("beat");
            observer.signal(Signal::CONT);
            observer.expect("up", pid, SOON);
            let up = observer.expect("up", pid, SOON);
            assert_eq!(story(&mut observer, pid), ["up", "exit", "up"], "{:#?}", told(&mut observer, pid));
            let first = &told(&mut observer, pid)[0];
            assert!(first.u64("session") < up.u64("session"), "{first}\n{up}");
            expect_ordinary_life(&mut observer, &mut heir);
        }
        observer.stop();
    });
}

/// A stopped observer reports nothing to wait for, so the test sleeps.
fn observer_is_stopped_for_a_moment() {
    std::thread::sleep(Duration::from_millis(50));
}

/// A process exits between its first beat and its lookup: it is reported as up, then as exited.
#[test]
fn fault_08_an_agent_that_dies_before_it_is_looked_up_is_up_and_then_gone() {
    let mut observer = Observer::start(with_room());
    for client in Client::RUST {
        let mut dead = Agent::start_with(&observer, silent(client));
        let pid = dead.pid();
        observer.signal(Signal::STOP);
        dead.beat();
        end(&mut dead);
        observer.signal(Signal::CONT);
        observer.expect("exit", pid, T + SOON);
        observer.watch(T + T / 2);
        assert_eq!(story(&mut observer, pid), ["up", "exit"], "{:#?}", told(&mut observer, pid));
    }
    observer.stop();
}

// --- nothing is inherited -------------------------------------------------------------------------

/// A new process gets the pid of an agent that was critical, sent several streams and used protocol 0.2. The
/// new process is ok, sends one stream and uses 0.1: none of its frames is refused because of the old agent.
#[test]
fn threat_05_a_newcomer_inherits_no_state_of_the_dead() {
    in_pid_namespace(|pids| {
        let mut observer = Observer::start(with_room());
        let mut dead = Agent::start(Client::Rust02, &observer);
        let pid = dead.pid();
        observer.expect("up", pid, SOON);
        for _ in 0..2 {
            for _ in 0..20 {
                dead.ask("beat");
            }
            dead.ask("open");
        }
        observer.expect("mixed", pid, SOON);
        dead.ask("status critical");
        observer.expect("status", pid, SOON);
        end(&mut dead);
        let gone = observer.expect("exit", pid, T + SOON);
        assert_eq!(gone.str("status"), "critical", "{gone}");

        let before = story(&mut observer, pid).len();
        let mut heir = pids.start_as(pid, || Agent::start(Client::Rust01, &observer));
        let up = observer.expect("up", pid, SOON);
        assert_eq!(up.str("status"), "ok", "{up}");
        assert_eq!(story(&mut observer, pid).len(), before + 1, "{:#?}", told(&mut observer, pid));
        for _ in 0..20 {
            heir.ask("beat");
        }
        heir.ask("open");
        // Two streams are reported as a second session, not as `mixed`, whatever the old process had.
        observer.expect_that("its second stream", SOON, |event| {
            event.is("session", pid) && event.u64("session") == up.u64("session")
        });
        assert_eq!(observer.count("mixed", pid), 1, "the dead one's: {:#?}", told(&mut observer, pid));
        expect_ordinary_life(&mut observer, &mut heir);
        let table = observer.table();
        assert_eq!(table.shard(0, "refused"), 0, "{table}");
        observer.stop();
    });
}

/// The same when the frames of both are read at once: the new process's version and status are not changes of
/// the old one.
#[test]
fn threat_05_what_a_newcomer_says_differently_is_no_change_of_the_dead() {
    in_pid_namespace(|pids| {
        let mut observer = Observer::start(with_room());
        for (first, second) in [(Client::Rust02, Client::Rust01), (Client::Rust01, Client::Rust02)] {
            let mut dead = Agent::start(first, &observer);
            let pid = dead.pid();
            observer.expect("up", pid, SOON);
            dead.ask("status degraded");
            observer.expect("status", pid, SOON);
            observer.signal(Signal::STOP);
            end(&mut dead);
            let mut heir = pids.start_as(pid, || Agent::start(second, &observer));
            for _ in 0..5 {
                heir.ask("beat");
            }
            observer.signal(Signal::CONT);
            let up = expect_heir(&mut observer, pid, &["up", "status"]);
            assert_eq!(up.str("status"), "ok", "{up}");
            expect_ordinary_life(&mut observer, &mut heir);
        }
        observer.stop();
    });
}

/// An agent in a container exits, and its pid outside goes to an ordinary process: that one has no inner pid.
/// Then the other way round.
#[test]
fn threat_05_a_newcomer_inherits_no_inner_pid() {
    in_pid_namespace(|pids| {
        let mut observer = Observer::start(Options::default());
        let container =
            || AgentOptions { within: "unshare --pid --fork --kill-child".into(), ..AgentOptions::default() };
        let mut first = Agent::start_with(&observer, container());
        let pid = first.pid();
        let up = observer.expect("up", pid, SOON);
        assert_eq!(up.u64("ns_pid"), 1, "{up}");
        end(&mut first);
        let mut second = pids.start_as(pid, || Agent::start(Client::Rust02, &observer));
        let up = observer.expect("up", pid, T + SOON);
        assert!(!up.has("ns_pid"), "{up}");
        assert_eq!(story(&mut observer, pid), ["up", "exit", "up"]);
        expect_ordinary_life(&mut observer, &mut second);
        observer.none_of("auth", pid);
        observer.stop();
    });
}

/// A forger exits, and its pid goes to an honest process, whose frames count as beats. The only event about
/// the forger is the forgery.
#[test]
fn threat_05_a_newcomer_is_no_forger_because_the_dead_was_one() {
    in_pid_namespace(|pids| {
        let mut observer = Observer::start(with_room());
        let victim = Agent::start(Client::Rust02, &observer);
        observer.expect("up", victim.pid(), SOON);
        for is_stopped in [false, true] {
            let mut forger = Agent::start_with(&observer, silent(Client::Rust02));
            let pid = forger.pid();
            assert!(forger.send(&crate::common::wire::frame(victim.pid(), 1_000_000)));
            let auth = observer.expect_kind("auth", SOON);
            assert_eq!(auth.u64("attested"), u64::from(pid), "{auth}");
            if is_stopped {
                // The observer finds the exit and the new process's beats at the same time.
                observer.signal(Signal::STOP);
            }
            end(&mut forger);
            let mut heir = pids.start_as(pid, || Agent::start(Client::Rust02, &observer));
            heir.ask("beat");
            if is_stopped {
                observer.signal(Signal::CONT);
            }
            expect_story(&mut observer, pid, &["up"]);
            expect_ordinary_life(&mut observer, &mut heir);
        }
        let told = observer.events().iter().filter(|event| event.kind() == "auth").count();
        assert_eq!(told, 2, "each forgery is told once");
        observer.stop();
    });
}

// --- exec and fork --------------------------------------------------------------------------------

/// A process executes another program, which starts its own nonces: the process stays the same, its session
/// is new.
#[test]
fn fault_06_another_program_in_the_same_process_is_the_same_agent_in_a_new_session() {
    let mut observer = Observer::start(Options::default());
    let copy = observer.place().base().join("another-agent");
    copy_program(rust_program(), &copy);
    let twin = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/agents/stock_agent.py");
    let programs = [
        format!("{} --client 0.2 --dir {}", copy.display(), observer.dir().display()),
        format!("{} --client 0.1 --dir {}", copy.display(), observer.dir().display()),
        format!("{} {twin} --dir {}", python().display(), observer.dir().display()),
    ];
    for client in Client::RUST {
        for program in &programs {
            let mut agent = Agent::start(client, &observer);
            let pid = agent.pid();
            let up = observer.expect("up", pid, SOON);
            for _ in 0..20 {
                agent.ask("beat");
            }
            agent.tell(format_args!("exec {program}"));
            agent.expect_up();
            let session = observer.expect("session", pid, SOON);
            assert_eq!(session.str("why"), "exec", "{program}\n{session}");
            assert!(session.u64("session") > up.u64("session"), "{session}");
            let begun = story(&mut observer, pid).len();
            observer.watch(T + T / 2);
            assert_eq!(story(&mut observer, pid).len(), begun, "{:#?}", told(&mut observer, pid));
            agent.signal(Signal::STOP);
            let stall = observer.expect("stall", pid, T + SOON);
            assert_eq!(stall.u64("session"), session.u64("session"), "{stall}");
            end(&mut agent);
            observer.expect("exit", pid, T + SOON);
            assert_eq!(story(&mut observer, pid), ["up", "session", "stall", "exit"]);
        }
    }
    observer.stop();
}

/// A child inherits its parent's socket and still beats after the parent exited. The exit is reported, and
/// the child is an agent of its own.
#[test]
fn threat_04_a_child_that_beats_on_does_not_hide_the_death_of_its_parent() {
    let mut observer = Observer::start(Options::default());
    for client in Client::RUST {
        let mut parent = Agent::start(client, &observer);
        let pid = parent.pid();
        let up = observer.expect("up", pid, SOON);
        let child = parent.fork_orphan();
        let up_too = observer.expect("up", child, SOON);
        assert!(up_too.u64("session") > up.u64("session"), "{up_too}");
        end(&mut parent);
        observer.expect("exit", pid, T + SOON);
        observer.watch(2 * T);
        assert_eq!(story(&mut observer, pid), ["up", "exit"], "{:#?}", told(&mut observer, pid));
        // It cannot be asked. On a busy machine it may have to wait for a core; no beat is missing then.
        let of_child = told(&mut observer, child);
        let is_real = |event: &&Event| match event.kind() {
            "stall" => true,
            "resume" => event.u64("lost") == 0,
            _ => false,
        };
        let rest: Vec<_> = of_child.iter().filter(|event| !is_real(event)).map(Event::kind).collect();
        assert_eq!(rest, ["up"], "{of_child:#?}");
        let is_back = |of: &str| of_child.iter().filter(|event| event.kind() == of).count();
        assert!(is_back("stall") - is_back("resume") <= 1, "{of_child:#?}");
        signal(child, Signal::STOP);
        observer.expect("stall", child, T + SOON);
        signal(child, Signal::KILL);
        let exit = observer.expect("exit", child, T + SOON);
        assert!(exit.u64("silent_ns") >= ns(T), "{exit}");
    }
    observer.stop();
}

/// A parent that falls silent stalls, although its child still beats on the same socket.
#[test]
fn fault_05_a_child_that_beats_on_does_not_hide_the_silence_of_its_parent() {
    let mut observer = Observer::start(Options::default());
    let mut parent = Agent::start(Client::Rust02, &observer);
    let pid = parent.pid();
    observer.expect("up", pid, SOON);
    let child = parent.fork();
    observer.expect("up", child, SOON);
    parent.signal(Signal::STOP);
    observer.expect("stall", pid, T + SOON);
    observer.watch(T);
    assert_eq!(story(&mut observer, child), ["up"]);
    parent.signal(Signal::CONT);
    observer.expect("resume", pid, SOON);
    assert_eq!(story(&mut observer, pid), ["up", "stall", "resume"]);
    observer.stop();
}

// --- what a process becomes -----------------------------------------------------------------------

/// The threshold that a rule of these tests sets.
const PATIENCE: Duration = T.saturating_mul(3);

/// Gives processes that this matches the long threshold.
fn patient_if(matches: &str) -> Options {
    let config = format!("[[rule]]\nmatch = {{ {matches} }}\nthreshold = \"{}s\"\n", PATIENCE.as_secs());
    Options { shards: 1, config, ..Options::default() }
}

/// The agent stalls once its silence reaches its rule's threshold, and not before.
fn expect_patience(observer: &mut Observer, agent: &Agent) {
    let stall = observer.expect("stall", agent.pid(), PATIENCE + SOON);
    assert!(stall.u64("silent_ns") >= ns(PATIENCE), "{stall}");
}

/// A server forks its workers and names them after they have beaten.
#[test]
fn fault_61_a_process_is_judged_by_the_name_it_took_after_its_first_beat() {
    let mut observer = Observer::start(patient_if("comm = \"patient\""));
    for client in Client::RUST {
        let mut agent = Agent::start_with(&observer, silent(client));
        agent.beat();
        observer.expect("up", agent.pid(), SOON);
        agent.ask("name patient");
        expect_patience(&mut observer, &agent);
        agent.beat();
        assert_eq!(
            expect_story(&mut observer, agent.pid(), &["up", "stall", "resume"])[2].u64("lost"),
            0,
            "it is told as any other"
        );
    }
    observer.stop();
}

/// A server connects as root and then changes to its own user.
#[test]
fn fault_61_a_process_that_becomes_another_user_is_that_users_agent() {
    let mut observer = Observer::start(patient_if("uid = 4711"));
    for client in Client::RUST {
        let mut agent = Agent::start_with(&observer, silent(client));
        agent.beat();
        let up = observer.expect("up", agent.pid(), SOON);
        agent.ask("become 4711");
        agent.beat();
        let session = observer.expect("session", agent.pid(), SOON);
        assert_eq!(session.str("why"), "uid", "{session}");
        assert!(session.u64("session") > up.u64("session"), "{session}");
        expect_patience(&mut observer, &agent);
        assert_eq!(story(&mut observer, agent.pid()), ["up", "session", "stall"]);
    }
    observer.stop();
}

/// Every frame of a process with several streams counts as a beat, whatever its nonce. Nonces that start
/// again may still come from another program.
#[test]
fn fault_62_another_program_is_noticed_whatever_the_number_of_streams() {
    let mut observer = Observer::start(patient_if("exe = \"*/another-agent\""));
    let copy = observer.place().base().join("another-agent");
    copy_program(rust_program(), &copy);
    for client in Client::RUST {
        let mut agent = Agent::start(client, &observer);
        let pid = agent.pid();
        observer.expect("up", pid, SOON);
        for _ in 0..2 {
            for _ in 0..20 {
                agent.ask("beat");
            }
            agent.ask("open");
        }
        observer.expect("mixed", pid, SOON);
        let socket = observer.socket(0);
        agent.tell(format_args!("exec {} --client 0.2 --socket {}", copy.display(), socket.display()));
        agent.expect_up();
        let is_exec = |event: &Event| event.is("session", pid) && event.str("why") == "exec";
        observer.expect_that("the exec", SOON, is_exec);
        agent.signal(Signal::STOP);
        expect_patience(&mut observer, &agent);
        end(&mut agent);
        observer.expect("exit", pid, SOON);
        assert_eq!(observer.count("mixed", pid), 1);
    }
    observer.stop();
}

/// The observer runs as an ordinary user and cannot read which programs root's processes run: the rule by
/// program may match, so its threshold holds.
#[test]
fn fault_64_a_rule_that_cannot_be_decided_makes_no_threshold_shorter() {
    let options = patient_if("exe = \"/nowhere/*\"");
    let config = format!("mode = \"0666\"\n{}", options.config);
    let mut observer = Observer::start(Options { uid: Some(4321), config, ..options });
    assert!(observer.stderr().contains("without CAP_SYS_PTRACE the programs of other users"));
    let mut agent = Agent::start_with(&observer, silent(Client::Rust02));
    agent.beat();
    expect_patience(&mut observer, &agent);
    let mut explain = program();
    explain.args(["explain", &agent.pid().to_string(), "--dir"]).arg(observer.dir());
    let said = explain.output().expect("run explain");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("Program unreadable"), "{said}");
    observer.stop();
}
