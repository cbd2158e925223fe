//! The observer's side: a spawner that is started, or connected to, and started again when it is gone.
//!
//! Thread: that of actions. Never blocks: what has no room is not taken, and what is not there is tried again later.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::net::{SocketAddrUnix, SocketType};

use crate::message::{Reason, Shown};
use crate::spawner::line::{Line, Received};
use crate::spawner::protocol::{Order, Report, VERSION};
use crate::sys::unix_socket::open_connected;
use crate::time::MonoNs;

/// The argument by which this program is a spawner.
const SPAWNER: &str = "spawner";
/// How long a spawner may take until it says so.
const HELLO_WITHIN_NS: u64 = 10_000_000_000;
/// The shortest and the longest pause between two attempts.
const PAUSE_NS: std::ops::RangeInclusive<u64> = 1_000_000_000..=30_000_000_000;

/// How there is a spawner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// This program, started once more.
    Own,
    /// The one that listens at this path, if root or the user of this process runs it.
    Socket(PathBuf),
}

/// An order was not taken; nothing of it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// There is no spawner now.
    NotThere,
    /// It has not read the orders of before.
    Full,
    /// The order is longer than a message.
    TooLong,
}

/// The spawner is gone, and with it whatever it would have reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Why, in words.
    pub why: String,
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotThere => "there is no spawner",
            Self::Full => "the spawner does not read its orders",
            Self::TooLong => "the order is too long",
        })
    }
}

/// A spawner, or the wish for one.
#[derive(Debug)]
pub struct Spawner {
    how: How,
    /// What is started for [`How::Own`].
    program: Vec<String>,
    line: Option<Line>,
    /// Whether its hello was received.
    is_there: bool,
    since: MonoNs,
    /// No attempt before.
    not_before: MonoNs,
    pause_ns: u64,
    connections: u64,
    /// Why there is none, to be taken.
    lost: Option<Lost>,
    /// Own spawners that have not ended; all but the last have lost their connection.
    children: Vec<Child>,
}

impl Spawner {
    /// None yet: see [`Spawner::keep`].
    pub fn new(how: How) -> Self {
        Self {
            how,
            program: vec!["/proc/self/exe".to_owned(), SPAWNER.to_owned()],
            line: None,
            is_there: false,
            since: MonoNs(0),
            not_before: MonoNs(0),
            pause_ns: *PAUSE_NS.start(),
            connections: 0,
            lost: None,
            children: Vec::new(),
        }
    }

    /// Starts one or connects if there is none: at once for the first time, then after a pause of 1 s that doubles with
    /// each attempt up to 30 s. It is 1 s again after a connection that lasted that long. To be called each second or
    /// so. An exec of this program, or some system calls.
    pub fn keep(&mut self, now: MonoNs) {
        self.children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        if self.line.is_some() {
            let waited = now.since(self.since);
            if !self.is_there && waited >= HELLO_WITHIN_NS {
                self.lose("it did not say hello within 10 s");
            } else if self.is_there && waited >= *PAUSE_NS.end() {
                self.pause_ns = *PAUSE_NS.start();
            }
            return;
        }
        if now < self.not_before {
            return;
        }
        self.not_before = now + self.pause_ns;
        self.pause_ns = (2 * self.pause_ns).min(*PAUSE_NS.end());
        self.since = now;
        let line = match &self.how {
            How::Own => start(&self.program).map(|(child, line)| {
                self.children.push(child);
                line
            }),
            How::Socket(path) => connect(path),
        };
        match line {
            Ok(line) => {
                self.line = Some(line);
                self.connections += 1;
            }
            Err(error) => {
                let what = match &self.how {
                    How::Own => "cannot be started".to_owned(),
                    How::Socket(path) => format!("cannot be reached at {}", Shown(path.display())),
                };
                self.lost = Some(Lost { why: format!("{what}: {}", Reason(&error)) });
            }
        }
    }

    /// Whether there is one that takes orders.
    pub const fn is_there(&self) -> bool {
        self.is_there
    }

