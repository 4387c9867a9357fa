//! `results.csv` and `classes.csv`: the numbers of a run for programs and spreadsheets.

use super::history::EpochLine;
use crate::evaluation::Evaluation;
use std::borrow::Cow;

/// A row an epoch. What was not measured is empty.
///
/// # Errors
/// None that can happen in memory; the writer's type has one.
pub(super) fn results(epochs: &[EpochLine]) -> Result<String, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "epoch",
        "step",
        "train_loss",
        "learning_rate",
        "val_loss",
        "val_top1",
        "val_top5",
        "images_per_second",
    ])?;
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    for line in epochs {
        let evaluation = line.evaluation;
        writer.write_record([
            line.epoch.to_string(),
            line.step.to_string(),
            number(line.training_loss),
            number(line.learning_rate),
            number(evaluation.and_then(|line| line.loss)),
            number(evaluation.and_then(|line| line.top1)),
            number(evaluation.and_then(|line| line.top5)),
            number(line.images_per_second),
        ])?;
    }
    text(writer)
}

/// A row a class, in the labels' order; `class` is the index of its label.
///
/// # Errors
/// None that can happen in memory; the writer's type has one.
pub(super) fn classes(evaluation: &Evaluation, labels: &[String]) -> Result<String, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["class", "label", "photos", "predicted", "right", "precision", "recall", "f1"])?;
    for (at, (label, class)) in labels.iter().zip(evaluation.class_figures()).enumerate() {
        writer.write_record([
            at.to_string().as_str(),
            &harmless(label),
            &class.photos.to_string(),
            &class.predicted.to_string(),
            &class.right.to_string(),
            &class.precision().to_string(),
            &class.recall().to_string(),
            &class.f1().to_string(),
        ])?;
    }
    text(writer)
}

fn text(writer: csv::Writer<Vec<u8>>) -> Result<String, csv::Error> {
    let bytes = writer.into_inner().map_err(|error| error.into_error())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A label that a spreadsheet would compute as a formula gets an apostrophe before it, which spreadsheets take for "this is
/// text". Programs have the class's index. A plain number is none.
fn harmless(label: &str) -> Cow<'_, str> {
    match label.starts_with(['=', '+', '-', '@', '\t', '\r']) && label.parse::<f64>().is_err() {
        true => format!("'{label}").into(),
        false => label.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::tests::{evaluation, sure};
    use crate::report::history::tests::{TWO_EPOCHS, history};

    #[test]
    fn results_have_a_row_an_epoch_and_gaps_where_nothing_was_measured() {
        let csv = results(&history(TWO_EPOCHS).epochs()).unwrap();
        assert_eq!(
            csv,
            "epoch,step,train_loss,learning_rate,val_loss,val_top1,val_top5,images_per_second\n\
             1,2,1.5,0.2,1.5,0.5,0.75,15\n2,3,0.5,0.1,,,,20\n"
        );
    }

    #[test]
    fn classes_have_their_figures_and_no_label_is_a_formula() {
        let labels: Vec<String> = ["=1+1", "-3", "a,\"b\""].map(str::to_owned).into();
        let csv = classes(&evaluation(&sure::<3>(&[0, 0, 1, 2]), &[0, 1, 1, 2]), &labels).unwrap();
        assert_eq!(
            csv,
            "class,label,photos,predicted,right,precision,recall,f1\n\
             0,'=1+1,1,2,1,0.5,1,0.6666666666666666\n\
             1,-3,2,1,1,1,0.5,0.6666666666666666\n\
             2,\"a,\"\"b\"\"\",1,1,1,1,1,1\n"
        );
    }
}
