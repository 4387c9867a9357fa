//! The model card of a trained model: what it was trained on, how, and how well it does.
//!
//! `fit` writes it as `README.md` beside the weights, with the front matter that the Hugging Face hub reads.

use crate::evaluate::Evaluation;
use crate::settings::FitSettings;
use serde_json::Value;
use std::fmt::Write;

/// The text of the card. `run` is the content of `run.json`.
pub(crate) fn model_card(
    settings: &FitSettings,
    labels: &[String],
    run: &Value,
    evaluation: Option<&Evaluation>,
) -> String {
    let mut card = String::from("---\npipeline_tag: image-classification\ntags:\n- featherlight\n");
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    // `write!` to a String cannot fail.
    let _ = write!(
        card,
        "- {architecture}\n---\n\n# {architecture}, {count} labels\n\n\
         Trained with `featherlight-train fit` {version} on {photos} photos of `{data}`, \
         starting from `{model}` ({init}).\n\n\
         Labels: {labels}.\n\n## Accuracy\n\n",
        architecture = text(&run["architecture"]),
        count = labels.len(),
        version = text(&run["version"]),
        photos = run["training_photos"],
        data = settings.data.display(),
        model = settings.model.display(),
        init = text(&run["settings"]["init"]),
        labels = shorten(labels),
    );
    let _ = match evaluation {
        Some(evaluation) => writeln!(
            card,
            "Top-1 {:.4}, top-5 {:.4}, loss {:.4} on {} photos {}.",
            evaluation.top1_accuracy(),
            evaluation.top5_accuracy(),
            evaluation.mean_loss(),
            evaluation.photos,
            match run["data"]["leaks"].as_array().map_or(0, Vec::len) {
                0 => "that were not trained on".to_owned(),
                leaks =>
                    format!("of which at least {leaks} were also trained on: they look better than they are"),
            }
        ),
        None => writeln!(card, "Not measured: the run had no validation photos."),
    };
    card.push_str("\n## Recipe\n\n| setting | value |\n|---|---|\n");
    if let Some(fields) = run["settings"].as_object() {
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            let _ = writeln!(card, "| {name} | {} |", text(value).replace('|', "\\|"));
        }
    }
    let _ = writeln!(
        card,
        "\n{} of {} parameters were trained. The model can be served with `featherlight serve --model` and this folder.",
        run["trainable_parameters"], run["parameters"]
    );
    card
}

/// The first labels; a thousand would bury the rest of the card.
fn shorten(labels: &[String]) -> String {
    const SHOWN: usize = 30;
    let shown = labels.iter().take(SHOWN).map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
    match labels.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
