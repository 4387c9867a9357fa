//! The rows as a CSV: `file,label,score,error`, or `file,label_1,score_1,…,error` for more labels than one.
//!
//! `featherlight predict` opens a [`RowWriter`] before it starts, so that a place that cannot be written is known at once. A
//! file is written beside its place and renamed by [`RowWriter::finish`]: a run that is cut short leaves the old one.

use super::{PredictError, Row};
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Writes rows, one by one.
pub struct RowWriter {
    writer: ::csv::Writer<Sink>,
    /// For messages, and where the file goes.
    output: PathBuf,
    top_k: usize,
}

enum Sink {
    /// Beside its place, until it is finished.
    Beside(NamedTempFile),
    /// Something that cannot be renamed over: standard output, a device, a pipe.
    Direct(Box<dyn Write>),
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Beside(file) => file.write(bytes),
            Self::Direct(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Beside(file) => file.flush(),
            Self::Direct(writer) => writer.flush(),
        }
    }
}

impl RowWriter {
    /// Starts the CSV `output` (`-`: standard output) with its header; `top_k` labels a row, at least 1.
    ///
    /// # Errors
    /// If the place cannot be written.
    pub fn create(output: &Path, top_k: usize) -> Result<Self, PredictError> {
        let failed = |source| PredictError::Output { path: output.into(), source };
        // A link keeps its name: what it leads to is replaced.
        let place = output.canonicalize().unwrap_or_else(|_| output.to_owned());
        let sink = if output == Path::new("-") {
            Sink::Direct(Box::new(io::stdout()))
        } else {
            open(&place, std::fs::metadata(&place).ok()).map_err(failed)?
        };
        let writer = ::csv::WriterBuilder::new().flexible(true).from_writer(sink);
        let mut rows = Self { writer, output: place, top_k: top_k.max(1) };
        let header = header(rows.top_k);
        rows.record(header.iter().map(String::as_str))?;
        Ok(rows)
    }

    /// Writes one row; fields without a value are empty.
    ///
    /// # Errors
    /// If the place cannot be written any more.
    pub fn write(&mut self, row: &Row) -> Result<(), PredictError> {
        let (predictions, error) = match &row.outcome {
            Ok(predictions) => (predictions.as_slice(), ""),
            Err(error) => (&[][..], error.as_str()),
        };
        let mut fields = vec![row.file.clone()];
        for rank in 0..self.top_k {
            let prediction = predictions.get(rank);
            fields.push(prediction.map(|prediction| prediction.label.clone()).unwrap_or_default());
            fields.push(prediction.map(|prediction| prediction.score.to_string()).unwrap_or_default());
        }
        fields.push(error.to_owned());
        self.record(fields.iter().map(String::as_str))
    }

    /// Puts the CSV in its place.
    ///
    /// # Errors
    /// If it cannot be written; the old file, if there was one, is left as it is.
    pub fn finish(self) -> Result<(), PredictError> {
        let Self { writer, output, .. } = self;
        let failed = |source| PredictError::Output { path: output.clone(), source };
        match writer.into_inner().map_err(|error| failed(error.into_error()))? {
            Sink::Beside(file) => {
                file.as_file().sync_all().map_err(failed)?;
                file.persist(&output).map_err(|error| failed(error.error))?;
                Ok(())
            }
            Sink::Direct(mut writer) => writer.flush().map_err(failed),
        }
    }

    fn record<'a>(&mut self, fields: impl Iterator<Item = &'a str>) -> Result<(), PredictError> {
        self.writer.write_record(fields).map_err(|error| {
            let source = match error.into_kind() {
                ::csv::ErrorKind::Io(error) => error,
                other => io::Error::other(format!("{other:?}")),
            };
            PredictError::Output { path: self.output.clone(), source }
        })
    }
}

