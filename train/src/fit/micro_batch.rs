//! `--batch-size auto`: the largest micro-batch that the memory has room for. The photos of a step stay as many, spread over fewer
//! micro-batches.
//!
//! On the CPU a process that asks for too much is ended, so nothing is tried: what a photo takes is measured with one and with three,
//! and the rest is arithmetic. On a device a batch that is too large is an error like any other, so that the sizes are tried.

use crate::checkpoint::{CheckpointError, Saved};
use crate::loader::{Batch, Cache};
use crate::memory;
use crate::settings::FitSettings;
use crate::trainer::{Run, TrainError, trained_parameters};
use featherlight::image::Normalization;
use featherlight::model::Classifier;
use featherlight::ops;
use featherlight::ops::device::Fault;
use featherlight::randomness::Purpose;
use std::num::NonZeroUsize;

/// Part of the free memory that is planned with: other processes have needs as well.
const PLANNED: f64 = 0.8;

/// What a batch is tried on.
pub(super) struct Trial<'a> {
    pub settings: &'a FitSettings,
    pub model: &'a dyn Classifier,
    pub normalization: &'a Normalization,
    /// Rows and columns of a photo.
    pub size: (usize, usize),
    pub labels: usize,
}

/// A size, and why it is that one.
pub(super) struct Choice {
    pub photos: NonZeroUsize,
    pub reason: String,
    /// Whether not even the smallest one has room.
    pub too_much: bool,
}

/// The sizes that the photos of a step, so many, can be spread over evenly, the largest first. Photos that are mixed with each other
/// need another one in their batch.
fn sizes(photos: usize, mixed: bool) -> Vec<NonZeroUsize> {
    let least = if mixed { 2 } else { 1 };
    (least..=photos).rev().filter(|size| photos.is_multiple_of(*size)).filter_map(NonZeroUsize::new).collect()
}

/// The sizes of the run that `saved` is a checkpoint of: its steps must go on with the very same.
pub(super) fn of_checkpoint(settings: &FitSettings, saved: &Saved) -> Result<NonZeroUsize, CheckpointError> {
    let photos = settings.photos_a_step();
    let [size, count] = ["--batch-size", "--accumulation-steps"].map(|flag| saved.number(flag));
    let (size, count) = (size?, count?);
    if size.checked_mul(count) != Some(photos) {
        return Err(CheckpointError::Changed {
            folder: settings.output.clone(),
            what: "the number of photos in a step".to_owned(),
            before: size.saturating_mul(count).to_string(),
            now: photos.to_string(),
        });
    }
    Ok(NonZeroUsize::new(size).unwrap_or(NonZeroUsize::MIN))
}

