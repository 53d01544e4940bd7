//! The client's own limits are not the server's failures. A process of its own: it takes away
//! its descriptors.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use segue_load::{FailureKind, Fresh, Load};

#[tokio::test]
async fn no_descriptor_is_left() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let fresh = Fresh {
        clients: 1,
        ..Fresh::default()
    };
    let load = Load::builder().with(fresh).requests(3);
    let limit = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let report = load.start(address).finish(Duration::from_secs(60)).await;
    assert_eq!(report.failed_by(FailureKind::ClientLimit), 3, "{report}");
    assert_eq!(report.failed(), 3, "{report}");
}
