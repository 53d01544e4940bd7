//! Where a release comes from: the commit that is checked out in it, or what its deployer wrote into
//! `REVISION`. Read from files, without git, and only so far: whatever cannot be read is not known,
//! and never a reason not to run.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use segue_wire::control::Revision;

/// The most that is read of a file that holds one line.
const LINE: u64 = 4 << 10;
/// The most that is read of the list of packed references.
const LIST: u64 = 16 << 20;
/// How many directories above the release are looked at.
const PARENTS: usize = 16;
/// How often a reference may lead to another one.
const HOPS: usize = 5;
/// The longest revision that is no hash, and the longest branch.
const LONGEST: usize = 100;

/// The revision of a release's directory, if it has one.
pub(crate) fn of(directory: &Path) -> Option<Revision> {
    written(directory).or_else(|| {
        let above = directory.ancestors().take(PARENTS + 1);
        let git = above.into_iter().find_map(git_directory)?;
        checked_out(&git)
    })
}

/// As Capistrano and its like write it.
fn written(directory: &Path) -> Option<Revision> {
    let id = line_of(&directory.join("REVISION"))?;
    is_plain(&id).then_some(Revision { id, branch: None })
}

/// The git directory of a work tree: a directory, or a file that names one (gitrepository-layout(5)).
fn git_directory(tree: &Path) -> Option<PathBuf> {
    let path = tree.join(".git");
    if path.is_dir() {
        return path.join("HEAD").exists().then_some(path);
    }
    let line = line_of(&path)?;
    Some(tree.join(line.strip_prefix("gitdir:")?.trim()))
}

fn checked_out(git: &Path) -> Option<Revision> {
    // References of a linked work tree are those of its repository.
    let shared = line_of(&git.join("commondir"));
    let shared = shared.map_or_else(|| git.to_owned(), |path| git.join(path));
    let head = line_of(&git.join("HEAD"))?;
    let branch = target(&head).and_then(|name| name.strip_prefix("refs/heads/"));
    let branch = branch.filter(|branch| is_plain(branch)).map(str::to_owned);
    let mut value = head.clone();
    for _ in 0..HOPS {
        if is_hash(&value) {
            return Some(Revision { id: value, branch });
        }
        let name = target(&value)?;
        value = line_of(&git.join(name))
            .or_else(|| line_of(&shared.join(name)))
            .or_else(|| packed(&shared, name))?;
    }
    None
}

/// The reference that a symbolic one leads to. It cannot lead out of the repository.
fn target(value: &str) -> Option<&str> {
    let name = value.strip_prefix("ref:")?.trim();
    let is_inside = name.split('/').all(|part| !part.is_empty() && part != "..");
    (name.starts_with("refs/") && is_inside).then_some(name)
}

fn packed(git: &Path, name: &str) -> Option<String> {
    let file = open(&git.join("packed-refs"))?;
    // A last line that is cut off is no reference of that name.
    let lines = BufReader::new(file.take(LIST)).split(b'\n');
    lines.map_while(Result::ok).find_map(|line| {
        let line = std::str::from_utf8(&line).ok()?;
        let (id, found) = line.trim_end().split_once(' ')?;
        (found == name).then(|| id.to_owned())
    })
}

/// The first line of a short file.
fn line_of(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    open(path)?.take(LINE + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > LINE {
        return None;
    }
    let text = String::from_utf8(bytes).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// A regular file. Nothing else is read: a pipe might never say anything.
fn open(path: &Path) -> Option<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).ok()?)
        .open(path)
        .ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

/// SHA-1 or SHA-256.
fn is_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What can be shown on one line as it is.
fn is_plain(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+/@:#".contains(&byte);
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(is_word)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    /// Writes these files below a new directory and reads the revision of `release` in it.
    fn check(what: &str, files: &[(&str, &str)], expected: Option<(&str, Option<&str>)>) {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path();
        fs::create_dir_all(base.join("release")).unwrap();
        for (path, text) in files {
            let path = base.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = of(&base.join("release"));
        let found = found.as_ref();
        let found = found.map(|found| (found.id.as_str(), found.branch.as_deref()));
        assert_eq!(found, expected, "{what}");
    }

    #[test]
    fn revisions() {
        let main = Some((A, Some("main")));
        let head = ("release/.git/HEAD", "ref: refs/heads/main\n");
        let long = format!("{A}{}", " ".repeat(10_000));
        let elsewhere = format!("# pack-refs with: peeled\n{B} refs/heads/mainly\n^{B}\n");
        let packed = format!("{elsewhere}{A} refs/heads/main\n");
        let hash_256 = "c".repeat(64);
        let many: String = (0..300_000)
            .map(|number| format!("{B} refs/tags/{number}\n"))
            .collect();
        let huge = format!("{many}{many}{A} refs/heads/main\n");
        check("no repository", &[("release/server.js", "")], None);
        check(
            "a branch",
            &[head, ("release/.git/refs/heads/main", &format!("{A}\n"))],
            main,
        );
        check(
            "a packed branch",
            &[head, ("release/.git/packed-refs", &packed)],
            main,
        );
        check(
            "a loose reference goes before a packed one",
            &[
                head,
                ("release/.git/packed-refs", &packed),
                ("release/.git/refs/heads/main", B),
            ],
            Some((B, Some("main"))),
        );
        check(
            "a branch without a commit",
            &[head, ("release/.git/packed-refs", &elsewhere)],
            None,
        );
        check(
            "more references than are read",
            &[head, ("release/.git/packed-refs", &huge)],
            None,
        );
        check(
            "a detached head",
            &[("release/.git/HEAD", A)],
            Some((A, None)),
        );
        check(
            "SHA-256",
            &[("release/.git/HEAD", &hash_256)],
            Some((&hash_256, None)),
        );
        check(
            "a parent's repository",
            &[(".git/HEAD", A)],
            Some((A, None)),
        );
        check(
            "a linked work tree",
            &[
                ("release/.git", "gitdir: ../repo/worktrees/release\n"),
                ("repo/worktrees/release/HEAD", "ref: refs/heads/main\n"),
                ("repo/worktrees/release/commondir", "../..\n"),
                ("repo/refs/heads/main", A),
            ],
            main,
        );
        check(
            "a symbolic reference",
            &[
                head,
                ("release/.git/refs/heads/main", "ref: refs/heads/trunk"),
                ("release/.git/refs/heads/trunk", A),
            ],
            main,
        );
        check(
            "a circle",
            &[
                head,
                ("release/.git/refs/heads/main", "ref: refs/heads/main"),
            ],
            None,
        );
        check(
            "a reference that leads out",
            &[
                ("release/.git/HEAD", "ref: refs/../../../secret"),
                ("secret", A),
            ],
            None,
        );
        check(
            "something else",
            &[("release/.git/HEAD", "root:x:0:0:root\n")],
            None,
        );
        check("too long", &[("release/.git/HEAD", &long)], None);
        check(
            "a deployer's word",
            &[("release/REVISION", "v1.2.3\n"), (".git/HEAD", A)],
            Some(("v1.2.3", None)),
        );
        check(
            "a word that would paint",
            &[("release/REVISION", "\u{1b}[31m"), (".git/HEAD", A)],
            Some((A, None)),
        );
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path();
        // Nobody ever writes into this one.
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, base.join("REVISION"), FileType::Fifo, mode, 0).unwrap();
        fs::create_dir(base.join(".git")).unwrap();
        fs::create_dir(base.join(".git/HEAD")).unwrap();
        assert_eq!(of(base), None);
        assert_eq!(of(&base.join("nowhere")), None);
    }
}
