//! Hints at settings that are allowed but hardly meant: logged at the start and printed by `arbiter check`.

use super::Config;

/// Claims whose values no agent's id and no group can be.
const REGISTERED: &[&str] = &["iss", "aud", "exp", "nbf", "iat"];

impl Config {
    /// Settings that can work and are likely a mistake, each with what to do.
    pub fn hints(&self) -> Vec<String> {
        let mut hints = Vec::new();
        for network in self.proxy.trusted_proxies.iter().filter(|network| network.is_everything()) {
            hints.push(format!(
                "`proxy.trusted_proxies` holds {network}: any client can then choose the address \
                 that is recorded and sent on; name the networks of your own proxies"
            ));
        }
        for issuer in &self.oauth.issuers {
            let name = &issuer.name;
            let claims =
                [("agent_claim", &issuer.agent_claim), ("groups_claim", &issuer.groups_claim)];
            for (key, claim) in claims {
                if REGISTERED.contains(&claim.as_str()) {
                    hints.push(format!(
                        "no token of issuer `{name}` could ever match: `{key}` is `{claim}`, which \
                         names something else; give the claim that holds it"
                    ));
                }
                if claim.split('.').any(str::is_empty) {
                    hints.push(format!(
                        "`{key}` of issuer `{name}` is `{claim}`, a path with an empty name: only a \
                         claim of exactly that name could match; check the dots"
                    ));
                }
            }
        }
        let asked_for_tokens = !self.oauth.issuers.is_empty();
        let named = self.oauth.resource.is_some();
        let beyond = !self.proxy.listen.ip().is_loopback();
        if asked_for_tokens && !named && self.proxy.tls.is_none() && beyond {
            let text = "protected-resource metadata will say `http://`: if TLS ends before Arbiter, \
                        set `oauth.resource` to the `https://` URL that clients use";
            hints.push(text.to_owned());
        }
        let plain = self
            .oauth
            .resource
            .iter()
            .chain(self.upstreams.iter().filter_map(|pool| pool.resource.as_ref()));
        for resource in plain.filter(|url| url.starts_with("http://")) {
            if self.proxy.tls.is_some() {
                hints.push(format!(
                    "the resource {resource} is named with `http://` although this port speaks TLS: \
                     clients will refuse its metadata; name it with `https://`"
                ));
            } else if beyond {
                hints.push(format!(
                    "the metadata of the resource {resource} will say `http://`: if TLS ends before \
                     Arbiter, name it with the `https://` URL that clients use"
                ));
            }
        }
        hints
    }
}
