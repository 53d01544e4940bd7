//! TLS: the right server, the wrong one, one without TLS, and one that ends without saying so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use segue_load::{Builder, FailureKind, KeepAlive, Load, Tls};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::app::{Peer, right_answer, serve};

const LIMIT: Duration = Duration::from_secs(60);
const CERTIFICATE: &[u8] = include_bytes!("../../../segue/tests/fixtures/tls-cert.pem");
const KEY: &[u8] = include_bytes!("../../../segue/tests/fixtures/tls-key.pem");

fn keep_alive() -> Builder {
    let kind = KeepAlive {
        clients: 1,
        ..KeepAlive::default()
    };
    Load::builder().with(kind).requests(10)
}

async fn serve_tls<F>(
    handler: impl Fn(Peer<TlsStream<TcpStream>>) -> F + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(CERTIFICATE).unwrap()],
            PrivateKeyDer::from_pem_slice(KEY).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(handler(Peer::new(stream)));
            }
        }
    });
    address
}

fn target(address: SocketAddr) -> Tls {
    Tls::new(address, CERTIFICATE).unwrap()
}

#[tokio::test]
async fn the_right_server_is_served_with() {
    let address = serve_tls(|peer| peer.behave("v1")).await;
    let report = keep_alive().start(target(address)).finish(LIMIT).await;
    assert_eq!((report.failed(), report.answers()), (0, 10), "{report}");
    assert_eq!(report.classes[0].connections.opened, 1);
}

#[tokio::test]
async fn another_certificate_fails() {
    let address = serve_tls(|peer| peer.behave("v1")).await;
    // The same certificate, one byte of its signature changed.
    let der = CertificateDer::from_pem_slice(CERTIFICATE).unwrap();
    let mut other = der.to_vec();
    *other.last_mut().unwrap() ^= 1;
    let tls = Tls::new(address, &pem(&other)).unwrap();
    let report = keep_alive().start(tls).finish(LIMIT).await;
    assert_eq!((report.failed(), report.answers()), (10, 0), "{report}");
    assert!(
        report.first_failures[0].detail.contains("certificate"),
        "{report}"
    );
}

#[test]
fn what_is_no_certificate_is_refused() {
    let address = "127.0.0.1:1".parse().unwrap();
    assert!(Tls::new(address, b"none").is_err());
}

#[tokio::test]
async fn a_server_without_tls_fails() {
    let address = serve(|_, mut peer: Peer| async move {
        peer.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            .await;
    })
    .await;
    let report = keep_alive().start(target(address)).finish(LIMIT).await;
    assert_eq!((report.failed(), report.answers()), (10, 0), "{report}");
}

#[tokio::test]
async fn an_end_within_an_answer_fails_and_one_between_answers_is_counted() {
    let address = serve_tls(|mut peer| async move {
        let asked = peer.request().await.unwrap();
        let answer = right_answer(&asked, "v1");
        // TCP's end alone: without the closing alert of TLS.
        if asked.number % 2 == 0 {
            peer.write(&answer[..answer.len() - 1]).await;
        } else {
            peer.write(&answer).await;
        }
        peer.stream.get_mut().0.shutdown().await.unwrap();
    })
    .await;
    let report = keep_alive().start(target(address)).finish(LIMIT).await;
    let class = &report.classes[0];
    assert_eq!(
        report.failed(),
        report.failed_by(FailureKind::EofInAnswer) + report.failed_by(FailureKind::EofBeforeAnswer),
        "{report}"
    );
    assert!(report.failed_by(FailureKind::EofInAnswer) > 0, "{report}");
    assert_eq!(class.requests, class.answers + class.failed(), "{report}");
}

/// A certificate as text.
fn pem(der: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = b"-----BEGIN CERTIFICATE-----\n".to_vec();
    for (index, bytes) in der.chunks(3).enumerate() {
        let mut three = [0; 3];
        three[..bytes.len()].copy_from_slice(bytes);
        let word = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for digit in 0..4 {
            if digit <= bytes.len() {
                text.push(DIGITS[(word >> (18 - 6 * digit) & 63) as usize]);
            } else {
                text.push(b'=');
            }
        }
        if index % 16 == 15 {
            text.push(b'\n');
        }
    }
    text.extend(b"\n-----END CERTIFICATE-----\n");
    text
}
