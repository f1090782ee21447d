//! TLS to upstreams: the certificates that are trusted.

use std::error::Error;
use std::io;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, InvalidMessage, RootCertStore};

use crate::args::Misfit;
use crate::tls::provider;

/// What the operator should do if a TLS handshake with an upstream failed like this.
pub(crate) fn tls_advice(error: &(dyn Error + 'static)) -> Option<&'static str> {
    match tls_error(error)? {
        // A CA of the same name with another key has made a bad signature.
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            Some("no trusted CA signed it: name its CA with --upstream-ca, not the server's own certificate")
        }
        // Only webpki, which is no dependency of this crate, has a type for it.
        rustls::Error::InvalidCertificate(CertificateError::Other(why)) if why.to_string() == "CaUsedAsEndEntity" => {
            Some("the upstream shows a CA's certificate: make one for the server and sign it with the CA")
        }
        rustls::Error::InvalidCertificate(_) => Some("this is the upstream's certificate"),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            Some("does the upstream speak TLS? If not, its URL begins with http://")
        }
        _ => None,
    }
}

/// Whether the certificate of an upstream is not accepted.
pub(crate) fn is_rejected_certificate(error: &(dyn Error + 'static)) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidCertificate(_)))
}

fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        // The source of an `io::Error` is not the error that it wraps, but the source of that.
        next = match error.downcast_ref::<io::Error>() {
            Some(error) => error.get_ref().map(|wrapped| wrapped as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

/// Trusts the system's roots (those of browsers if the system has none) and the certificates in `ca`. Reads the roots
/// only if `needed`.
pub(crate) fn trust(needed: bool, ca: Option<&Path>) -> Result<ClientConfig, Misfit> {
    let mut roots = RootCertStore::empty();
    if needed {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
    }
    if let Some(path) = ca {
        let unreadable = |error: String| {
            let wrong = format!("--upstream-ca: no certificates can be read from {}: {error}", path.display());
            Misfit::new(&["upstream_ca"], wrong)
        };
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))? {
            let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(unreadable("there is none in it".to_owned()));
        }
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Misfit::new(&[], format!("TLS: {error}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
