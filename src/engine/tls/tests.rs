//! Tests of handshakes with different servers over loopback, and of invalid settings.

use std::io;

use rcgen::{BasicConstraints, IsCa, date_time_ymd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::server::TlsStream;

use super::*;
use crate::engine::test_support::{
    self, Authority, Identity, connect_to_server, params, read, run, trusting,
};
use crate::engine::transport::Transport;

/// The label of the channel binding `tls-exporter`.
const LABEL: &[u8] = b"EXPORTER-Channel-Binding";

fn client(settings: &TlsSettings) -> TlsClient {
    TlsClient::new(settings).unwrap()
}

/// Performs a handshake with a server. After the handshake, the server sends its exported secret
/// and the number of client certificates that it received.
async fn handshake(
    config: ServerConfig,
    client: &TlsClient,
    host: &str,
) -> Result<Transport, TlsError> {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let transport = connect_to_server(async move |socket: TcpStream| {
        // The client reports a failed handshake, so the server ignores the error.
        if let Ok(mut stream) = acceptor.accept(socket).await {
            stream.write_all(&secret(&stream)).await.unwrap();
            let _ = stream.read(&mut [0]).await;
        }
    })
    .await;
    transport.secure(client, host).await
}

fn secret(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    let connection = stream.get_ref().1;
    let mut secret = connection
        .export_keying_material(vec![0; 32], LABEL, Some(&[]))
        .unwrap();
    secret.push(connection.peer_certificates().map_or(0, <[_]>::len) as u8);
    secret
}

fn reason(result: Result<Transport, TlsError>) -> String {
    match result {
        Err(TlsError::Untrusted { host: _, reason }) => reason,
        other => panic!("{other:?}"),
    }
}

fn failure(result: Result<Transport, TlsError>) -> String {
    match result {
        Err(TlsError::Failed { host: _, reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_certificate_of_a_trusted_ca_is_accepted() {
    let authority = Authority::new("trusted");
    let relay = authority.sign(&params(&["relay.test", "127.0.0.1", "::1"]));
    let client = client(&trusting(&authority.certificate));
    for host in ["relay.test", "relay.test.", "127.0.0.1", "::1", "[::1]"] {
        run(async {
            let mut transport = handshake(relay.server(&VERSIONS), &client, host)
                .await
                .unwrap();
            assert!(transport.is_secured());
            assert_eq!(
                transport.peer_certificate(),
                relay.chain().first().map(AsRef::as_ref)
            );
            let mut secret = transport.export_keying_material(LABEL, 32).unwrap();
            // The last byte is the number of client certificates. The client sent none.
            secret.push(0);
            assert_eq!(read(&mut transport).await.unwrap(), secret);
        });
    }
}

#[test]
fn a_certificate_with_another_name_is_rejected() {
    let authority = Authority::new("trusted");
    let relay = authority.sign(&params(&["relay.test", "mx.relay.test"]));
    let mut settings = trusting(&authority.certificate);
    let to = |settings: &TlsSettings, host: &'static str| {
        let client = client(settings);
        run(async { handshake(relay.server(&VERSIONS), &client, host).await })
    };
    assert_eq!(
        reason(to(&settings, "other.test")),
        "host name mismatch: it is not valid for other.test (only for relay.test, mx.relay.test); \
         write a name of the certificate in the relay's URL, or in server_hostname="
    );
    assert!(
        reason(to(&settings, "127.0.0.1"))
            .starts_with("host name mismatch: it is not valid for 127.0.0.1")
    );
    let names = [
        "127.0.0.1",
        "a.test",
        "b.test",
        "c.test",
        "d.test",
        "e.test",
    ];
    let relay_with_names = authority.sign(&params(&names)).server(&VERSIONS);
    let result = run(handshake(
        relay_with_names,
        &client(&settings),
        "relay.test",
    ));
    let text = reason(result);
    assert!(
        text.contains("(only for 127.0.0.1, a.test, b.test, c.test, d.test, …);"),
        "{text}"
    );
    settings.server_hostname = Some("mx.relay.test".to_owned());
    assert!(to(&settings, "other.test").is_ok());
    settings.server_hostname = Some("other.test".to_owned());
    assert!(to(&settings, "relay.test").is_err());
}

#[test]
fn a_certificate_of_an_unknown_ca_is_rejected() {
    let relay = Authority::new("other").sign(&params(&["relay.test"]));
    let different_name = client(&trusting(&Authority::new("trusted").certificate));
    let same_name = client(&trusting(&Authority::new("other").certificate));
    run(async {
        let error = handshake(relay.server(&VERSIONS), &different_name, "relay.test").await;
        let error = error.unwrap_err().to_string();
        assert!(
            error
                .starts_with("the certificate of relay.test is not trusted: its issuer is unknown"),
            "{error}"
        );
        assert!(
            !reason(handshake(relay.server(&VERSIONS), &same_name, "relay.test").await).is_empty()
        );
    });
}

#[test]
fn the_system_does_not_trust_the_test_ca() {
    let relay = Authority::new("trusted").sign(&params(&["relay.test"]));
    let client = client(&TlsSettings::default());
    let result = run(handshake(relay.server(&VERSIONS), &client, "relay.test"));
    match result {
        Err(TlsError::Untrusted { .. } | TlsError::Settings(TlsSettingsError::SystemRoots(_))) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_trusted_server_certificate_is_accepted() {
    let authority = Authority::new("trusted");
    let plain = params(&["relay.test"]);
    let mut of_ca = params(&["relay.test"]);
    of_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for relay in [
        Identity::self_signed(&plain),
        Identity::self_signed(&of_ca),
        authority.sign(&plain),
        authority.sign(&of_ca),
    ] {
        let client = client(&trusting(&relay.certificate));
        run(async {
            handshake(relay.server(&VERSIONS), &client, "relay.test")
                .await
                .unwrap();
            let other = handshake(relay.server(&VERSIONS), &client, "other.test").await;
            assert!(reason(other).contains("other.test"));
        });
    }
}

#[test]
fn a_certificate_similar_to_the_trusted_one_is_rejected() {
    let mut of_ca = params(&["relay.test"]);
    of_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (relay, other) = (Identity::self_signed(&of_ca), Identity::self_signed(&of_ca));
    let client = client(&trusting(&other.certificate));
    let result = run(handshake(relay.server(&VERSIONS), &client, "relay.test"));
    assert!(reason(result).contains("self-signed"));
}

#[test]
fn a_certificate_outside_of_its_dates_is_rejected() {
    let authority = Authority::new("trusted");
    let mut expired = params(&["relay.test"]);
    expired.not_before = date_time_ymd(2001, 1, 1);
    expired.not_after = date_time_ymd(2002, 1, 1);
    let mut early = params(&["relay.test"]);
    early.not_before = date_time_ymd(3001, 1, 1);
    early.not_after = date_time_ymd(3002, 1, 1);
    for (mut params, text) in [(expired, "has expired ("), (early, "is not valid yet (")] {
        let relay = authority.sign(&params);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let alone = Identity::self_signed(&params);
        for (relay, ca) in [
            (&relay, &authority.certificate),
            (&alone, &alone.certificate),
        ] {
            let client = client(&trusting(ca));
            let result = run(handshake(relay.server(&VERSIONS), &client, "relay.test"));
            let reason = reason(result);
            assert!(
                reason.contains(text) && reason.contains(" days"),
                "{reason}"
            );
        }
    }
}

#[test]
fn any_certificate_is_accepted_without_verification() {
    let mut expired = params(&["relay.test"]);
    expired.not_after = date_time_ymd(2002, 1, 1);
    let relay = Identity::self_signed(&expired);
    let client = client(&TlsSettings {
        verify: false,
        ..TlsSettings::default()
    });
    for versions in [&VERSIONS[..1], &VERSIONS[1..]] {
        run(handshake(relay.server(versions), &client, "other.test")).unwrap();
    }
}

#[test]
fn the_client_certificate_is_sent() {
    let authority = Authority::new("trusted");
    let relay = authority.sign(&params(&["relay.test"]));
    let own = authority.sign(&params(&["client.test"]));
    let server = || {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(read_chain(&authority.certificate).unwrap());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                relay.chain(),
                PrivateKeyDer::from_pem_slice(&relay.key).unwrap(),
            )
            .unwrap()
    };
    let mut settings = trusting(&authority.certificate);
    let without = client(&settings);
    settings.certificate = Some([own.certificate.clone(), own.key.clone()].concat());
    let with_both_in_one_file = client(&settings);
    settings.certificate = Some(own.certificate);
    settings.key = Some(own.key);
    run(async {
        for client in [&with_both_in_one_file, &client(&settings)] {
            let mut transport = handshake(server(), client, "relay.test").await.unwrap();
            assert_eq!(read(&mut transport).await.unwrap().last(), Some(&1));
        }
        // With TLS 1.3, the server checks the client's certificate after the client has completed
        // the handshake. So the client receives the refusal at its first read.
        let mut transport = handshake(server(), &without, "relay.test").await.unwrap();
        let error = read(&mut transport).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(
            error.get_ref().and_then(|inner| inner.downcast_ref()),
            Some(&TlsError::failed(
                "relay.test",
                "the server requires a client certificate; give one in certificate="
            ))
        );
    });
}

#[test]
fn the_minimum_version_is_enforced() {
    let authority = Authority::new("trusted");
    let relay = authority.sign(&params(&["relay.test"]));
    let mut settings = trusting(&authority.certificate);
    let to = |settings: &TlsSettings, versions: &[&'static SupportedProtocolVersion]| {
        let client = client(settings);
        run(handshake(relay.server(versions), &client, "relay.test"))
    };
    assert!(to(&settings, &VERSIONS[1..]).is_ok());
    settings.minimum = TlsVersion::Tls13;
    assert!(to(&settings, &VERSIONS[..1]).is_ok());
    assert_eq!(
        failure(to(&settings, &VERSIONS[1..])),
        "the server supports no version of TLS that is allowed here; enable TLS 1.2 or 1.3 at the \
         relay"
    );
}

#[test]
fn sessions_are_resumed() {
    let authority = Authority::new("trusted");
    let relay = authority.sign(&params(&["relay.test"]));
    for versions in [&VERSIONS[..1], &VERSIONS[1..]] {
        let client = client(&trusting(&authority.certificate));
        let server = relay.server(versions);
        let resumed: Vec<_> = (0..3)
            .map(|_| {
                run(async {
                    let mut transport = handshake(server.clone(), &client, "relay.test")
                        .await
                        .unwrap();
                    // The next connection needs a ticket to resume this session. The tickets of TLS
                    // 1.3 arrive with the first data after the handshake, so the client reads this
                    // data.
                    read(&mut transport).await.unwrap();
                    transport.is_resumed()
                })
            })
            .collect();
        assert_eq!(resumed, [false, true, true]);
    }
}

#[test]
fn a_server_without_tls_is_reported() {
    let client = client(&TlsSettings {
        verify: false,
        ..TlsSettings::default()
    });
    let to = |reply: &'static [u8]| {
        run(async {
            let transport = connect_to_server(async move |mut socket: TcpStream| {
                socket.write_all(reply).await.unwrap();
                let _ = socket.read(&mut [0; 4096]).await;
            });
            transport.await.secure(&client, "relay.test").await
        })
    };
    assert_eq!(
        failure(to(b"220 relay.test ESMTP at your service\r\n")),
        "the reply of the server is not TLS; check the scheme and the port in the relay's URL"
    );
    assert_eq!(
        failure(to(b"")),
        "the server closed the connection in the handshake; check the log of the relay"
    );
}

#[test]
fn a_ca_is_trusted_only_within_its_dates() {
    let mut params = params(&[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2030, 1, 1);
    let authority = Authority::of(params);
    let mut relay = test_support::params(&["relay.test"]);
    relay.not_before = date_time_ymd(2001, 1, 1);
    let relay = authority.sign(&relay).chain();
    let provider = Arc::new(provider());
    let trusted = read_chain(&authority.certificate).unwrap();
    let verifier = TrustVerifier::new(trusted, &provider).unwrap();
    let name = parse_name("relay.test").unwrap();
    // The years 2010, 2025, 2035 and 2025 again: the verifier caches the valid authorities.
    for (seconds, text) in [
        (1_262_304_000, "is not valid yet"),
        (1_735_689_600, ""),
        (2_051_222_400, "has expired"),
        (1_735_689_600, ""),
    ] {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let text_now = match verifier.verify_server_cert(&relay[0], &[], &name, &[], now) {
            Ok(_) => String::new(),
            Err(error) => TlsError::of_session("relay.test", "relay.test", &error).to_string(),
        };
        assert!(
            text_now.contains(text) && text_now.is_empty() == text.is_empty(),
            "{text_now}"
        );
    }
}

#[test]
fn error_texts_contain_no_names_of_the_library() {
    use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
    use rustls::{OtherError, PeerMisbehaved};
    let mut errors: Vec<Error> = (0..=u8::MAX)
        .map(|code| Error::AlertReceived(AlertDescription::from(code)))
        .collect();
    errors.extend([
        InvalidMessage::MissingData("ServerHello").into(),
        InvalidMessage::InvalidContentType.into(),
        InvalidMessage::TrailingData("KeyShareEntry").into(),
        PeerMisbehaved::SelectedUnofferedCipherSuite.into(),
        PeerMisbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported.into(),
        PeerIncompatible::NoKxGroupsInCommon.into(),
        PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into(),
        PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon.into(),
        Error::NoCertificatesPresented,
        Error::DecryptError,
        Error::PeerSentOversizedRecord,
        Error::General("BadThing".to_owned()),
        Error::FailedToGetCurrentTime,
        CertificateError::BadEncoding.into(),
        CertificateError::BadSignature.into(),
        CertificateError::Expired.into(),
        CertificateError::NotValidYet.into(),
        CertificateError::Revoked.into(),
        CertificateError::UnhandledCriticalExtension.into(),
        CertificateError::UnknownIssuer.into(),
        CertificateError::InvalidPurpose.into(),
        CertificateError::ApplicationVerificationFailure.into(),
        CertificateError::NotValidForName.into(),
    ]);
    for name in [
        "MaximumPathDepthExceeded",
        "InvalidSerialNumber",
        "ExtensionValueInvalid",
    ] {
        let other = OtherError(Arc::new(io::Error::other(name)));
        errors.push(CertificateError::Other(other).into());
    }
    for error in errors {
        let text = TlsError::of_session("relay.test", "relay.test", &error).to_string();
        let known = text.replace("ChaCha20-Poly1305", "").replace("TLS", "");
        let has_name = known
            .split(|letter: char| !letter.is_ascii_alphanumeric())
            .any(|word| {
                word.chars().any(|letter| letter.is_ascii_lowercase())
                    && word
                        .chars()
                        .skip(1)
                        .any(|letter| letter.is_ascii_uppercase())
            });
        assert!(!has_name && text.contains("; "), "{text}");
    }
}

#[test]
fn invalid_settings_are_reported() {
    use TlsSettingsError as Wrong;
    let one = Identity::self_signed(&params(&["one.test"]));
    let two = Identity::self_signed(&params(&["two.test"]));
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let wrong = |change: &dyn Fn(&mut TlsSettings)| {
        let mut settings = TlsSettings::default();
        change(&mut settings);
        TlsClient::new(&settings).unwrap_err()
    };
    let no_certificate = "it contains no certificate in PEM".to_owned();
    assert_eq!(
        wrong(&|settings| settings.ca = text("hello")),
        Wrong::Authority(no_certificate.clone())
    );
    assert_eq!(
        wrong(&|settings| settings.ca = Some(one.key.clone())),
        Wrong::Authority(no_certificate)
    );
    let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    assert_eq!(
        wrong(&|settings| settings.certificate = text(broken)),
        Wrong::Certificate("a section in PEM is not base64".to_owned())
    );
    assert_eq!(
        wrong(&|settings| {
            settings.certificate = Some(one.certificate.clone());
            settings.key = text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        }),
        Wrong::Key(
            "the private key cannot be read; give a key for RSA (2048 bits or more), ECDSA or \
             Ed25519"
                .to_owned()
        )
    );
    let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(
        wrong(&|settings| settings.ca = text(empty)),
        Wrong::Authority("no certificate in it can be read; copy the file again".to_owned())
    );
    assert_eq!(
        wrong(&|settings| settings.certificate = Some(one.certificate.clone())),
        Wrong::Key("it contains no private key in PEM".to_owned())
    );
    assert_eq!(
        wrong(&|settings| {
            settings.certificate = Some(one.certificate.clone());
            settings.key = text(
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            );
        }),
        Wrong::Key("it is encrypted; give it without a passphrase".to_owned())
    );
    assert_eq!(
        wrong(&|settings| settings.key = Some(one.key.clone())),
        Wrong::Key("the certificate of this key is missing".to_owned())
    );
    for verify in [true, false] {
        let error = wrong(&|settings| {
            settings.verify = verify;
            settings.certificate = Some(one.certificate.clone());
            settings.key = Some(two.key.clone());
        });
        assert_eq!(error, Wrong::Mismatch);
    }
    assert_eq!(
        wrong(&|settings| settings.server_hostname = Some("a b".to_owned())),
        Wrong::ServerName("a b".to_owned())
    );
}

#[test]
fn debug_output_and_errors_contain_no_key() {
    let identity = Identity::self_signed(&params(&["one.test"]));
    let settings = TlsSettings {
        certificate: Some(identity.certificate),
        key: Some(b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0!\n-----END PRIVATE KEY-----\n".to_vec()),
        ..TlsSettings::default()
    };
    let error = TlsClient::new(&settings).unwrap_err();
    let shown = format!("{settings:?} {error:?} {error}");
    assert!(
        !shown.contains("c2Vj") && !shown.contains("99, 50"),
        "{shown}"
    );
}

#[test]
fn no_key_exchange_group_needs_a_hello_retry_request() {
    let names: Vec<_> = provider()
        .kx_groups
        .iter()
        .map(|group| group.name())
        .collect();
    assert_eq!(names[0], NamedGroup::X25519);
    assert!(!names.contains(&NamedGroup::X25519MLKEM768));
}
