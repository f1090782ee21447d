//! TLS for clients: the gateway's certificate.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

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

#[cfg(test)]
mod tests {
    use super::*;

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
