//! `featherlight serve`: puts model, engine and HTTP together and runs until a signal ends it.

mod catalog;
mod watch;

use super::devices::{Found, find};
use super::keys::{KeySources, Keys};
use super::open_files;
use crate::cli;
use catalog::Catalog;
use featherlight::engine::{DeviceChoice, Engine, EngineMetrics, EngineSettings, EngineStatus, device_names};
use featherlight::http::{self, Listeners, ServeSettings, Service, UrlInput};
use featherlight::image::{DecodeLimits, MemoryBudget};
use featherlight::ops::device::DeviceInfo;
use featherlight::ops::release_freed_memory;
use featherlight::telemetry::{LogFormat, LostLines, Telemetry, start_logs};
use std::error::Error;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use watch::Watcher;

/// Between two looks at how many log lines were lost.
const LOST_LINES_PAUSE: Duration = Duration::from_secs(10);

/// A service that has hardly worked for so long may give its memory back.
const IDLE: Duration = Duration::from_secs(10);
/// Photos decoded and passes run in that time: those of somebody who only looks whether it works.
const HARDLY: u64 = 20;

/// Serves until SIGTERM or SIGINT, or until the model cannot be loaded or a device fails.
///
/// # Errors
/// If the folder, the address or the device cannot be used, or a second signal cut the end short.
pub fn run(arguments: cli::Serve) -> Result<(), Box<dyn Error>> {
    // Dropped at the very end: what it still has to send, it sends then.
    let logs = start_logs(match arguments.log_format {
        cli::Log::Text => LogFormat::Text,
        cli::Log::Json => LogFormat::Json,
    })?;
    let lost_lines = logs.lost_lines();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(arguments, lost_lines));
    // A model that is being read from a file system that hangs must not keep the process from its end.
    runtime.shutdown_background();
    outcome
}

/// What the flags mean; a flag that was not given keeps its default.
fn settings(arguments: &cli::Serve, keys: Keys, choices: &[DeviceChoice]) -> ServeSettings {
    let defaults = ServeSettings { engine: EngineSettings::on(choices), ..ServeSettings::default() };
    let engine = EngineSettings {
        max_batch_size: arguments.max_batch_size.unwrap_or(defaults.engine.max_batch_size),
        max_queue_delay: Duration::from_millis(arguments.max_queue_delay_ms),
        max_queue_size: arguments.max_queue_size.map_or(defaults.engine.max_queue_size, |n| n as usize),
        decode_threads: arguments.decode_threads.map_or(defaults.engine.decode_threads, |n| n as usize),
    };
    let request_timeout = Duration::from_millis(arguments.request_timeout_ms);
    ServeSettings {
        host: arguments.host.clone(),
        port: arguments.port,
        admin_host: arguments.admin_host.clone(),
        admin_port: arguments.admin_port,
        engine,
        request_timeout,
        body_timeout: Duration::from_millis(arguments.body_timeout_ms).min(request_timeout),
        header_timeout: Duration::from_millis(arguments.header_timeout_ms),
        idle_timeout: Duration::from_millis(arguments.idle_timeout_ms),
        write_timeout: Duration::from_millis(arguments.write_timeout_ms),
        max_connections: connections(arguments.max_connections as usize),
        max_body_bytes: arguments.max_body_bytes,
        max_inflight_bytes: arguments.max_inflight_bytes.unwrap_or(defaults.max_inflight_bytes),
        max_pixels: arguments.max_pixels,
        decode_memory_bytes: arguments.decode_memory_bytes.unwrap_or(defaults.decode_memory_bytes),
        max_photos_per_request: arguments.max_photos_per_request as usize,
        api_keys: keys.api,
        admin_keys: keys.admin,
        protect_all: arguments.protect_all,
        url_input: arguments
            .allow_url_input
            .then(|| UrlInput::new(Duration::from_millis(arguments.url_timeout_ms))),
        cors_allow_origins: arguments.cors_allow_origin.clone(),
        access_log: arguments.access_log == cli::Toggle::On,
        drain_delay: Duration::from_millis(arguments.drain_delay_ms),
        shutdown_grace: Duration::from_millis(arguments.shutdown_grace_ms),
    }
}

/// The connections taken at once: as many as asked for, or as the system has room for.
fn connections(asked: usize) -> usize {
    let room = open_files::room_for(asked);
    if room < asked {
        tracing::warn!(
            asked,
            connections = room,
            "the system allows few open files: fewer connections are taken"
        );
    }
    room
}

/// A photo that a clone of the project has, seen from its root.
const EXAMPLE: &str = "tests/data/sign-digits/test/7/IMG_4355.jpg";

/// A line to paste: with a photo that is there, if one is.
fn curl(address: SocketAddr, wants_key: bool) -> String {
    let photo = if Path::new(EXAMPLE).is_file() { EXAMPLE } else { "photo.jpg" };
    let key = if wants_key { "-H 'x-api-key: KEY' " } else { "" };
    format!("curl {key}--data-binary @{photo} http://{address}/classify")
}

