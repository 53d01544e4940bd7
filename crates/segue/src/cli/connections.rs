//! How many connections a worker has open, as far as whoever asks may see that: the supervisor takes no
//! part in connections, and asking workers would cost them something. So it is looked up in /proc
//! (proc_pid_net(5), proc_pid_fd(5)), by the command and only when somebody wants to know.

use std::collections::BTreeSet;
use std::fs;

use segue_wire::control::{App, Status};

/// Accepted ones: established, or closed by the client alone (`TCP_ESTABLISHED` and `TCP_CLOSE_WAIT`
/// of the kernel's tcp_states.h).
const OPEN: [&str; 2] = ["01", "08"];

/// Fills in what the supervisor does not know.
pub(super) fn count(status: &mut Status) {
    for app in &mut status.apps {
        let ports = ports(app);
        if ports.is_empty() {
            continue;
        }
        // All of them share the network of the supervisor.
        let mut open = None;
        for worker in &mut app.workers {
            let Some(pid) = worker.pid.filter(|_| worker.connections.is_none()) else {
                continue;
            };
            let open = open.get_or_insert_with(|| sockets(pid, &ports));
            worker.connections = held(pid, open);
        }
    }
}

/// Where the app listens by TCP.
fn ports(app: &App) -> BTreeSet<u16> {
    let addresses = app.addresses.iter().map(|it| it.name.as_str());
    let addresses = addresses.filter(|it| !it.starts_with(['/', '@']) && !it.starts_with("udp"));
    let ports = addresses.filter_map(|it| it.rsplit_once(':')?.1.parse().ok());
    ports.collect()
}

/// Inodes of connections to these ports.
fn sockets(pid: u32, ports: &BTreeSet<u16>) -> BTreeSet<u64> {
    let tables =
        ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")));
    let tables = tables.iter().flatten();
    tables
        .flat_map(|table| table.lines().filter_map(|line| inode(line, ports)))
        .collect()
}

/// That of a line, if it is one of these.
fn inode(line: &str, ports: &BTreeSet<u16>) -> Option<u64> {
    let mut fields = line.split_whitespace().skip(1);
    let (_, port) = fields.next()?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let is_ours = u16::from_str_radix(port, 16).is_ok_and(|port| ports.contains(&port));
    let inode = fields.nth(5)?.parse().ok()?;
    // None belongs to one that nobody has accepted.
    (is_ours && OPEN.contains(&state) && inode != 0).then_some(inode)
}

/// How many of these a process has open; `None` if that may not be seen.
fn held(pid: u32, sockets: &BTreeSet<u64>) -> Option<u32> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let targets = descriptors
        .flatten()
        .filter_map(|it| fs::read_link(it.path()).ok());
    let held: BTreeSet<u64> = targets
        .filter_map(|target| {
            let inode = target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?;
            inode.parse().ok()
        })
        .filter(|inode| sockets.contains(inode))
        .collect();
    u32::try_from(held.len()).ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use segue_wire::control::{Address, Worker};

    use super::*;

    #[test]
    fn lines_of_the_kernels_table() {
        let ports = BTreeSet::from([3000]);
        for (line, expected) in [
            (
                "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
                None,
            ),
            (
                "   0: 00000000:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31 1 0 100 0 0 10 0",
                None,
            ),
            (
                "   1: 0100007F:0BB8 0100007F:A2C4 01 00000000:00000000 02:00000A54 00000000     0        0 32 2 0 20 4 1 10 -1",
                Some(32),
            ),
            (
                "   2: 00000000000000000000000001000000:0BB8 00000000000000000000000001000000:A2C4 08 00000000:00000000 00:00000000 00000000     0        0 33 1 0 20 4 30 10 -1",
                Some(33),
            ),
            (
                "   3: 0100007F:A2C4 0100007F:0BB8 01 00000000:00000000 00:00000000 00000000     0        0 34 1 0 20 4 30 10 -1",
                None,
            ),
            (
                "   4: 0100007F:0BB8 0100007F:A2C6 01 00000000:00000000 00:00000000 00000000     0        0 0 2 0 20 4 1 10 -1",
                None,
            ),
            (
                "   5: 0100007F:0BB8 0100007F:A2C6 06 00000000:00000000 03:00000ABC 00000000     0        0 0 3 0",
                None,
            ),
            ("", None),
        ] {
            assert_eq!(inode(line, &ports), expected, "{line}");
        }
    }

    #[test]
    fn accepted_connections_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<TcpStream> = (0..3)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let mut accepted: Vec<TcpStream> = (0..2).map(|_| listener.accept().unwrap().0).collect();
        let seen = |known: Option<u32>| {
            let mut status = Status {
                apps: vec![App {
                    addresses: vec![Address {
                        name: address.to_string(),
                        ..Address::default()
                    }],
                    workers: vec![Worker {
                        pid: Some(std::process::id()),
                        connections: known,
                        ..Worker::default()
                    }],
                    ..App::default()
                }],
                ..Status::default()
            };
            count(&mut status);
            status.apps[0].workers[0].connections
        };
        assert_eq!(seen(None), Some(2), "the third waits in the queue");
        assert_eq!(seen(Some(7)), Some(7), "the supervisor knows better");
        clients[0].shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(accepted[0].read(&mut [0]).unwrap(), 0);
        assert_eq!(seen(None), Some(2), "half of it is open");
        accepted.remove(0);
        accepted[0].write_all(b"x").unwrap();
        assert_eq!(seen(None), Some(1));
    }
}