fn open(place: &Path, existing: Option<Metadata>) -> io::Result<Sink> {
    match existing {
        Some(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Some(metadata) if !metadata.is_file() => {
            Ok(Sink::Direct(Box::new(File::options().write(true).open(place)?)))
        }
        _ => {
            let folder = place.parent().filter(|parent| !parent.as_os_str().is_empty());
            let mut builder = tempfile::Builder::new();
            builder.prefix(".featherlight-").suffix(".csv");
            // Readable as any new file is, not only by its owner as a temporary one.
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
            Ok(Sink::Beside(builder.tempfile_in(folder.unwrap_or(Path::new(".")))?))
        }
    }
}

fn header(top_k: usize) -> Vec<String> {
    let mut names = vec!["file".to_owned()];
    if top_k == 1 {
        names.extend(["label".to_owned(), "score".to_owned()]);
    } else {
        names.extend((1..=top_k).flat_map(|rank| [format!("label_{rank}"), format!("score_{rank}")]));
    }
    names.push("error".to_owned());
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scores::Prediction;

    fn rows() -> [Row; 2] {
        let prediction = |label: &str, score| Prediction { label: label.to_owned(), score };
        let (good, bad) =
            (vec![prediction("a \"b\", c", 0.75), prediction("d", 1e-7)], "no\nphoto".to_owned());
        [
            Row { file: "ü.jpg".to_owned(), outcome: Ok(good) },
            Row { file: "x.jpg".to_owned(), outcome: Err(bad) },
        ]
    }

    fn written(top_k: usize, rows: &[Row]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("rows.csv");
        let mut writer = RowWriter::create(&output, top_k).expect("a writer");
        for row in rows {
            writer.write(row).expect("written");
        }
        assert!(!output.exists(), "nothing is in its place before it is whole");
        writer.finish().expect("finished");
        assert_eq!(
            std::fs::read_dir(folder.path()).expect("the folder").count(),
            1,
            "nothing is left beside"
        );
        std::fs::read_to_string(&output).expect("text")
    }

    #[test]
    fn one_label_has_plain_columns_and_more_have_numbered_ones() {
        let one = "file,label,score,error\nü.jpg,\"a \"\"b\"\", c\",0.75,\nx.jpg,,,\"no\nphoto\"\n";
        assert_eq!(written(1, &rows()), one);
        // A model with fewer labels than columns leaves the rest empty.
        let three = "file,label_1,score_1,label_2,score_2,label_3,score_3,error\n\
            ü.jpg,\"a \"\"b\"\", c\",0.75,d,0.0000001,,,\nx.jpg,,,,,,,\"no\nphoto\"\n";
        assert_eq!(written(3, &rows()), three);
    }

    #[test]
    fn the_header_is_there_without_rows() {
        assert_eq!(written(1, &[]), "file,label,score,error\n");
        assert_eq!(written(2, &[]), "file,label_1,score_1,label_2,score_2,error\n");
    }

    #[test]
    fn an_unfinished_run_leaves_the_old_file_and_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("rows.csv");
        std::fs::write(&output, "old").expect("written");
        let mut writer = RowWriter::create(&output, 1).expect("a writer");
        writer.write(&rows()[0]).expect("written");
        drop(writer);
        assert_eq!(std::fs::read_to_string(&output).expect("text"), "old");
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_known_before_the_first_row() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = RowWriter::create(folder.path(), 1).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("directory")));
        let missing = folder.path().join("none/rows.csv");
        let error = RowWriter::create(&missing, 1).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("none/rows.csv") && error.contains("No such file"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_the_file_and_a_device_is_written_not_replaced() {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
        let folder = tempfile::tempdir().expect("a folder");
        let (plain, output) = (folder.path().join("plain"), folder.path().join("rows.csv"));
        std::fs::write(&plain, "").expect("written");
        RowWriter::create(&output, 1).and_then(RowWriter::finish).expect("written");
        let mode = |path: &Path| std::fs::metadata(path).expect("a file").permissions().mode();
        assert_eq!(mode(&output), mode(&plain));

        let link = folder.path().join("link.csv");
        symlink(&output, &link).expect("a link");
        RowWriter::create(&link, 2).and_then(RowWriter::finish).expect("written");
        assert!(link.is_symlink());
        assert!(std::fs::read_to_string(&output).expect("text").contains("label_2"));

        let null = Path::new("/dev/null");
        RowWriter::create(null, 1).and_then(RowWriter::finish).expect("written");
        assert!(std::fs::metadata(null).expect("the device").file_type().is_char_device());
    }
}