    /// Gives an order, with a pidfd of the process that it is about.
    ///
    /// # Errors
    /// It was not taken.
    pub fn order(&mut self, order: &Order, pidfd: Option<BorrowedFd<'_>>) -> Result<(), NotTaken> {
        let line = self.line.as_ref().filter(|_| self.is_there).ok_or(NotTaken::NotThere)?;
        let message = order.encode().ok_or(NotTaken::TooLong)?;
        match line.send(&message, pidfd) {
            Ok(true) => Ok(()),
            Ok(false) => Err(NotTaken::Full),
            // What it still reported is read first; then its end is noticed.
            Err(_) => Err(NotTaken::NotThere),
        }
    }

    /// The next report, or that the connection ended or could not be made: orders that are under way are lost then.
    /// `None`: there is nothing now. A hello is not reported.
    pub fn take(&mut self) -> Option<Result<Report, Lost>> {
        loop {
            if let Some(lost) = self.lost.take() {
                return Some(Err(lost));
            }
            let received = match self.line.as_ref()?.receive() {
                Ok(Received::Nothing) => return None,
                Ok(Received::End) => Err("it hung up".to_owned()),
                Ok(Received::Message(message, _)) => {
                    Report::decode(&message).map_err(|error| format!("it sent nonsense: {error}"))
                }
                Err(error) => Err(Reason(&error).to_string()),
            };
            match received {
                Ok(Report::Hello { version: VERSION }) if !self.is_there => self.is_there = true,
                Ok(Report::Hello { version }) => {
                    self.lose(&format!("it speaks version {version}, and this one {VERSION}"));
                }
                Ok(_) if !self.is_there => self.lose("it did not say hello first"),
                Ok(report) => return Some(Ok(report)),
                Err(why) => self.lose(&why),
            }
        }
    }

    /// What can be read when there is something to [`take`](Self::take).
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.line.as_ref().map(AsFd::as_fd)
    }

    /// How often there was a new one after the first.
    pub const fn restarts(&self) -> u64 {
        self.connections.saturating_sub(1)
    }

    fn lose(&mut self, why: &str) {
        self.line = None;
        if !self.is_there {
            // An own one that says nothing would stay.
            if let Some(child) = self.children.last_mut() {
                // Ignored: it may have ended.
                let _ = child.kill();
            }
        }
        self.is_there = false;
        self.lost = Some(Lost { why: why.to_owned() });
    }
}

/// In a process group of its own, so that it is not what a terminal interrupts. Without code of ours between fork and exec:
/// the standard library needs no copy of the memory then.
fn start(program: &[String]) -> io::Result<(Child, Line)> {
    let (line, other) = Line::pair()?;
    let (name, arguments) = program.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let child = Command::new(name)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::from(other))
        .stdout(Stdio::null())
        .spawn()?;
    Ok((child, line))
}

fn connect(path: &Path) -> io::Result<Line> {
    let socket = open_connected(SocketType::SEQPACKET)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let line = Line::new(socket);
    let uid = line.peer()?.uid;
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        let why = format!("user {uid} listens there, who is neither root nor the user of this process");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(line)
}

impl Drop for Spawner {
    /// An own one ends by itself once its children have; it becomes a child of init if this process ends first.
    fn drop(&mut self) {
        self.line = None;
        self.children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags};
    use rustix::net::{SocketFlags, accept_with};

    use super::*;
    use crate::spawner::child::poll_until;
    use crate::spawner::protocol::{Deed, MESSAGE_BYTES_MAX};
    use crate::spawner::serve::serve_spawner;
    use crate::sys::unix_socket::{bind, listen, shape_of};

    const SECOND: u64 = 1_000_000_000;
    const SOON: Duration = Duration::from_secs(30);

    /// Not a test, but the program that one starts: this one.
    #[test]
    fn be_a_spawner() {
        let is_started_by_one = |(_, kind)| kind == SocketType::SEQPACKET;
        if shape_of(rustix::stdio::stdin()).kind.is_some_and(is_started_by_one) {
            serve_spawner().unwrap();
            std::process::exit(0);
        }
    }

