//! Before the first measurement: is there a service, does it take the key, does it answer photos with predictions?
//!
//! What is found wrong here ends the run with a reason. Later answers are only counted.

use super::address::Address;
use super::answer::{Outcome, has_predictions, refusal};
use super::client::{Client, Reply, Silence};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a service may be busy or starting.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// What one answer says of the service.
#[derive(Debug, PartialEq)]
enum Finding {
    /// A classifier, at work.
    Fit,
    /// It takes no photo now, for this reason.
    Busy(String),
    /// It does not take this photo: code and message.
    Photo(String, String),
    /// No photo will be classified here, for this reason.
    Useless(String),
}

/// Sends photos, one at a time, until one is classified.
///
/// # Errors
/// Why none is.
pub async fn warm_up(
    client: &Client,
    address: &Address,
    keyed: bool,
    photos: &[Bytes],
) -> Result<(), String> {
    let (begin, mut refused) = (Instant::now(), Refused::default());
    for photo in photos {
        loop {
            match judge(&client.ask(photo.clone()).await, address, keyed) {
                Finding::Fit => return Ok(()),
                Finding::Busy(_) if begin.elapsed() < PATIENCE => sleep(PAUSE).await,
                Finding::Busy(reason) => {
                    return Err(format!("has taken no photo in {} s: {reason}", PATIENCE.as_secs()));
                }
                Finding::Photo(code, message) => {
                    refused.count(code, message);
                    break;
                }
                Finding::Useless(problem) => return Err(problem),
            }
        }
    }
    Err(refused.to_string())
}

/// Photos that the service does not take.
#[derive(Default)]
struct Refused {
    codes: BTreeMap<String, u64>,
    last: String,
}

impl Refused {
    fn count(&mut self, code: String, message: String) {
        *self.codes.entry(code).or_insert(0) += 1;
        self.last = message;
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let codes: Vec<String> = self.codes.iter().map(|(code, count)| format!("{count} {code}")).collect();
        write!(f, "no photo was classified: {}; the last: {}", codes.join(", "), self.last)
    }
}

fn judge(answer: &Result<Reply, Silence>, address: &Address, keyed: bool) -> Finding {
    let reply = match answer {
        Ok(reply) => reply,
        Err(Silence::Timeout) => return Finding::Busy("no answer in time".to_owned()),
        Err(Silence::Broken(reason)) => return Finding::Useless(format!("gives no answer: {reason}")),
    };
    let (code, message) = refusal(reply);
    match reply.status {
        200 => match Outcome::of(answer) {
            Outcome::Refused(code) => Finding::Photo(code, "an error within an answer of 200".to_owned()),
            _ if has_predictions(&reply.body) => Finding::Fit,
            _ => Finding::Useless(format!("answers, but not with predictions, at {}", address.photos)),
        },
        401 | 403 if keyed => Finding::Useless("does not know this API key".to_owned()),
        401 | 403 => Finding::Useless("wants an API key (--api-key KEY)".to_owned()),
        404 if code == "model_not_found" => Finding::Useless(message),
        status @ (300..=399 | 404 | 405) => {
            Finding::Useless(format!("there is no service here: {} answers {status}", address.photos))
        }
        408 | 429 | 502..=504 => Finding::Busy(message),
        _ => Finding::Photo(code, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_what_the_service_is() {
        let address = Address::new("http://a", "/classify", None, None).expect("an address");
        let finding = |status, body: &str, keyed| {
            judge(&Ok(Reply { status, body: body.to_owned().into() }), &address, keyed)
        };
        let error = |code: &str| format!(r#"{{"error": {{"code": "{code}", "message": "m"}}}}"#);
        assert_eq!(finding(200, r#"{"predictions": [{"label": "a", "score": 1}]}"#, false), Finding::Fit);
        let useless = |status, body: &str, keyed| match finding(status, body, keyed) {
            Finding::Useless(problem) => problem,
            other => unreachable!("{status}: {other:?}"),
        };
        assert!(useless(200, "<html>", false).contains("not with predictions"));
        assert!(useless(401, &error("unauthorized"), false).contains("--api-key"));
        assert!(useless(401, &error("unauthorized"), true).contains("does not know"));
        assert_eq!(useless(404, &error("model_not_found"), false), "m");
        for status in [301, 404, 405] {
            assert!(useless(status, "", false).contains("no service here"), "{status}");
        }
        for status in [408, 429, 502, 503, 504] {
            assert_eq!(
                finding(status, &error("overloaded"), false),
                Finding::Busy("m".to_owned()),
                "{status}"
            );
        }
        for status in [400, 413, 415, 422, 500] {
            let photo = Finding::Photo("c".to_owned(), "m".to_owned());
            assert_eq!(finding(status, &error("c"), false), photo, "{status}");
        }
        let within = format!(r#"{{"results": [{}]}}"#, error("c"));
        assert!(matches!(finding(200, &within, false), Finding::Photo(code, _) if code == "c"));
    }
}
