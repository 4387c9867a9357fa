//! The program `featherlight-train`: parses the command line and runs one job.
//!
//! Exit status: 0 done, 1 the job failed, 2 the command line was wrong.

mod cli;

use clap::{CommandFactory, Parser, error::ErrorKind};
use featherlight::model::{ModelFolder, create_folder};
use featherlight::ops::device::{DeviceInfo, Precision};
use featherlight_train::bench::bench;
use featherlight_train::compare::{CompareSettings, Comparison};
use featherlight_train::convert::convert_folder;
use featherlight_train::evaluate::{EvaluateSettings, Views, evaluate_folder};
use featherlight_train::fit::fit;
use featherlight_train::loader;
use featherlight_train::merge::merge_folder;
use featherlight_train::progress::Progress;
use featherlight_train::report::write_evaluation;
use featherlight_train::stop::{stop_on_first_signal, stop_on_signals};
use featherlight_train::verify::{Verdict, verify_goldens};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    featherlight::ops::keep_freed_memory();
    let arguments = cli::Cli::parse();
    let mut progress = Progress::default();
    start_logs(&progress);
    let threads = arguments.threads;
    if let Some(threads) = threads {
        // Fails only where the pool is running already: nothing has computed yet.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global();
    }
    let outcome = match arguments.command {
        cli::Command::Fit(arguments) => run_fit(*arguments, &mut progress),
        cli::Command::Merge(arguments) => run_merge(&arguments),
        cli::Command::Convert(arguments) => run_convert(&arguments),
        cli::Command::Evaluate(arguments) => run_evaluate(&arguments, &mut progress),
        cli::Command::Compare(compared) => run_compare(compared, threads, &mut progress),
        cli::Command::Verify(arguments) => run_verify(&arguments),
        cli::Command::Bench(arguments) => run_bench(*arguments),
    };
    progress.finish();
    outcome.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "error: {error}");
        ExitCode::FAILURE
    })
}

/// Warnings and notes to standard error, above the progress bar; `RUST_LOG` chooses what (default: `info`).
fn start_logs(progress: &Progress) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_target(false)
        .without_time()
        .with_writer(progress.writer())
        .init();
}

fn run_fit(arguments: cli::Fit, progress: &mut Progress) -> Result<ExitCode, Box<dyn Error>> {
    let place = arguments.place.find()?;
    let settings = match arguments.settings(place) {
        Ok(settings) => settings,
        Err(problem) => cli::Cli::command().error(ErrorKind::ArgumentConflict, problem).exit(),
    };
    let stop = stop_on_first_signal()?;
    let summary = fit(&settings, &stop, progress)?;
    if summary.unreadable > 0 {
        progress.say(&format!(
            "{} photos could not be read and were left out: {} lists them",
            summary.unreadable,
            settings.output.join("run.json").display()
        ));
    }
    let mut out = std::io::stdout();
    if let Some(evaluation) = summary.evaluation {
        writeln!(
            out,
            "top-1 {:.4}, top-5 {:.4}, loss {:.4} on {} validation photos",
            evaluation.top1_accuracy(),
            evaluation.top5_accuracy(),
            evaluation.mean_loss(),
            evaluation.photos
        )?;
    }
    if let Some(epoch) = summary.stopped_early {
        writeln!(out, "stopped early, after epoch {epoch}: nothing better had come for a while")?;
    }
    writeln!(
        out,
        "{} trained in {:.0} s. Serve it: featherlight serve --model {0}",
        settings.output.join("merged").display(),
        summary.seconds
    )?;
    Ok(ExitCode::SUCCESS)
}

fn run_merge(arguments: &cli::Merge) -> Result<ExitCode, Box<dyn Error>> {
    let folder = ModelFolder::open(&arguments.model)?.with_adapter(Some(&arguments.adapter))?;
    merge_folder(&folder, arguments.save_dtype.dtype(), &arguments.output, arguments.overwrite)?;
    writeln!(
        std::io::stdout(),
        "{}: {} with {} labels, the adapter merged",
        arguments.output.display(),
        folder.config().architecture.name(),
        folder.config().labels.len()
    )?;
    Ok(ExitCode::SUCCESS)
}

