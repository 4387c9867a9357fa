//! `/classify`: photos in, each with its own answer, in all forms.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use std::time::Duration;

use featherlight::engine::BatchLimit;
use serde_json::{Value, json};
use service::photos::{self, FORM};
use service::{NOT_A_NUMBER, PANIC, POISON, Running, Setup};

const PNG: [(&str, &str); 1] = [("content-type", "image/png")];
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn score(predictions: &Value, label: &str) -> f64 {
    let list = predictions.as_array().unwrap_or_else(|| panic!("{predictions}"));
    let found = list.iter().find(|prediction| prediction["label"] == label);
    found.and_then(|prediction| prediction["score"].as_f64()).unwrap_or_else(|| panic!("{predictions}"))
}

#[test]
fn a_photo_gets_its_labels_best_first() {
    let service = Running::start();
    let answer = service.classify("", &PNG, &photos::plain([10, 30, 20]));
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    assert_eq!(json["model"], "colours");
    let labels: Vec<_> =
        json["predictions"].as_array().expect("a list").iter().map(|p| &p["label"]).collect();
    assert_eq!(labels, ["green", "blue", "red"]);
    assert!((score(&json["predictions"], "green") - 1.0 / (1.0 + (-10.0_f64).exp())).abs() < 1e-6);
}

#[test]
fn top_k_and_function_are_taken_from_query_form_and_json_alike() {
    let service = Running::start();
    let photo = photos::plain([10, 30, 20]);
    let want = json!([{"label": "green", "score": 30.0}]);
    let query = service.classify("?top_k=1&function_to_apply=none", &PNG, &photo);
    assert_eq!(query.json()["predictions"], want);
    let body = photos::json(&photo, ", \"parameters\": {\"top_k\": 1, \"function_to_apply\": \"none\"}");
    assert_eq!(service.classify("", &JSON, &body).json()["predictions"], want);
    let mut form = b"--xXxXx\r\ncontent-disposition: form-data; name=\"top_k\"\r\n\r\n1\r\n".to_vec();
    form.extend(photos::form(&[("a.png", &photo)]));
    let form = service.classify("?function_to_apply=none&top_k=3", &[("content-type", FORM)], &form);
    assert_eq!(form.json()["predictions"], want, "the body's word counts more than the query's");
    let clamped = service.classify("?top_k=1000", &PNG, &photo);
    assert_eq!(clamped.json()["predictions"].as_array().map(Vec::len), Some(3));
    let sigmoid = service.classify("?function_to_apply=sigmoid", &PNG, &photos::plain([0, 0, 0]));
    assert_eq!(score(&sigmoid.json()["predictions"], "red"), 0.5);
}

#[test]
fn a_photo_of_three_megabytes_goes_through_in_all_three_forms() {
    let service = Running::start();
    let photo = photos::three_megabytes();
    let raw = service.classify("?function_to_apply=none", &PNG, &photo);
    let form = photos::form(&[("noise.png", &photo)]);
    let form = service.classify("?function_to_apply=none", &[("content-type", FORM)], &form);
    let json = service.classify("?function_to_apply=none", &JSON, &photos::json(&photo, ""));
    assert_eq!(raw.status, 200, "{raw:?}");
    let mean = score(&raw.json()["predictions"], "red");
    assert!((120.0..135.0).contains(&mean), "noise is grey: {mean}");
    assert_eq!(raw.json(), form.json());
    assert_eq!(raw.json(), json.json());
}

#[test]
fn a_type_that_says_nothing_is_sniffed() {
    let service = Running::start();
    let photo = photos::plain([10, 30, 20]);
    let want = service.classify("", &PNG, &photo).json();
    let types = ["application/octet-stream", "application/x-www-form-urlencoded"];
    for kind in types {
        let headers = [("content-type", kind)];
        assert_eq!(service.classify("", &headers, &photo).json(), want, "{kind}");
        assert_eq!(service.classify("", &headers, &photos::json(&photo, "")).json(), want, "{kind}");
    }
    assert_eq!(service.classify("", &[], &photo).json(), want);
    let broken = service.classify("", &[], b"{ \"inputs\": ");
    assert_eq!(broken.row(), (415, "unsupported_media_type".to_owned()), "half a JSON object is no photo");
}

