//! `systemd = "restart"` under a real systemd: the unit of a process that hangs is restarted, and no other is.

use std::process::Stdio;

use crate::common::{Event, Rig, wait_for};

/// What the action below waits, ns.
const AFTER_NS: u64 = 500_000_000;
const CONFIG: &str = r#"
shards = 1
threshold = "1s"
mode = "0666"
events = "/var/log/varta-fleet/events.jsonl"
audit = "/var/log/varta-fleet/audit.jsonl"
spawner = "/run/varta/act.sock"

[[action]]
name = "restart"
on = ["stall"]
match = { unit = "beater@*.service" }
certain = false
after = "500ms"
systemd = "restart"
"#;
/// An agent ends with its standard input, which this shell keeps open.
const BEATER: &str = "ExecStart=/bin/bash -c 'mkfifo /run/%p-%i; exec stock-agent --client 0.2 \
                      --socket /run/varta/shard-0.sock <>/run/%p-%i'\n";
/// A manager of a user, who names a control group of his own like a unit of the system.
const LIAR: &str = "d=/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/beater@9.service\n\
                    mkdir $d && echo $$ >$d/cgroup.procs && exec sleep 1000\n";
/// Orders as a client of the spawner, with the pidfd of the process. Python: nothing else here speaks with such sockets.
const CLIENT: &str = "import json,os,socket,sys,time\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\n\
    s.connect(sys.argv[1])\ns.recv(100000)\n\
    for id,words in enumerate(sys.argv[2:]):\n pid,verb,unit,seconds=words.split()\n \
    order=dict(order='start',id=id,pid=int(pid),deed=dict(systemd=dict(verb=verb,unit=unit)),\
    timeout_ns=int(seconds)*10**9,user=None,env=[],evidence=None)\n \
    fd=os.pidfd_open(int(pid))\n socket.send_fds(s,[json.dumps(order).encode()],[fd])\n\
    left=len(sys.argv)-2\nwhile left:\n said=s.recv(100000).decode()\n print(said,flush=True)\n \
    left-='\"started\"' not in said\n";

fn boot() -> Rig {
    let rig = Rig::boot(CONFIG);
    rig.write("/etc/systemd/system/beater@.service", &format!("[Service]\n{BEATER}"));
    rig.run("systemctl daemon-reload && systemctl start varta-fleet-act.service varta-fleet.service");
    wait_for("the socket of the spawner", || {
        rig.attempt("test -S /run/varta/act.sock").status.success().then_some(())
    });
    rig
}

fn event(rig: &Rig, what: &str, is_it: impl Fn(&Event) -> bool) -> Event {
    wait_for(what, || rig.events().into_iter().find(&is_it))
}

fn main_pid(rig: &Rig, unit: &str) -> u32 {
    rig.property(unit, "MainPID").parse().expect("a pid")
}

/// What the spawner at this socket reports of these orders: pid, verb, pattern and time limit in seconds.
fn ordered(rig: &Rig, socket: &str, orders: &[String]) -> Vec<Event> {
    let output = rig.command("python3").args(["-c", CLIENT, socket]).args(orders).output().expect("run it");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    said.lines().map(|line| Event::parse(&line.replacen('{', "{\"v\":1,", 1))).collect()
}

/// The only report of this order, by a spawner that did nothing.
fn refused(reports: &[Event], id: usize) -> String {
    let of = |report: &&Event| report.u64("id") == id as u64;
    let [report] = reports.iter().filter(of).collect::<Vec<_>>()[..] else { panic!("{reports:?}") };
    assert_eq!(report.str("report"), "not-started", "{report}");
    report.str("why").to_owned()
}

fn a_stalled_agent_is_restarted(rig: &Rig, unit: &str) {
    rig.run(&format!("systemctl start {unit}"));
    let before = main_pid(rig, unit);
    event(rig, "the agent", |event| event.is("up", before));
    rig.run(&format!("kill -STOP {before}"));
    let stall = event(rig, "the stall", |event| event.is("stall", before));
    let done = event(rig, "the end of the action", |event| {
        event.is("action", before) && ["ended", "failed", "refused"].contains(&event.str("phase"))
    });
    let audit = rig.run("cat /var/log/varta-fleet/audit.jsonl");
    assert_eq!(done.str("phase"), "ended", "{audit}");
    let took = done.u64("mono_ns") - stall.u64("mono_ns");
    assert!(took <= AFTER_NS + 1_000_000_000, "the unit was restarted {took} ns after the stall");
    let after = main_pid(rig, unit);
    assert!(after != before && after != 0, "{before} {after}");
    event(rig, "the new agent", |event| event.is("up", after));
    event(rig, "the end of the old one", |event| event.is("exit", before));
}

#[test]
fn the_unit_of_a_stopped_process_is_restarted() {
    let rig = boot();
    rig.run("systemctl start dbus.service");
    a_stalled_agent_is_restarted(&rig, "beater@1.service");
    // On a host without a bus it is told.
    rig.run("systemctl stop dbus.socket dbus.service && rm -f /run/dbus/system_bus_socket && systemctl start beater@2.service");
    let pid = main_pid(&rig, "beater@2.service");
    let reports = ordered(&rig, "/run/varta/act.sock", &[format!("{pid} restart * 60")]);
    let said = refused(&reports, 0);
    assert!(said.starts_with("the system bus, by which systemd is asked, cannot be reached: "), "{said}");
    assert_eq!(main_pid(&rig, "beater@2.service"), pid);
    let checked = rig
        .attempt("VARTA_DIR=/run/varta setpriv --reuid varta --regid varta --init-groups varta-fleet check");
    assert!(String::from_utf8_lossy(&checked.stdout).contains("there is no system bus"), "{checked:?}");
}

