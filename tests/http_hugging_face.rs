//! `POST /` and `/predict`: the contract of Hugging Face's image classification.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use serde_json::json;
use service::photos::{self, FORM};
use service::{Answer, Running};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
const PATHS: [&str; 2] = ["/", "/predict"];

fn post(service: &Running, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    service.connect().send("POST", path, headers, body)
}

#[test]
fn raw_bytes_and_base64_get_a_bare_list_of_labels() {
    let service = Running::start();
    let photo = photos::plain([10, 30, 20]);
    let want = service.classify("", &[], &photo).json()["predictions"].clone();
    let parameters = ", \"parameters\": {\"top_k\": 2, \"function_to_apply\": \"none\"}";
    for path in PATHS {
        // As huggingface_hub sends a file whose type it knows, one whose type it does not know, and JSON.
        for kind in ["image/png", "application/octet-stream"] {
            let answer = post(&service, path, &[("content-type", kind)], &photo);
            assert_eq!((answer.status, answer.json()), (200, want.clone()), "{path}");
        }
        assert_eq!(post(&service, path, &JSON, &photos::json(&photo, "")).json(), want, "{path}");
        let answer = post(&service, path, &JSON, &photos::json(&photo, parameters)).json();
        assert_eq!(
            answer,
            json!([{"label": "green", "score": 30.0}, {"label": "blue", "score": 20.0}]),
            "{path}"
        );
    }
    assert_eq!(service.metric("featherlight_http_requests_total{route=\"/predict\",status=\"200\"}"), 4.0);
    assert_eq!(service.metric("featherlight_http_requests_total{route=\"/\",status=\"200\"}"), 4.0);
}

#[test]
fn several_photos_get_a_list_of_lists_and_one_bad_photo_fails_them_all_by_name() {
    let service = Running::start();
    let (red, blue) = (photos::plain([90, 0, 0]), photos::plain([0, 0, 90]));
    let one = |photo: &[u8]| {
        let text = String::from_utf8(photos::json(photo, "")).expect("text");
        text.trim_start_matches("{\"inputs\": ").trim_end_matches('}').to_owned()
    };
    let body = format!("{{\"inputs\": [{}, {}], \"parameters\": {{\"top_k\": 1}}}}", one(&red), one(&blue));
    let answer = post(&service, "/predict", &JSON, body.as_bytes()).json();
    assert_eq!(answer[0][0]["label"], "red", "{answer}");
    assert_eq!(answer[1][0]["label"], "blue", "{answer}");
    assert_eq!(answer.as_array().map(Vec::len), Some(2));
    let files: [(&str, &[u8]); 2] = [("a.png", &red), ("b.png", b"no photo")];
    let answer = post(&service, "/predict", &[("content-type", FORM)], &photos::form(&files));
    assert_eq!(answer.row(), (415, "unsupported_media_type".to_owned()));
    let message = answer.json()["error"]["message"].as_str().map(str::to_owned);
    assert!(message.is_some_and(|message| message.starts_with("b.png: ")), "{answer:?}");
}

#[test]
fn what_fails_is_the_services_own_error_with_its_status() {
    let service = Running::with_settings(|settings| settings.max_body_bytes = 100_000);
    for path in PATHS {
        assert_eq!(
            post(&service, path, &JSON, b"{\"inputs\": \"*\"}").row(),
            (400, "bad_request".to_owned())
        );
        assert_eq!(post(&service, path, &[], b"no photo").row(), (415, "unsupported_media_type".to_owned()));
        assert_eq!(
            post(&service, path, &[], &photos::too_large()).row(),
            (422, "too_many_pixels".to_owned())
        );
        assert_eq!(post(&service, path, &[], &vec![0; 100_001]).row(), (413, "body_too_large".to_owned()));
        let url = post(&service, path, &JSON, b"{\"url\": \"http://photos.example.com/\"}");
        assert_eq!(url.row(), (400, "url_not_allowed".to_owned()));
    }
    assert_eq!(service.get("/predict").row(), (405, "method_not_allowed".to_owned()));
    assert_eq!(service.get("/").header("content-type"), Some("text/html; charset=utf-8"));
}

#[test]
fn the_page_is_open_and_the_photos_posted_to_its_path_want_the_key() {
    let service = Running::with_settings(|settings| settings.api_keys = vec!["key".into()]);
    let photo = photos::plain([90, 0, 0]);
    assert_eq!(service.get("/").status, 200);
    for path in PATHS {
        assert_eq!(post(&service, path, &[], &photo).status, 401, "{path}");
        // Hugging Face's clients send their token so.
        assert_eq!(post(&service, path, &[("authorization", "Bearer key")], &photo).status, 200, "{path}");
    }
    assert_eq!(service.metric("featherlight_predictions_total"), 2.0);
}
