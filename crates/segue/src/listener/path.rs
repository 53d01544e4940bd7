//! Unix-domain sockets with a path: one socket for each generation, of which one is on the path.
//!
//! A socket is bound under a private name beside the path, which it keeps, and put onto the path
//! as a further name of it by rename(2), which replaces what is there in one step: new
//! connections go to the new socket, the queue of the old one keeps its own. So it can be put
//! back, also when a worker has unlinked the path before it listens, as many programs do. A path
//! that somebody else took meanwhile is never touched.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;
use segue_core::SocketIndex;
use segue_sys::inherited::{self, Listener};
use segue_sys::socket::{self, Inode, Occupant, Permissions};

use serde::{Deserialize, Serialize};

use super::place::Manner;
use crate::handoff::text::Word;

/// The names of an address's sockets.
#[derive(Debug)]
pub(super) struct Names {
    directory: OwnedFd,
    /// The path's last part.
    name: OsString,
    /// By socket index.
    members: Vec<Member>,
    /// Which of them is on the path, unless somebody took it away.
    on_path: Option<SocketIndex>,
}

#[derive(Debug)]
struct Member {
    inode: Inode,
    private: OsString,
    /// As we made it; an app may change those of the path.
    permissions: Permissions,
}

/// The names, as a successor of this process finds them.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Record {
    name: Word,
    members: Vec<MemberRecord>,
    on_path: Option<u16>,
}

#[derive(Debug, Deserialize, Serialize)]
struct MemberRecord {
    device: u64,
    inode: u64,
    private: Word,
    mode: u32,
    user: u32,
    group: u32,
}

impl Names {
    pub(super) fn record(&self) -> Record {
        let members = self.members.iter().map(|member| MemberRecord {
            device: member.inode.device,
            inode: member.inode.number,
            private: member.private.as_os_str().into(),
            mode: member.permissions.mode,
            user: member.permissions.user,
            group: member.permissions.group,
        });
        Record {
            name: self.name.as_os_str().into(),
            members: members.collect(),
            on_path: self.on_path.map(|SocketIndex(index)| index),
        }
    }

    /// Those of a predecessor, in the directory that it held.
    pub(super) fn restore(directory: OwnedFd, record: Record) -> Self {
        let members = record.members.into_iter().map(|member| Member {
            inode: Inode {
                device: member.device,
                number: member.inode,
            },
            private: member.private.into(),
            permissions: Permissions {
                mode: member.mode,
                user: member.user,
                group: member.group,
            },
        });
        Self {
            directory,
            name: record.name.into(),
            members: members.collect(),
            on_path: record.on_path.map(SocketIndex),
        }
    }

    /// Those of sockets that an earlier life of ours has bound beside this path, which are listening.
    /// The one that is on the path comes first; one whose own name is gone cannot be used any more.
    ///
    /// # Errors
    /// None is left; `EADDRINUSE` if none is on the path and the path is somebody else's.
    pub(super) fn adopt(path: &Path, sockets: Vec<OwnedFd>) -> io::Result<(Self, Vec<OwnedFd>)> {
        let mut names = Self::new(path)?;
        let directory = names.directory.as_fd();
        let on_path = socket::path_inode(directory, &names.name)?;
        let mut found: Vec<(Member, OwnedFd)> = Vec::new();
        for socket in sockets {
            let Some(Listener::Path(bound)) = inherited::identify(&socket)? else {
                continue;
            };
            let Some(private) = Path::new(OsStr::from_bytes(&bound)).file_name() else {
                continue;
            };
            let Some(inode) = socket::path_inode(directory, private)? else {
                continue;
            };
            socket::listen(&socket)?;
            let member = Member {
                inode,
                private: private.to_owned(),
                permissions: socket::path_permissions(directory, private)?,
            };
            found.push((member, socket));
        }
        found.sort_by_key(|(member, _)| Some(member.inode) != on_path);
        let (first, _) = found.first().ok_or(Errno::NOENT)?;
        if Some(first.inode) != on_path {
            names.claim(&first.private)?;
        }
        names.on_path = Some(SocketIndex(0));
        let (members, sockets) = found.into_iter().unzip();
        names.members = members;
        Ok((names, sockets))
    }

