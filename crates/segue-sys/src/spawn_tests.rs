//! Real processes: what a spawned one is given, and what is reported when it cannot be made.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Rlimit;

use super::{Child, Exit, Mask, Spawn, Step, reap, send_group, send_signal};
use crate::privileges::Identity;
use crate::signal::Signal;

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn wait(child: &Child) -> Exit {
    let mut ready = [PollFd::new(&child.pidfd, PollFlags::IN)];
    poll(&mut ready, None).unwrap();
    reap(&child.pidfd).unwrap().unwrap()
}

/// Runs a shell command and returns what it printed and how it ended.
fn run(script: &str, adjust: impl FnOnce(&mut Spawn<'_>)) -> (String, Exit) {
    let (reader, writer) = std::io::pipe().unwrap();
    let argv = words(&["sh", "-c", script]);
    let env = vec![("PATH".into(), std::env::var_os("PATH").unwrap())];
    let mut spawn = Spawn {
        program: Path::new("/bin/sh"),
        argv: &argv,
        env: &env,
        cwd: Path::new("/"),
        descriptors: vec![(OwnedFd::from(writer), 1)],
        descriptor_limit: None,
        nice: None,
        identity: None,
        no_new_privileges: false,
        umask: None,
        cgroup: None,
        mask: Mask::Clear,
    };
    adjust(&mut spawn);
    let child = spawn.start().unwrap();
    let mut printed = String::new();
    File::from(OwnedFd::from(reader))
        .read_to_string(&mut printed)
        .unwrap();
    (printed, wait(&child))
}

fn fail(program: &str, adjust: impl FnOnce(&mut Spawn<'_>)) -> (Step, Option<i32>) {
    let argv = words(&[program]);
    let mut spawn = Spawn {
        program: Path::new(program),
        argv: &argv,
        env: &[],
        cwd: Path::new("/"),
        descriptors: Vec::new(),
        descriptor_limit: None,
        nice: None,
        identity: None,
        no_new_privileges: false,
        umask: None,
        cgroup: None,
        mask: Mask::Clear,
    };
    adjust(&mut spawn);
    let error = spawn.start().unwrap_err();
    assert!(!error.to_string().is_empty());
    (error.step, error.source.raw_os_error())
}

#[test]
fn gets_exactly_its_environment_and_directory() {
    let env = vec![("ONLY".into(), "this one".into())];
    let (printed, exit) = run("echo $ONLY; echo ${HOME-unset}; pwd -P", |spawn| {
        spawn.env = Vec::leak(env);
        spawn.cwd = Path::new("/usr");
    });
    assert_eq!(printed, "this one\nunset\n/usr\n");
    assert_eq!(exit, Exit::Code(0));
}

#[test]
fn gets_its_descriptors_and_no_others() {
    // Left open across exec on purpose, as something we were started with would be.
    let (stray, _keep) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).unwrap();
    let (three, _writer) = std::io::pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    let (printed, _) = run(
        "cd /proc/self/fd; echo *; readlink 0; readlink 5",
        |spawn| {
            spawn.descriptors.push((three.into(), 5));
            spawn.descriptors.push((null.into(), 0));
        },
    );
    // The shell's own: a descriptor to expand `*` with, which differs between shells.
    let mut lines = printed.lines();
    let open: Vec<i32> = lines
        .next()
        .unwrap()
        .split(' ')
        .map(|number| number.parse().unwrap())
        .collect();
    assert!(open.starts_with(&[0, 1, 2]), "{open:?}");
    assert!(open.contains(&5) && open.len() <= 5, "{open:?}");
    assert_eq!(lines.next(), Some("/dev/null"));
    assert!(lines.next().unwrap().starts_with("pipe:"));
}

#[test]
fn places_descriptors_that_change_places() {
    // Sources whose numbers are each other's targets must not overwrite one another.
    let files: Vec<OwnedFd> = ["/dev/null", "/dev/zero", "/dev/full"]
        .iter()
        .map(|path| File::open(path).unwrap().into())
        .collect();
    let (printed, _) = run("cd /proc/self/fd; readlink 3 4 5", |spawn| {
        for (file, to) in files.into_iter().zip([5, 3, 4]) {
            spawn.descriptors.push((file, to));
        }
    });
    assert_eq!(printed, "/dev/zero\n/dev/full\n/dev/null\n");
}

#[test]
fn starts_with_clean_signals_in_a_group_of_its_own() {
    let (printed, _) = run(
        "grep -E '^Sig(Blk|Ign)' /proc/self/status; read -r p n s pp g rest </proc/self/stat; \
         [ $p = $g ] && echo leader",
        |_| {},
    );
    let zero = "0".repeat(16);
    assert_eq!(
        printed,
        format!("SigBlk:\t{zero}\nSigIgn:\t{zero}\nleader\n")
    );
}

#[test]
fn keeps_blocked_signals_if_asked_to() {
    let _signals = crate::signal::Signals::block().unwrap();
    // Not by way of a shell, which clears its mask.
    let argv = words(&["grep", "^SigBlk", "/proc/self/status"]);
    let (printed, _) = run("", |spawn| {
        spawn.program = Path::new("/bin/grep");
        spawn.argv = Vec::leak(argv);
        spawn.mask = Mask::Inherit;
    });
    assert!(printed.starts_with("SigBlk:"));
    assert_ne!(printed, format!("SigBlk:\t{}\n", "0".repeat(16)));
}

#[test]
fn gets_its_limit_of_open_files() {
    let (printed, _) = run("ulimit -Sn", |spawn| {
        spawn.descriptor_limit = Some(Rlimit {
            current: Some(77),
            ..crate::process::descriptor_limit()
        });
    });
    assert_eq!(printed, "77\n");
}

#[test]
fn gets_no_new_privileges_if_so_asked() {
    for (asked, expected) in [(true, "NoNewPrivs:\t1\n"), (false, "NoNewPrivs:\t0\n")] {
        let (printed, _) = run("grep NoNewPrivs /proc/self/status", |spawn| {
            spawn.no_new_privileges = asked;
        });
        assert_eq!(printed, expected);
    }
}

fn may_become_others() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("only root can become another user: not tested");
    }
    is_root
}

