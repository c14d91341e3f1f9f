//! Helpers for the tests of the engine: a runtime, certificates, and a server for one connection.

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, SupportedProtocolVersion};

use super::connect::{ConnectSettings, Target, connect};
use super::settings::EngineSettings;
use super::tls::TlsSettings;
use super::transport::Transport;

/// Runs a test in a new runtime, with a time limit.
pub(super) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(30), test).await };
    runtime.block_on(limited).expect("the test took too long")
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
}

impl Identity {
    pub(super) fn self_signed(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self {
            certificate: params.self_signed(&key).unwrap().pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        }
    }

    fn signed_by(params: &CertificateParams, authority: &Authority) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority.issuer).unwrap();
        Self {
            certificate: certificate.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        }
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .unwrap()
    }

    pub(super) fn server(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                self.chain(),
                PrivateKeyDer::from_pem_slice(&self.key).unwrap(),
            )
            .unwrap()
    }
}

pub(super) struct Authority {
    pub(super) certificate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = params(&[]);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self::of(params)
    }

    pub(super) fn of(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self {
            certificate: params.self_signed(&key).unwrap().pem().into_bytes(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(super) fn sign(&self, params: &CertificateParams) -> Identity {
        Identity::signed_by(params, self)
    }
}

pub(super) fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).unwrap()
}

pub(super) fn trusting(ca: &[u8]) -> TlsSettings {
    TlsSettings {
        ca: Some(ca.to_vec()),
        ..TlsSettings::default()
    }
}

/// Starts a server and connects to it. The server accepts one connection and passes the connection
/// to `serve`.
pub(super) async fn connect_to_server<S, F>(serve: S) -> Transport
where
    S: FnOnce(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = Target::Tcp(
        "127.0.0.1".to_owned(),
        listener.local_addr().unwrap().port(),
    );
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        serve(socket).await;
    });
    let settings = ConnectSettings {
        source: None,
        proxy: None,
        limit: Duration::from_secs(10),
    };
    Transport::new(connect(&target, &settings).await.unwrap())
}

/// Reads once and returns the bytes.
pub(super) async fn read(transport: &mut Transport) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 64 * 1024];
    let count = std::future::poll_fn(|context| transport.poll_read(context, &mut buffer)).await?;
    buffer.truncate(count);
    Ok(buffer)
}

/// Panics if the local host name is "panic-at-" followed by `place`. With this name, a test selects
/// the place in the engine at which the panic occurs.
pub(super) fn panic_at(settings: &EngineSettings, place: &str) {
    assert!(
        settings.local_hostname.strip_prefix("panic-at-") != Some(place),
        "a panic for a test"
    );
}
