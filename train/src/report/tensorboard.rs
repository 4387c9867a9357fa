//! Event files that TensorBoard reads: scalars and pictures, as they happen.
//!
//! A file is a row of TFRecords, each an `Event` of TensorFlow's `event.proto`. The few messages needed are written by hand:
//! their fields are listed where they are written. Every event goes to the system in one write, so that TensorBoard sees it at
//! once and a kill leaves whole events but for the last.

use super::ReportError;
use super::mosaic::Mosaic;
use crate::evaluation::Evaluation;
use crate::trainer::Step;
use featherlight::model::create_folder;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file, open for writing.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Opens a new file in `folder`, which is created where it is missing. `first_step` is the first step that it will hold: what
    /// earlier files of the folder say of it and of the steps after it is forgotten by TensorBoard, for a resumed run makes them
    /// again.
    ///
    /// # Errors
    /// If the folder or the file cannot be written.
    pub fn create(folder: &Path, first_step: u64) -> Result<Self, ReportError> {
        create_folder(folder)?;
        let io = |source| ReportError::Io { file: folder.to_owned(), source };
        // TensorBoard reads a folder's files in the order of their names, which begin with the time: a run that is resumed
        // within the same second, or after the clock was set back, must still come last.
        let mut second = unix_time() as u64;
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let time = name.to_str().and_then(|name| name.strip_prefix("events.out.tfevents."));
            let time = time.and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
            second = second.max(time.map_or(0, |time| time.saturating_add(1)));
        }
        loop {
            let path = folder.join(format!("events.out.tfevents.{second:010}.featherlight"));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut events = Self { file, path };
                    events.write(0, |event| text(event, 3, b"brain.Event:2"))?; // file_version = 3
                    events.write(first_step, |event| {
                        message(event, 7, |log| varint(log, 1, 1)); // session_log = 7: SessionLog.status = 1: START = 1
                    })?;
                    return Ok(events);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => second += 1,
                Err(source) => return Err(ReportError::Io { file: path, source }),
            }
        }
    }

    /// An optimiser step: `train/loss`, `train/learning_rate`, `train/grad_norm`, `train/images_per_second`.
    ///
    /// # Errors
    /// The system's.
    pub fn step(&mut self, step: &Step) -> Result<(), ReportError> {
        self.scalars(
            step.step,
            &[
                ("train/loss", step.loss),
                ("train/learning_rate", step.learning_rate),
                ("train/grad_norm", step.grad_norm),
                ("train/images_per_second", step.images_per_second()),
            ],
        )
    }

    /// An evaluation after `step` steps: `validation/top1`, `validation/top5`, `validation/loss`.
    ///
    /// # Errors
    /// The system's.
    pub fn evaluation(&mut self, step: u64, evaluation: &Evaluation) -> Result<(), ReportError> {
        self.scalars(
            step,
            &[
                ("validation/top1", evaluation.top1_accuracy()),
                ("validation/top5", evaluation.top5_accuracy()),
                ("validation/loss", evaluation.mean_loss()),
            ],
        )
    }

    /// Numbers of `step` under their names.
    ///
    /// # Errors
    /// The system's.
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<(), ReportError> {
        self.write(step, |event| {
            message(event, 5, |summary| {
                for (tag, value) in scalars {
                    // summary = 5: Summary.value = 1: tag = 1, simple_value = 2
                    message(summary, 1, |entry| {
                        text(entry, 1, tag.as_bytes());
                        fixed32(entry, 2, *value as f32);
                    });
                }
            });
        })
    }

    /// The first photos of the training, at step 0: `train/first_photos`.
    ///
    /// # Errors
    /// The system's.
    pub fn mosaic(&mut self, mosaic: &Mosaic) -> Result<(), ReportError> {
        let (pixels, png) = (mosaic.pixels(), mosaic.png()?);
        self.write(0, |event| {
            message(event, 5, |summary| {
                message(summary, 1, |entry| {
                    text(entry, 1, b"train/first_photos");
                    // image = 4: height = 1, width = 2, colorspace = 3 (3 is RGB), encoded_image_string = 4
                    message(entry, 4, |image| {
                        varint(image, 1, pixels.height() as u64);
                        varint(image, 2, pixels.width() as u64);
                        varint(image, 3, 3);
                        text(image, 4, &png);
                    });
                });
            });
        })
    }

    /// Writes an event of `step`, made now, whose content `fill` adds.
    fn write(&mut self, step: u64, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), ReportError> {
        let mut event = Vec::new();
        key(&mut event, 1, 1); // wall_time = 1, a double
        event.extend_from_slice(&unix_time().to_le_bytes());
        varint(&mut event, 2, step); // step = 2
        fill(&mut event);
        let failed = |source| ReportError::Io { file: self.path.clone(), source };
        self.file.write_all(&record(&event)).map_err(failed)
    }
}

