//! How many connections a worker has open, as far as whoever asks may see that: the supervisor takes no
//! part in connections, and asking workers would cost them something. So the kernel is asked, by the
//! command and only when somebody wants to know.

use std::collections::BTreeSet;

use segue_sys::diag;
use segue_wire::control::{App, Status};

/// Fills in what the supervisor does not know.
pub(super) fn count(status: &mut Status) {
    for app in &mut status.apps {
        let ports = ports(app);
        let open: Result<Vec<_>, _> = ports.into_iter().map(diag::tcp_connections).collect();
        let Some(open) = open.ok().filter(|open| !open.is_empty()) else {
            continue;
        };
        let open: BTreeSet<u64> = open.into_iter().flatten().collect();
        let unknown = app.workers.iter_mut();
        for worker in unknown.filter(|worker| worker.connections.is_none()) {
            let pid = worker.pid.and_then(|pid| i32::try_from(pid).ok());
            let count = pid.and_then(|pid| diag::count_open(pid, &open));
            worker.connections = count.and_then(|count| u32::try_from(count).ok());
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use segue_wire::control::{Address, Worker};

    use super::*;

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
