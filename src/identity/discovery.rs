//! Discovery of an issuer's keys from its metadata (RFC 8414, `OpenID` Discovery).

use super::fetch::{FetchError, Fetcher};
use crate::config::provider_url;
use crate::json::{Doc, Value};

/// Reason why an issuer's metadata is unusable.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    #[error("its metadata could not be fetched: {0}")]
    Fetch(#[from] FetchError),
    #[error("its metadata is not a strict JSON object")]
    Malformed,
    #[error("its metadata is of another issuer")]
    OtherIssuer,
    #[error("its metadata names no usable `jwks_uri`")]
    NoKeys,
    #[error("its metadata names no usable `authorization_endpoint` and `token_endpoint`")]
    NoEndpoints,
}

/// Endpoints at which people sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoints {
    pub authorization: String,
    pub token: String,
}

/// Finds the URL of an issuer's keys.
pub(crate) async fn jwks_uri(
    fetcher: &Fetcher,
    issuer_url: &str,
    allow_http: bool,
) -> Result<String, DiscoveryError> {
    find(fetcher, issuer_url, |document| read(document, issuer_url, allow_http)).await
}

/// Finds the endpoints at which people sign in.
pub(crate) async fn endpoints(
    fetcher: &Fetcher,
    issuer_url: &str,
    allow_http: bool,
) -> Result<Endpoints, DiscoveryError> {
    find(fetcher, issuer_url, |document| read_endpoints(document, issuer_url, allow_http)).await
}

/// Reads the first metadata that is there. Metadata that does not name exactly this issuer is
/// refused.
async fn find<T>(
    fetcher: &Fetcher,
    issuer_url: &str,
    read: impl Fn(&[u8]) -> Result<T, DiscoveryError>,
) -> Result<T, DiscoveryError> {
    let mut failed = None;
    for url in metadata_urls(issuer_url) {
        let found = match fetcher.get(&url).await {
            Ok(document) => read(&document.bytes),
            // The other URLs are on the same host.
            Err(unreachable @ (FetchError::Late | FetchError::Connection(_))) => {
                return Err(unreachable.into());
            }
            Err(error) => Err(error.into()),
        };
        match found {
            Ok(found) => return Ok(found),
            // What a document got wrong says more than that another one is not there.
            Err(error) => match &failed {
                None | Some(DiscoveryError::Fetch(_)) => failed = Some(error),
                Some(_) => {}
            },
        }
    }
    Err(failed.unwrap_or(DiscoveryError::NoKeys))
}

/// Returns the possible URLs of metadata: inserted before the path (RFC 8414 section 3.1), for
/// `OpenID` too (section 5), and appended to it (`OpenID` section 4.1).
fn metadata_urls(issuer_url: &str) -> Vec<String> {
    let authority_at = issuer_url.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = issuer_url.split_at(authority_at);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_end_matches('/');
    let slash = if path.is_empty() { "" } else { "/" };
    let inserted = |name: &str| format!("{scheme}{authority}/.well-known/{name}{slash}{path}");
    let mut urls = vec![inserted("oauth-authorization-server"), inserted("openid-configuration")];
    if !path.is_empty() {
        urls.push(format!("{scheme}{authority}/{path}/.well-known/openid-configuration"));
    }
    urls
}

fn read(document: &[u8], issuer_url: &str, allow_http: bool) -> Result<String, DiscoveryError> {
    let doc = Doc::parse(document).map_err(|_json| DiscoveryError::Malformed)?;
    url_in(own(&doc, issuer_url)?, "jwks_uri", allow_http).ok_or(DiscoveryError::NoKeys)
}

fn read_endpoints(
    document: &[u8],
    issuer_url: &str,
    allow_http: bool,
) -> Result<Endpoints, DiscoveryError> {
    let doc = Doc::parse(document).map_err(|_json| DiscoveryError::Malformed)?;
    let root = own(&doc, issuer_url)?;
    let endpoint = |name: &str| url_in(root, name, allow_http).ok_or(DiscoveryError::NoEndpoints);
    Ok(Endpoints {
        authorization: endpoint("authorization_endpoint")?,
        token: endpoint("token_endpoint")?,
    })
}

/// Returns the metadata if it is of this issuer.
fn own<'d>(doc: &'d Doc<'_>, issuer_url: &str) -> Result<Value<'d>, DiscoveryError> {
    let named = doc.root().get("issuer").and_then(|value| value.as_str());
    if named.as_deref() == Some(issuer_url) {
        Ok(doc.root())
    } else {
        Err(DiscoveryError::OtherIssuer)
    }
}

fn url_in(metadata: Value<'_>, name: &str, allow_http: bool) -> Option<String> {
    let url = metadata.get(name)?.as_str()?;
    provider_url(&url, allow_http).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_looked_for_in_every_standard_place() {
        assert_eq!(
            metadata_urls("https://i.example/realms/a/"),
            [
                "https://i.example/.well-known/oauth-authorization-server/realms/a",
                "https://i.example/.well-known/openid-configuration/realms/a",
                "https://i.example/realms/a/.well-known/openid-configuration",
            ]
        );
        let root = [
            "https://i.example/.well-known/oauth-authorization-server",
            "https://i.example/.well-known/openid-configuration",
        ];
        assert_eq!(metadata_urls("https://i.example"), root);
        assert_eq!(metadata_urls("https://i.example/"), root);
    }

    #[test]
    fn metadata_counts_only_for_its_own_issuer_and_a_safe_url() {
        let uri = |document: &str| read(document.as_bytes(), "https://i.example", false).ok();
        let good = r#"{"issuer":"https://i.example","jwks_uri":"https://k.example/k"}"#;
        assert_eq!(uri(good).as_deref(), Some("https://k.example/k"));
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"issuer":"https://i.example"}"#,
            r#"{"issuer":"https://i.example/","jwks_uri":"https://k.example/k"}"#,
            r#"{"issuer":"https://i.example","jwks_uri":"http://k.example/k"}"#,
            r#"{"issuer":"https://i.example","jwks_uri":"file:///etc/passwd"}"#,
            r#"{"issuer":"https://i.example","jwks_uri":7}"#,
            r#"{"issuer":"https://i.example","issuer":"https://i.example","jwks_uri":"https://k.example/k"}"#,
        ] {
            assert_eq!(uri(bad), None, "{bad}");
        }
    }
}