/// Seconds since 1970.
fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// A TFRecord: length, its checksum, data, its checksum; all little-endian.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_crc(&length).to_le_bytes());
    record.extend_from_slice(data);
    record.extend_from_slice(&masked_crc(data).to_le_bytes());
    record
}

/// CRC-32C, rotated and moved as TensorFlow does it (tensorflow/core/lib/hash/crc32c.h), so that data which contains checksums
/// still has one of its own.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A field's number and the way its value is written: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
fn key(message: &mut Vec<u8>, field: u64, wire_type: u64) {
    raw_varint(message, field << 3 | wire_type);
}

fn raw_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn varint(message: &mut Vec<u8>, field: u64, value: u64) {
    key(message, field, 0);
    raw_varint(message, value);
}

fn fixed32(message: &mut Vec<u8>, field: u64, value: f32) {
    key(message, field, 5);
    message.extend_from_slice(&value.to_le_bytes());
}

fn text(message: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    key(message, field, 2);
    raw_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

fn message(outer: &mut Vec<u8>, field: u64, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    text(outer, field, &inner);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of each record of a file, its checksums compared.
    fn records(folder: &Path) -> Vec<Vec<u8>> {
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let bytes: Vec<u8> = files.iter().flat_map(|file| std::fs::read(file).unwrap()).collect();
        let (mut rest, mut records) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let data = &rest[12..12 + length];
            assert_eq!(record(data), rest[..length + 16]);
            records.push(data.to_vec());
            rest = &rest[length + 16..];
        }
        records
    }

    #[test]
    fn checksums_are_those_of_the_standard_and_of_tensorflow() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283); // RFC 3720, and every table of CRCs
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa); // RFC 3720, B.4
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5); // that rotated by 15, plus 0xa282ead8
        // The length of every file's first record, as it stands in files of TensorFlow's own writer.
        assert_eq!(record(&[0; 24])[..12], [0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn a_file_begins_with_its_version_and_the_step_it_starts_at() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path(), 300).unwrap();
        events.scalars(300, &[("a/b", 0.5)]).unwrap();
        let records = records(folder.path());
        assert_eq!(records[0][9..], *b"\x10\x00\x1a\x0dbrain.Event:2");
        assert_eq!(records[1][9..], *b"\x10\xac\x02\x3a\x02\x08\x01");
        assert_eq!(records[2][9..], *b"\x10\xac\x02\x2a\x0c\x0a\x0a\x0a\x03a/b\x15\x00\x00\x00\x3f");
        assert!(records.iter().all(|record| record[0] == 9), "each has its time first");
    }

    #[test]
    fn a_run_resumed_at_once_writes_a_file_of_its_own_that_comes_later() {
        let folder = tempfile::tempdir().unwrap();
        for step in [1, 7, 9] {
            EventFile::create(folder.path(), step).unwrap();
        }
        let starts: Vec<u8> =
            records(folder.path()).iter().skip(1).step_by(2).map(|record| record[10]).collect();
        assert_eq!(starts, [1, 7, 9]);
    }
}