    fn own() -> Spawner {
        let mut spawner = Spawner::new(How::Own);
        let name = concat!(module_path!(), "::be_a_spawner").split_once("::").unwrap().1;
        spawner.program = ["/proc/self/exe", name, "--exact", "--nocapture"].map(str::to_owned).into();
        spawner
    }

    fn order(id: u64, script: &str) -> Order {
        let words = ["/bin/sh", "-c", script].map(str::to_owned).into();
        let (deed, env) = (Deed::Run(words), Vec::new());
        Order::Start { id, pid: 1, deed, timeout_ns: 60 * SECOND, user: None, env, evidence: None }
    }

    /// Waits for the next one, or until there is a spawner.
    fn next(spawner: &mut Spawner) -> Option<Result<Report, Lost>> {
        let until = Instant::now() + SOON;
        let was_there = spawner.is_there();
        loop {
            let taken = spawner.take();
            if taken.is_some() || !was_there && spawner.is_there() {
                return taken;
            }
            assert!(Instant::now() < until, "nothing comes");
            let mut fds = [PollFd::from_borrowed_fd(spawner.fd().unwrap(), PollFlags::IN)];
            poll_until(&mut fds, Some(until)).unwrap();
        }
    }

    #[test]
    fn an_own_one_takes_orders_and_is_started_again_when_it_was_killed() {
        let mut spawner = own();
        assert_eq!(spawner.order(&order(1, "exit"), None), Err(NotTaken::NotThere));
        assert!(spawner.fd().is_none() && spawner.take().is_none());
        spawner.keep(MonoNs(0));
        assert_eq!(spawner.order(&order(1, "exit"), None), Err(NotTaken::NotThere), "before its hello");
        assert_eq!(next(&mut spawner), None);
        spawner.order(&order(1, "echo done"), None).unwrap();
        assert!(matches!(next(&mut spawner), Some(Ok(Report::Started { id: 1, child: Some(_) }))));
        let ended = next(&mut spawner);
        assert!(
            matches!(&ended, Some(Ok(Report::Ended { id: 1, code: Some(0), output, .. })) if output == "done\n"),
            "{ended:?}"
        );

        let kill = format!("kill -KILL {}; sleep 1000", spawner.children[0].id());
        spawner.order(&order(2, &kill), None).unwrap();
        let lost = loop {
            match next(&mut spawner).unwrap() {
                Ok(report) => assert!(matches!(report, Report::Started { .. }), "{report:?}"),
                Err(lost) => break lost,
            }
        };
        assert_eq!((lost.why.as_str(), spawner.is_there(), spawner.restarts()), ("it hung up", false, 0));
        spawner.keep(MonoNs(SECOND - 1));
        assert!(spawner.fd().is_none(), "not so soon");
        spawner.keep(MonoNs(SECOND));
        assert_eq!((next(&mut spawner), spawner.restarts()), (None, 1));
        spawner.order(&order(3, "exit 5"), None).unwrap();
        next(&mut spawner);
        assert!(matches!(next(&mut spawner), Some(Ok(Report::Ended { id: 3, code: Some(5), .. }))));
    }

    #[test]
    fn attempts_are_made_after_pauses_that_grow_and_shrink() {
        let mut spawner = Spawner::new(How::Own);
        spawner.program = vec!["/there/is/none".to_owned()];
        let mut attempts = Vec::new();
        for second in 0..100 {
            spawner.keep(MonoNs(second * SECOND));
            if let Some(lost) = spawner.take() {
                assert_eq!(lost.unwrap_err().why, "cannot be started: no such file or directory");
                attempts.push(second);
            }
        }
        assert_eq!(attempts, [0, 1, 3, 7, 15, 31, 61, 91]);
        assert_eq!(spawner.restarts(), 0);
    }

    struct Other {
        listener: OwnedFd,
        _dir: tempfile::TempDir,
        path: PathBuf,
    }

