//! TLS below HTTP: one certificate is right, every other one is a failure. Speaks to nobody by name.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A server that speaks TLS over TCP, with the certificate that it must show.
#[derive(Clone)]
pub struct Tls {
    pub(crate) address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// HTTP/1.1 over TLS 1.2 or 1.3 with a server that shows exactly this certificate, in PEM.
    ///
    /// # Errors
    /// If the text holds no certificate.
    pub fn new(address: SocketAddr, certificate: &[u8]) -> io::Result<Self> {
        Self::with_protocol(address, certificate, b"http/1.1")
    }

    /// The same for HTTP/2.
    ///
    /// # Errors
    /// As [`Tls::new`].
    #[cfg(feature = "http2")]
    pub fn http2(address: SocketAddr, certificate: &[u8]) -> io::Result<Self> {
        Self::with_protocol(address, certificate, b"h2")
    }

    fn with_protocol(address: SocketAddr, certificate: &[u8], name: &[u8]) -> io::Result<Self> {
        let certificate = CertificateDer::from_pem_slice(certificate)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(Pinned {
            certificate: certificate.into_owned(),
            provider: Arc::clone(&provider),
        });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![name.to_vec()];
        // Each connection is one of its own, with a whole handshake.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            address,
            config: Arc::new(config),
        })
    }

    pub(crate) async fn connect(&self) -> io::Result<Box<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(name, stream).await?;
        let wanted = self.config.alpn_protocols.first().map(Vec::as_slice);
        let agreed = stream.get_ref().1.alpn_protocol();
        // A server without ALPN speaks HTTP/1.1.
        if agreed != wanted && (agreed.is_some() || wanted == Some(b"h2")) {
            return Err(io::Error::other(
                "the server does not speak the protocol asked for",
            ));
        }
        Ok(Box::new(stream))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Accepts one certificate, whoever signed it; that its owner is there is still proved.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *shown == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let known = &self.provider.signature_verification_algorithms;
        known.supported_schemes()
    }
}
