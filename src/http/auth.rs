//! Keys: `Authorization: Bearer KEY` or `x-api-key: KEY`.
//!
//! [`authorize`] is a layer inside `observe.rs`; a handler that changes the service takes [`Admin`] as well. Without API keys
//! the service is open; health is open always, metrics, documentation and the page unless `--protect-all`. Keys are kept
//! as digests; a key's text is never logged and never compared.

use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::error::ApiError;
use super::state::Service;

/// The keys that are good now; they may be replaced while the service runs.
#[derive(Debug, Default)]
pub(super) struct Keys(RwLock<Arc<Digests>>);

/// Of a fixed length, so that a comparison's time says nothing of a key, its length included.
#[derive(Debug, Default)]
struct Digests {
    api: Vec<[u8; 32]>,
    admin: Vec<[u8; 32]>,
}

/// What the keys of a request open. Each kind of key was compared with each key sent.
struct Opens {
    api: bool,
    admin: bool,
}

impl Keys {
    pub(super) fn new(api: &[String], admin: &[String]) -> Self {
        let keys = Self::default();
        keys.replace(api, admin);
        keys
    }

    /// From now on these keys are good, and no others.
    pub(super) fn replace(&self, api: &[String], admin: &[String]) {
        let digests =
            |keys: &[String]| keys.iter().map(|key| Sha256::digest(key.as_bytes()).into()).collect();
        let new = Arc::new(Digests { api: digests(api), admin: digests(admin) });
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    fn digests(&self) -> Arc<Digests> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Digests {
    fn opens(&self, headers: &HeaderMap) -> Opens {
        let none = || Choice::from(0);
        let (mut api, mut admin) = (none(), none());
        for sent in sent(headers) {
            let sent: [u8; 32] = Sha256::digest(sent).into();
            // Every key is compared, so that the time does not tell which one it was.
            let among = |keys: &[[u8; 32]]| keys.iter().fold(none(), |found, key| found | key.ct_eq(&sent));
            api |= among(&self.api);
            admin |= among(&self.admin);
        }
        let admin = bool::from(admin);
        Opens { api: bool::from(api) | admin, admin }
    }

    fn admin(&self, headers: &HeaderMap) -> Result<Admin, ApiError> {
        if self.admin.is_empty() {
            return Err(ApiError::Forbidden(
                "this is off; a service started with `--admin-key KEY` does it for whoever sends that key"
                    .to_owned(),
            ));
        }
        match self.opens(headers) {
            Opens { admin: true, .. } => Ok(Admin(())),
            Opens { api: true, .. } => {
                Err(ApiError::Forbidden("this wants an admin key, and an API key was sent".to_owned()))
            }
            Opens { .. } => Err(ApiError::Unauthorized),
        }
    }
}

/// The keys that a request carries, one in each of the two headers.
fn sent(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    let plain = headers.get("x-api-key").map(|value| value.as_bytes().trim_ascii());
    bearer.into_iter().chain(plain)
}

pub(super) async fn authorize(State(service): State<Service>, request: Request, next: Next) -> Response {
    let keys = service.keys().digests();
    let open = keys.api.is_empty() || is_open(&request, service.settings().protect_all);
    if open || keys.opens(request.headers()).api {
        next.run(request).await
    } else {
        ApiError::Unauthorized.into_response()
    }
}

/// What wants no key. Whoever may only ask whether the service is well need not be trusted with one.
fn is_open(request: &Request, protect_all: bool) -> bool {
    match request.uri().path() {
        "/health" | "/health/live" | "/health/ready" | "/v2/health/live" | "/v2/health/ready" => true,
        // The page; what is posted there is photos.
        "/" => request.method() != Method::POST && !protect_all,
        "/metrics" | "/docs" | "/openapi.json" => !protect_all,
        _ => false,
    }
}

/// Proof that a request may change the service: take it as a handler's argument.
#[derive(Debug)]
pub(super) struct Admin(());

impl FromRequestParts<Service> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Self, ApiError> {
        service.keys().digests().admin(&parts.headers)
    }
}

/// Whether a text can be a key: it must fit into a header as it is.
///
/// # Errors
/// What is wrong with it, without the text itself.
pub fn check_key(key: &str) -> Result<(), &'static str> {
    if key.is_empty() {
        return Err("a key is not empty");
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a key holds visible ASCII characters and no space, as a header must carry it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opens(keys: &Keys, name: &'static str, value: &str) -> (bool, bool) {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header's value"));
        let Opens { api, admin } = keys.digests().opens(&headers);
        (api, admin)
    }

    #[test]
    fn only_a_whole_key_opens_and_an_admin_key_opens_all() {
        let keys = Keys::new(&["secret".into(), "second".into()], &["root".into()]);
        for right in ["secret", "second"] {
            assert_eq!(opens(&keys, "x-api-key", right), (true, false));
            assert_eq!(opens(&keys, "authorization", &format!("bearer {right}")), (true, false));
        }
        assert_eq!(opens(&keys, "x-api-key", "root"), (true, true));
        for wrong in ["", "secre", "secrets", "secretsecret", "Secret", "roo"] {
            assert_eq!(opens(&keys, "x-api-key", wrong), (false, false), "{wrong}");
        }
        assert_eq!(opens(&keys, "authorization", "secret"), (false, false), "the scheme is missing");
    }

    #[test]
    fn replaced_keys_are_good_no_longer() {
        let keys = Keys::new(&["old".into()], &[]);
        keys.replace(&["new".into()], &["root".into()]);
        assert_eq!(opens(&keys, "x-api-key", "old"), (false, false));
        assert_eq!(opens(&keys, "x-api-key", "new"), (true, false));
        assert_eq!(opens(&keys, "x-api-key", "root"), (true, true));
    }

    #[test]
    fn only_an_admin_key_may_change_the_service_and_without_one_nobody() {
        let admin = |keys: &Keys, key: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-api-key", key.parse().expect("a header's value"));
            keys.digests().admin(&headers).map_err(|error| (error.row(), error.to_string()))
        };
        let none = Keys::new(&["secret".into()], &[]);
        for key in ["secret", "root", ""] {
            let (row, message) = admin(&none, key).expect_err("it is off");
            assert!(row == (403, "forbidden") && message.contains("--admin-key"), "{message}");
        }
        let keys = Keys::new(&["secret".into()], &["root".into()]);
        assert!(admin(&keys, "root").is_ok());
        assert_eq!(admin(&keys, "wrong").expect_err("unknown").0, (401, "unauthorized"));
        assert_eq!(admin(&keys, "secret").expect_err("an API key").0, (403, "forbidden"));
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_refused_beforehand() {
        assert_eq!(check_key("sk-1234_+/="), Ok(()));
        for wrong in ["", "two words", "tab\t", "schlüssel"] {
            assert!(check_key(wrong).is_err(), "{wrong}");
        }
    }
}
