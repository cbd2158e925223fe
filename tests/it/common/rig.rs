//! A systemd of its own with the shipped units: see `tests/it/systemd/rig --help`.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::{env, fs};

use tempfile::TempDir;

use super::observer::{follow_parent, needs_root};
use super::{Event, PROGRAM, rust_program, wait_for};

/// A booted systemd. It ends when this is dropped.
#[derive(Debug)]
pub struct Rig {
    script: Child,
    enter: PathBuf,
    _files: TempDir,
}

impl Rig {
    /// Boots. Inside are `varta-fleet`, `stock-agent`, the shipped units, the user `varta`, and a configuration.
    pub fn boot(config: &str) -> Self {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
        let units = tree.join("scripts/deploy/systemd");
        let rig = Self::start(Some(&units), &[(Path::new(PROGRAM), "/usr/bin/varta-fleet")]);
        rig.run("systemd-sysusers --inline 'u varta - \"varta-fleet\" /run/varta' 2>/dev/null");
        rig.write("/etc/varta-fleet.toml", config);
        rig
    }

    /// Boots without anything of ours but `stock-agent`, and this directory at `/packages`.
    pub fn bare(packages: &Path) -> Self {
        // Where it is here: the rest of /tmp is not seen inside.
        let python = super::python();
        let environment = python.parent().and_then(Path::parent).expect("an environment of its own");
        let at = environment.display().to_string();
        let rig = Self::start(None, &[(packages, "/packages"), (environment, &at)]);
        // Images for containers forbid the start of services. The index of manual pages takes seconds.
        rig.run("rm -f /usr/sbin/policy-rc.d /var/lib/man-db/auto-update");
        rig
    }

    fn start(units: Option<&Path>, binds: &[(&Path, &str)]) -> Self {
        needs_root("it boots a systemd in namespaces of its own");
        let files = tempfile::tempdir().expect("a temporary directory");
        let (enter, log) = (files.path().join("enter"), files.path().join("log"));
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/systemd/rig"));
        command.args(units.iter().flat_map(|units| [OsStr::new("--units"), units.as_os_str()]));
        for (from, at) in binds.iter().chain([&(rust_program(), "/usr/bin/stock-agent")]) {
            command.arg("--bind").arg(format!("{}={at}", from.display()));
        }
        // Another systemd: see scripts/systemd.
        if let Some(root) = env::var_os("VARTA_TEST_RIG_ROOT") {
            command.arg("--root").arg(root);
        }
        command.arg("--enter").arg(&enter).arg("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.stderr(fs::File::create(&log).expect("create a file"));
        follow_parent(&mut command);
        let mut script = command.spawn().expect("start the rig");
        wait_for("a booted systemd", || {
            if let Some(status) = script.try_wait().expect("it is our child") {
                panic!("the rig ended, {status}: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            enter.exists().then_some(())
        });
        Self { script, enter, _files: files }
    }

    /// A command that runs inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(&self.enter);
        command.arg(program);
        command
    }

    /// Runs a script inside, whatever becomes of it.
    pub fn attempt(&self, script: &str) -> Output {
        self.command("sh").args(["-c", script]).stdin(Stdio::null()).output().expect("run in the rig")
    }

    /// The standard output of a script that runs inside and must succeed.
    pub fn run(&self, script: &str) -> String {
        let output = self.attempt(script);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{script}: {}\n{text}\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.journal()
        );
        text
    }

    /// The events inside, as far as they are written.
    pub fn events(&self) -> Vec<Event> {
        let text = self.run("cat /var/log/varta-fleet/events.jsonl");
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| Event::parse(line.trim_end())).collect()
    }

    /// Writes a file inside.
    pub fn write(&self, path: &str, text: &str) {
        let mut writer =
            self.command("tee").arg(path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("tee");
        writer.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
        assert!(writer.wait().expect("it is our child").success(), "cannot write {path}");
    }

    /// A property of a unit, as `systemctl show` prints it.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&format!("systemctl show --value --property={name} {unit}")).trim().to_owned()
    }

    /// What the observer has logged.
    pub fn journal(&self) -> String {
        let output =
            self.attempt("journalctl --no-pager --output=short-monotonic --unit=varta-fleet.service");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.journal());
        }
        // The end of its input ends `cat` inside, and so the rig.
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}
