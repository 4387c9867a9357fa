//! The command line of `featherlight-train compare`, and what its file may say: every setting of `fit`.

use super::{Fit, one_device};
use clap::builder::{BoolishValueParser, Resettable, ValueHint};
use clap::{Arg, ArgAction, Args, Command, FromArgMatches};
use featherlight::ops::device::{DeviceInfo, DeviceRequest};
use featherlight_train::compare::flags::{FitCommand, Flag, Takes};
use featherlight_train::settings::FitSettings;
use std::cell::RefCell;
use std::ffi::OsString;
use std::path::PathBuf;

/// Flags of `fit` that the comparison gives itself, or that no variant can have for itself.
const NOT_A_VARIANT_S: [&str; 8] =
    ["data", "image-root", "val", "val-split", "output", "overwrite", "resume", "help"];

/// `featherlight-train compare`.
#[derive(Debug, Args)]
pub struct Compare {
    /// TOML with the photos and the variants; examples/ablation.toml is one, docs/TRAINING.md explains it
    #[arg(long, env = "FEATHERLIGHT_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// Folder for a folder a variant and comparison.md, .csv and .html; what is finished in it is kept
    #[arg(long, env = "FEATHERLIGHT_OUTPUT", value_name = "DIR")]
    pub output: PathBuf,
    /// Run variants again whose settings, photos or model are others than those of the run in --output
    #[arg(long, env = "FEATHERLIGHT_OVERWRITE", value_parser = BoolishValueParser::new())]
    pub overwrite: bool,
    /// Check everything, say what would be run, and run nothing
    #[arg(long, env = "FEATHERLIGHT_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub dry_run: bool,
    /// Where to compute, for variants that do not say it themselves: auto, cpu, cuda or cuda:N [default: auto]
    #[arg(long, env = "FEATHERLIGHT_DEVICE", value_name = "DEVICE", value_parser = one_device)]
    pub device: Option<DeviceRequest>,
}

/// `fit` for variants: its flags, and its reading of them without the environment. `device` is where those compute that do not
/// say it themselves.
pub fn fit_command(device: Option<DeviceRequest>) -> FitCommand {
    let command = command();
    let mut flags: Vec<Flag> =
        command.get_arguments().filter_map(|argument| flag(&command, argument)).collect();
    // clap knows a contradiction from the side that declares it.
    let declared: Vec<(String, Vec<String>)> =
        flags.iter().map(|flag| (flag.name.clone(), flag.excludes.clone())).collect();
    for (name, excludes) in declared {
        for flag in flags.iter_mut().filter(|flag| excludes.contains(&flag.name)) {
            flag.excludes.push(name.clone());
        }
    }
    // Found once: where there is no GPU, it is said once.
    let found = RefCell::new(Vec::new());
    let parse = move |words: &[OsString]| {
        let matches = command.clone().try_get_matches_from(words).map_err(|error| in_a_line(&error))?;
        let mut fit = Fit::from_arg_matches(&matches).map_err(|error| in_a_line(&error))?;
        let chosen = matches.value_source("device") == Some(clap::parser::ValueSource::CommandLine);
        if let Some(device) = device.as_ref().filter(|_| !chosen) {
            fit.place.device = device.clone();
        }
        settings(fit, &mut found.borrow_mut())
    };
    FitCommand { flags, parse: Box::new(parse) }
}

fn command() -> Command {
    Fit::augment_args(Command::new("fit"))
        .no_binary_name(true)
        .allow_negative_numbers(true)
        .mut_args(|argument| argument.env(Resettable::Reset))
}

fn settings(fit: Fit, found: &mut Vec<(DeviceRequest, DeviceInfo)>) -> Result<FitSettings, String> {
    let known = found.iter().find(|(request, _)| *request == fit.place.device);
    let device = match known {
        Some((_, device)) => device.clone(),
        None => {
            let (device, _) = fit.place.find().map_err(|error| error.to_string())?;
            found.push((fit.place.device.clone(), device.clone()));
            device
        }
    };
    let precision = fit.place.dtype.on(&device).map_err(|error| error.to_string())?;
    fit.settings((device, precision))
}

fn flag(command: &Command, argument: &Arg) -> Option<Flag> {
    let name = argument.get_long().filter(|name| !NOT_A_VARIANT_S.contains(name))?;
    let key = |name: &str| name.replace('-', "_");
    // `X[,Y]`: several values that are no list of clap's.
    let several = || {
        let names = argument.get_value_names().unwrap_or_default();
        argument.get_value_delimiter().is_some() || names.iter().any(|name| name.contains(','))
    };
    let takes = match argument.get_action() {
        ArgAction::SetTrue => Takes::Switch,
        _ if argument.get_value_hint() == ValueHint::AnyPath => Takes::Path,
        _ if several() => Takes::List,
        _ => Takes::Value,
    };
    let excludes = command.get_arg_conflicts_with(argument);
    Some(Flag {
        name: key(name),
        takes,
        excludes: excludes.iter().filter_map(|other| other.get_long()).map(key).collect(),
        only_with: (name.starts_with("lora-") || ["use-rslora", "use-dora"].contains(&name))
            .then_some(("method", "lora")),
    })
}

