//! `/openapi.json` and `/docs`: what is documented is what is served.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use std::collections::BTreeSet;

use serde_json::Value;
use service::{Running, photos};

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// A service with an admin key has everything.
fn start() -> Running {
    Running::with_settings(|settings| settings.admin_keys = vec!["root".into()])
}

const KEY: [(&str, &str); 1] = [("x-api-key", "root")];

fn document(service: &Running) -> Value {
    let answer = service.get("/openapi.json");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    answer.json()
}

#[test]
fn every_path_takes_the_methods_that_are_documented_and_no_others() {
    let service = start();
    let document = document(&service);
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() > 20, "{}", paths.len());
    for (path, operations) in paths {
        let documented: BTreeSet<String> =
            operations.as_object().expect("operations").keys().map(|method| method.to_uppercase()).collect();
        let filled = path.replace("{model}", "colours").replace("{version}", "1");
        for method in METHODS {
            let answer = service.connect().send(method, &filled, &KEY, b"");
            assert_eq!(answer.status != 405, documented.contains(method), "{method} {path}: {answer:?}");
            assert_ne!(answer.status, 404, "{method} {path}");
            let statuses = &operations[method.to_lowercase()]["responses"];
            if answer.status != 405 {
                assert!(statuses.get(answer.status.to_string()).is_some(), "{method} {path}: {answer:?}");
                continue;
            }
            let allowed: BTreeSet<String> =
                answer.header("allow").expect("the header").split(',').map(str::to_owned).collect();
            let mut want = documented.clone();
            if want.contains("GET") {
                want.insert("HEAD".to_owned());
            }
            assert_eq!(allowed, want, "{path}");
        }
    }
}

#[test]
fn examples_of_requests_are_served() {
    let service = Running::start();
    let document = document(&service);
    let mut tried = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let examples = &operations["post"]["requestBody"]["content"]["application/json"]["examples"];
        for (name, example) in examples.as_object().into_iter().flatten() {
            // Nothing is fetched here.
            let want = if name.contains("URL") { 400 } else { 200 };
            let filled = path.replace("{model}", "colours").replace("{version}", "1");
            let body = example["value"].to_string();
            let json = [("content-type", "application/json")];
            let answer = service.connect().send("POST", &filled, &json, body.as_bytes());
            assert_eq!(answer.status, want, "{path}, {name}: {answer:?}");
            tried += 1;
        }
    }
    assert!(tried >= 10, "{tried}");
    let photo = photos::plain([9, 0, 0]);
    let kinds = document["paths"]["/classify"]["post"]["requestBody"]["content"].as_object().expect("types");
    for kind in kinds.keys().filter(|kind| !kind.contains("json") && !kind.contains("multipart")) {
        assert_eq!(service.classify("", &[("content-type", kind)], &photo).status, 200, "{kind}");
    }
}

#[test]
fn keys_stand_in_the_document_where_they_are_set() {
    let service = Running::with_settings(|settings| {
        settings.api_keys = vec!["key".into()];
        settings.admin_keys = vec!["root".into()];
    });
    let document = document(&service);
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let filled = path.replace("{model}", "colours").replace("{version}", "1");
        for (method, operation) in operations.as_object().expect("operations") {
            let answer = service.connect().send(&method.to_uppercase(), &filled, &[], b"");
            let secured = operation["security"] != serde_json::json!([]);
            assert_eq!(answer.status == 401, secured, "{method} {path}: {answer:?}");
            assert_eq!(operation["responses"].get("401").is_some(), secured, "{method} {path}");
        }
    }
}

#[test]
fn the_page_of_the_document_asks_nobody_else() {
    let service = Running::start();
    let page = service.get("/docs");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let text = page.text().replace("http://www.w3.org/2000/svg", "");
    assert!(
        !text.contains("http://") && !text.contains("https://") && !text.contains("src="),
        "no outside address"
    );
    assert!(text.contains("fetch(at('/openapi.json')"));
    assert!(!text.contains("href=\"/"), "under a path of a proxy's choosing it works as well");
}
