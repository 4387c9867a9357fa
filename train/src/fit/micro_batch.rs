//! `--batch-size auto`: the largest micro-batch that the memory has room for. The photos of a step stay as many, spread over fewer
//! micro-batches.
//!
//! On the CPU a process that asks for too much is ended, so that only what is sure to have room is tried: of what a pass takes a
//! part grows with its photos and the rest does not, so that `n` times as many take at most `n` times as much. On a device a batch that
//! is too large is an error like any other: the sizes are tried, the largest first.

use super::FitError;
use crate::checkpoint::{CheckpointError, Saved};
use crate::evaluate::PassError;
use crate::loader::Batch;
use crate::memory;
use crate::settings::FitSettings;
use crate::trainer::{Run, TrainError, trained_parameters};
use crate::units;
use featherlight::image::Normalization;
use featherlight::model::Classifier;
use featherlight::ops;
use featherlight::randomness::Purpose;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Those there are to train on.
    pub photos: usize,
    pub stop: &'a AtomicBool,
}

/// A size, and why it is that one.
pub(super) struct Choice {
    pub photos: NonZeroUsize,
    pub reason: String,
    /// Whether not even the smallest one has room.
    pub too_much: bool,
}

/// Micro-batches larger than this are not looked for.
const LARGEST: usize = 4096;

/// The sizes, `most` at most, that the photos of a step, so many, can be spread over evenly, the smallest first. Photos that are mixed with each other
/// need another one in their batch.
fn sizes(photos: usize, most: usize, mixed: bool) -> Vec<NonZeroUsize> {
    let least = if mixed { 2 } else { 1 };
    let sizes = (least..=photos.min(most.max(least))).filter(|size| photos.is_multiple_of(*size));
    sizes.filter_map(NonZeroUsize::new).collect()
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
    /// If a step fails for another reason than memory, or somebody asks the run to end.
    pub(super) fn choose(&self) -> Result<Choice, FitError> {
        let mixed = !self.settings.trainer.mixing.is_off();
        let sizes = sizes(self.settings.photos_a_step(), self.photos.min(LARGEST), mixed);
        let run = Run::new(self.model, self.normalization, &self.settings.trainer, 1, &[])?;
        let rehearse = |photos: NonZeroUsize| -> Result<(), FitError> {
            if self.stop.load(Ordering::Relaxed) {
                return Err(FitError::Interrupted { step: 0 });
            }
            // A second micro-batch of a step runs beside the gradients of the first.
            let passes = if photos.get() < self.settings.photos_a_step() { 2 } else { 1 };
            Ok(run.rehearse(&self.noise(photos.get()), passes).map_err(TrainError::from)?)
        };
        if !self.model.placement().device.is_cpu() {
            return on_device(&sizes, rehearse);
        }
        rehearse(smallest(&sizes))?; // what is made once and kept
        ops::release_freed_memory();
        let room = memory::available().map(|available| (available as f64 * PLANNED) as u64);
        let room = room.map(|room| room.saturating_sub(self.reserved()));
        let found = by_measure(&sizes, room, |photos| {
            // Freed memory that was kept would hide what the pass takes.
            ops::release_freed_memory();
            let (rehearsed, taken) = memory::taken_by(|| rehearse(photos));
            ops::release_freed_memory();
            rehearsed.map(|()| taken)
        })?;
        Ok(found.unwrap_or_else(|| Choice {
            photos: self.settings.batch_size,
            reason: "this system does not tell what memory a pass takes".to_owned(),
            too_much: false,
        }))
    }

    fn noise(&self, photos: usize) -> Batch {
        let stream = self.settings.trainer.randomness.stream(Purpose::Crop, 0, 0, 0);
        Batch::noise(photos, self.size, self.labels, stream)
    }

    /// What a run will take beside its passes, in bytes: moments, and photos that wait (three batches, and the one at work).
    fn reserved(&self) -> u64 {
        let trained: usize = trained_parameters(self.model).iter().map(|own| own.tensor().elem_count()).sum();
        let photos = (self.settings.photos_a_step().min(LARGEST) * 4 * 3 * self.size.0 * self.size.1) as u64;
        (2 * trained * size_of::<f32>()) as u64 + photos
    }
}