/// What clap says, without its advice on a command line that nobody typed.
fn in_a_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or_default();
    let said = said.split("\n\nFor more information").next().unwrap_or_default();
    let words: Vec<&str> = said.trim_start_matches("error: ").split_whitespace().collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use featherlight_train::compare::jobs::{Job, command_lines};
    use featherlight_train::compare::plan::Plan;
    use featherlight_train::settings::Method;
    use std::path::Path;

    fn on_the_cpu() -> FitCommand {
        fit_command(Some(DeviceRequest::Cpu))
    }

    fn planned(text: &str) -> Result<Vec<Job>, String> {
        let fit = on_the_cpu();
        let plan = Plan::parse(text, PathBuf::from("/root"), &fit).map_err(|problem| problem.to_string())?;
        command_lines(&plan, Path::new("/out"), &fit).map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_plans_the_three_tables_of_the_report() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/ablation.toml");
        let fit = on_the_cpu();
        let plan = Plan::read(&file, &fit).unwrap_or_else(|error| panic!("{error}"));
        let tables: Vec<(&str, usize)> =
            plan.tables.iter().map(|table| (table.title.as_str(), table.variants.len())).collect();
        assert_eq!(tables, [("Backbone", 7), ("LoRA on and off", 2), ("Augmentation on and off", 2)]);
        let jobs = command_lines(&plan, Path::new("/out"), &fit).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(jobs.len(), 9);
        let [.., beit, whole, plain] = &jobs[..] else { panic!("{}", jobs.len()) };
        let Method::Lora(lora) = &beit.settings.method else { panic!("{:?}", beit.settings.method) };
        assert_eq!((lora.rank, lora.alpha, lora.dropout), (16, 16.0, 0.1));
        let trainer = &beit.settings.trainer;
        assert_eq!((trainer.learning_rate, trainer.epochs, trainer.accumulation_steps.get()), (5e-5, 25, 8));
        assert!(beit.settings.model.ends_with("examples/models/beit-large-patch16-384"));
        assert_eq!(whole.settings.method, Method::Full);
        assert_eq!(
            (beit.training["settings"]["augment"].as_bool(), plain.training["settings"]["augment"].as_bool()),
            (Some(true), Some(false))
        );
    }

    #[test]
    fn every_setting_of_a_training_is_one_of_a_variant_and_what_all_share_is_not() {
        let fit = on_the_cpu();
        for name in [
            "model",
            "method",
            "epochs",
            "no_augment",
            "device",
            "save_dtype",
            "use_rslora",
            "use_dora",
            "seed",
        ] {
            assert!(fit.flag(name).is_some(), "{name}");
        }
        for name in ["data", "val", "output", "overwrite", "help"] {
            assert!(fit.flag(name).is_none(), "{name}");
        }
        let takes = |name: &str| fit.flag(name).unwrap().takes;
        assert_eq!(
            [takes("model"), takes("no_flip"), takes("epochs")],
            [Takes::Path, Takes::Switch, Takes::Value]
        );
        assert_eq!([takes("lora_target"), takes("crop_scale")], [Takes::List, Takes::List]);
        assert!(fit.flag("crop_scale").unwrap().excludes.contains(&"no_augment".to_owned()));
    }

    #[test]
    fn the_same_device_is_recorded_however_it_was_asked_for() {
        let text = "data = 'd'\n[[variant]]\nname = 'a'\nmodel = 'm'\n[[variant]]\nname = 'b'\nmodel = 'm2'\ndevice = 'cpu'";
        let jobs = planned(text).unwrap();
        assert!(jobs.iter().all(|job| job.training["settings"]["device"] == "cpu"));
        assert_eq!(jobs[0].folder, Path::new("/out/a"));
        assert_eq!(jobs[0].training["settings"]["model"], "m");
    }

    #[test]
    fn a_value_that_fit_would_refuse_is_refused_with_the_name_of_the_variant() {
        let variant = "data = 'd'\n[[variant]]\nname = 'a'\nmodel = 'm'\n";
        for (text, said) in [
            ("epochs = 0", &["variant `a`", "--epochs", "1"][..]),
            ("method = 'lara'", &["variant `a`", "--method", "lora"]),
            ("learning_rate = -1", &["--learning-rate", "at least 0"]),
            ("init = 'random'", &["variant `a`", "--method full"]),
            ("method = 'full'\nlora_rank = 3", &["--lora-rank", "--method lora"]),
            ("no_augment = true\nno_flip = true", &["--no-augment", "--no-flip"]),
            ("[[variant]]\nname = 'b'\nmodel = 'm'\nepochs = 25", &["`b` is the same as `a`"]),
        ] {
            let error = planned(&format!("{variant}{text}")).unwrap_err();
            assert!(said.iter().all(|words| error.contains(words)), "{text}: {error}");
            assert!(!error.contains('\n') && !error.contains("Usage"), "{error}");
        }
    }
}