/// Where a client on this machine finds the service: `0.0.0.0` and `::` mean every address, and are none to call.
fn callable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn serve(arguments: cli::Serve, lost_lines: LostLines) -> Result<(), Box<dyn Error>> {
    let keys = KeySources::of(&arguments);
    let keys_now = keys.read()?;
    let choices = devices(&arguments)?;
    let settings = settings(&arguments, keys_now, &choices);
    let memory = Arc::new(MemoryBudget::new(settings.decode_memory_bytes));
    let limits = DecodeLimits { max_pixels: settings.max_pixels, memory };
    let catalog = Catalog::new(&arguments, limits, choices.clone())?;

    let listeners = listen(&settings).await?;
    let local = listeners.public.local_addr()?;
    let admin = listeners.admin.as_ref().map(TcpListener::local_addr).transpose()?;

    let telemetry = Telemetry::new()?;
    let metrics = EngineMetrics::register(&telemetry.registry)?;
    let work = metrics.clone();
    let engine = Engine::start(settings.engine.clone(), device_names(&choices), metrics)?;
    let status = engine.status();
    let curl = curl(callable(local), !settings.api_keys.is_empty());
    let service = Service::new(engine, settings, telemetry)?;

    let mut ends = Ends::new()?;
    tokio::spawn(tell_lost_lines(lost_lines));
    tokio::spawn(release_memory_when_idle(work));
    tokio::spawn(load(service.clone(), catalog, arguments.watch, move |names| {
        // A closed standard output is no reason to stop serving (`println!` would panic).
        let _ = writeln!(std::io::stdout(), "Serving {} on http://{local}\nTry: {curl}", names.join(", "));
        if let Some(admin) = admin {
            let _ = writeln!(std::io::stdout(), "Health and metrics on http://{admin}");
        }
    }));
    if keys.have_files() {
        tokio::spawn(reread(keys, service.clone(), signal(SignalKind::hangup())?));
    }
    let (ask, asked) = oneshot::channel::<()>();
    let insisted = async move {
        ends.next().await;
        let _ = ask.send(());
        ends.next().await;
    };
    tokio::select! {
        () = http::serve(listeners, service, async { drop(asked.await) }) => {}
        () = insisted => return Err("ended by a second signal; what was under way is lost".into()),
    }
    match &*status.borrow() {
        EngineStatus::Failed(reason) => Err(reason.to_string().into()),
        _ => Ok(()),
    }
}

/// The signals that end the service.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Says now and then how many log lines nobody took in time.
async fn tell_lost_lines(lost: LostLines) {
    let mut told = 0;
    loop {
        tokio::time::sleep(LOST_LINES_PAUSE).await;
        let count = lost.count();
        if count > told {
            tracing::warn!(
                lines = count - told,
                "log lines were lost: standard error was not read fast enough"
            );
            told = count;
        }
    }
}

/// Opens the ports, both before anything takes long.
async fn listen(settings: &ServeSettings) -> Result<Listeners, String> {
    let open = async |host: &str, port: u16, flag: &str| {
        let opened = TcpListener::bind((host, port)).await;
        opened.map_err(|error| format!("cannot listen on {host}:{port} ({flag}): {error}"))
    };
    let public = open(&settings.host, settings.port, "--port").await?;
    let admin = match settings.admin_port {
        Some(port) => {
            let host = settings.admin_host.as_deref().unwrap_or(&settings.host);
            Some(open(host, port, "--admin-port").await?)
        }
        None => None,
    };
    Ok(Listeners { public, admin })
}

/// Gives memory back once there was hardly work for [`IDLE`]; what a burst took is not kept for ever.
async fn release_memory_when_idle(metrics: EngineMetrics) {
    let (mut seen, mut released) = (0, 0);
    loop {
        tokio::time::sleep(IDLE).await;
        let done = metrics.decode_duration.get_sample_count() + metrics.batch_size.get_sample_count();
        if done <= seen + HARDLY && done != released {
            // A panic in there is in the log already.
            let _ = tokio::task::spawn_blocking(release_freed_memory).await;
            released = done;
        }
        seen = done;
    }
}

/// Reads the key files again at each SIGHUP; what cannot be used leaves the keys as they are.
async fn reread(keys: KeySources, service: Service, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        let sources = keys.clone();
        let read = tokio::task::spawn_blocking(move || sources.read()).await;
        match read.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(Keys { api, admin }) => {
                service.replace_keys(&api, &admin);
                tracing::info!(api = api.len(), admin = admin.len(), "the keys were read again");
            }
            Err(error) => tracing::error!(error, "the keys stay as they were"),
        }
    }
}

/// The devices that the flags name; a CPU once for each of its workers.
fn devices(arguments: &cli::Serve) -> Result<Vec<DeviceChoice>, Box<dyn Error>> {
    let Found { choices, fallback } = find(&arguments.compute)?;
    if let Some(line) = fallback {
        tracing::warn!("{line}");
    }
    for choice in &choices {
        tracing::info!(device = %choice.device, dtype = %choice.precision, "the models' device");
    }
    let workers = arguments.cpu_workers as usize;
    match &*choices {
        _ if workers == 1 => Ok(choices),
        [choice] if choice.device == DeviceInfo::Cpu => Ok(vec![choice.clone(); workers]),
        _ => Err(cli::usage_error("the argument '--cpu-workers' goes with '--device cpu' only").into()),
    }
}

/// Loads the models one after the other, opens the service, and then watches the folders where that is wanted. Without its models
/// there is nothing to serve: the engine then ends with the reason.
async fn load(service: Service, catalog: Catalog, watch: bool, ready: impl FnOnce(&[&str])) {
    // Before they are read, so that a change meanwhile is seen.
    let watcher = if watch { Some(Watcher::new(catalog.clone()).await) } else { None };
    for (name, source) in catalog.models() {
        if let Err(reason) = service.load(name, source.clone()).await {
            return service.engine().give_up(&reason);
        }
    }
    service.open();
    ready(&catalog.models().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
    if let Some(watcher) = watcher {
        watcher.run(service).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_paste_calls_an_address_that_can_be_called() {
        for (bound, called) in
            [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("192.0.2.1:80", "192.0.2.1:80")]
        {
            let bound: SocketAddr = bound.parse().expect("an address");
            assert_eq!(callable(bound).to_string(), called);
        }
    }
}
