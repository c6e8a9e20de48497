//! State of an identity provider, asked once as a gateway that starts does: for `arbiter check`.

use tokio::runtime::Handle;

use super::fetch::{FetchError, Fetcher, SetupError};
use super::issuer::Issuer;
use super::keys::RefreshError;
use crate::clock::Clock;
use crate::config;

/// Answers of one provider.
#[derive(Debug)]
pub struct IssuerReport {
    /// Number of usable keys; `None` if its tokens are opaque.
    pub keys: Option<Result<usize, RefreshError>>,
    /// Outcome of a question about a token; `None` if it is not to be asked about any.
    pub introspection: Option<Result<(), FetchError>>,
}

impl IssuerReport {
    /// Asks the provider. An error is one for which a gateway does not start.
    pub async fn of(settings: &config::Issuer) -> Result<Self, SetupError> {
        let fetcher = Fetcher::new(&settings.name, settings.ca_file.as_deref())?;
        let issuer = Issuer::new(settings, 0, &fetcher, &Clock::system(), &Handle::current());
        let keys = async {
            match issuer.keys() {
                Some(keys) => Some(keys.count().await),
                None => None,
            }
        };
        let introspection = async {
            match issuer.introspector() {
                Some(introspector) => Some(introspector.try_out().await),
                None => None,
            }
        };
        let (keys, introspection) = tokio::join!(keys, introspection);
        Ok(Self { keys, introspection })
    }
}