    pub(super) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// # Errors
    /// Those of open(2) for the directory.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let name = path.file_name().ok_or(Errno::INVAL)?;
        Ok(Self {
            directory: socket::open_directory(directory)?,
            name: name.to_owned(),
            members: Vec::new(),
            on_path: None,
        })
    }

    /// One more socket, listening. The first one is on the path when this returns.
    ///
    /// # Errors
    /// `EADDRINUSE` if the path is that of a living socket, or of something else; else those of bind(2).
    pub(super) fn open(&mut self, how: Manner) -> io::Result<OwnedFd> {
        let (socket, private) = self.bind_private()?;
        match self.admit(&socket, &private, how) {
            Ok(()) => Ok(socket),
            Err(error) => {
                let _ = self.unlink(&private);
                Err(error)
            }
        }
    }

    fn admit(&mut self, socket: &OwnedFd, private: &OsStr, how: Manner) -> io::Result<()> {
        let directory = self.directory.as_fd();
        if how.readable_all || how.writable_all {
            socket::open_path_to_all(directory, private, how.readable_all, how.writable_all)?;
        }
        socket::listen(socket)?;
        let inode = socket::path_inode(directory, private)?.ok_or(Errno::NOENT)?;
        let permissions = socket::path_permissions(directory, private)?;
        if self.members.is_empty() {
            self.claim(private)?;
            self.on_path = Some(SocketIndex(0));
        }
        self.members.push(Member {
            inode,
            private: private.to_owned(),
            permissions,
        });
        Ok(())
    }

    /// Puts the first socket onto the path, which must be free or stale.
    fn claim(&self, private: &OsStr) -> io::Result<()> {
        // More than one round only if others come and go at the same path just now.
        for _ in 0..4 {
            match self.link(private, &self.name) {
                Err(Errno::EXIST) => {}
                result => return Ok(result?),
            }
            match socket::path_occupant(self.directory.as_fd(), &self.name)? {
                Occupant::Nobody => {}
                Occupant::Stale(inode) => self.remove_stale(inode)?,
                Occupant::Live | Occupant::NotASocket => break,
            }
        }
        Err(Errno::ADDRINUSE.into())
    }

    /// Removes a socket that nobody listens on. Between the look and the removal somebody else
    /// may have put a living one there: so it is moved aside first, and put back if it is
    /// another than the one looked at.
    fn remove_stale(&self, stale: Inode) -> io::Result<()> {
        let aside = self.free_name(|name| match self.rename_onto_nothing(&self.name, name) {
            Err(Errno::NOENT) => Ok(()),
            result => result,
        })?;
        match socket::path_inode(self.directory.as_fd(), &aside)? {
            Some(inode) if inode == stale => Ok(self.unlink(&aside)?),
            Some(_) => Ok(self.rename_onto_nothing(&aside, &self.name)?),
            None => Ok(()),
        }
    }

    /// A connection to one of the sockets, whichever is on the path.
    ///
    /// # Errors
    /// `EINVAL` for an unknown socket, `ENOENT` if its own name is somebody else's now; else those of
    /// connect(2).
    pub(super) fn connect(&self, index: SocketIndex) -> io::Result<OwnedFd> {
        let member = self.members.get(usize::from(index.0)).ok_or(Errno::INVAL)?;
        let directory = self.directory.as_fd();
        if socket::path_inode(directory, &member.private)? != Some(member.inode) {
            return Err(Errno::NOENT.into());
        }
        socket::connect_path(directory, &member.private)
    }

    /// Puts a socket onto the path, in one step.
    ///
    /// # Errors
    /// `EINVAL` for an unknown socket, `EADDRINUSE` if the path is somebody else's now; else
    /// those of link(2), rename(2) and, where the permissions of the path have been changed,
    /// chown(2) and chmod(2).
    pub(super) fn steer(&mut self, index: SocketIndex) -> io::Result<()> {
        let member = self.members.get(usize::from(index.0)).ok_or(Errno::INVAL)?;
        let present = socket::path_inode(self.directory.as_fd(), &self.name)?;
        match present {
            Some(present) if present == member.inode => {}
            Some(present) => {
                let replaced = self.members.iter().find(|other| other.inode == present);
                self.replace(replaced.ok_or(Errno::ADDRINUSE)?, member)?;
            }
            None => self.link(&member.private, &self.name)?,
        }
        self.on_path = Some(index);
        Ok(())
    }

    fn replace(&self, old: &Member, new: &Member) -> io::Result<()> {
        let directory = self.directory.as_fd();
        // Who changed the permissions of the path, the new generation's workers included, meant
        // the path and not the socket that happened to be on it.
        let permissions = socket::path_permissions(directory, &self.name)?;
        if permissions != old.permissions {
            socket::set_path_permissions(directory, &new.private, permissions)?;
        }
        let second = self.free_name(|name| self.link(&new.private, name))?;
        if let Err(error) = rustix::fs::renameat(directory, &second, directory, &self.name) {
            let _ = self.unlink(&second);
            return Err(error.into());
        }
        Ok(())
    }

    /// Puts the socket that belongs on the path back there if the path is gone.
    ///
    /// # Errors
    /// Those of link(2).
    pub(super) fn heal(&self) -> io::Result<()> {
        let Some(index) = self.on_path else {
            return Ok(());
        };
        let Some(member) = self.members.get(usize::from(index.0)) else {
            return Ok(());
        };
        match self.link(&member.private, &self.name) {
            Err(Errno::EXIST) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Takes the path away, if it is still ours: nobody finds the socket any more.
    pub(super) fn leave_path(&mut self) {
        let Some(index) = self.on_path.take() else {
            return;
        };
        let ours = self
            .members
            .get(usize::from(index.0))
            .map(|member| member.inode);
        let present = socket::path_inode(self.directory.as_fd(), &self.name);
        if let Ok(Some(present)) = present
            && Some(present) == ours
        {
            let _ = self.unlink(&self.name);
        }
    }

    /// Takes all names away.
    pub(super) fn close(mut self) {
        self.leave_path();
        for member in &self.members {
            let _ = self.unlink(&member.private);
        }
    }

    fn bind_private(&self) -> io::Result<(OwnedFd, OsString)> {
        let mut bound = None;
        let private = self.free_name(|name| {
            let socket = socket::bind_path(self.directory.as_fd(), name);
            bound = Some(socket.map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::ADDRINUSE) => Errno::EXIST,
                Some(errno) => errno,
                None => Errno::IO,
            })?);
            Ok(())
        })?;
        let socket = bound.ok_or(Errno::IO)?;
        Ok((socket, private))
    }

    /// Tries private names with `make` until one was free (`EEXIST` says it was not). Other
    /// supervisors may use the directory too, even with our pid, in another pid namespace.
    fn free_name(
        &self,
        mut make: impl FnMut(&OsStr) -> rustix::io::Result<()>,
    ) -> io::Result<OsString> {
        let pid = std::process::id();
        for number in 0..1_000 {
            let name = OsString::from(format!(".segue-{pid}-{number}"));
            match make(&name) {
                Ok(()) => return Ok(name),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::EXIST.into())
    }

    fn rename_onto_nothing(&self, from: &OsStr, to: &OsStr) -> rustix::io::Result<()> {
        let directory = &self.directory;
        match rustix::fs::renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
            // A file system without this flag: a link cannot replace anything either.
            Err(Errno::INVAL) => {
                rustix::fs::linkat(directory, from, directory, to, AtFlags::empty())?;
                self.unlink(from)
            }
            result => result,
        }
    }

    /// Never replaces anything: `EEXIST`.
    fn link(&self, from: &OsStr, to: &OsStr) -> rustix::io::Result<()> {
        let directory = &self.directory;
        rustix::fs::linkat(directory, from, directory, to, AtFlags::empty())
    }

    fn unlink(&self, name: &OsStr) -> rustix::io::Result<()> {
        rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())
    }
}