#[test]
fn becomes_another_user_for_good() {
    let web = Identity::new(4321, 4322, &[4322, 4323]).unwrap();
    let script = "grep -E '^(Uid|Gid|Groups|CapEff|CapPrm):' /proc/self/status; pwd -P";
    if !may_become_others() {
        let refused = fail("/bin/true", |spawn| {
            spawn.identity = Some(Box::leak(web.into()));
        });
        assert_eq!(refused, (Step::Identity, Some(libc::EPERM)));
        return;
    }
    let (printed, exit) = run(script, |spawn| spawn.identity = Some(Box::leak(web.into())));
    assert_eq!(
        printed.replace(" \n", "\n"),
        "Uid:\t4321\t4321\t4321\t4321\nGid:\t4322\t4322\t4322\t4322\nGroups:\t4322 4323\n\
         CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n/\n"
    );
    assert_eq!(exit, Exit::Code(0));
}

#[test]
fn enters_its_directory_as_the_user_that_it_becomes() {
    if !may_become_others() {
        return;
    }
    let closed = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(closed.path(), mode).unwrap();
    let web = Identity::new(4321, 4321, &[]).unwrap();
    let refused = fail("/bin/true", |spawn| {
        spawn.identity = Some(Box::leak(web.into()));
        spawn.cwd = Box::leak(closed.path().to_owned().into_boxed_path());
    });
    assert_eq!(refused, (Step::Directory, Some(libc::EACCES)));
}

#[test]
fn nobody_is_no_identity() {
    assert_eq!(Identity::new(u32::MAX, 1, &[]), None);
    assert_eq!(Identity::new(1, u32::MAX, &[]), None);
    assert_eq!(Identity::new(1, 1, &[u32::MAX]), None);
}

#[test]
fn reports_codes_and_signals() {
    assert_eq!(run("exit 7", |_| {}).1, Exit::Code(7));
    assert_eq!(run("kill -9 $$", |_| {}).1, Exit::Signal(9));
}

#[test]
fn a_signal_reaches_the_process_or_its_whole_group() {
    let sleeping = |seconds: &'static str| {
        let argv = words(&["sh", "-c", "sleep \"$0\" & wait", seconds]);
        Spawn {
            program: Path::new("/bin/sh"),
            argv: &argv,
            env: &[("PATH".into(), "/bin:/usr/bin".into())],
            cwd: Path::new("/"),
            descriptors: Vec::new(),
            descriptor_limit: None,
            nice: None,
            identity: None,
            no_new_privileges: false,
            umask: None,
            cgroup: None,
            mask: Mask::Clear,
        }
        .start()
        .unwrap()
    };
    let child = sleeping("1000");
    assert_eq!(reap(child.pidfd.as_fd()).unwrap(), None);
    send_group(child.pid, Signal::TERM).unwrap();
    assert_eq!(wait(&child), Exit::Signal(15));
    let error = send_signal(&child.pidfd, Signal::TERM).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    assert_eq!(reap(&child.pidfd).unwrap(), Some(Exit::Unknown));
}

#[test]
fn says_which_step_failed() {
    assert_eq!(
        fail("/no/such/program", |_| {}),
        (Step::Exec, Some(libc::ENOENT))
    );
    assert_eq!(fail("/dev/null", |_| {}), (Step::Exec, Some(libc::EACCES)));
    let cwd = |spawn: &mut Spawn<'_>| spawn.cwd = Path::new("/no/such/directory");
    assert_eq!(
        fail("/bin/true", cwd),
        (Step::Directory, Some(libc::ENOENT))
    );
    let nul = words(&["a\0b"]);
    let nul = |spawn: &mut Spawn<'_>| {
        spawn.env = &[];
        spawn.argv = Vec::leak(nul);
    };
    assert_eq!(fail("/bin/true", nul), (Step::Arguments, None));
    let limit = |spawn: &mut Spawn<'_>| {
        spawn.descriptor_limit = Some(Rlimit {
            current: Some(2),
            maximum: Some(1),
        });
    };
    assert_eq!(fail("/bin/true", limit), (Step::Limit, Some(libc::EINVAL)));
}

#[test]
fn a_held_process_does_nothing_before_it_is_released() {
    let (reader, writer) = std::io::pipe().unwrap();
    let argv = words(&["sh", "-c", "echo ran"]);
    let hold = |writer: OwnedFd| {
        let spawn = Spawn {
            program: Path::new("/bin/sh"),
            argv: &argv,
            env: &[],
            cwd: Path::new("/"),
            descriptors: vec![(writer, 1)],
            descriptor_limit: None,
            nice: None,
            identity: None,
            no_new_privileges: false,
            umask: None,
            cgroup: None,
            mask: Mask::Clear,
        };
        spawn.hold().unwrap()
    };
    let held = hold(writer.try_clone().unwrap().into());
    let pid = held.child().unwrap().pid;
    assert!(crate::process::Process::look_up(pid).is_some());
    drop(held);
    assert!(crate::process::Process::look_up(pid).is_none());
    let child = hold(writer.into()).release().unwrap();
    let mut printed = String::new();
    File::from(OwnedFd::from(reader))
        .read_to_string(&mut printed)
        .unwrap();
    assert_eq!((printed.as_str(), wait(&child)), ("ran\n", Exit::Code(0)));
}