#[test]
fn what_no_order_may_be_about_is_refused_and_the_rest_is_done() {
    let rig = boot();
    rig.write("/etc/liar", LIAR);
    rig.write("/etc/systemd/system/user@.service", "[Service]\nDelegate=yes\nExecStart=/bin/sh /etc/liar\n");
    rig.write(
        "/etc/systemd/system/broken.service",
        "[Service]\nType=forking\nExecStart=/bin/sh -c 'sleep 1000 & test ! -e /run/broken'\n",
    );
    rig.run("systemctl daemon-reload && systemctl start dbus.service user@1000.service beater@1.service beater@2.service broken.service");
    let liar = main_pid(&rig, "user@1000.service");
    wait_for("the group", || {
        rig.run(&format!("cat /proc/{liar}/cgroup"))
            .contains("/user@1000.service/beater@9.service")
            .then_some(())
    });
    let observer = main_pid(&rig, "varta-fleet.service");
    let spawner = main_pid(&rig, "varta-fleet-act.service");
    let (one, two) = (main_pid(&rig, "beater@1.service"), main_pid(&rig, "beater@2.service"));
    let broken = main_pid(&rig, "broken.service");
    rig.run("touch /run/broken");
    let orders = [
        format!("{liar} restart *beater@9.service 60"),
        format!("{liar} kill * 60"),
        format!("{observer} restart * 60"),
        format!("{spawner} stop * 60"),
        "1 restart * 60".to_owned(),
        format!("{one} restart beater@2.service 60"),
        format!("{one} reload * 60"),
    ];
    let reports = ordered(&rig, "/run/varta/act.sock", &orders);
    for (id, why) in [
        (0, "process is of user@1000.service, the service manager of a user"),
        (1, "process is of user@1000.service, the service manager of a user"),
        (2, "process is of varta-fleet.service, which is that of the observer"),
        (3, "process is of varta-fleet-act.service, which is that of the observer"),
        (4, "process is of init.scope, which is no service"),
        (5, "process is of beater@1.service, which beater@2.service does not match"),
        (6, "systemd is only asked to"),
    ] {
        let said = refused(&reports, id);
        assert!(said.starts_with(why), "{said}");
    }
    // Afterwards: what is refused is so of a process that lives.
    let orders = [
        format!("{one} stop beater@* 60"),
        format!("{two} kill beater@?.service 60"),
        format!("{broken} restart broken.service 60"),
    ];
    let reports = ordered(&rig, "/run/varta/act.sock", &orders);
    let ended = |id: u64| {
        let is_it = |report: &&Event| report.u64("id") == id && report.str("report") == "ended";
        reports.iter().find(is_it).unwrap_or_else(|| panic!("{reports:?}"))
    };
    assert_eq!((ended(0).u64("code"), ended(1).u64("code"), ended(2).u64("code")), (0, 0, 1), "{reports:?}");
    assert!(ended(2).str("output").starts_with("the job of broken.service ended: failed"), "{}", ended(2));
    assert_eq!(rig.property("beater@1.service", "ActiveState"), "inactive");
    wait_for("the kill", || (rig.property("beater@2.service", "Result") == "signal").then_some(()));
    for (unit, pid) in
        [("varta-fleet.service", observer), ("varta-fleet-act.service", spawner), ("user@1000.service", liar)]
    {
        assert_eq!(main_pid(&rig, unit), pid, "{unit}");
    }
}

/// A bus that accepts and says nothing, and none at all.
#[test]
fn fault_40_a_hung_bus_ends_with_the_time_limit_and_holds_up_nobody() {
    const HUNG: &str = "import socket,time\ns=socket.socket(socket.AF_UNIX)\ns.bind('/run/hung')\ns.listen(100)\n\
                        kept=[]\nwhile True: kept.append(s.accept())\n";
    let rig = boot();
    rig.run("systemctl start beater@1.service");
    let pid = main_pid(&rig, "beater@1.service");
    let mut hung = rig.command("python3").args(["-c", HUNG]).stdin(Stdio::null()).spawn().expect("run it");
    let mut spawner = rig
        .command("env")
        .args([
            "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/hung",
            "varta-fleet",
            "spawner",
            "--listen",
            "/run/other.sock",
        ])
        .spawn()
        .expect("run it");
    wait_for("the sockets", || {
        rig.attempt("test -S /run/hung -a -S /run/other.sock").status.success().then_some(())
    });
    let restart = format!("{pid} restart beater@*");
    let reports = ordered(&rig, "/run/other.sock", &[format!("{restart} 1"), format!("{restart} 2")]);
    let phases: Vec<_> = reports.iter().map(|report| (report.u64("id"), report.str("report"))).collect();
    assert_eq!(phases, [(0, "started"), (0, "ended"), (1, "started"), (1, "ended")]);
    for ended in [&reports[1], &reports[3]] {
        assert!(ended.bool("timed_out") && ended.str("output").contains("nothing was done"), "{ended}");
    }
    assert_eq!(main_pid(&rig, "beater@1.service"), pid);
    for child in [&mut spawner, &mut hung] {
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
    }
}
