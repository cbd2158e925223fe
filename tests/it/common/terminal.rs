//! A terminal in which a test runs a program.

use std::process::Command;

use super::wait_for;

/// A terminal of the test's own; closed on drop.
#[derive(Debug)]
pub struct Terminal {
    name: String,
}

impl Terminal {
    pub fn run(name: &str, command: &str) -> Self {
        Self::of_size(name, (80, 24), command)
    }

    pub fn of_size(name: &str, (width, height): (u16, u16), command: &str) -> Self {
        let terminal = Self { name: format!("varta-{}-{name}", std::process::id()) };
        // The shell outlives the program, so that the test sees in which state it leaves the terminal.
        let (width, height) = (width.to_string(), height.to_string());
        let start = ["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, "env PS1='$ ' sh"];
        terminal.tmux(&start);
        terminal.keys(&[&format!("{command}; echo ended $?"), "Enter"]);
        terminal
    }

    pub fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-L", &self.name])
            .args(arguments)
            .output()
            .expect("tmux is missing: scripts/check --setup installs it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    pub fn expect(&self, what: &str) -> String {
        wait_for(&format!("{what:?} on the screen:\n{}", self.screen()), || {
            let screen = self.screen();
            screen.contains(what).then_some(screen)
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.name, "kill-server"]).output();
    }
}
