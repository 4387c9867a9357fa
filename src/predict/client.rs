//! One request to a running service, and what its answer means.
//!
//! [`Client`] asks `/classify` once and sorts the answers: predictions, bad for this photo, try again, or no use at all. `remote`
//! makes rows of them. Nothing is tried twice here.

use super::PredictError;
use crate::scores::Prediction;
use serde::Deserialize;
use std::time::Duration;
use ureq::Agent;

/// A body longer than this is announced first (`Expect: 100-continue`), so that a service that takes none so large can say so
/// before it is sent.
const ANNOUNCED: usize = 1 << 20;

/// Longest time from connecting to the last byte of an answer.
const REQUEST: Duration = Duration::from_secs(600);
const CONNECT: Duration = Duration::from_secs(10);

/// A service's address, and the connections to it.
pub struct Client {
    agent: Agent,
    /// As people gave it, for messages.
    server: String,
    url: String,
    authorization: Option<String>,
}

/// Why a request got no predictions.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// This photo is none for the service; others may be.
    Photo {
        /// The reason.
        message: String,
    },
    /// The service's deadline passed; the next try may be faster.
    Late {
        /// The reason.
        message: String,
    },
    /// The service takes no photo now.
    Busy {
        /// The reason.
        message: String,
        /// When it would, if it says so.
        retry_after: Option<Duration>,
    },
    /// No answer at all: no connection, or one that broke.
    Unreachable(String),
    /// No photo will get an answer here: no such host, no such key, no such service.
    Useless(String),
}

#[derive(Deserialize)]
struct Answer {
    predictions: Vec<Prediction<String>>,
}

#[derive(Deserialize)]
struct Envelope {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    message: String,
}

impl Client {
    /// A client of the service at `server` (`http://host:port`), with at most `connections` kept open.
    ///
    /// # Errors
    /// If that is no address of the web.
    pub fn new(server: &str, api_key: Option<&str>, connections: usize) -> Result<Self, PredictError> {
        let base = server.trim_end_matches('/');
        let base = base.strip_suffix("/classify").unwrap_or(base);
        if !["http://", "https://"].iter().any(|scheme| base.len() > scheme.len() && base.starts_with(scheme))
        {
            let problem = "is no address of a service; wanted is one like http://127.0.0.1:8080".to_owned();
            return Err(PredictError::Server { server: server.to_owned(), problem });
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(REQUEST))
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .user_agent(concat!("featherlight/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: config.new_agent(),
            server: base.to_owned(),
            url: format!("{base}/classify"),
            authorization: api_key.map(|key| format!("Bearer {key}")),
        })
    }

    /// Asks once for the `top_k` best labels of a photo, best first.
    ///
    /// # Errors
    /// What the service, or the way to it, says instead.
    pub fn classify(&self, photo: &[u8], top_k: usize) -> Result<Vec<Prediction<String>>, Refusal> {
        let mut request = self.agent.post(&self.url).query("top_k", top_k.to_string());
        request = request.content_type("application/octet-stream");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        if photo.len() > ANNOUNCED {
            request = request.header("expect", "100-continue");
        }
        let mut response = request.send(photo).map_err(unanswered)?;
        let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let status = response.status().as_u16();
        let body = response.body_mut().read_to_string().map_err(unanswered)?;
        self.judge(status, retry_after, &body)
    }

    fn judge(
        &self,
        status: u16,
        retry_after: Option<Duration>,
        body: &str,
    ) -> Result<Vec<Prediction<String>>, Refusal> {
        if status == 200 {
            return match serde_json::from_str::<Answer>(body) {
                Ok(answer) => Ok(answer.predictions),
                Err(error) => Err(Refusal::Useless(format!("answers, but not with predictions: {error}"))),
            };
        }
        let message = match serde_json::from_str::<Envelope>(body) {
            Ok(Envelope { error }) => error.message,
            Err(_) => format!("the service answers {status}"),
        };
        Err(match (status, &self.authorization) {
            (401 | 403, None) => Refusal::Useless("wants an API key (--api-key KEY)".to_owned()),
            (401 | 403, Some(_)) => Refusal::Useless("does not know this API key".to_owned()),
            (404 | 405 | 300..=399, _) => {
                Refusal::Useless(format!("there is no service here: {} answers {status}", self.url))
            }
            (408 | 504, _) => Refusal::Late { message },
            (429 | 502 | 503, _) => Refusal::Busy { message, retry_after },
            _ => Refusal::Photo { message },
        })
    }

    /// The end of a run, with the service's address.
    pub(super) fn fault(&self, problem: String) -> PredictError {
        PredictError::Server { server: self.server.clone(), problem }
    }
}

fn unanswered(error: ureq::Error) -> Refusal {
    use ureq::Error::{ConnectionFailed, Io, Protocol, Timeout};
    match error {
        Io(_) | Timeout(_) | ConnectionFailed | Protocol(_) => Refusal::Unreachable(error.to_string()),
        _ => Refusal::Useless(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_its_scheme_and_may_name_classify() {
        for server in ["127.0.0.1:8080", "ftp://a", "http://", ""] {
            let error = Client::new(server, None, 1).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("http://127.0.0.1:8080"), "{server}: {error}");
        }
        for server in ["http://a:1/x", "http://a:1/x/", "http://a:1/x/classify"] {
            assert_eq!(Client::new(server, None, 1).expect("an address").url, "http://a:1/x/classify");
        }
    }

    #[test]
    fn answers_are_sorted_into_photo_late_busy_and_useless() {
        let client = Client::new("http://a", None, 1).expect("an address");
        let error = r#"{"error": {"code": "c", "message": "m", "request_id": "r"}}"#;
        let message = "m".to_owned();
        let judge = |status| client.judge(status, Some(Duration::from_secs(7)), error).expect_err("refused");
        for status in [400, 413, 415, 422, 500] {
            assert_eq!(judge(status), Refusal::Photo { message: message.clone() });
        }
        for status in [408, 504] {
            assert_eq!(judge(status), Refusal::Late { message: message.clone() });
        }
        let retry_after = Some(Duration::from_secs(7));
        for status in [429, 502, 503] {
            let busy = Refusal::Busy { message: message.clone(), retry_after };
            assert_eq!(judge(status), busy);
        }
        for status in [301, 308, 401, 403, 404, 405] {
            assert!(matches!(judge(status), Refusal::Useless(_)), "{status}");
        }
        assert!(matches!(client.judge(200, None, "<html>"), Err(Refusal::Useless(_))));
        let plain = client.judge(413, None, "<html>").expect_err("refused");
        assert_eq!(plain, Refusal::Photo { message: "the service answers 413".to_owned() });
    }
}
