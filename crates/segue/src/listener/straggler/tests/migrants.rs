//! Connections that leaving workers hand over.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;

use super::*;
use crate::listener::Migrant;
use crate::listener::straggler::MIGRANT_LIMIT;

/// The worker that leaves.
const OLD: WorkerId = WorkerId(9);

/// A client whose connection a worker has let go, and the receipt that the worker waits for.
struct Client {
    stream: UnixStream,
    taken: oneshot::Receiver<()>,
}

impl Client {
    /// Whether the worker may hand over its next connection.
    fn is_taken(&mut self) -> bool {
        self.taken.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    fn hear(mut self) -> String {
        let mut text = String::new();
        self.stream.read_to_string(&mut text).expect("no reset");
        text
    }
}

impl Scene {
    fn adopt(&mut self, from: WorkerId) -> Client {
        let (stream, server) = UnixStream::pair().expect("a socket pair");
        let (receipt, taken) = oneshot::channel::<()>();
        let migrant = Migrant {
            connection: server.into(),
            keep_alive: Duration::from_secs(5),
            from,
            receipt: Box::new(receipt),
        };
        self.stragglers.adopt(self.address, migrant);
        Client { stream, taken }
    }
}

#[tokio::test(start_paused = true)]
async fn they_are_spread_evenly_several_at_a_time() {
    let mut scene = Scene::new();
    scene.publish(&[A, B, C]);
    let mut clients: Vec<Client> = (0..60).map(|_| scene.adopt(OLD)).collect();
    assert!(clients.iter_mut().all(Client::is_taken));
    let mut offers = Vec::new();
    for _ in 0..24 {
        offers.push(scene.offer().await);
    }
    scene.no_offer().await;
    assert!(scene.stragglers.is_offering(A));
    let mut spread: BTreeMap<WorkerId, u32> = BTreeMap::new();
    for done in 0..60 {
        let offer = match offers.pop() {
            Some(offer) => offer,
            None => scene.offer().await,
        };
        assert_eq!(offer.keep_alive, Some(Duration::from_secs(5)), "{done}");
        *spread.entry(offer.worker).or_default() += 1;
        offer.take();
    }
    assert_eq!(spread, BTreeMap::from([(A, 20), (B, 20), (C, 20)]));
    assert!(clients.into_iter().all(|client| client.hear() == "served"));
    scene.no_offer().await;
    assert!(!scene.stragglers.is_offering(A));
    let migrated = 60;
    assert_eq!(
        scene.stragglers.counts(),
        Counts {
            migrated,
            ..Counts::default()
        }
    );
    // Whoever comes later has fewer than the others, and catches up.
    scene.publish(&[A, B, C, WorkerId(4)]);
    let late = scene.adopt(OLD);
    let offer = scene.offer().await;
    assert_eq!(offer.worker, WorkerId(4));
    offer.take();
    assert_eq!(late.hear(), "served");
}

#[tokio::test(start_paused = true)]
async fn none_goes_back_to_where_it_came_from() {
    let mut scene = Scene::new();
    scene.publish(&[A]);
    let one = scene.adopt(A);
    scene.no_offer().await;
    scene.publish(&[A, C]);
    let offer = scene.offer().await;
    assert_eq!(offer.worker, C);
    offer.take();
    assert_eq!(one.hear(), "served");
}

#[tokio::test(start_paused = true)]
async fn two_that_leave_do_not_pass_one_back_and_forth() {
    let mut scene = Scene::new();
    scene.publish(&[A, B]);
    let two = scene.adopt(B);
    let offer = scene.offer().await;
    assert_eq!(offer.worker, A, "nothing is known of A yet");
    let one = scene.adopt(A);
    scene.no_offer().await;
    offer.give_back();
    scene.no_offer().await;
    scene.publish(&[A, B, C]);
    for _ in 0..2 {
        let offer = scene.offer().await;
        assert_eq!(offer.worker, C);
        offer.take();
    }
    assert_eq!([one.hear(), two.hear()], ["served", "served"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_given_back_goes_to_the_next() {
    let mut scene = Scene::new();
    scene.publish(&[A, B]);
    let client = scene.adopt(OLD);
    let offer = scene.offer().await;
    assert_eq!(offer.worker, A);
    offer.give_back();
    let offer = scene.offer().await;
    assert_eq!(offer.worker, B);
    offer.give_back();
    // Both are tried again a little later.
    scene.offer().await.take();
    assert_eq!(client.hear(), "served");
}

#[tokio::test(start_paused = true)]
async fn without_a_worker_it_is_kept_and_closed_in_the_end() {
    let mut scene = Scene::new();
    let kept = scene.adopt(OLD);
    tokio::time::sleep(Duration::from_secs(29)).await;
    let late = scene.adopt(OLD);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(kept.hear(), "", "an orderly end");
    scene.publish(&[A]);
    scene.offer().await.take();
    assert_eq!(late.hear(), "served");
    scene.no_offer().await;
    let counts = scene.stragglers.counts();
    assert_eq!((counts.migrated, counts.expired), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn without_room_the_worker_that_hands_over_waits() {
    let mut scene = Scene::new();
    let mut held: Vec<Client> = (0..MIGRANT_LIMIT).map(|_| scene.adopt(OLD)).collect();
    let mut first = scene.adopt(OLD);
    let mut second = scene.adopt(WorkerId(8));
    scene.no_offer().await;
    assert!(held.iter_mut().all(Client::is_taken));
    assert!(!first.is_taken() && !second.is_taken());
    // What waits in queues is not held up by them.
    assert_eq!(scene.stragglers.held(), 0);
    scene.publish(&[A]);
    for _ in 0..MIGRANT_LIMIT + 2 {
        scene.offer().await.take();
    }
    scene.no_offer().await;
    assert!(first.is_taken() && second.is_taken());
    assert_eq!([first.hear(), second.hear()], ["served", "served"]);
    let mut next = scene.adopt(OLD);
    assert!(next.is_taken());
}

#[tokio::test(start_paused = true)]
async fn queues_and_workers_do_not_get_in_each_others_way() {
    let mut scene = Scene::new();
    let [queued] = scene.clients();
    scene.publish(&[A]);
    let migrants: Vec<Client> = (0..20).map(|_| scene.adopt(OLD)).collect();
    scene.tend(Tend::HandOver);
    let mut offers = Vec::new();
    for _ in 0..9 {
        offers.push(scene.offer().await);
    }
    scene.no_offer().await;
    let from_queue = offers.iter().filter(|offer| offer.keep_alive.is_none());
    assert_eq!(from_queue.count(), 1);
    offers.into_iter().for_each(Offer::take);
    for _ in 0..12 {
        scene.offer().await.take();
    }
    assert_eq!(hear(queued), "served");
    assert!(migrants.into_iter().all(|client| client.hear() == "served"));
}
