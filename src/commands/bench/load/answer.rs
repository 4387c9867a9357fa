//! What an answer of the service means to a measurement.
//!
//! `closed` and `open` count every answer through [`Outcome`]; `warm_up` looks closer, through [`has_predictions`].

use super::client::{Reply, Silence};
use serde::Deserialize;
use serde_json::Value;

/// What became of one request.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Answered with 200, and no error within.
    Answered,
    /// Any other answer; `error.code`, or the status.
    Refused(String),
    /// No answer: `timeout` or `no_answer`.
    Unanswered(&'static str),
}

#[derive(Deserialize)]
struct Envelope {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    #[serde(default)]
    message: String,
}

/// An answer of several photos, of which only the errors matter.
#[derive(Deserialize)]
struct Several {
    results: Vec<Photo>,
}

#[derive(Deserialize)]
struct Photo {
    error: Option<ErrorBody>,
}

impl Outcome {
    /// Sorts an answer. A 200 is read only where the word "error" stands in it: a client that shares its machine with the service
    /// should do no work that the measurement does not need.
    pub fn of(answer: &Result<Reply, Silence>) -> Self {
        match answer {
            Ok(Reply { status: 200, body }) => match error_within(body) {
                Some(code) => Self::Refused(code),
                None => Self::Answered,
            },
            Ok(reply) => Self::Refused(refusal(reply).0),
            Err(Silence::Timeout) => Self::Unanswered("timeout"),
            Err(Silence::Broken(_)) => Self::Unanswered("no_answer"),
        }
    }
}

/// `error.code` and `error.message` of an answer that is no 200; the status where it has none.
pub fn refusal(reply: &Reply) -> (String, String) {
    match serde_json::from_slice::<Envelope>(&reply.body) {
        Ok(Envelope { error }) if is_code(&error.code) => (error.code, error.message),
        _ => (reply.status.to_string(), format!("the service answers {}", reply.status)),
    }
}

/// The code of the first error that a 200 holds, for itself or among `results`.
fn error_within(body: &[u8]) -> Option<String> {
    const WORD: &[u8] = b"\"error\"";
    if !body.windows(WORD.len()).any(|window| window == WORD) {
        return None;
    }
    let alone = serde_json::from_slice::<Envelope>(body).ok().map(|envelope| envelope.error);
    let among = || {
        let several = serde_json::from_slice::<Several>(body).ok()?;
        several.results.into_iter().find_map(|photo| photo.error)
    };
    let code = alone.or_else(among)?.code;
    Some(if is_code(&code) { code } else { "error".to_owned() })
}

/// Whether a text is fit to be counted by, and to be printed.
fn is_code(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether a 200 is one of a classifier: `predictions` or `results`, or Hugging Face's list of labels and scores.
pub fn has_predictions(body: &[u8]) -> bool {
    let labelled = |list: &[Value]| {
        !list.is_empty() && list.iter().all(|item| item["label"].is_string() && item["score"].is_number())
    };
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Array(list)) => labelled(&list),
        Ok(Value::Object(map)) => {
            map.get("predictions").and_then(Value::as_array).is_some_and(|list| labelled(list))
                || map.get("results").is_some_and(Value::is_array)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: u16, body: &str) -> Outcome {
        Outcome::of(&Ok(Reply { status, body: body.to_owned().into() }))
    }

    fn refused(code: &str) -> Outcome {
        Outcome::Refused(code.to_owned())
    }

    #[test]
    fn a_200_counts_unless_an_error_is_in_it() {
        assert_eq!(outcome(200, r#"{"predictions": [{"label": "a", "score": 1}]}"#), Outcome::Answered);
        assert_eq!(outcome(200, r#"{"predictions": [{"label": "error", "score": 1}]}"#), Outcome::Answered);
        let good = r#"{"results": [{"file": "a", "predictions": []}]}"#;
        assert_eq!(outcome(200, good), Outcome::Answered);
        let bad = r#"{"results": [{"predictions": []}, {"error": {"code": "overloaded", "message": "m"}}]}"#;
        assert_eq!(outcome(200, bad), refused("overloaded"));
        assert_eq!(outcome(200, r#"{"error": {"code": "internal"}}"#), refused("internal"));
    }

    #[test]
    fn other_answers_count_by_code_and_by_status_where_there_is_none() {
        assert_eq!(
            outcome(503, r#"{"error": {"code": "overloaded", "message": "m"}}"#),
            refused("overloaded")
        );
        assert_eq!(outcome(502, "<html>"), refused("502"));
        assert_eq!(
            outcome(400, r#"{"error": {"code": "\u001b[2J"}}"#),
            refused("400"),
            "nothing a terminal obeys"
        );
        assert_eq!(Outcome::of(&Err(Silence::Timeout)), Outcome::Unanswered("timeout"));
        assert_eq!(Outcome::of(&Err(Silence::Broken("reset".into()))), Outcome::Unanswered("no_answer"));
    }

    #[test]
    fn a_classifier_is_known_by_its_answer() {
        for body in [
            r#"{"model": "m", "predictions": [{"label": "a", "score": 0.5}]}"#,
            r#"{"results": []}"#,
            r#"[{"label": "a", "score": 0.5}]"#,
        ] {
            assert!(has_predictions(body.as_bytes()), "{body}");
        }
        for body in ["", "<html>", "{}", "[]", r#"{"predictions": "many"}"#, r#"[{"label": 1}]"#, "7"] {
            assert!(!has_predictions(body.as_bytes()), "{body}");
        }
    }
}
