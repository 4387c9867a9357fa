//! What browsers are told: whose pages may call, and what must not be done with an answer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use service::{Answer, Running};

const ALLOWED: &str = "https://a.example";

fn with_origins(origins: &[&str]) -> Running {
    Running::with_settings(|settings| {
        settings.cors_allow_origins =
            origins.iter().map(|origin| origin.parse().expect("an origin")).collect();
        settings.api_keys = vec!["key".into()];
    })
}

fn preflight(service: &Running, origin: &str) -> Answer {
    let headers = [("origin", origin), ("access-control-request-method", "POST")];
    service.connect().send("OPTIONS", "/classify", &headers, b"")
}

#[test]
fn an_origin_on_the_list_may_call_with_a_key() {
    let service = with_origins(&[ALLOWED, "https://b.example"]);
    let granted = preflight(&service, ALLOWED);
    assert_eq!((granted.status, granted.body.len()), (204, 0), "a preflight carries no key");
    assert_eq!(granted.header("access-control-allow-origin"), Some(ALLOWED));
    assert_eq!(granted.header("access-control-allow-methods"), Some("GET, HEAD, POST"));
    assert_eq!(granted.header("access-control-allow-credentials"), None);
    let headers = granted.header("access-control-allow-headers").expect("the headers allowed");
    for name in [
        "authorization",
        "x-api-key",
        "content-type",
        "inference-header-content-length",
        "traceparent",
        "x-request-timeout-ms",
    ] {
        assert!(headers.split(", ").any(|allowed| allowed == name), "{name}: {headers}");
    }
    let refused = service.connect().send("POST", "/classify", &[("origin", ALLOWED)], b"x");
    assert_eq!(refused.code(), "unauthorized");
    assert_eq!(refused.header("access-control-allow-origin"), Some(ALLOWED), "errors can be read too");
    assert_eq!(
        refused.header("access-control-expose-headers"),
        Some("inference-header-content-length, retry-after, x-request-id")
    );
    let long = format!("/{}", "a".repeat(9000));
    let too_long = service.connect().send("GET", &long, &[("origin", ALLOWED)], b"");
    assert_eq!(too_long.code(), "uri_too_long");
    assert_eq!(too_long.header("access-control-allow-origin"), Some(ALLOWED), "of the outer layers as well");
    assert_eq!(too_long.header("vary"), Some("origin"));
    let other = service.connect().send("GET", "/health", &[("origin", "https://b.example")], b"");
    assert_eq!(other.header("access-control-allow-origin"), Some("https://b.example"));
}

#[test]
fn an_origin_that_is_not_on_the_list_gets_no_permission_and_no_cache_mixes_the_two() {
    let service = with_origins(&[ALLOWED]);
    for origin in ["https://b.example", "https://a.example:8443", "http://a.example", "null"] {
        let answers = [
            preflight(&service, origin),
            service.connect().send("GET", "/health", &[("origin", origin)], b""),
            service.connect().send("GET", "/nowhere", &[("origin", origin)], b""),
        ];
        assert_eq!(answers.each_ref().map(|answer| answer.status), [204, 200, 401]);
        for answer in answers {
            let granted = answer.headers.iter().find(|(name, _)| name.starts_with("access-control-"));
            assert_eq!(granted, None, "{origin}");
            assert_eq!(answer.header("vary"), Some("origin"), "{origin}");
        }
    }
    assert_eq!(service.get("/health").header("vary"), Some("origin"), "without an origin as well");
    let rejected = "featherlight_rejected_total{reason=\"unauthorized\"}";
    assert_eq!(service.metric(rejected), 4.0, "a preflight is no attempt without a key");
}

#[test]
fn any_origin_is_any_and_without_a_list_there_is_none() {
    let service = with_origins(&["*"]);
    let granted = preflight(&service, "https://wherever.example");
    assert_eq!(granted.header("access-control-allow-origin"), Some("*"));
    assert_eq!(granted.header("vary"), None, "the answer is the same for all");

    let service = Running::start();
    let refused = preflight(&service, ALLOWED);
    assert_eq!(refused.status, 405);
    let granted = refused.headers.iter().find(|(name, _)| name.starts_with("access-control-"));
    assert_eq!((granted, refused.header("vary")), (None, None));
}

#[test]
fn every_answer_says_what_a_browser_must_not_do_with_it() {
    let service = Running::with_settings(|settings| settings.api_keys = vec!["key".into()]);
    let key = [("x-api-key", "key")];
    let answers = [
        service.get("/health"),
        service.get("/metrics"),
        service.get("/info"),
        service.connect().send("GET", "/info", &key, b""),
        service.connect().send("GET", "/nowhere", &key, b""),
        service.connect().send("DELETE", "/classify", &key, b""),
        service.connect().send("POST", "/classify", &key, b"no photo"),
    ];
    assert_eq!(answers.each_ref().map(|answer| answer.status), [200, 200, 401, 200, 404, 405, 415]);
    for answer in &answers {
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
        assert_eq!(
            answer.header("content-security-policy"),
            Some("default-src 'none'; frame-ancestors 'none'"),
            "{answer:?}"
        );
    }
    let page = service.get("/");
    let policy = page.header("content-security-policy").expect("the page's own policy");
    assert!(policy.contains("script-src") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    for answer in answers.iter().chain([&page]) {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{answer:?}");
            let times = answer.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).count();
            assert_eq!(times, 1, "{answer:?}");
        }
    }
}
