//! Names that lead where a test says, and a service that believes them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use featherlight::http::{Addresses, PublicAddresses, ServeSettings, UrlInput};
use serde_json::json;

use crate::service::{Answer, Running};

pub const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// Names of the tests' own. What a name leads to may change with every look-up; the last stays.
#[derive(Debug, Default)]
pub struct Names {
    known: Mutex<BTreeMap<String, Vec<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    pub fn set(&self, name: &str, answers: &[&[&str]]) {
        let parse = |texts: &&[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect();
        self.known.lock().expect("unpoisoned").insert(name.to_owned(), answers.iter().map(parse).collect());
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("unpoisoned").clone()
    }
}

impl Addresses for Names {
    fn look_up(&self, name: &str) -> std::io::Result<Vec<IpAddr>> {
        self.asked.lock().expect("unpoisoned").push(name.to_owned());
        let mut known = self.known.lock().expect("unpoisoned");
        let answers = known.get_mut(name).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
    }

    /// The service's own policy, and 127.0.0.1 beside it, where the tests' servers are.
    fn allows(&self, address: IpAddr) -> bool {
        address == IpAddr::from([127, 0, 0, 1]) || PublicAddresses.allows(address)
    }
}

pub fn start(change: impl FnOnce(&mut ServeSettings)) -> (Running, Arc<Names>) {
    let names = Arc::new(Names::default());
    names.set("photos.example.com", &[&["127.0.0.1"]]);
    let running = Running::with_settings(|settings| {
        settings.url_input = Some(UrlInput::with_addresses(Duration::from_secs(20), names.clone()));
        change(settings);
    });
    (running, names)
}

pub fn ask(service: &Running, url: &str) -> Answer {
    service.classify("", &JSON, json!({"url": url}).to_string().as_bytes())
}

pub fn message(answer: &Answer) -> String {
    answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
}
