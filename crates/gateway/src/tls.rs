//! TLS for clients: the gateway's certificate.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore, ServerConfig};

use super::args::Misfit;

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The TLS settings with these PEM files, for HTTP/1.1 and HTTP/2.
pub(crate) fn server(chain: &Path, key: &Path) -> Result<Arc<ServerConfig>, Misfit> {
    let of_chain = |error: &dyn Display| Misfit::new(&["tls_cert"], format!("--tls-cert {}: {error}", chain.display()));
    let of_key = |error: &dyn Display| Misfit::new(&["tls_key"], format!("--tls-key {}: {error}", key.display()));
    let certificates = CertificateDer::pem_file_iter(chain).map_err(|error| of_chain(&error))?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(|error| of_chain(&error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        PemError::NoItemsFound => Misfit::new(&["tls_key"], format!("--tls-key: no private key in {}", key.display())),
        error => of_key(&error),
    })?;
    if certificates.is_empty() {
        return Err(Misfit::new(&["tls_cert"], format!("--tls-cert: no certificate in {}", chain.display())));
    }
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| of_chain(&error))?;
    let mut config =
        config.with_no_client_auth().with_single_cert(certificates, private).map_err(|error| of_chain(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Why clients refuse the first certificate of this PEM file at `now`, if its time has not come or is over.
pub(crate) fn outdated(chain: &Path, now: UnixTime) -> Option<Misfit> {
    let certificate = CertificateDer::from_pem_file(chain).ok()?;
    let parsed = ParsedCertificate::try_from(&certificate).ok()?;
    let known = provider().signature_verification_algorithms.all;
    // The times are compared before an issuer is looked for.
    let wrong = verify_server_cert_signed_by_trust_anchor(&parsed, &RootCertStore::empty(), &[], now, known);
    let time = |time: UnixTime| {
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
        time.map_or_else(String::new, |time| humantime::format_rfc3339_seconds(time).to_string())
    };
    let why = match wrong {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            format!("expired at {}", time(not_after))
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            format!("is not valid before {}", time(not_before))
        }
        _ => return None,
    };
    Some(Misfit::new(
        &["tls_cert"],
        format!("--tls-cert: the certificate in {} {why}: clients refuse it", chain.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_outdated_before_and_after_its_time() {
        let mut names = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        (names.not_before, names.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
        let made = names.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let path = std::env::temp_dir().join(format!("gateway-{}-outdated.pem", std::process::id()));
        std::fs::write(&path, made.pem()).unwrap();
        let at =
            |secs| outdated(&path, UnixTime::since_unix_epoch(Duration::from_secs(secs))).map(|why| why.to_string());
        let (begin, end) = (1_577_836_800, 1_609_459_200);
        assert!(at(begin - 1).unwrap().ends_with(" is not valid before 2020-01-01T00:00:00Z: clients refuse it"));
        assert_eq!([at(begin), at(end - 1)], [None, None]);
        assert!(at(end + 1).unwrap().ends_with(" expired at 2021-01-01T00:00:00Z: clients refuse it"));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn files_that_are_swapped_are_told_apart() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = |name: &str, text: &str| {
            let path = std::env::temp_dir().join(format!("gateway-{}-{name}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            path
        };
        let (chain, key) = (file("own.pem", &made.cert.pem()), file("own.key", &made.signing_key.serialize_pem()));
        let wrong = |chain: &Path, key: &Path| format!("{:?}", server(chain, key).unwrap_err());
        let swapped = wrong(&key, &chain);
        assert!(swapped.contains(&format!("--tls-key: no private key in {}", chain.display())), "{swapped}");
        let no_chain = wrong(&key, &key);
        assert!(no_chain.contains(&format!("--tls-cert: no certificate in {}", key.display())), "{no_chain}");
    }
}
