//! A real process that speaks the protocol of sd_notify(3); it runs `daemon.py`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::Signal;

use super::python;

/// The daemon; it is killed when this is dropped.
pub struct Daemon {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pid: u32,
}

impl Daemon {
    /// A daemon that sends to this socket, with these variables in its environment. It has sent nothing yet.
    pub fn start(socket: &Path, environment: &[(&str, &str)]) -> Self {
        let mut command = super::program_by("env");
        command.env("NOTIFY_SOCKET", socket).envs(environment.iter().copied());
        Self::by(command)
    }

    /// A daemon that this command starts, whose last arguments are to be a program and its arguments, in place of itself.
    pub fn by(mut command: Command) -> Self {
        command.arg(python()).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/common/daemon.py"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start a daemon");
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut daemon = Self { child, stdin, stdout: BufReader::new(stdout), pid: 0 };
        daemon.pid = daemon.answer().parse().expect("its pid");
        daemon
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("the daemon answers");
        assert!(!answer.is_empty(), "the daemon ended");
        answer.trim_end().to_owned()
    }

    /// Has it do what the line says, as `daemon.py` describes.
    pub fn ask(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("the daemon reads");
        assert_eq!(self.answer(), "done");
    }

    /// Has it send a message, in which `\n` ends a line.
    pub fn send(&mut self, text: &str) {
        self.ask(&format!("send {text}"));
    }

    pub fn signal(&self, signal: Signal) {
        super::signal(self.pid, signal);
    }

    /// Has it exit with this status.
    pub fn end(&mut self, status: u8) {
        writeln!(self.stdin, "end {status}").expect("the daemon reads");
        let ended = self.child.wait().expect("it can be waited for");
        assert_eq!(ended.code(), Some(status.into()));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
