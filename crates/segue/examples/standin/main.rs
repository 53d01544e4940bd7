//! A stand-in for Node in the end-to-end tests: speaks the worker's side of the channel, serves
//! the fixtures' answers over HTTP/1.1, and misbehaves on command, without Node's boot.
//!
//! It shares no code with the supervisor's side: a mistake in framing made twice would go unseen.
//! What it does is said by words in its arguments and in a file `behaviour` in its working
//! directory (so that a release can misbehave); see [`behaviour`].

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stderr,
    reason = "what a worker prints is what the tests look for"
)]

mod behaviour;
mod channel;
mod serve;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use serde_json::{Value, json};
use tokio::sync::watch;

use behaviour::{Behaviour, Place};
use channel::{Channel, Received};
use serve::Connections;

fn main() -> ExitCode {
    let behaviour = match Behaviour::read() {
        Ok(behaviour) => behaviour,
        Err(error) => {
            eprintln!("standin: {error}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let worked = runtime
        .and_then(|runtime| tokio::task::LocalSet::new().block_on(&runtime, work(behaviour)));
    match worked {
        Ok(code) => code,
        Err(error) => {
            eprintln!("standin: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Lives a worker's life: boot, online, ask for each place, serve, end.
async fn work(behaviour: Behaviour) -> std::io::Result<ExitCode> {
    for line in &behaviour.stderr {
        eprintln!("{line}");
    }
    if behaviour.ignore_term {
        behaviour::ignore_term()?;
    }
    if let Some(code) = behaviour.exit_at_boot {
        return Ok(ExitCode::from(code));
    }
    if behaviour.spin {
        loop {
            std::hint::spin_loop();
        }
    }
    let (channel, mut incoming) = Channel::open()?;
    let mut worker = Worker::new(behaviour, channel);
    worker.boot().await;
    if worker.behaviour.never_read {
        std::future::pending::<()>().await;
    }
    while let Some(received) = incoming.recv().await {
        if worker.handle(received)? == After::End {
            return Ok(worker.end().await);
        }
    }
    // Node does the same: a channel that ends without a disconnect ends the worker at once.
    Ok(ExitCode::SUCCESS)
}

/// Whether the worker goes on after a message.
#[derive(PartialEq, Eq)]
enum After {
    GoOn,
    End,
}

struct Worker {
    behaviour: Behaviour,
    channel: Channel,
    connections: Connections,
    /// Questions that have not been answered yet, by their `seq`.
    asked: BTreeMap<u64, Place>,
    keys: Vec<String>,
    /// Servers stop accepting when this turns true.
    closing: watch::Sender<bool>,
}

impl Worker {
    fn new(behaviour: Behaviour, channel: Channel) -> Self {
        Self {
            connections: Connections::new(&behaviour),
            behaviour,
            channel,
            asked: BTreeMap::new(),
            keys: Vec::new(),
            closing: watch::Sender::new(false),
        }
    }

    async fn boot(&mut self) {
        self.channel
            .send(json!({"cmd": "NODE_CLUSTER", "act": "online"}));
        tokio::time::sleep(self.behaviour.boot).await;
        if let Some(wait) = self.behaviour.exit_after {
            let code = i32::from(self.behaviour.exit_code);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(wait).await;
                behaviour::leave(code);
            });
        }
        if let Some(wait) = self.behaviour.ready_message {
            let channel = self.channel.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(wait).await;
                channel.send_raw("\"ready\"\n");
            });
        }
        if let Some(wait) = self.behaviour.notify {
            tokio::task::spawn_local(async move {
                tokio::time::sleep(wait).await;
                if let Err(error) = notify(b"STATUS=as good as up\nREADY=1") {
                    eprintln!("standin: {error}");
                }
            });
        }
        for (index, place) in self.behaviour.places.clone().into_iter().enumerate() {
            let (address, port, kind) = match &place {
                Place::Port(port) => (Value::Null, Value::from(*port), Value::from(4)),
                Place::Path(path) => (Value::from(path.as_str()), Value::from(-1), Value::from(-1)),
            };
            let seq = self.channel.send(json!({
                "cmd": "NODE_CLUSTER", "act": "queryServer", "index": index, "data": null,
                "address": address, "port": port, "addressType": kind, "flags": 0, "backlog": 0,
            }));
            self.asked.insert(seq, place);
        }
    }

    fn handle(&mut self, received: Received) -> std::io::Result<After> {
        let Received { message, handle } = received;
        let message = if message["cmd"] == "NODE_HANDLE" {
            if !self.behaviour.never_acknowledge {
                let reply = if handle.is_some() {
                    "NODE_HANDLE_ACK"
                } else {
                    "NODE_HANDLE_NACK"
                };
                self.channel.send_raw(&format!("{{\"cmd\":\"{reply}\"}}\n"));
            }
            message["msg"].clone()
        } else {
            message
        };
        if let Some(ack) = message["ack"].as_u64() {
            return self.answered(ack, &message, handle).map(|()| After::GoOn);
        }
        match (message["act"].as_str(), handle) {
            (Some("newconn"), Some(connection)) => self.take(&message, connection)?,
            (Some("disconnect"), _) if !self.behaviour.ignore_disconnect => return Ok(After::End),
            _ => {}
        }
        Ok(After::GoOn)
    }

    fn answered(
        &mut self,
        ack: u64,
        message: &Value,
        handle: Option<OwnedFd>,
    ) -> std::io::Result<()> {
        let Some(place) = self.asked.remove(&ack) else {
            return Ok(());
        };
        let Some(handle) = handle else {
            eprintln!("standin: listen failed: errno {}", message["errno"]);
            behaviour::leave(1);
        };
        let key = message["key"].as_str().unwrap_or_default().to_owned();
        self.keys.push(key);
        self.connections.listen(handle, self.closing.subscribe())?;
        let (address, port) = match place {
            Place::Port(port) => (Value::Null, Value::from(port)),
            Place::Path(path) => (Value::from(path), Value::from(-1)),
        };
        self.channel.send(json!({
            "cmd": "NODE_CLUSTER", "act": "listening", "address": address, "port": port,
            "addressType": if port == -1 { -1 } else { 4 },
        }));
        self.misbehave_listening();
        Ok(())
    }

    /// What it was told to do to its channel once it listens.
    fn misbehave_listening(&self) {
        for number in 0..self.behaviour.flood {
            self.channel.send_raw(&format!("{{\"flood\":{number}}}\n"));
        }
        if self.behaviour.garble {
            self.channel.send_raw("this is no JSON\n{\"half\":\n");
        }
        if self.behaviour.unfinished {
            self.channel.send_raw("{\"never\":\"ends");
        }
        if self.behaviour.disconnect {
            self.channel.shut();
        }
    }

    fn take(&mut self, message: &Value, connection: OwnedFd) -> std::io::Result<()> {
        if self.behaviour.die_on_newconn {
            behaviour::die();
        }
        let accepted = !self.behaviour.refuse_newconn;
        self.channel
            .send(json!({"cmd": "NODE_CLUSTER", "ack": message["seq"], "accepted": accepted}));
        if accepted {
            self.connections
                .serve_handed(connection, self.closing.subscribe())?;
        }
        Ok(())
    }

    /// Asked to disconnect: closes its servers, finishes what is open, closes the channel, exits 0.
    async fn end(&mut self) -> ExitCode {
        // Nobody listens any more if there was no server.
        let _ = self.closing.send(true);
        for key in self.keys.drain(..) {
            self.channel
                .send(json!({"cmd": "NODE_CLUSTER", "act": "close", "key": key}));
        }
        self.connections.finished().await;
        self.channel.flushed().await;
        ExitCode::SUCCESS
    }
}

/// As sd_notify(3) does, to a name of the abstract namespace.
fn notify(text: &[u8]) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let name = std::env::var("NOTIFY_SOCKET").map_err(std::io::Error::other)?;
    let name = name.trim_start_matches('@');
    let address = SocketAddr::from_abstract_name(name)?;
    UnixDatagram::unbound()?.send_to_addr(text, &address)?;
    Ok(())
}
