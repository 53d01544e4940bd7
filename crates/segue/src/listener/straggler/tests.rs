//! Stragglers on real sockets, with workers that answer when a test says so. Time stands still
//! in the tests and jumps ahead when everything waits for it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use segue_core::{AddressId, SocketIndex, Tend, WorkerId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::{Counts, HELD_LIMIT, HandOver, Registry, Stragglers};
use crate::handoff::{Deposit, Journal};

mod migrants;
use crate::listener::Pool;
use crate::listener::tests::{at, connect, eventually, open, tcp};

const A: WorkerId = WorkerId(1);
const B: WorkerId = WorkerId(2);
const C: WorkerId = WorkerId(3);

/// A connection that was offered to a worker, and the way to answer.
struct Offer {
    worker: WorkerId,
    keep_alive: Option<Duration>,
    connection: Deposit,
    answer: oneshot::Sender<Result<(), Deposit>>,
}

impl Offer {
    fn take(self) {
        let mut connection = TcpStream::from(self.connection.copy().expect("it is open"));
        connection.write_all(b"served").expect("the client waits");
        self.answer.send(Ok(())).expect("it is waited for");
    }

    fn give_back(self) {
        let Self {
            connection, answer, ..
        } = self;
        answer.send(Err(connection)).expect("it is waited for");
    }
}

#[derive(Debug)]
struct Workers(mpsc::UnboundedSender<Offer>);

impl HandOver for Workers {
    async fn hand_over(
        &self,
        worker: WorkerId,
        _: AddressId,
        keep_alive: Option<Duration>,
        connection: Deposit,
    ) -> Result<(), Deposit> {
        let (answer, answered) = oneshot::channel();
        let offer = Offer {
            worker,
            keep_alive,
            connection,
            answer,
        };
        if let Err(refused) = self.0.send(offer) {
            return Err(refused.0.connection);
        }
        // A test that drops an offer is a worker that died with the connection.
        answered.await.unwrap_or(Ok(()))
    }
}

struct Scene {
    pool: Pool,
    address: AddressId,
    stragglers: Stragglers<Workers>,
    offers: mpsc::UnboundedReceiver<Offer>,
}

impl Scene {
    /// An address with two sockets, of which the first gets all connections.
    fn new() -> Self {
        let mut pool = Pool::new(true, Journal::nowhere());
        let address = open(&mut pool, tcp(0), 2);
        let (sender, offers) = mpsc::unbounded_channel();
        Self {
            pool,
            address,
            stragglers: Stragglers::new(Workers(sender), Registry::new(Journal::nowhere(), 0)),
            offers,
        }
    }

    fn tend(&mut self, how: Tend) {
        let socket = at(self.address, 0);
        let lend = || self.pool.lend(socket);
        self.stragglers.tend(socket, how, lend).expect("it is open");
    }

    fn publish(&mut self, workers: &[WorkerId]) {
        self.stragglers.publish(self.address, workers.to_vec());
    }

    /// A client whose connection is in a queue.
    fn client(&self) -> TcpStream {
        let all = || -> u32 {
            let lengths = self.pool.queue_lengths(self.address);
            lengths.into_iter().flatten().sum()
        };
        let before = all();
        let client = connect(&self.pool, self.address);
        // The runtime stands still meanwhile, and nobody accepts.
        eventually(|| all() > before);
        client
    }

    fn clients<const N: usize>(&self) -> [TcpStream; N] {
        [(); N].map(|()| self.client())
    }

    fn waiting(&self) -> Option<u32> {
        self.pool.queue_lengths(self.address).first().copied()?
    }

    async fn offer(&mut self) -> Offer {
        // The clock jumps at once where the kernel may need a moment: so many jumps.
        for _ in 0..1_000 {
            if let Ok(offer) = timeout(Duration::from_millis(1), self.offers.recv()).await {
                return offer.expect("the channel is open");
            }
        }
        panic!("nothing was offered");
    }

    /// Lets everything happen that can, which must not be an offer.
    async fn no_offer(&mut self) {
        let offer = timeout(Duration::from_millis(50), self.offers.recv()).await;
        assert!(offer.is_err());
    }
}

fn hear(mut client: TcpStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).expect("no reset");
    text
}