/// The largest size that passes.
fn on_device(
    sizes: &[NonZeroUsize],
    rehearse: impl Fn(NonZeroUsize) -> Result<(), FitError>,
) -> Result<Choice, FitError> {
    for size in sizes.iter().rev() {
        match rehearse(*size) {
            Ok(()) => {
                let reason = "the largest for which the device has memory".to_owned();
                return Ok(Choice { photos: *size, reason, too_much: false });
            }
            Err(FitError::Train(TrainError::Pass(PassError::OutOfMemory(_)))) => {
                tracing::info!(photos = size.get(), "the device has no memory for a batch of so many");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Choice {
        photos: smallest(sizes),
        reason: "the device has memory for none".to_owned(),
        too_much: true,
    })
}

/// The largest size that is sure to have `room`, bytes, from what passes over smaller ones take, which `need` measures; `None` where
/// the system does not tell.
fn by_measure(
    sizes: &[NonZeroUsize],
    room: Option<u64>,
    need: impl Fn(NonZeroUsize) -> Result<Option<u64>, FitError>,
) -> Result<Option<Choice>, FitError> {
    let mut photos = smallest(sizes);
    let Some(room) = room else { return Ok(None) };
    loop {
        // Nothing at all is what a heap shows that gives nothing back.
        let Some(taken) = need(photos)?.filter(|taken| *taken > 0) else { return Ok(None) };
        let most = |size: NonZeroUsize| taken.div_ceil(photos.get() as u64).saturating_mul(size.get() as u64);
        let sure = sizes.iter().rev().copied().find(|size| *size > photos && most(*size) <= room);
        let is_last = sure.is_none() || sure == sizes.last().copied();
        if is_last {
            let largest = sure.unwrap_or(photos);
            let [needed, there] = [most(largest), room].map(|bytes| units::bytes(bytes as f64));
            let reason = format!("a pass takes {needed} at most, and there is room for {there}");
            return Ok(Some(Choice { photos: largest, reason, too_much: taken > room }));
        }
        photos = sure.unwrap_or(photos);
    }
}

fn smallest(sizes: &[NonZeroUsize]) -> NonZeroUsize {
    sizes.first().copied().unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn numbers(sizes: &[NonZeroUsize]) -> Vec<usize> {
        sizes.iter().map(|size| size.get()).collect()
    }

    #[test]
    fn sizes_divide_a_step_and_leave_no_photo_alone_where_photos_are_mixed() {
        assert_eq!(numbers(&sizes(24, 100, false)), [1, 2, 3, 4, 6, 8, 12, 24]);
        assert_eq!(numbers(&sizes(24, 7, false)), [1, 2, 3, 4, 6]);
        assert_eq!(numbers(&sizes(8, 100, true)), [2, 4, 8]);
        assert_eq!(numbers(&sizes(8, 1, true)), [2]);
        assert!(sizes(usize::MAX, LARGEST, false).last().unwrap().get() <= LARGEST);
    }

    /// What is chosen for a step of 64 photos where a pass over n takes `need(n)`, whether that is too much, and what was tried.
    fn chosen(room: u64, need: impl Fn(u64) -> u64) -> (usize, bool, Vec<usize>) {
        let tried = RefCell::new(Vec::new());
        let measure = |photos: NonZeroUsize| {
            tried.borrow_mut().push(photos.get());
            Ok(Some(need(photos.get() as u64)))
        };
        let choice = by_measure(&sizes(64, 64, false), Some(room), measure).unwrap().unwrap();
        (choice.photos.get(), choice.too_much, tried.into_inner())
    }

    #[test]
    fn the_largest_size_with_room_is_chosen_and_nothing_is_tried_that_might_have_none() {
        // 10 bytes a photo and 100 beside.
        let need = |photos| 10 * photos + 100;
        assert_eq!(chosen(10_000, need), (64, false, vec![1]));
        // 32 take 420, which is 14 a photo.
        assert_eq!(chosen(14 * 64, need), (64, false, vec![1, 8, 32]));
        assert_eq!(chosen(14 * 64 - 1, need), (32, false, vec![1, 8, 32]));
        assert_eq!(chosen(110, need), (1, false, vec![1]));
        assert_eq!(chosen(109, need), (1, true, vec![1]));
    }

    #[test]
    fn a_need_that_seems_not_to_grow_at_first_is_not_taken_for_one_that_never_does() {
        // Gradients fill up as activations go: few photos take no more than the gradients do.
        let need = |photos: u64| (10 * photos).max(100);
        let (photos, _, tried) = chosen(400, need);
        assert_eq!((photos, tried.iter().all(|photos| need(*photos as u64) <= 400)), (32, true));
    }

    #[test]
    fn nothing_is_found_where_the_system_does_not_tell() {
        assert!(by_measure(&sizes(8, 8, false), Some(100), |_| Ok(None)).unwrap().is_none());
        assert!(by_measure(&sizes(8, 8, false), Some(100), |_| Ok(Some(0))).unwrap().is_none());
        assert!(by_measure(&sizes(8, 8, false), None, |_| Ok(Some(1))).unwrap().is_none());
    }
}
