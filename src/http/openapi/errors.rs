//! The errors of an operation, by status, from the codes that it can end with.
//!
//! [`ROWS`] says of every row of `error.rs`' table when it is met; a test holds the two against each other.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Operation, reference};

/// Status, code, when, and a message as it may read.
pub(super) const ROWS: [(u16, &str, &str, &str); 24] = [
    (
        400,
        "bad_request",
        "the body, a parameter or a header is malformed or unknown",
        "`top_k` is `0`; it must be a whole number from 1",
    ),
    (
        400,
        "url_not_allowed",
        "photos by URL are not allowed here, or not from this one",
        "photos by URL are not taken here; the operator of the service can allow them with --allow-url-input",
    ),
    (
        401,
        "unauthorized",
        "keys are set and none of them was sent",
        "this service wants an API key, and none that it knows was sent; use `Authorization: Bearer KEY` or `x-api-key: KEY`",
    ),
    (
        403,
        "forbidden",
        "the key that was sent is no admin key, or the service has none",
        "this wants an admin key, and an API key was sent",
    ),
    (404, "not_found", "nothing is served at this path", "nothing is served at /x; GET / shows what is"),
    (
        404,
        "model_not_found",
        "no model of this name, or no such version of it",
        "no model `birds`; served are `demo`",
    ),
    (405, "method_not_allowed", "the path has other methods", "GET is not served at /classify"),
    (408, "request_timeout", "the body came too slowly", "the body did not arrive within 30s"),
    (
        409,
        "reload_failed",
        "the model could not be loaded anew, and the old one goes on",
        "the model could not be loaded anew, and the old one goes on: model.safetensors ends too early",
    ),
    (
        413,
        "body_too_large",
        "the body, or the photo at a URL, is over the limit",
        "the body is larger than 20971520 bytes",
    ),
    (
        413,
        "too_many_photos",
        "more photos than one request may hold",
        "more photos than one request may hold, which are 64; send several requests",
    ),
    (414, "uri_too_long", "path and query are too long", "the address is longer than 8192 bytes"),
    (
        415,
        "unsupported_media_type",
        "the content type, or the format of the bytes, is none that is served",
        "this is text; formats served are JPEG, PNG, WebP, GIF, BMP and TIFF",
    ),
    (
        422,
        "undecodable_image",
        "the photo is damaged, cut short or empty",
        "the JPEG picture cannot be decoded: the file ends too early (truncated)",
    ),
    (
        422,
        "too_many_pixels",
        "the photo's header tells of more pixels than are taken",
        "the picture has 60000 × 60000 pixels, the limit is 178956970 in all",
    ),
    (
        422,
        "url_unreachable",
        "nothing was to be had from the URL",
        "`url` gave no answer of status 200 within 10s and 3 redirects",
    ),
    (
        431,
        "headers_too_large",
        "the request's head is too large",
        "the request's head has more than 100 fields or 32768 bytes",
    ),
    (499, "client_left", "nobody was there to read it", "the client left"),
    (
        500,
        "internal",
        "a fault of the service",
        "an error inside the service; its log holds the details under this request id",
    ),
    (
        503,
        "overloaded",
        "the service is at its limit, or the deadline cannot be met",
        "the service is at its limit; try again in 2 s",
    ),
    (503, "not_ready", "the models are still being loaded", "the model is not loaded yet"),
    (503, "shutting_down", "the service is ending", "the service is shutting down"),
    (
        503,
        "device_unavailable",
        "the device that runs the model failed",
        "the device that runs the model is unavailable",
    ),
    (
        504,
        "deadline_exceeded",
        "the time was over before the answer",
        "the deadline passed before the answer",
    ),
];

/// What every request may end with.
const ANY: [&str; 3] = ["uri_too_long", "headers_too_large", "internal"];

/// Adds the errors of an operation to its answers.
pub(super) fn add(operation: &Operation, wants_key: bool, answers: &mut Map<String, Value>) {
    let codes = operation.errors.iter().copied().chain(wants_key.then_some("unauthorized")).chain(ANY);
    let mut by_status: BTreeMap<u16, Vec<&(u16, &str, &str, &str)>> = BTreeMap::new();
    for row in codes.filter_map(|code| ROWS.iter().find(|(_, known, ..)| *known == code)) {
        by_status.entry(row.0).or_default().push(row);
    }
    let plain = operation.tag.has_plain_errors();
    for (status, rows) in by_status {
        let when =
            rows.iter().map(|(_, code, when, _)| format!("`{code}`: {when}")).collect::<Vec<_>>().join("; ");
        let examples = rows.iter().map(|(_, code, _, message)| {
            let error = match plain {
                true => json!({"error": message}),
                false => json!({"error": {"code": code, "message": message, "request_id": "c6b364eb-2eae-4421-b7ec-fb2785e54197"}}),
            };
            ((*code).to_owned(), json!({"value": error}))
        });
        let examples: Map<String, Value> = examples.collect();
        let schema = reference(if plain { "ProtocolError" } else { "Error" });
        let mut headers = json!({"x-request-id": {"$ref": "#/components/headers/RequestId"}});
        if status == 503 {
            headers["retry-after"] = json!({"$ref": "#/components/headers/RetryAfter"});
        }
        let answer = json!({
            "description": when,
            "headers": headers,
            "content": {"application/json": {"schema": schema, "examples": examples}},
        });
        answers.entry(status.to_string()).or_insert(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::error::{REJECTIONS, STATUSES};

    #[test]
    fn every_row_of_the_table_of_errors_is_described() {
        // `(400, "bad_request")` as the table writes it, and nowhere else in that file.
        let source = include_str!("../error.rs");
        let table = source.split("pub(super) fn row(").nth(1).and_then(|rest| rest.split("\n    }").next());
        let row = |text: &'static str| {
            let (status, rest) = text.split_once(", \"")?;
            Some((status.parse().ok()?, rest.split('"').next()?))
        };
        let mut found: Vec<(u16, &str)> =
            table.unwrap_or_default().split("=> (").skip(1).filter_map(row).collect();
        let mut described: Vec<(u16, &str)> =
            ROWS.iter().map(|(status, code, ..)| (*status, *code)).collect();
        found.sort_unstable();
        described.sort_unstable();
        assert_eq!(found, described);
    }

    /// Every meter exists from the start: a status or a code without one would begin with its first request.
    #[test]
    fn statuses_and_codes_of_the_table_are_values_of_the_meters() {
        // Beside errors: an answer, and one without a body.
        let mut statuses: Vec<u16> = ROWS.iter().map(|(status, ..)| *status).chain([200, 204]).collect();
        statuses.sort_unstable();
        statuses.dedup();
        assert_eq!(statuses, STATUSES);
        // Turned away before inference: not what is nowhere, fails inside or comes too late, and no reload.
        let others = [
            "not_found",
            "method_not_allowed",
            "reload_failed",
            "client_left",
            "internal",
            "deadline_exceeded",
        ];
        let codes: Vec<&str> =
            ROWS.iter().map(|(_, code, ..)| *code).filter(|code| !others.contains(code)).collect();
        let mut counted = REJECTIONS.to_vec();
        counted.sort_by_key(|code| codes.iter().position(|known| known == code));
        assert_eq!(codes, counted);
    }

    #[test]
    fn operations_name_codes_that_there_are() {
        for operation in super::super::operations(super::super::tests::ALL) {
            for code in operation.errors {
                assert!(ROWS.iter().any(|(_, known, ..)| known == code), "{}: {code}", operation.id);
            }
        }
    }
}
