//! The program `featherlight-healthcheck` against services in every state, as a container runs it.
#![allow(clippy::expect_used, reason = "a failed step of a test is its failure")]

mod service;

use std::net::TcpListener;
use std::process::{Command, Output};

use service::{Running, Setup};

fn check(port: u16) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_featherlight-healthcheck"));
    command.env("FEATHERLIGHT_HOST", "0.0.0.0").env("FEATHERLIGHT_HTTP_PORT", port.to_string());
    command.output().expect("the program runs")
}

fn reason(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_ready_service_is_healthy() {
    let service = Running::start();
    let output = check(service.address.port());
    assert_eq!(output.status.code(), Some(0), "{}", reason(&output));
}

#[test]
fn a_service_that_still_warms_up_is_not_healthy_and_then_is() {
    let service = Running::with(Setup { cold: true, ..Setup::default() });
    let output = check(service.address.port());
    assert_eq!(output.status.code(), Some(1));
    assert!(reason(&output).contains("503"), "{}", reason(&output));
    service.hand.release();
    service.until(|service| service.service.ready());
    assert_eq!(check(service.address.port()).status.code(), Some(0));
}

#[test]
fn where_there_is_an_admin_port_health_is_asked_for_there() {
    let service = Running::with_settings(|settings| settings.admin_port = Some(0));
    let admin = service.admin.expect("an admin port");
    let check = |port: u16, host: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_featherlight-healthcheck"));
        command
            .env("FEATHERLIGHT_HOST", "192.0.2.1")
            .env("FEATHERLIGHT_HTTP_PORT", service.address.port().to_string());
        command.env("FEATHERLIGHT_ADMIN_PORT", port.to_string()).env("FEATHERLIGHT_ADMIN_HOST", host);
        command.output().expect("the program runs")
    };
    let output = check(admin.port(), "0.0.0.0");
    assert_eq!(output.status.code(), Some(0), "{}", reason(&output));
    let output = check(service.address.port(), "127.0.0.1");
    assert!(output.status.code() == Some(1) && reason(&output).contains("404"), "{}", reason(&output));
}

#[test]
fn where_nothing_listens_or_something_else_does_is_not_healthy() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound socket").port();
    // Takes the connection, and closes it without a word.
    let other = std::thread::spawn(move || drop(listener.accept()));
    assert_eq!(check(port).status.code(), Some(1));
    other.join().expect("a listener");
    let output = check(port);
    assert_eq!(output.status.code(), Some(1));
    assert!(reason(&output).contains(&format!("127.0.0.1:{port}")), "{}", reason(&output));
}

#[test]
fn an_address_may_be_given_instead_of_variables() {
    let service = Running::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_featherlight-healthcheck"));
    let output = command.env("FEATHERLIGHT_HTTP_PORT", "1").arg(service.address.to_string()).output();
    assert_eq!(output.expect("the program runs").status.code(), Some(0));
}