fn is_reset(mut client: TcpStream) -> bool {
    client
        .read(&mut [0])
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test(start_paused = true)]
async fn connections_go_to_the_published_workers_in_turn() {
    let mut scene = Scene::new();
    let clients = scene.clients::<6>();
    scene.publish(&[A, B]);
    scene.tend(Tend::HandOver);
    let mut order = Vec::new();
    for _ in 0..3 {
        // One at a time to each worker: two offers, then none until one is answered.
        let offers = [scene.offer().await, scene.offer().await];
        scene.no_offer().await;
        for offer in offers {
            order.push(offer.worker);
            offer.take();
        }
    }
    assert_eq!(order, [A, B, A, B, A, B]);
    assert!(clients.into_iter().all(|client| hear(client) == "served"));
    scene.no_offer().await;
    assert_eq!(scene.stragglers.held(), 0);
    let handed_over = 6;
    assert_eq!(
        scene.stragglers.counts(),
        Counts {
            handed_over,
            ..Counts::default()
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_comes_later_is_found() {
    let mut scene = Scene::new();
    scene.publish(&[A]);
    scene.tend(Tend::HandOver);
    scene.no_offer().await;
    let client = scene.client();
    scene.offer().await.take();
    assert_eq!(hear(client), "served");
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_goes_to_the_next() {
    let mut scene = Scene::new();
    let [client] = scene.clients();
    scene.publish(&[A, B, C]);
    scene.tend(Tend::HandOver);
    for worker in [A, B] {
        let offer = scene.offer().await;
        assert_eq!(offer.worker, worker);
        offer.give_back();
    }
    let offer = scene.offer().await;
    assert_eq!(offer.worker, C);
    offer.take();
    assert_eq!(hear(client), "served");
}

#[tokio::test(start_paused = true)]
async fn what_all_give_back_is_tried_again_until_it_expires() {
    let mut scene = Scene::new();
    let [client] = scene.clients();
    scene.publish(&[A, B]);
    scene.tend(Tend::HandOver);
    let start = Instant::now();
    let mut offers = 0;
    while scene.stragglers.counts().expired == 0 {
        match timeout(Duration::from_secs(1), scene.offers.recv()).await {
            Ok(offer) => offer.expect("the channel is open").give_back(),
            Err(_) => continue,
        }
        offers += 1;
    }
    assert!(start.elapsed() < Duration::from_secs(12));
    assert!(
        (50..=110).contains(&offers),
        "{offers} offers in ten seconds"
    );
    assert!(is_reset(client));
    assert_eq!(scene.stragglers.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_worker_it_waits_for_one() {
    let mut scene = Scene::new();
    let [client] = scene.clients();
    scene.tend(Tend::HandOver);
    scene.no_offer().await;
    assert_eq!(scene.stragglers.held(), 1);
    tokio::time::sleep(Duration::from_secs(9)).await;
    scene.publish(&[A]);
    scene.offer().await.take();
    assert_eq!(hear(client), "served");
}

#[tokio::test(start_paused = true)]
async fn without_a_worker_it_is_reset_in_the_end() {
    let mut scene = Scene::new();
    let [client] = scene.clients();
    scene.tend(Tend::HandOver);
    tokio::time::sleep(Duration::from_secs(11)).await;
    let expired = 1;
    assert_eq!(
        scene.stragglers.counts(),
        Counts {
            expired,
            ..Counts::default()
        }
    );
    assert!(is_reset(client));
}

#[tokio::test(start_paused = true)]
async fn no_more_are_accepted_than_may_be_held() {
    const MORE: usize = 40;
    let mut scene = Scene::new();
    let _clients = scene.clients::<{ HELD_LIMIT + MORE }>();
    scene.tend(Tend::HandOver);
    scene.no_offer().await;
    assert_eq!(scene.stragglers.held(), HELD_LIMIT);
    assert_eq!(scene.waiting(), u32::try_from(MORE).ok());
    scene.publish(&[A]);
    for _ in 0..HELD_LIMIT + MORE {
        scene.offer().await.take();
    }
    scene.no_offer().await;
    assert_eq!((scene.stragglers.held(), scene.waiting()), (0, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_left_alone_keeps_its_connections() {
    let mut scene = Scene::new();
    let [accepted] = scene.clients();
    scene.tend(Tend::HandOver);
    scene.no_offer().await;
    scene.tend(Tend::Leave);
    let queued = scene.client();
    scene.publish(&[A]);
    // What was accepted before is delivered nevertheless; the rest waits for a worker of its own.
    scene.offer().await.take();
    assert_eq!(hear(accepted), "served");
    scene.no_offer().await;
    assert_eq!(scene.waiting(), Some(1));
    scene.tend(Tend::HandOver);
    scene.offer().await.take();
    assert_eq!(hear(queued), "served");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_left_hanging_where_nobody_will_serve() {
    let mut scene = Scene::new();
    let clients = scene.clients::<5>();
    scene.tend(Tend::Reset);
    scene.no_offer().await;
    let late = scene.client();
    scene.no_offer().await;
    assert!(clients.into_iter().all(is_reset));
    assert!(is_reset(late));
    let reset = 6;
    assert_eq!(
        scene.stragglers.counts(),
        Counts {
            reset,
            ..Counts::default()
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_address_frees_its_port_at_once_and_delivers_the_rest() {
    let mut scene = Scene::new();
    let clients = scene.clients::<2>();
    scene.publish(&[A]);
    scene.tend(Tend::HandOver);
    let first = scene.offer().await;
    let local = scene.pool.local(scene.address).expect("it is open");
    scene.stragglers.forget(scene.address);
    scene.pool.close(scene.address);
    std::net::TcpListener::bind(local).expect("the port is free");
    first.take();
    scene.offer().await.take();
    assert!(clients.into_iter().all(|client| hear(client) == "served"));
}

#[tokio::test(start_paused = true)]
async fn sockets_of_one_address_share_its_workers() {
    let mut scene = Scene::new();
    let [first] = scene.clients();
    let all = [SocketIndex(1)];
    scene
        .pool
        .steer(scene.address, &all.map(|index| (index, 1)))
        .expect("it is open");
    let second = scene.client();
    scene.publish(&[A]);
    for index in 0..2 {
        let socket = at(scene.address, index);
        let lend = || scene.pool.lend(socket);
        scene
            .stragglers
            .tend(socket, Tend::HandOver, lend)
            .expect("it is open");
    }
    scene.offer().await.take();
    scene.offer().await.take();
    assert_eq!([hear(first), hear(second)], ["served", "served"]);
}

#[tokio::test(start_paused = true)]
async fn watches_that_wait_take_no_room() {
    let mut scene = Scene::new();
    scene.publish(&[A]);
    let last = u16::try_from(HELD_LIMIT).expect("a small number") + 5;
    for index in 2..=last {
        let opened = scene.pool.open(at(scene.address, index));
        opened.expect("the next one");
    }
    for index in 0..=last {
        let socket = at(scene.address, index);
        let lend = || scene.pool.lend(socket);
        let tended = scene.stragglers.tend(socket, Tend::HandOver, lend);
        tended.expect("it is open");
    }
    scene.no_offer().await;
    assert_eq!(scene.stragglers.held(), 0);
    let last = [SocketIndex(last)];
    scene
        .pool
        .steer(scene.address, &last.map(|index| (index, 1)))
        .expect("it is open");
    let client = scene.client();
    scene.offer().await.take();
    assert_eq!(hear(client), "served");
}

/// Run in a process of its own by the test below, because the limit is the process's.
#[tokio::test]
async fn child_without_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if std::env::var_os("SEGUE_TEST_CHILD").is_none() {
        return;
    }
    let mut scene = Scene::new();
    scene.publish(&[A]);
    scene.tend(Tend::HandOver);
    let client = scene.client();
    let limit = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        ..limit
    };
    setrlimit(Resource::Nofile, none).expect("it may be lowered");
    let failed = timeout(Duration::from_millis(50), scene.offers.recv()).await;
    assert!(failed.is_err(), "no descriptor for it");
    setrlimit(Resource::Nofile, limit).expect("it may be raised again");
    scene.offer().await.take();
    assert_eq!(hear(client), "served");
    println!("\nserved after all");
}

#[test]
fn a_shortage_of_descriptors_is_survived() {
    let name = "listener::straggler::tests::child_without_descriptors";
    let child = std::process::Command::new(std::env::current_exe().expect("it runs"))
        .args(["--exact", name, "--nocapture"])
        .env("SEGUE_TEST_CHILD", "1")
        .output()
        .expect("it can be run");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("served after all"),
        "{said}"
    );
}
