//! TLS: the cryptography, and whose certificates are trusted or shown.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, ServerConfig};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// What one side of a connection with TLS needs, or why there is none, as a
/// sentence.
pub type Result<T, E = String> = std::result::Result<T, E>;

/// Returns the cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Returns what a client needs: the system's authorities are trusted, or those
/// that `SSL_CERT_FILE` or `SSL_CERT_DIR` names.
///
/// # Errors
/// There is no authority.
pub fn client() -> Result<TlsConfig> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let problem = found.errors.first().map(|problem| format!(" ({problem})")).unwrap_or_default();
        return Err(format!(
            "no certificates of authorities are found{problem}: install the package ca-certificates, or name a file of \
             them by SSL_CERT_FILE"
        ));
    }
    let roots = found.certs.iter().map(|authority| Certificate::from_der(authority).to_owned());
    let roots = RootCerts::from(roots.collect::<Vec<_>>());
    Ok(TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider()).build())
}

/// Returns what a server needs: its certificate, with those that lead to its
/// authority, and its private key, each a file in PEM.
///
/// # Errors
/// A file cannot be read or used, or the two do not belong together.
pub fn server(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let unusable = |path: &Path, problem: &dyn Display| format!("{} {problem}", path.display());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|problem| unusable(certificate, &pem_problem(&problem, "certificate")))?;
    if certificates.is_empty() {
        return Err(unusable(certificate, &pem_problem(&pem::Error::NoItemsFound, "certificate")));
    }
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|problem| unusable(key, &pem_problem(&problem, "private key")))?;
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let config = config.map_err(|problem| problem.to_string())?.with_no_client_auth();
    let mut config = config.with_single_cert(certificates, private).map_err(|problem| match problem {
        rustls::Error::InconsistentKeys(_) => {
            unusable(key, &format!("is not the private key of the certificate {}", certificate.display()))
        }
        rustls::Error::InvalidCertificate(problem) => {
            unusable(certificate, &format!("is no certificate that can be used: {problem}"))
        }
        problem => unusable(key, &format!("is no private key that can be used: {problem}")),
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Says what is wrong with a file that should have something in PEM.
fn pem_problem(problem: &pem::Error, what: &str) -> String {
    match problem {
        pem::Error::Io(problem) => format!("cannot be read: {problem}"),
        pem::Error::NoItemsFound => format!("has no {what} in PEM, the text between BEGIN and END lines"),
        problem => format!("has a {what} that cannot be read: {problem}"),
    }
}

/// Says why a connection failed, where that was for TLS.
pub fn reason(error: &ureq::Error) -> Option<String> {
    let problem = match error {
        ureq::Error::Rustls(problem) => problem,
        ureq::Error::Io(problem) => problem.get_ref()?.downcast_ref::<rustls::Error>()?,
        _ => return None,
    };
    Some(match problem {
        rustls::Error::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer => {
                "its certificate is from no authority that this machine trusts: have the \
                 system trust it, or name a file with the authority's certificate by SSL_CERT_FILE"
                    .into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired".into(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet: is the clock of this machine right?".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another name".into()
            }
            problem => format!("its certificate cannot be trusted: {problem}"),
        },
        rustls::Error::InvalidMessage(_) => "what answers there does not speak TLS".into(),
        problem => format!("no connection with TLS: {problem}"),
    })
}