impl Trial<'_> {
    /// The largest size there is room for; the smallest where there is room for none.
    ///
    /// # Errors
    /// If a step fails for another reason than memory.
    pub(super) fn choose(&self) -> Result<Choice, TrainError> {
        let sizes = sizes(self.settings.photos_a_step(), !self.settings.trainer.mixing.is_off());
        let run = Run::new(self.model, self.normalization, &self.settings.trainer, 1, &[])?;
        let rehearse = |photos: usize| run.rehearse(&self.noise(photos));
        if self.model.placement().device.is_cpu() {
            return self.by_arithmetic(&sizes, rehearse);
        }
        for size in &sizes {
            match rehearse(size.get()) {
                Ok(()) => {
                    let reason = "the largest for which the device has memory".to_owned();
                    return Ok(Choice { photos: *size, reason, too_much: false });
                }
                Err(error) if matches!(Fault::of(&error), Fault::OutOfMemory) => {
                    tracing::info!(photos = size.get(), "the device has no memory for a batch of so many");
                }
                Err(error) => return Err(error.into()),
            }
        }
        let smallest = sizes.last().copied().unwrap_or(NonZeroUsize::MIN);
        Ok(Choice { photos: smallest, reason: "the device has memory for none".to_owned(), too_much: true })
    }

    fn noise(&self, photos: usize) -> Batch {
        let stream = self.settings.trainer.randomness.stream(Purpose::Crop, 0, 0, 0);
        Batch::noise(photos, self.size, self.labels, stream)
    }

    fn by_arithmetic(
        &self,
        sizes: &[NonZeroUsize],
        rehearse: impl Fn(usize) -> candle_core::Result<()>,
    ) -> Result<Choice, TrainError> {
        let need = |photos| -> Result<Option<u64>, TrainError> {
            // Freed memory that was kept would hide what the pass takes.
            ops::release_freed_memory();
            let before = memory::restart_peak();
            rehearse(photos)?;
            Ok(before.zip(memory::peak()).map(|(before, peak)| peak.saturating_sub(before)))
        };
        need(1)?; // what is made once and kept
        let measured = need(1)?.zip(need(3)?).zip(memory::available());
        ops::release_freed_memory();
        let Some(((one, three), available)) = measured else {
            let given = self.settings.batch_size;
            let reason = "this system does not tell what memory a step takes".to_owned();
            return Ok(Choice { photos: given, reason, too_much: false });
        };
        let need = Need::of(one, three, self.reserved());
        Ok(need.choice(sizes, (available as f64 * PLANNED) as u64))
    }

    /// What a run holds beside a pass: moments, their average, a sum of gradients; the cache, and the photos that wait.
    fn reserved(&self) -> u64 {
        let trained: usize = trained_parameters(self.model).iter().map(|own| own.tensor().elem_count()).sum();
        let copies = 3 + usize::from(self.settings.trainer.ema_decay.is_some());
        let photos = 2 * self.settings.photos_a_step() * 3 * self.size.0 * self.size.1;
        let cache = match &self.settings.cache {
            Cache::Ram(limit) => *limit,
            Cache::None | Cache::Disk { .. } => 0,
        };
        (trained * copies * size_of::<f32>() + photos) as u64 + cache
    }
}

/// Bytes of a run as they grow with the micro-batch.
struct Need {
    fixed: u64,
    a_photo: u64,
}

impl Need {
    /// From what passes over one photo and over three took.
    fn of(one: u64, three: u64, reserved: u64) -> Self {
        let a_photo = (three.saturating_sub(one) / 2).max(1);
        Self { fixed: reserved + one.saturating_sub(a_photo), a_photo }
    }

    fn choice(&self, sizes: &[NonZeroUsize], room: u64) -> Choice {
        let fits = |size: &&NonZeroUsize| {
            let photos = self.a_photo.checked_mul(size.get() as u64);
            photos.and_then(|photos| photos.checked_add(self.fixed)).is_some_and(|bytes| bytes <= room)
        };
        let found = sizes.iter().find(fits).copied();
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        Choice {
            photos: found.or(sizes.last().copied()).unwrap_or(NonZeroUsize::MIN),
            reason: format!(
                "a photo takes {:.3} GiB and what is beside {:.2} GiB, of {:.2} GiB that are planned with",
                gib(self.a_photo),
                gib(self.fixed),
                gib(room)
            ),
            too_much: found.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(sizes: &[NonZeroUsize]) -> Vec<usize> {
        sizes.iter().map(|size| size.get()).collect()
    }

    #[test]
    fn sizes_divide_a_step_and_leave_no_photo_alone_where_photos_are_mixed() {
        assert_eq!(numbers(&sizes(24, false)), [24, 12, 8, 6, 4, 3, 2, 1]);
        assert_eq!(numbers(&sizes(8, true)), [8, 4, 2]);
    }

    #[test]
    fn the_largest_size_with_room_is_chosen_and_too_little_room_is_said() {
        // 10 bytes a photo, 5 beside, 100 reserved.
        let need = Need::of(15, 35, 100);
        assert_eq!((need.fixed, need.a_photo), (105, 10));
        let sizes = sizes(16, false);
        for (room, photos, too_much) in [(265, 16, false), (264, 8, false), (115, 1, false), (114, 1, true)] {
            let choice = need.choice(&sizes, room);
            assert_eq!((choice.photos.get(), choice.too_much), (photos, too_much), "{room}");
        }
    }

    #[test]
    fn a_photo_that_seems_to_take_nothing_is_no_division_by_zero_and_no_overflow() {
        let need = Need::of(50, 10, u64::MAX / 2);
        assert!(need.choice(&sizes(4, false), u64::MAX / 4).too_much);
    }
}
