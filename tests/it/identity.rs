//! Which process it is: the kernel's pid and which holder of that pid. Nothing carries over from one to the
//! next, and what one process does hides nothing of another.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{
    Agent, AgentOptions, Client, Event, Observer, Options, PidNamespace, SOON, T, copy_program,
    in_pid_namespace, ns, python, rust_program, signal,
};
use rustix::process::Signal;

/// Beats only when told.
fn silent(client: Client) -> AgentOptions {
    AgentOptions { client, beats: Some(0), ..AgentOptions::default() }
}

/// One shard with a queue that holds what comes while the observer is stopped.
fn with_room() -> Options {
    Options { shards: 1, queue_limit: Some(512), ..Options::default() }
}

fn end(agent: &mut Agent) {
    agent.signal(Signal::KILL);
    agent.wait();
}

/// Everything told of this pid so far.
fn told(observer: &mut Observer, pid: u32) -> Vec<Event> {
    observer.events().iter().filter(|event| event.pid() == Some(pid)).cloned().collect()
}

/// The kinds of everything told of this pid so far, in order.
fn story(observer: &mut Observer, pid: u32) -> Vec<String> {
    told(observer, pid).iter().map(|event| event.kind().to_owned()).collect()
}

/// Waits until all that was told of this pid is this, in this order, and returns it.
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

/// Waits until the death of one holder of the pid and the first beat of the next were told, and nothing else
/// but `before`: two sessions, and nothing of one in the other.
fn expect_heir(observer: &mut Observer, pid: u32, before: &[&str]) -> Event {
    let expected: Vec<_> = before.iter().copied().chain(["exit", "up"]).collect();
    let mut told = expect_story(observer, pid, &expected);
    let up = told.pop().expect("two at least");
    let session = |event: &Event| event.u64("session");
    assert!(told.iter().all(|event| session(event) == session(&told[0])), "one session: {told:#?}");
    assert!(session(&up) > session(&told[0]), "another process is another session: {up}");
    up
}

/// The heir is watched like anybody else: alive while it beats, stalled when silent, back, and dead.
fn expect_ordinary_life(observer: &mut Observer, agent: &mut Agent) {
    let pid = agent.pid();
    let before = story(observer, pid);
    let expect = |observer: &mut Observer, more: &[&str]| {
        let expected: Vec<_> = before.iter().map(String::as_str).chain(more.iter().copied()).collect();
        expect_story(observer, pid, &expected)
    };
    observer.watch(T + T / 2);
    expect(observer, &[]);
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

/// A process dies and another one gets its pid and beats, all before the silence is a stall. The dead is told
/// as such, the newcomer begins anew, and neither speaks for the other.
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

/// The same long after the death was told: nobody remembers the dead.
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

/// An agent is stalled and dies, and its pid goes to a process that beats. That beat is nobody's return.
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
            // So that it finds the death and the newcomer's beats at the same time.
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

/// An agent is stalled, dies, and its pid goes to a process whose first beat follows the dead one's last by
/// its number: even so it is somebody else.
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

/// A process dies and its pid goes to one that never beats. The dead is told as dead: neither is the
/// newcomer's life the agent's, nor its silence a stall.
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

/// A process that has nothing to do with us. Killed when dropped.
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

/// Frames of a known agent are read after it died, was reaped, and a newcomer with its pid began to beat.
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

/// The same of an agent that nobody knew before: its first frames are read together with its heir's, so
/// that whoever is looked up then is the heir. With one beat of the dead, the numbers even are the same.
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
            // Start times are told in steps of 10 ms: closer than that, one holder looks like the other.
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

/// It tells nothing while it is stopped, so that there is nothing to wait for but time.
fn observer_is_stopped_for_a_moment() {
    std::thread::sleep(Duration::from_millis(50));
}

/// A process dies between its first beat and the look at who it is: it was there, and it is gone.
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

/// A newcomer gets the pid of an agent that was critical, in several streams at once, and of protocol 0.2. It
/// is ok, in one stream and of 0.1: no frame of it is refused for what the dead had been.
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
        // Two streams are no more than two, whatever the dead had: both are told, and `mixed` is not.
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

/// The same when the frames of both are read at once: what the newcomer says differently is no change of the
/// dead one, neither its version nor its status.
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

/// An agent of a container dies, and its pid out here goes to an ordinary process: that one has no inner pid.
/// And the other way round.
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

/// A forger dies, and its pid goes to an honest process: its frames are beats like any other's, and of the
/// forger nothing is told but the forgery.
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
                // So that it finds the death and the newcomer's beats at the same time.
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

/// A process executes another program, which beats with numbers of its own: the same process, and another
/// session.
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

/// A child inherits its parent's socket and beats on after the parent died. The death is told, and the child
/// is an agent of its own.
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
        assert_eq!(story(&mut observer, child), ["up"], "{:#?}", told(&mut observer, child));
        signal(child, Signal::STOP);
        observer.expect("stall", child, T + SOON);
        signal(child, Signal::KILL);
        let exit = observer.expect("exit", child, T + SOON);
        assert!(exit.u64("silent_ns") >= ns(T), "{exit}");
    }
    observer.stop();
}

/// And a parent that falls silent is stalled, although its child goes on with the same socket.
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

/// The silence that a rule of these tests allows.
const PATIENCE: Duration = T.saturating_mul(3);

/// Processes that this matches may be silent for long.
fn patient_if(matches: &str) -> Options {
    let config = format!("[[rule]]\nmatch = {{ {matches} }}\nthreshold = \"{}s\"\n", PATIENCE.as_secs());
    Options { shards: 1, config, ..Options::default() }
}

/// Its silence is a stall once it is as long as its rule allows, and not before.
fn expect_patience(observer: &mut Observer, agent: &Agent) {
    let stall = observer.expect("stall", agent.pid(), PATIENCE + SOON);
    assert!(stall.u64("silent_ns") >= ns(PATIENCE), "{stall}");
}

/// A server forks its workers and names them then, which by that time have beaten.
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

/// A server connects as root and becomes its own user then.
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

/// Of a process with several streams at once every frame is life whatever its number; a number that begins anew
/// may be another program's all the same.
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

/// The observer is an ordinary user's and may not read what root's processes run: the rule that looks at it may
/// hold, so its patience does.
#[test]
fn fault_64_a_rule_that_cannot_be_decided_makes_no_threshold_shorter() {
    let options = patient_if("exe = \"/nowhere/*\"");
    let config = format!("mode = \"0666\"\n{}", options.config);
    let mut observer = Observer::start(Options { uid: Some(4321), config, ..options });
    assert!(observer.stderr().contains("without CAP_SYS_PTRACE the programs of other users"));
    let mut agent = Agent::start_with(&observer, silent(Client::Rust02));
    agent.beat();
    expect_patience(&mut observer, &agent);
    let mut explain = Command::new(env!("CARGO_BIN_EXE_varta-fleet"));
    explain.args(["explain", &agent.pid().to_string(), "--dir"]).arg(observer.dir());
    let said = explain.output().expect("run explain");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("Program unreadable"), "{said}");
    observer.stop();
}
