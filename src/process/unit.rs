//! The unit and the container of a process, from the path of its control group. Both are conventions: the service
//! manager names groups after units, and container managers put the number of a container into the name.

use crate::pattern::Pattern;

/// The longest unit: two names of directories.
pub const UNIT_BYTES_MAX: usize = 255 + 1 + 255;
/// How the names of units end. Those of slices are no units here: no process is in a slice itself.
pub const UNIT_SUFFIXES: [&str; 2] = [".service", ".scope"];

/// How many digits of its number stand for a container in the name of a unit, as container managers show it.
const SHORT_DIGITS: usize = 12;

/// The unit: the deepest `.service` or `.scope` in the path. A unit inside another, as of a user's own service manager, is
/// written behind the outermost (`user@1000.service/web.service`), and one inside a container behind the first digits of
/// its number (`0123456789ab/web.service`): whoever owns that chooses its name. The scope of one container is none: its
/// name says no more than the number of the container.
pub fn unit_of(groups: &str) -> Option<String> {
    let is_unit = |name: &&str| UNIT_SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
    paths(groups).find_map(|path| {
        let names: Vec<&str> = path.split('/').collect();
        let is_own = |name: &&&str| is_unit(name) && number_in(name).is_none();
        let outermost = names.iter().position(|name| is_own(&name))?;
        let deepest = names.iter().rfind(is_own)?;
        let within = names[..outermost].iter().find_map(|name| number_in(name));
        let owner = within.map(|digits| &digits[..SHORT_DIGITS]).unwrap_or(names[outermost]);
        let is_alone = within.is_none() && names.iter().filter(is_own).count() == 1;
        Some(if is_alone { owner.to_owned() } else { format!("{owner}/{deepest}") })
    })
}

/// The user whose own service manager runs the unit, if one does: the user names what is below.
pub fn manager_of(unit: &str) -> Option<u32> {
    unit.strip_prefix("user@")?.split_once(".service/")?.0.parse().ok()
}

/// The container: the deepest name in the path that contains exactly 64 hexadecimal digits in a row, as
/// `docker-….scope`, `cri-containerd-….scope` or the digits alone.
pub fn container_of(groups: &str) -> Option<&str> {
    paths(groups).find_map(|path| path.rsplit('/').find_map(number_in))
}

/// The digits of a container in the name of a group.
fn number_in(name: &str) -> Option<&str> {
    let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    name.split(|c| !is_digit(c)).find(|digits| digits.len() == 64)
}

/// Whether the path of a group matches, in whatever hierarchy.
pub fn is_in_group(groups: &str, pattern: &Pattern) -> bool {
    hierarchies(groups).any(|(_, path)| pattern.matches(path))
}

/// The controllers of each hierarchy and the path of the group there, from lines of `number:controllers:path`.
pub fn hierarchies(groups: &str) -> impl Iterator<Item = (&str, &str)> {
    groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    })
}

/// The paths of the groups, those first that the service manager itself uses: of the unified hierarchy, and of that
/// named `systemd`.
fn paths(groups: &str) -> impl Iterator<Item = &str> {
    let lines = move || hierarchies(groups);
    let is_managers = |controllers: &str| controllers.is_empty() || controllers == "name=systemd";
    let first = lines().filter(move |(controllers, _)| is_managers(controllers));
    let rest = lines().filter(move |(controllers, _)| !is_managers(controllers));
    first.chain(rest).map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn the_deepest_unit_is_the_unit() {
        for (groups, unit) in [
            ("0::/system.slice/worker@7.service\n", Some("worker@7.service")),
            ("0::/system.slice/worker.service/payload\n", Some("worker.service")),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope\n",
                Some("user@1000.service/app-x.scope"),
            ),
            ("0::/\n", None),
            ("0::/user.slice\n", None),
            ("", None),
            ("nonsense", None),
            ("12:cpu:/a\n1:name=systemd:/system.slice/x.service\n0::/\n", Some("x.service")),
            ("12:cpu:/cpu.service\n0::/system.slice/y.service\n", Some("y.service")),
            // A name that whoever owns the group chose.
            ("0::/system.slice/worker.service/sshd.service\n", Some("worker.service/sshd.service")),
            ("0::/system.slice/worker.service/a.service/sshd.service\n", Some("worker.service/sshd.service")),
        ] {
            assert_eq!(unit_of(groups).as_deref(), unit, "{groups}");
        }
    }

    #[test]
    fn a_pattern_is_for_the_whole_path() {
        let is_in = |groups: &str, pattern: &str| is_in_group(groups, &Pattern::new(pattern));
        let unified = "0::/system.slice/web.service/payload\n";
        for pattern in ["/system.slice/*", "*", "*/payload", "/system.slice/web.service/payl??d"] {
            assert!(is_in(unified, pattern), "{pattern}");
        }
        for pattern in ["", "/", "/system.slice", "/system.slice/web.service", "payload", "0::*"] {
            assert!(!is_in(unified, pattern), "{pattern}");
        }
        let legacy = "4:memory:/docker/ab\n1:name=systemd:/x.service\n0::/\n";
        assert!(["/docker/*", "/x.service", "/"].iter().all(|pattern| is_in(legacy, pattern)));
        assert!(!is_in("", "*") && !is_in("nonsense", "*"));
    }

    #[test]
    fn a_users_own_manager_is_known_by_its_number() {
        for (unit, user) in [
            ("user@1000.service/app-x.scope", Some(1000)),
            ("user@0.service/x.service", Some(0)),
            ("user@1000.service", None),
            ("user@x.service/a.scope", None),
            ("user@4294967296.service/a.scope", None),
            ("a.service/user@1000.service", None),
            ("worker@7.service", None),
        ] {
            assert_eq!(manager_of(unit), user, "{unit}");
        }
    }

    #[test]
    fn a_container_is_known_by_its_number() {
        for path in [
            format!("/system.slice/docker-{ID}.scope"),
            format!("/docker/{ID}"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/kubepods/burstable/pod123/{ID}"),
        ] {
            assert_eq!(container_of(&format!("0::{path}\n")), Some(ID), "{path}");
            assert_eq!(container_of(&format!("4:memory:{path}\n0::/\n")), Some(ID), "{path}");
            assert_eq!(unit_of(&format!("0::{path}\n")), None, "{path}");
        }
        for within in [
            format!("/system.slice/docker-{ID}.scope/system.slice/sshd.service"),
            format!("/docker/{ID}/system.slice/sshd.service"),
            format!("/docker/{ID}/user@0.service/app.slice/sshd.service"),
        ] {
            let unit = unit_of(&format!("0::{within}\n"));
            assert_eq!(unit.as_deref(), Some("0123456789ab/sshd.service"), "a container's own: {within}");
        }
        for none in ["/a/deadbeef", &format!("/x/{ID}0"), "/"] {
            assert_eq!(container_of(&format!("0::{none}\n")), None, "{none}");
        }
    }
}
