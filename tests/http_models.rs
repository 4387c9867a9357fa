//! Several models in one service, and a model loaded anew under load, over real sockets.
#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]

#[path = "service/mod.rs"]
mod service;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use featherlight::engine::{BatchLimit, DeviceChoice, ModelParts};
use featherlight::http::{ModelInfo, ModelSource, ServeSettings};
use featherlight::ops::device::{DeviceInfo, Precision};
use service::{Connection, DEVICE_LOSS, Hand, Running, Setup, colours, photos};

const CPU: DeviceChoice = DeviceChoice { device: DeviceInfo::Cpu, precision: Precision::F32 };

/// The key of the tests' administrator.
const ADMIN: (&str, &str) = ("authorization", "Bearer admin");

/// The colours' model with other labels: each has `mark` before it.
fn marked(mark: &'static str, hand: Hand) -> Arc<dyn ModelSource> {
    let plain = colours(hand, Duration::ZERO, &ServeSettings::default(), vec![CPU]);
    Arc::new(move || -> Result<(ModelParts, ModelInfo), String> {
        let (parts, info) = plain.open()?;
        let labels = info.labels.iter().map(|label| format!("{mark}{label}")).collect();
        Ok((parts, ModelInfo { labels, ..info }))
    })
}

/// Loads a model into a running service.
fn load(service: &Running, name: &str, source: Arc<dyn ModelSource>) -> Result<u64, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(service.service.load(name, source)).map(|served| served.version)
}

fn best(answer: &service::Answer) -> String {
    let json = answer.json();
    json["predictions"][0]["label"].as_str().unwrap_or_else(|| panic!("{json}")).to_owned()
}

fn with_admin() -> Running {
    Running::with_settings(|settings| settings.admin_keys = vec!["admin".to_owned()])
}

#[test]
fn each_model_answers_under_its_name_and_the_first_without_one() {
    let service = Running::start();
    assert_eq!(load(&service, "other", marked("my-", Hand::default())), Ok(1));
    let photo = photos::plain([200, 20, 10]);
    for (path, model, label) in [
        ("/classify", "colours", "red"),
        ("/classify/colours", "colours", "red"),
        ("/classify/other", "other", "my-red"),
    ] {
        let answer = service.connect().send("POST", path, &[], &photo);
        assert_eq!((answer.status, best(&answer).as_str()), (200, label), "{path}");
        assert_eq!(answer.json()["model"], model);
    }
    let unknown = service.connect().send("POST", "/classify/third", &[], &photo);
    assert_eq!(unknown.row(), (404, "model_not_found".to_owned()));
    assert!(unknown.text().contains("`colours`, `other`"), "{}", unknown.text());
    assert_eq!(service.get("/models/third").row(), (404, "model_not_found".to_owned()));

    let models = service.get("/models").json();
    let row = |index: usize| {
        let model = &models["models"][index];
        (model["name"].clone(), model["default"].clone(), model["labels"].clone(), model["version"].clone())
    };
    assert_eq!(row(0), ("colours".into(), true.into(), 3.into(), 1.into()));
    assert_eq!(row(1), ("other".into(), false.into(), 3.into(), 1.into()));
    assert_eq!(service.get("/models/other").json()["labels"][0], "my-red");
    let text = service.get("/metrics").text();
    for model in ["colours", "other"] {
        let line = format!(
            "featherlight_model_info{{architecture=\"mean\",device=\"cpu\",dtype=\"f32\",model=\"{model}\"}}"
        );
        assert_eq!(service::metric(&text, &line), 1.0);
    }
    assert_eq!(
        service::metric(
            &text,
            "featherlight_http_requests_total{route=\"/classify/{model}\",status=\"404\"}"
        ),
        1.0
    );
}

#[test]
fn a_reload_under_load_fails_no_request_and_every_answer_is_of_one_version() {
    let service = Running::with(Setup {
        settings: ServeSettings {
            admin_keys: vec!["admin".to_owned()],
            engine: featherlight::engine::EngineSettings {
                max_batch_size: BatchLimit::Fixed(4),
                ..ServeSettings::default().engine
            },
            ..ServeSettings::default()
        },
        pace: Duration::from_millis(1),
        ..Setup::default()
    });
    let turn = Arc::new(AtomicUsize::new(0));
    let source: Arc<dyn ModelSource> = Arc::new({
        let (odd, even) = (marked("odd-", Hand::default()), marked("even-", Hand::default()));
        let turn = turn.clone();
        move || if turn.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) { odd.open() } else { even.open() }
    });
    assert_eq!(load(&service, "colours", source), Ok(2));
    let (over, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = service.connect();
                let photo = photos::plain([20, 200, 10]);
                while !over.load(Ordering::SeqCst) {
                    let answer = connection.send("POST", "/classify?top_k=3", &[], &photo);
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    let json = answer.json();
                    let labels: Vec<&str> = (0..3)
                        .map(|index| json["predictions"][index]["label"].as_str().expect("a label"))
                        .collect();
                    let mark = if labels[0].starts_with("odd-") { "odd-" } else { "even-" };
                    assert!(labels.iter().all(|label| label.starts_with(mark)), "{labels:?}");
                    assert_eq!(labels[0], format!("{mark}green"));
                    answers.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for reload in 0..10 {
            let before = answers.load(Ordering::SeqCst);
            let answer = service.connect().send("POST", "/models/colours/reload", &[ADMIN], b"");
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.json()["version"], reload + 3);
            service.until(|_| answers.load(Ordering::SeqCst) > before + 8);
        }
        over.store(true, Ordering::SeqCst);
    });
    assert_eq!(service.metric("featherlight_queue_size"), 0.0);
}

