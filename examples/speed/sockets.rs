//! Listeners, certificates, and limits of the system.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower_buttress::error::BoxError;

/// A certificate for 127.0.0.1, in a folder that is removed at the end. All sides use and trust it.
#[derive(Debug)]
pub(crate) struct Party {
    folder: PathBuf,
    server: Arc<ServerConfig>,
    client: ClientConfig,
    is_ours: bool,
}

// === impl Party ===

impl Party {
    pub(crate) fn new() -> Result<Self, BoxError> {
        let folder = std::env::temp_dir().join(format!("buttress-speed-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        fs::write(folder.join("cert.pem"), cert.pem())?;
        fs::write(folder.join("key.pem"), signing_key.serialize_pem())?;
        let mut party = Self::read(&folder)?;
        party.is_ours = true;
        Ok(party)
    }

    /// Reads the certificate in this folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, BoxError> {
        let certificate = CertificateDer::from_pem_file(folder.join("cert.pem"))?;
        let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"))?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone())?;
        let server = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let client = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        Ok(Self {
            folder: folder.to_owned(),
            server: Arc::new(server.with_no_client_auth().with_single_cert(vec![certificate], key)?),
            client: client.with_root_certificates(roots).with_no_client_auth(),
            is_ours: false,
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn client(&self) -> ClientConfig {
        self.client.clone()
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.server.clone())
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// The settings for connections without TLS.
pub(crate) fn no_trust() -> Result<ClientConfig, BoxError> {
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Serves HTTP/1.1 until the process ends.
pub(crate) async fn serve<S, B>(listener: TcpListener, tls: Option<TlsAcceptor>, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = socket.set_nodelay(true);
        let (tls, service) = (tls.clone(), service.clone());
        tokio::spawn(async move {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new());
            // A caller that leaves causes an error.
            let _ = match tls {
                None => builder.serve_connection(TokioIo::new(socket), service).await,
                Some(tls) => match tls.accept(socket).await {
                    Ok(socket) => builder.serve_connection(TokioIo::new(socket), service).await,
                    Err(_) => Ok(()),
                },
            };
        });
    }
}

/// Each stream takes a descriptor on each side of two processes.
pub(crate) fn check_limits(streams: usize) -> Result<(), BoxError> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    let needed = streams * 2 + 500;
    match limit {
        Some(limit) if limit < needed => {
            Err(format!("{streams} streams need more descriptors than {limit}: `ulimit -n {needed}`, or `--idle`")
                .into())
        }
        _ => Ok(()),
    }
}
