//! What a person types of a service → where photos are posted and metrics are read.

use axum::http::Uri;
use featherlight::predict::PredictError;

/// The two addresses of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// As people gave it, for messages.
    pub server: String,
    /// Where photos are posted.
    pub photos: Uri,
    /// Where the metrics are.
    pub metrics: Uri,
}

impl Address {
    /// `server` is `http://host:port`, also with a path before the service's own; it may name `/classify`. `path` begins with `/`.
    ///
    /// # Errors
    /// If one of them is no address of the web.
    pub fn new(
        server: &str,
        path: &str,
        top_k: Option<u32>,
        metrics_url: Option<&str>,
    ) -> Result<Self, PredictError> {
        let fault = |named: &str, problem: &str| PredictError::Server {
            server: named.to_owned(),
            problem: problem.to_owned(),
        };
        let base = server.trim_end_matches('/');
        let base = base.strip_suffix("/classify").unwrap_or(base);
        let no_address =
            || fault(server, "is no address of a service; wanted is one like http://127.0.0.1:8080");
        web(base).filter(|uri| uri.query().is_none()).ok_or_else(no_address)?;
        let mark = if path.contains('?') { '&' } else { '?' };
        let query = top_k.map_or_else(String::new, |top_k| format!("{mark}top_k={top_k}"));
        let photos = web(&format!("{base}{path}{query}")).ok_or_else(no_address)?;
        let metrics = match metrics_url {
            Some(url) => web(url).ok_or_else(|| {
                fault(url, "is no address of metrics; wanted is one like http://127.0.0.1:9000/metrics")
            })?,
            None => web(&format!("{base}/metrics")).ok_or_else(no_address)?,
        };
        Ok(Self { server: base.to_owned(), photos, metrics })
    }

    /// Whether the metrics come from the host that gets the photos, and may see its key.
    pub fn same_host(&self) -> bool {
        self.photos.host() == self.metrics.host() && self.photos.scheme() == self.metrics.scheme()
    }
}

/// An address of the web, with scheme and host.
fn web(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    (known && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_may_stand_behind_a_path_and_name_classify() {
        for server in ["http://a:1/x", "http://a:1/x/", "http://a:1/x/classify"] {
            let address = Address::new(server, "/classify", None, None).expect("an address");
            assert_eq!(address.photos, "http://a:1/x/classify", "{server}");
            assert_eq!(address.metrics, "http://a:1/x/metrics", "{server}");
            assert_eq!(address.server, "http://a:1/x");
        }
        let address = Address::new("https://a", "/classify/m", Some(3), None).expect("an address");
        assert_eq!(address.photos, "https://a/classify/m?top_k=3");
        let address = Address::new("https://a", "/p?x=1", Some(3), None).expect("an address");
        assert_eq!(address.photos, "https://a/p?x=1&top_k=3");
    }

    #[test]
    fn what_is_no_address_is_said_with_one_that_is() {
        for server in ["127.0.0.1:8080", "ftp://a", "http://", "", "http://a?x=1", "http://a b"] {
            let error = Address::new(server, "/classify", None, None).expect_err(server).to_string();
            assert!(error.contains("http://127.0.0.1:8080"), "{server}: {error}");
        }
        let error = Address::new("http://a", "/classify", None, Some("9000")).expect_err("none").to_string();
        assert!(error.starts_with("9000: ") && error.contains("/metrics"), "{error}");
    }

    #[test]
    fn a_key_is_shown_to_the_metrics_of_its_own_host_alone() {
        let same = |metrics| Address::new("http://a:1", "/", None, metrics).expect("an address").same_host();
        assert!(same(None) && same(Some("http://a:2/metrics")));
        assert!(!same(Some("http://b:1/metrics")) && !same(Some("https://a:1/metrics")));
    }
}