    impl Other {
        fn listen() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("act.sock");
            let listener = open_connected(SocketType::SEQPACKET).unwrap();
            bind(listener.as_fd(), &path).unwrap();
            listen(listener.as_fd()).unwrap();
            Self { listener, _dir: dir, path }
        }

        fn accept(&self) -> Line {
            Line::new(accept_with(&self.listener, SocketFlags::CLOEXEC).unwrap())
        }
    }

    const HELLO: &str = r#"{"report":"hello","version":1}"#;

    #[test]
    fn one_that_listens_is_connected_to_and_heard_only_if_it_makes_sense() {
        let other = Other::listen();
        let long = " ".repeat(MESSAGE_BYTES_MAX + 1);
        let started = r#"{"report":"started","id":1,"child":2}"#;
        for (said, why) in [
            (vec![r#"{"report":"hello","version":2}"#], "it speaks version 2, and this one 1"),
            (vec![HELLO, HELLO], "it speaks version 1, and this one 1"),
            (vec![started], "it did not say hello first"),
            (vec![HELLO, "x"], "it sent nonsense: expected value at line 1 column 1"),
            (vec![HELLO, long.as_str()], "the message is too long"),
            (vec![HELLO, r#"{"report":"started","id":-1,"child":2}"#], "it sent nonsense: "),
        ] {
            let mut spawner = Spawner::new(How::Socket(other.path.clone()));
            spawner.keep(MonoNs(0));
            let line = other.accept();
            for message in said {
                line.send(message.as_bytes(), None).unwrap();
            }
            let lost = spawner.take().unwrap().unwrap_err();
            assert!(lost.why.starts_with(why), "{lost:?}");
            assert!(spawner.fd().is_none() && !spawner.is_there());
        }
    }

    #[test]
    fn what_was_reported_before_the_end_is_taken() {
        let other = Other::listen();
        let mut spawner = Spawner::new(How::Socket(other.path.clone()));
        spawner.keep(MonoNs(0));
        let line = other.accept();
        let file = std::fs::File::open("/dev/null").unwrap();
        for message in [HELLO, r#"{"report":"started","id":7,"child":null}"#] {
            line.send(message.as_bytes(), Some(file.as_fd())).unwrap();
        }
        assert_eq!(spawner.take(), Some(Ok(Report::Started { id: 7, child: None })));
        assert_eq!(spawner.take(), None);
        // It reads nothing.
        let mut orders = 0;
        while spawner.order(&order(orders, &"x".repeat(1000)), None) == Ok(()) {
            orders += 1;
        }
        assert_eq!(spawner.order(&order(1, "exit"), None), Err(NotTaken::Full));
        let too_long = order(1, &"x".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(spawner.order(&too_long, None), Err(NotTaken::TooLong));
        drop(line);
        assert!(spawner.take().unwrap().is_err());
    }

    #[test]
    fn one_that_says_nothing_is_given_up() {
        let other = Other::listen();
        let mut spawner = Spawner::new(How::Socket(other.path.clone()));
        spawner.keep(MonoNs(0));
        spawner.keep(MonoNs(HELLO_WITHIN_NS - 1));
        assert_eq!(spawner.take(), None);
        spawner.keep(MonoNs(HELLO_WITHIN_NS));
        assert_eq!(spawner.take().unwrap().unwrap_err().why, "it did not say hello within 10 s");
    }

    #[test]
    fn a_path_of_another_user_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("act.sock");
        let script = "import os,socket,sys\nos.chown(sys.argv[1],4000000,-1)\nos.setresuid(4000000,4000000,4000000)\n\
                      s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET);s.bind(sys.argv[1]+'/act.sock');s.listen()\n\
                      print(flush=True);sys.stdin.read()";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let mut spawner = Spawner::new(How::Socket(path));
        spawner.keep(MonoNs(0));
        let lost = spawner.take().unwrap().unwrap_err();
        assert!(lost.why.contains("user 4000000 listens there"), "{lost:?}");
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