#[test]
fn a_model_that_cannot_be_loaded_anew_leaves_the_old_one_serving_and_says_why() {
    let service = with_admin();
    let broken = Arc::new(AtomicBool::new(false));
    let source: Arc<dyn ModelSource> = Arc::new({
        let (plain, broken) = (marked("", Hand::default()), broken.clone());
        move || match broken.load(Ordering::SeqCst) {
            true => Err("config.json: `hidden_size` is missing".to_owned()),
            false => plain.open(),
        }
    });
    assert_eq!(load(&service, "colours", source), Ok(2));
    broken.store(true, Ordering::SeqCst);
    let reload = || service.connect().send("POST", "/models/colours/reload", &[ADMIN], b"");
    let answer = reload();
    assert_eq!(answer.row(), (409, "reload_failed".to_owned()));
    assert!(answer.text().contains("`hidden_size` is missing"), "{}", answer.text());
    let photo = photos::plain([20, 10, 200]);
    assert_eq!(best(&service.classify("", &[], &photo)), "blue");
    assert_eq!(service.get("/models").json()["models"][0]["version"], 2);
    broken.store(false, Ordering::SeqCst);
    assert_eq!(reload().json()["version"], 3);
    let unknown = service.connect().send("POST", "/models/none/reload", &[ADMIN], b"");
    assert_eq!(unknown.row(), (404, "model_not_found".to_owned()));
}

#[test]
fn a_reload_that_comes_too_late_is_a_503_like_everything_else() {
    let mut service = with_admin();
    let photo = photos::plain([90, 0, 0]);
    service.hand.hold();
    let mut waiting = service.connect();
    waiting.write(&Connection::head("POST", "/classify", &[], photo.len()));
    waiting.write(&photo);
    service.until(|service| service.metric("featherlight_queue_duration_seconds_count") == 1.0);
    service.signal();
    let soon = || Instant::now() + Duration::from_secs(60);
    service.until(|service| service.service.engine().admissible(soon()).is_err());
    let late = service.connect().send("POST", "/models/colours/reload", &[ADMIN], b"");
    assert_eq!(late.row(), (503, "shutting_down".to_owned()));
    assert!(late.header("retry-after").is_some(), "{late:?}");
    service.hand.release();
    assert_eq!(waiting.read_answer("POST").expect("an answer").status, 200);

    let mut service = with_admin();
    // In the midst of its request: the port closes with the device.
    let head = Connection::head("POST", "/models/colours/reload", &[ADMIN], 0);
    let mut reload = service.connect();
    reload.write(&head[..head.len() - 2]);
    service.until(|service| service.metric("featherlight_http_connections{port=\"public\"}") == 2.0);
    let lost = service.classify("", &[], &photos::plain(DEVICE_LOSS));
    assert_eq!(lost.row(), (503, "device_unavailable".to_owned()));
    reload.write(b"\r\n");
    let late = reload.read_answer("POST").expect("an answer");
    assert_eq!(late.row(), (503, "device_unavailable".to_owned()));
    assert!(late.header("retry-after").is_some() && !late.text().contains("bus"), "{late:?}");
    assert!(service.ended_by_itself());
}

#[test]
fn a_reload_is_for_the_administrator() {
    let service = with_admin();
    let reload = |key: &[(&str, &str)]| service.connect().send("POST", "/models/colours/reload", key, b"");
    assert_eq!(reload(&[]).row(), (401, "unauthorized".to_owned()));
    assert_eq!(reload(&[("x-api-key", "other")]).row(), (401, "unauthorized".to_owned()));
    assert_eq!(reload(&[ADMIN]).status, 200);

    let service = Running::with_settings(|settings| {
        settings.api_keys = vec!["client".to_owned()];
        settings.admin_keys = vec!["admin".to_owned()];
    });
    let reload = |key: &[(&str, &str)]| service.connect().send("POST", "/models/colours/reload", key, b"");
    assert_eq!(reload(&[("x-api-key", "client")]).row(), (403, "forbidden".to_owned()));
    assert_eq!(reload(&[ADMIN]).status, 200);

    let service = Running::start();
    let off = service.connect().send("POST", "/models/colours/reload", &[ADMIN], b"");
    assert_eq!(off.row(), (403, "forbidden".to_owned()));
    assert!(off.text().contains("--admin-key"), "says what would be right: {}", off.text());
}

#[test]
fn a_client_s_own_deadline_is_kept_where_it_is_shorter() {
    let service = Running::start();
    service.hand.hold();
    let photo = photos::plain([200, 20, 10]);
    let late = service.classify("", &[("x-request-timeout-ms", "50")], &photo);
    assert_eq!(late.row(), (504, "deadline_exceeded".to_owned()));
    service.hand.release();
    service.until(|service| service.metric("featherlight_queue_size") == 0.0);
    for wrong in ["0", "-1", "soon", "1.5", ""] {
        let answer = service.classify("", &[("x-request-timeout-ms", wrong)], &photo);
        assert_eq!(answer.row(), (400, "bad_request".to_owned()), "{wrong}");
        assert!(answer.text().contains("whole number of milliseconds"), "{}", answer.text());
    }
    let long = service.classify("", &[("x-request-timeout-ms", "99999999999")], &photo);
    assert_eq!(long.status, 200, "the service's own limit holds");
}
