//! Records how real Node workers talk to a primary, as fixtures for `tests/transcripts.rs`:
//!
//! ```text
//! cargo run -p segue-wire --example record -- crates/segue-wire/tests/transcripts NODE...
//! ```
//!
//! Every case of `tests/primary` is run with every NODE; its app, in `tests/apps`, is told where to
//! listen by PORT, OTHER_PORT and SOCKET. What differs from run to run (ports,
//! directories, ticket keys) is replaced, so recording again changes nothing that matters.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use segue_wire::node::{AddressType, Decoder, Place};
use serde_json::{Value, json};

#[path = "../tests/primary/mod.rs"]
mod primary;

use primary::{CASES, Case, Handle, Primary, Say};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let out = PathBuf::from(arguments.next().ok_or("usage: record OUT NODE...")?);
    for node in arguments {
        let version = Command::new(&node).arg("--version").output()?.stdout;
        let version = String::from_utf8(version)?;
        let major = version.trim().trim_start_matches('v').split('.').next();
        let directory = out.join(major.ok_or("no version")?);
        fs::create_dir_all(&directory)?;
        for case in CASES {
            let transcript = record(Path::new(&node), case)
                .map_err(|error| format!("{}, {}: {error}", version.trim(), case.name))?;
            fs::write(
                directory.join(case.name).with_extension("jsonl"),
                transcript,
            )?;
        }
    }
    Ok(())
}

fn record(node: &Path, case: &Case) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let script = directory.path().join("app.js");
    let app = format!("tests/apps/{}.js", case.name);
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(app), &script)?;
    let ports = [free_port()?, free_port()?];

    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(Duration::from_secs(20)))?;
    // The shell moves the channel away from standard input, which needs no code between fork and exec.
    let mut worker = Command::new("sh")
        .args(["-c", "exec 3<&0 </dev/null; exec \"$@\"", "sh"])
        .arg(node)
        .arg(&script)
        .current_dir(directory.path())
        .env("NODE_CHANNEL_FD", "3")
        .env("NODE_CHANNEL_SERIALIZATION_MODE", "json")
        .env("NODE_UNIQUE_ID", "1")
        .env("PORT", ports[0].to_string())
        .env("OTHER_PORT", ports[1].to_string())
        .env("SOCKET", directory.path().join("app.sock"))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;

    let mut recorder = Recorder {
        primary: Primary::new(case),
        channel: ours,
        sockets: BTreeMap::new(),
        scrub: Scrub {
            directory: directory.path().to_str().ok_or("not UTF-8")?.to_owned(),
            ports: ports.to_vec(),
        },
        transcript: String::new(),
    };
    let talk = recorder.talk(case);
    if talk.is_err() {
        worker.kill()?;
    }
    let status = worker.wait()?;
    talk.map_err(|error| format!("{error}, after\n{}", recorder.transcript))?;
    if !status.success() {
        return Err(format!("the worker ended with {status}").into());
    }
    Ok(recorder.transcript)
}

struct Recorder<'a> {
    primary: Primary<'a>,
    channel: UnixStream,
    /// What was given, and the other ends of handed-over connections: kept open until the end.
    sockets: BTreeMap<String, OwnedFd>,
    scrub: Scrub,
    transcript: String,
}

