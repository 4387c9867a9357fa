//! The program `featherlight-healthcheck`: asks a service on this machine whether it is ready, and says so by its exit
//! status (0 ready, 1 not).
//!
//! Containers run it as their health check: an image without a shell or `curl` has nothing else to ask with. It finds the
//! service by the variables `featherlight serve` reads, or by the one argument `HOST:PORT`. It needs the standard library
//! alone and waits a few seconds at the longest.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// For the whole of it; less than the timeout of a usual health check.
const PATIENCE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    // A health check's output is kept by the orchestrator; a closed one is no reason to fail.
    match address().and_then(|address| ask(&address)) {
        Ok(()) => {
            let _ = writeln!(std::io::stdout(), "ready");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            let _ = writeln!(std::io::stderr(), "not ready: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// `HOST:PORT` of the service.
fn address() -> Result<String, String> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (None, _) => {}
        (Some(address), None) if !address.starts_with('-') => return Ok(address),
        _ => return Err("usage: featherlight-healthcheck [HOST:PORT]".to_owned()),
    }
    let said = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let public = said("FEATHERLIGHT_HOST").unwrap_or_else(|| "127.0.0.1".to_owned());
    // Where there is an admin port, health is there alone.
    let (host, port) = match said("FEATHERLIGHT_ADMIN_PORT") {
        Some(port) => (said("FEATHERLIGHT_ADMIN_HOST").unwrap_or(public), port),
        None => (public, said("FEATHERLIGHT_HTTP_PORT").unwrap_or_else(|| "8080".to_owned())),
    };
    // Addresses to listen on that are none to connect to.
    Ok(match host.as_str() {
        "0.0.0.0" => format!("127.0.0.1:{port}"),
        "::" => format!("[::1]:{port}"),
        host if host.contains(':') => format!("[{host}]:{port}"),
        host => format!("{host}:{port}"),
    })
}

/// Asks for `/health/ready`.
fn ask(address: &str) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    let mut stream = connect(address, end)?;
    let left = || end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let failed = |error: std::io::Error| format!("{address}: {error}");
    stream.set_write_timeout(Some(left())).map_err(failed)?;
    let request = format!("GET /health/ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    let mut part = [0; 512];
    // The status line is all that matters; an answer without one does not grow for ever.
    while !answer.contains(&b'\n') && answer.len() < 4096 {
        stream.set_read_timeout(Some(left())).map_err(failed)?;
        match stream.read(&mut part).map_err(failed)? {
            0 => break,
            length => answer.extend_from_slice(&part[..length]),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let line = answer.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some("200") if line.starts_with("HTTP/1.") => Ok(()),
        _ => Err(format!("{address} answers `{line}`")),
    }
}

fn connect(address: &str, end: Instant) -> Result<TcpStream, String> {
    let candidates =
        address.to_socket_addrs().map_err(|error| format!("`{address}` is no address: {error}"))?;
    let mut last = format!("`{address}` is no address");
    for candidate in candidates {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&candidate, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("{candidate}: {error}"),
        }
    }
    Err(last)
}