#[test]
fn several_photos_get_results_in_order_and_a_bad_one_its_own_error() {
    let service = Running::start();
    let (red, blue) = (photos::plain([90, 0, 0]), photos::plain([0, 0, 90]));
    let files: [(&str, &[u8]); 3] = [("a.png", &red), ("b.png", b"no photo at all"), ("c.png", &blue)];
    let answer = service.classify("?top_k=1", &[("content-type", FORM)], &photos::form(&files));
    assert_eq!(answer.status, 200);
    let json = answer.json();
    assert!(json.get("predictions").is_none(), "{json}");
    let results = json["results"].as_array().expect("a list");
    assert_eq!(results[0]["file"], "a.png");
    assert_eq!(results[0]["predictions"][0]["label"], "red");
    assert_eq!(results[1]["file"], "b.png");
    assert_eq!(results[1]["error"]["code"], "unsupported_media_type");
    assert!(results[1].get("predictions").is_none());
    assert_eq!(results[2]["predictions"][0]["label"], "blue");
    assert_eq!(service.metric("featherlight_rejected_total{reason=\"unsupported_media_type\"}"), 1.0);
}

#[test]
fn several_photos_that_all_fail_are_still_a_200() {
    let service = Running::start();
    let files: [(&str, &[u8]); 2] = [("a.png", b"nothing"), ("b.png", b"nothing")];
    let answer = service.classify("", &[("content-type", FORM)], &photos::form(&files));
    assert_eq!(answer.status, 200);
    let errors = answer.json()["results"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|r| r["error"].is_object())
        .count();
    assert_eq!(errors, 2);
}

#[test]
fn a_list_of_inputs_is_several_photos() {
    let service = Running::start();
    let one = String::from_utf8(photos::json(&photos::plain([90, 0, 0]), "")).expect("text");
    let text = one.trim_start_matches("{\"inputs\": ").trim_end_matches('}');
    let body = format!("{{\"inputs\": [{text}, {text}]}}");
    let json = service.classify("", &JSON, body.as_bytes()).json();
    assert_eq!(json["results"].as_array().map(Vec::len), Some(2), "{json}");
    let body = format!("{{\"inputs\": [{text}]}}");
    let json = service.classify("", &JSON, body.as_bytes()).json();
    assert_eq!(json["predictions"][0]["label"], "red", "one photo, whatever the encoding: {json}");
}

#[test]
fn sixty_four_at_once_against_a_batch_limit_of_eight_each_get_their_own_answer() {
    let mut setup = Setup { pace: Duration::from_millis(10), ..Setup::default() };
    setup.settings.engine.max_batch_size = BatchLimit::Fixed(8);
    let service = Running::with(setup);
    service.hand.hold();
    std::thread::scope(|scope| {
        for index in 0..64_u8 {
            let service = &service;
            scope.spawn(move || {
                let colour = [index * 3, 250 - index, 128];
                let answer = service.classify("?function_to_apply=none", &PNG, &photos::plain(colour));
                let predictions = &answer.json()["predictions"];
                let found = ["red", "green", "blue"].map(|label| score(predictions, label).round() as u8);
                assert_eq!(found, colour);
            });
        }
        service.until(|service| service.service.engine().queued() >= 56);
        service.hand.release();
    });
    let text = service.get("/metrics").text();
    let batches = service::metric(&text, "featherlight_batch_size_count");
    assert_eq!(service::metric(&text, "featherlight_batch_size_sum"), 64.0);
    assert_eq!(service::metric(&text, "featherlight_batch_size_bucket{le=\"8\"}"), batches, "none above 8");
    assert!(service::metric(&text, "featherlight_batch_size_bucket{le=\"1\"}") < batches, "some above 1");
    assert_eq!(service::metric(&text, "featherlight_predictions_total"), 64.0);
    assert_eq!(service::metric(&text, "featherlight_queue_size"), 0.0);
}

#[test]
fn a_photo_that_breaks_the_model_is_a_500_for_itself_alone() {
    for bad in [POISON, PANIC, NOT_A_NUMBER] {
        let service = Running::start();
        let (good, bad) = (photos::plain([90, 0, 0]), photos::plain(bad));
        let files: [(&str, &[u8]); 3] = [("a", &good), ("b", &bad), ("c", &good)];
        let json = service.classify("", &[("content-type", FORM)], &photos::form(&files)).json();
        assert_eq!(json["results"][0]["predictions"][0]["label"], "red", "{json}");
        assert_eq!(json["results"][1]["error"]["code"], "internal");
        assert_eq!(json["results"][2]["predictions"][0]["label"], "red");
        assert_eq!(service.classify("", &PNG, &bad).row(), (500, "internal".to_owned()));
        assert_eq!(service.classify("", &PNG, &good).status, 200, "the device thread lives on");
    }
}
