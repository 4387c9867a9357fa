//! `comparison.csv`: a row a variant, for programs. Units stand in the names of the columns.

use super::figures::{Column, Report};
use serde_json::Value;
use std::collections::BTreeSet;

const FIXED: [&str; 25] = [
    "variant",
    "tables",
    "state",
    "error",
    "seeds",
    "seeds_finished",
    "architecture",
    "device",
    "dtype",
    "threads",
    "measured_on",
    "photos",
    "top1",
    "top1_min",
    "top1_max",
    "top5",
    "loss",
    "parameters",
    "trainable_parameters",
    "trainable_percent",
    "peak_memory_bytes",
    "peak_device_memory_bytes",
    "training_seconds",
    "training_images_per_second",
    "inference_images_per_second",
];

/// The whole file. Figures are means over the seeds of a variant; those that are not known are empty.
///
/// # Errors
/// None that can happen in memory; the writer's type has one.
pub fn csv(report: &Report) -> Result<String, csv::Error> {
    let mut names: BTreeSet<&String> = BTreeSet::new();
    report
        .rows
        .iter()
        .filter_map(|row| row.settings.as_object())
        .for_each(|fields| names.extend(fields.keys()));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let settings = names.iter().map(|name| format!("setting_{name}"));
    writer.write_record(FIXED.iter().map(|name| (*name).to_owned()).chain(settings))?;
    for (at, row) in report.rows.iter().enumerate() {
        let tables = report.tables.iter().filter(|table| table.rows.iter().any(|(shown, _)| *shown == at));
        let tables: Vec<&str> = tables.map(|table| table.title.as_str()).collect();
        let first = row.results.first();
        let text = |value: Option<&String>| value.cloned().unwrap_or_default();
        let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        let count = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
        let mean = |column| number(row.spread(column).map(|spread| spread.mean));
        let losses: Vec<f64> = row.results.iter().filter_map(|result| result.loss).collect();
        let loss = (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64);
        let trained = row.spread(Column::Trainable).zip(first);
        let percent = trained.map(|(spread, first)| 100.0 * spread.mean / first.parameters.max(1) as f64);
        let fixed = [
            row.name.clone(),
            tables.join("; "),
            row.state(),
            row.failures.join("; "),
            row.runs.to_string(),
            row.results.len().to_string(),
            text(first.map(|first| &first.architecture)),
            text(first.map(|first| &first.device)),
            text(first.map(|first| &first.dtype)),
            count(first.map(|first| first.threads)),
            first.map(|first| first.measured_on.name().to_owned()).unwrap_or_default(),
            count(first.map(|first| first.photos)),
            mean(Column::Top1),
            number(row.spread(Column::Top1).map(|spread| spread.least)),
            number(row.spread(Column::Top1).map(|spread| spread.most)),
            mean(Column::Top5),
            number(loss),
            count(first.map(|first| first.parameters)),
            mean(Column::Trainable),
            number(percent),
            mean(Column::PeakMemory),
            mean(Column::DeviceMemory),
            mean(Column::TrainingTime),
            mean(Column::TrainingSpeed),
            mean(Column::InferenceSpeed),
        ];
        let settings = names.iter().map(|name| match &row.settings[name.as_str()] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        writer.write_record(fixed.into_iter().chain(settings))?;
    }
    let bytes = writer.into_inner().map_err(|error| error.into_error())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::a_report;

    #[test]
    fn a_variant_is_a_row_with_its_figures_under_names_with_units() {
        let text = csv(&a_report()).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let names = reader.headers().unwrap().clone();
        let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
        let cell = |row: usize, name: &str| {
            rows[row].get(names.iter().position(|other| other == name).unwrap()).unwrap().to_owned()
        };
        assert_eq!(rows.len(), 3);
        assert_eq!((cell(0, "variant"), cell(0, "seeds_finished")), ("small".into(), "2".into()));
        assert_eq!(
            (cell(0, "top1"), cell(0, "top1_min"), cell(0, "top1_max")),
            ("0.5".into(), "0.45".into(), "0.55".into())
        );
        assert_eq!((cell(1, "training_seconds"), cell(1, "trainable_percent")), ("100".into(), "20".into()));
        assert_eq!((cell(2, "top1"), cell(2, "state")), (String::new(), "failed".into()));
        assert_eq!(cell(2, "error"), "error: out of <memory> | really");
        assert_eq!((cell(0, "tables"), cell(0, "setting_epochs")), ("All variants".into(), "2".into()));
    }
}
