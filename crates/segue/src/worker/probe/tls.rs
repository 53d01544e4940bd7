//! TLS below a probe. The certificate is not checked: who has accepted the connection is known better
//! than any name in it could say.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use segue_core::ProbeFailure;
use tokio_rustls::TlsConnector;

use super::{Failed, Stream};

/// What the server has chosen to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

pub(super) async fn wrap(
    authority: &str,
    stream: Box<dyn Stream>,
) -> Result<(Box<dyn Stream>, Protocol), Failed> {
    let config = config().map_err(|error| Failed::because(ProbeFailure::Other, error))?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name(authority), stream)
        .await
        .map_err(|error| of_handshake(&error))?;
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    Ok((Box::new(stream), protocol))
}

fn config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Anybody(Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// The name that the server is asked for; an address is none.
fn name(authority: &str) -> ServerName<'static> {
    let host = match authority.parse::<hyper::http::uri::Authority>() {
        Ok(authority) => authority.host().trim_matches(['[', ']']).to_owned(),
        Err(_) => "localhost".to_owned(),
    };
    let localhost = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    ServerName::try_from(host).unwrap_or(localhost)
}

fn of_handshake(error: &io::Error) -> Failed {
    // A server that speaks something else begins with what is no TLS record.
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => Failed::because(ProbeFailure::NotHttp, error),
        Some(_) => Failed::because(ProbeFailure::Other, error),
        None => Failed::of_io(error),
    }
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
