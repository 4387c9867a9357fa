//! `featherlight predict`: lists the input, lets a model or a service classify it, writes the CSV, tells how it went.

use super::devices::find;
use crate::cli::{self, Target};
use crate::demo;
use featherlight::predict::{
    Listing, LocalModel, LocalSettings, Patience, Remote, RemoteSettings, Row, RowWriter, is_list, list,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::error::Error;
use std::io::{IsTerminal, Write, stderr};
use std::time::Instant;

/// Writes the CSV; photos that could not be read are rows of it and no failure.
///
/// # Errors
/// If input, model, device, service or output cannot be used.
pub fn run(arguments: &cli::Predict) -> Result<(), Box<dyn Error>> {
    if let Some(root) = &arguments.image_root {
        if !is_list(&arguments.input) {
            let input = arguments.input.display();
            let message = format!("'--image-root' goes with a CSV list only; the input is {input}");
            return Err(cli::usage_error(message).into());
        }
        if !root.is_dir() {
            return Err(format!("{}: the image root is no folder", root.display()).into());
        }
    }
    let listing = list(&arguments.input, arguments.image_root.as_deref())?;
    if let (Ok(input), Ok(output)) = (arguments.input.canonicalize(), arguments.output.canonicalize())
        && (input == output
            || listing.photos.iter().any(|photo| photo.path.canonicalize().is_ok_and(|p| p == output)))
    {
        let output = arguments.output.display();
        return Err(format!("{output}: is read as input; choose another --output").into());
    }
    // Before the model is loaded: a place that cannot be written is known at once.
    let mut writer = RowWriter::create(&arguments.output, arguments.top_k as usize)?;
    let classifier = Classifier::open(arguments)?;
    let mut run = Run::start(&listing);
    let mut rows = |row: Row| {
        run.count(&row);
        writer.write(&row)
    };
    match classifier {
        Classifier::Model(model) => model.run(&listing.photos, &mut rows)?,
        Classifier::Server(remote) => remote.run(&listing.photos, &mut rows)?,
    }
    writer.finish()?;
    run.finish(arguments, &listing);
    Ok(())
}

/// What turns photos into rows.
enum Classifier {
    Model(LocalModel),
    Server(Remote),
}

impl Classifier {
    fn open(arguments: &cli::Predict) -> Result<Self, Box<dyn Error>> {
        let top_k = arguments.top_k as usize;
        match arguments.target() {
            Target::Server(server) => Ok(Self::Server(Remote::new(RemoteSettings {
                server: server.to_owned(),
                api_key: arguments.key.api_key.clone(),
                concurrency: arguments.concurrency as usize,
                top_k,
                patience: Patience::default(),
            })?)),
            Target::Model => {
                let folder =
                    demo::open(arguments.model.as_ref())?.with_adapter(arguments.adapter.as_deref())?;
                let devices = find(&arguments.compute)?.tell();
                let batch_size = arguments.batch_size as usize;
                let model = LocalModel::start(folder, LocalSettings { devices, batch_size, top_k })?;
                Ok(Self::Model(model))
            }
        }
    }
}

/// What a person sees of a run.
struct Run {
    bar: ProgressBar,
    start: Instant,
    unread: usize,
}

impl Run {
    fn start(listing: &Listing) -> Self {
        let target =
            if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(listing.photos.len() as u64), target);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} photos, {speed} photos/s, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .with_key("speed", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = write!(out, "{:.1}", state.per_sec());
            });
        bar.set_style(style);
        Self { bar, start: Instant::now(), unread: 0 }
    }

    fn count(&mut self, row: &Row) {
        self.unread += usize::from(row.outcome.is_err());
        self.bar.inc(1);
    }

    fn finish(&self, arguments: &cli::Predict, listing: &Listing) {
        self.bar.finish_and_clear();
        let photos = listing.photos.len();
        let speed = photos as f64 / self.start.elapsed().as_secs_f64().max(f64::EPSILON);
        let output = match arguments.output.to_str() {
            Some("-") => "standard output".to_owned(),
            _ => arguments.output.display().to_string(),
        };
        // A closed standard error is no reason to fail what is done.
        let _ = writeln!(
            stderr(),
            "photos: {photos}; could not be read: {}; other files skipped: {}; {speed:.1} photos/s; written: {output}",
            self.unread,
            listing.skipped
        );
    }
}