fn run_convert(arguments: &cli::Convert) -> Result<ExitCode, Box<dyn Error>> {
    let folder = ModelFolder::open(&arguments.model)?;
    let converted =
        convert_folder(&folder, arguments.save_dtype.dtype(), &arguments.output, arguments.overwrite)?;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{}: {}, {} parameters in {} tensors, written and read back{}",
        arguments.output.display(),
        folder.config().architecture.name(),
        converted.parameters,
        converted.tensors,
        if converted.head { "" } else { "; it has no classification head: fit makes one" }
    )?;
    if !converted.left_behind.is_empty() {
        writeln!(out, "no part of a classifier, and left behind: {}", modules(&converted.left_behind))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The modules that tensors belong to, as far as their first two names, with how many tensors each has.
fn modules(names: &[String]) -> String {
    let mut modules: BTreeMap<String, usize> = BTreeMap::new();
    for name in names {
        let module: Vec<&str> = name.split('.').take(2).collect();
        *modules.entry(module.join(".")).or_default() += 1;
    }
    let words = modules.iter().map(|(module, tensors)| match tensors {
        1 => module.clone(),
        tensors => format!("{module} ({tensors} tensors)"),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn run_evaluate(arguments: &cli::Evaluate, progress: &mut Progress) -> Result<ExitCode, Box<dyn Error>> {
    let folder = ModelFolder::open(&arguments.model)?.with_adapter(arguments.adapter.as_deref())?;
    // A place that cannot be written is known before anything is measured.
    if let Some(above) = arguments.report.as_deref().and_then(Path::parent) {
        create_folder(above)?;
    }
    let loading = loader::Settings::new(arguments.batch_size, cli::loader_threads(arguments.loader_threads));
    let (device, precision) = arguments.place.find()?;
    let placement = device.place(precision)?;
    let settings = EvaluateSettings {
        data: &arguments.data,
        image_root: arguments.image_root.as_deref(),
        loading,
        max_photos: arguments.max_photos,
        views: if arguments.tta { Views::Mirrored } else { Views::Plain },
        speed: arguments.speed,
    };
    let result = evaluate_folder(&folder, &settings, &placement, progress)?;
    progress.finish();
    let labels = &folder.config().labels;
    if let Some(file) = &arguments.report {
        write_evaluation(file, &result, labels, evaluation_settings(arguments, &device, precision))?;
    }
    let mut out = std::io::stdout();
    if arguments.json {
        writeln!(out, "{:#}", result.to_json(labels))?;
    } else {
        let evaluation = &result.evaluation;
        writeln!(
            out,
            "top-1 {:.4}, top-5 {:.4}, loss {:.4} on {} photos, {} unreadable ({:.1} images/s)",
            evaluation.top1_accuracy(),
            evaluation.top5_accuracy(),
            evaluation.mean_loss(),
            evaluation.photos,
            result.unreadable.len(),
            evaluation.photos as f64 / result.seconds,
        )?;
        if let Some(speed) = result.inference_speed {
            writeln!(
                out,
                "the model alone: {:.1} images/s in batches of {}",
                speed.images_per_second, speed.batch_size
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What was measured, for the page.
fn evaluation_settings(
    arguments: &cli::Evaluate,
    device: &DeviceInfo,
    precision: Precision,
) -> Vec<(String, String)> {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let known = [
        ("model", Some(arguments.model.display().to_string())),
        ("adapter", path(&arguments.adapter)),
        ("data", Some(arguments.data.display().to_string())),
        ("image root", path(&arguments.image_root)),
        ("batch size", Some(arguments.batch_size.to_string())),
        ("max photos", arguments.max_photos.map(|most| most.to_string())),
        ("test-time augmentation", Some(if arguments.tta { "mirror image" } else { "none" }.to_owned())),
        ("device", Some(device.name())),
        ("dtype", Some(precision.name().to_owned())),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn run_compare(
    arguments: cli::Compare,
    threads: Option<NonZeroUsize>,
    progress: &mut Progress,
) -> Result<ExitCode, Box<dyn Error>> {
    let settings = CompareSettings {
        config: arguments.config,
        output: arguments.output,
        overwrite: arguments.overwrite,
        threads,
        program: std::env::current_exe()?,
    };
    let comparison = Comparison::plan(&settings, &cli::fit_command(arguments.device))?;
    let mut out = std::io::stdout();
    if arguments.dry_run {
        write!(out, "{}", comparison.describe()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    // From here on there are children to end and figures to keep.
    let stop = stop_on_signals()?;
    let outcome = comparison.run(&stop, progress)?;
    let page = settings.output.join("comparison");
    writeln!(out, "{}.html, .md and .csv hold the comparison", page.display())?;
    if outcome.failed > 0 {
        return Err(
            format!("{} of the runs failed; the same command tries them again", outcome.failed).into()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn run_verify(arguments: &cli::Verify) -> Result<ExitCode, Box<dyn Error>> {
    let (device, precision) = arguments.place.find()?;
    let outcomes = verify_goldens(&arguments.goldens, &device.place(precision)?)?;
    let mut passed = outcomes.iter().any(|outcome| matches!(outcome.verdict, Verdict::Same(_)));
    for outcome in &outcomes {
        writeln!(std::io::stdout(), "{outcome}")?;
        passed &= !outcome.failed();
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_bench(arguments: cli::Bench) -> Result<ExitCode, Box<dyn Error>> {
    let (device, precision) = arguments.place.find()?;
    let json = arguments.json;
    let figures = match arguments.settings(device, precision) {
        Ok(settings) => bench(&settings)?,
        Err(problem) => cli::Cli::command().error(ErrorKind::ArgumentConflict, problem).exit(),
    };
    let mut out = std::io::stdout();
    if json {
        writeln!(out, "{}", figures.to_json())?;
    } else {
        writeln!(out, "{figures}")?;
    }
    Ok(ExitCode::SUCCESS)
}