impl Recorder<'_> {
    fn talk(&mut self, case: &Case) -> Result<()> {
        let mut decoder = Decoder::default();
        let mut buffer = [0; 4096];
        let mut raw = Vec::new();
        loop {
            let count = self.channel.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            // Byte by byte, so that every line is recorded just before what it makes us say.
            for byte in buffer.get(..count).unwrap_or_default() {
                raw.push(*byte);
                let mut lines = Vec::new();
                decoder.feed(&[*byte], |line| lines.push(line));
                for line in lines {
                    let text = String::from_utf8(std::mem::take(&mut raw))?;
                    self.note("worker", text.trim_end_matches('\n'));
                    for say in self.primary.hear(&line) {
                        self.say(&say)?;
                    }
                    if case.name == "messages" && text.starts_with("\"end\"") {
                        // Nobody tells this one to go: our end of the channel does.
                        self.channel.shutdown(std::net::Shutdown::Both)?;
                    }
                }
            }
        }
    }

    fn say(&mut self, say: &Say) -> Result<()> {
        match &say.handle {
            None => self.channel.write_all(&say.line)?,
            Some(handle) => {
                let descriptor = self.descriptor(handle)?;
                let rights = [descriptor.as_fd()];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&rights));
                let bytes = [IoSlice::new(&say.line)];
                let sent = sendmsg(&self.channel, &bytes, &mut control, SendFlags::empty())?;
                assert_eq!(sent, say.line.len());
            }
        }
        let line = String::from_utf8(say.line.clone())?;
        self.note("primary", line.trim_end_matches('\n'));
        Ok(())
    }

    fn descriptor(&mut self, handle: &Handle) -> Result<OwnedFd> {
        let Handle::Socket { key, place } = handle else {
            let (mut client, server) = UnixStream::pair()?;
            client.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            client.shutdown(std::net::Shutdown::Write)?;
            server.set_nonblocking(true)?;
            self.sockets.insert("client".into(), client.into());
            return Ok(server.into());
        };
        // One that listens again gets the same socket again, as it would from a supervisor.
        let name = match place.port {
            Some(0) => key.clone(),
            _ => format!("{place:?}"),
        };
        let socket = match self.sockets.remove(&name) {
            Some(socket) => socket,
            None => bind(place, &mut self.scrub.ports)?,
        };
        self.sockets.insert(name, socket.try_clone()?);
        Ok(socket)
    }

    fn note(&mut self, from: &str, line: &str) {
        let entry = json!({"from": from, "line": self.scrub.line(line)});
        self.transcript.push_str(&format!("{entry}\n"));
    }
}

fn bind(place: &Place, ports: &mut Vec<u16>) -> Result<OwnedFd> {
    let address = place.address.as_deref();
    let port = u16::try_from(place.port.unwrap_or(0)).unwrap_or(0);
    match place.address_type {
        AddressType::V4 | AddressType::V6 => {
            let listener = TcpListener::bind((address.unwrap_or("::"), port))?;
            listener.set_nonblocking(true)?;
            ports.push(listener.local_addr()?.port());
            Ok(listener.into())
        }
        AddressType::Udp4 | AddressType::Udp6 => {
            let socket = UdpSocket::bind((address.unwrap_or("0.0.0.0"), port))?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        }
        AddressType::Path => {
            let address = match place.abstract_name() {
                Some(name) => SocketAddr::from_abstract_name(name)?,
                None => SocketAddr::from_pathname(address.ok_or("a path without a path")?)?,
            };
            let listener = UnixListener::bind_addr(&address)?;
            listener.set_nonblocking(true)?;
            Ok(listener.into())
        }
        AddressType::Fd | AddressType::Unknown => Err(format!("cannot bind {place:?}").into()),
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("::", 0))?.local_addr()?.port())
}

struct Scrub {
    directory: String,
    /// In order of appearance; the first is 18080 in the transcript, and so on.
    ports: Vec<u16>,
}

impl Scrub {
    fn line(&self, line: &str) -> String {
        let mut line = line.replace(&self.directory, "/srv/app");
        for (scrubbed, port) in (18080..).zip(&self.ports) {
            line = line.replace(
                &format!("\"port\":{port},"),
                &format!("\"port\":{scrubbed},"),
            );
        }
        let keys = serde_json::from_str::<Value>(&line).ok().and_then(|value| {
            let message = value.get("msg").unwrap_or(&value);
            message
                .pointer("/data/ticketKeys")?
                .as_str()
                .map(str::to_owned)
        });
        match keys {
            Some(keys) => line.replace(&keys, &"5e".repeat(48)),
            None => line,
        }
    }
}
