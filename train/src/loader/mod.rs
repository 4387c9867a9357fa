//! Batches of samples, decoded and augmented on worker threads ahead of the step.
//!
//! The trainer and the evaluator ask for an epoch in an order of theirs and receive batches in exactly that order,
//! whatever the number of threads. A photo that cannot be read is reported once and missing from its batch; the batches
//! after it are those that they would have been. Pixels stay u8: normalisation belongs to the device.

mod cache;
mod file;
mod pipeline;
mod survey;
mod times;

use crate::augment::{Augmenter, Mixed};
use crate::dataset::{Dataset, Sample};
pub use cache::{ByteCount, ByteCountError, Cache, PhotoCache};
use featherlight::image::{DecodeLimits, Pixels};
use featherlight::randomness::Stream;
use pipeline::{Extent, Pipeline};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
pub use survey::survey;
pub use times::Times;
use times::{Spent, Stopwatches};

/// How to load. Clones share the cache and the memory budget: all who read photos of a run have clones of one.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Photos in a batch; the last of an epoch may have fewer.
    pub batch_size: NonZeroUsize,
    /// Threads that decode and augment.
    pub threads: NonZeroUsize,
    /// Batches prepared ahead of the one that is used.
    pub prefetch: NonZeroUsize,
    /// Where decoded photos are kept from epoch to epoch.
    pub cache: PhotoCache,
    /// Limits of every decode.
    pub limits: DecodeLimits,
}

impl Settings {
    /// Batches of this size, from this many threads: four batches ahead, and a gibibyte of decoded photos kept.
    pub fn new(batch_size: NonZeroUsize, threads: NonZeroUsize) -> Self {
        Self {
            batch_size,
            threads,
            prefetch: NonZeroUsize::MIN.saturating_add(3),
            cache: PhotoCache::open(&Cache::default()),
            limits: DecodeLimits::default(),
        }
    }
}

/// Samples for one forward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// `photos × height × width × 3`, RGB.
    pub pixels: Vec<u8>,
    /// The class of each photo, an index into the data set's labels.
    pub labels: Vec<u32>,
    /// The index of each photo in the data set.
    pub indices: Vec<usize>,
    /// Rows of a photo.
    pub height: usize,
    /// Columns of a photo.
    pub width: usize,
    /// What else is in each photo, where the batch was mixed after it was loaded.
    pub mixed: Option<Mixed>,
}

impl Batch {
    /// The number of photos; 0 where none of the batch could be read.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Photos of random pixels with random labels: for what a step takes, not for what it learns.
    pub(crate) fn noise(
        photos: usize,
        (height, width): (usize, usize),
        labels: usize,
        mut stream: Stream,
    ) -> Self {
        let mut below = |limit: usize| stream.below(limit) as u32;
        Self {
            pixels: (0..photos * height * width * 3).map(|_| below(256) as u8).collect(),
            labels: (0..photos).map(|_| below(labels)).collect(),
            indices: (0..photos).collect(),
            height,
            width,
            mixed: None,
        }
    }

    /// Whether no photo of the batch could be read: such a batch has nothing to learn from.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }
}

/// A photo that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its index in the data set.
    pub index: usize,
    /// Its file.
    pub path: PathBuf,
    /// Why not.
    pub reason: String,
}

/// Why loading ended.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// An order that is not one of this data set.
    #[error("sample {index} was asked for, the data set has {samples}")]
    NoSuchSample {
        /// The index asked for.
        index: usize,
        /// The number of samples.
        samples: usize,
    },
    /// No thread to load on.
    #[error("no thread could be started to load photos: {0}")]
    Thread(#[from] std::io::Error),
    /// None of the photos of an epoch could be read.
    #[error("none of the {photos} photos could be read; the first, {}: {}", first.path.display(), first.reason)]
    NothingReadable {
        /// Photos in the epoch.
        photos: usize,
        /// One of them.
        first: Unreadable,
    },
    /// Somebody asked for it.
    #[error("stopped while the photos were checked; nothing was trained yet")]
    Stopped,
    /// A bug, or memory that ran out, on a worker thread.
    #[error("{}: preparing the photo failed: {message}", path.display())]
    Panicked {
        /// The photo that was prepared.
        path: PathBuf,
        /// The panic's message.
        message: String,
    },
}

/// Loads a data set, epoch after epoch.
#[derive(Debug, Clone)]
pub struct Loader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    samples: Vec<Sample>,
    augmenter: Augmenter,
    settings: Settings,
    unreadable: Mutex<BTreeMap<usize, Unreadable>>,
    stopwatches: Stopwatches,
}

impl Loader {
    /// A loader of the photos of `dataset`, each varied by `augmenter`.
    pub fn new(dataset: &Dataset, augmenter: Augmenter, settings: Settings) -> Self {
        let shared = Shared {
            samples: dataset.samples.clone(),
            augmenter,
            settings,
            unreadable: Mutex::default(),
            stopwatches: Stopwatches::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The number of photos of the data set, readable or not.
    pub fn photos(&self) -> usize {
        self.shared.samples.len()
    }

    /// Photos in a batch.
    pub fn batch_size(&self) -> usize {
        self.shared.settings.batch_size.get()
    }

    /// The class of each photo, an index into the data set's labels.
    pub fn labels(&self) -> Vec<u32> {
        self.shared.samples.iter().map(|sample| sample.label_index).collect()
    }

    /// The number of batches that `photos` photos make.
    pub fn batches(&self, photos: usize) -> usize {
        photos.div_ceil(self.shared.settings.batch_size.get())
    }

    /// Starts to load the samples of `order`, as `epoch` varies them; batches come in this order.
    ///
    /// Their number is [`Loader::batches`] of the order's length, whatever can be read. A photo that comes more
    /// than once is varied anew each time.
    ///
    /// # Errors
    /// An index outside of the data set; a system that gives no thread.
    pub fn epoch(&self, epoch: u64, order: Vec<usize>) -> Result<Batches, LoaderError> {
        self.rest_of_epoch(epoch, order, 0)
    }

    /// The same after the first `seen` samples of `order`: a run that goes on in the middle of an epoch.
    ///
    /// # Errors
    /// Those of [`Loader::epoch`].
    pub fn rest_of_epoch(&self, epoch: u64, order: Vec<usize>, seen: usize) -> Result<Batches, LoaderError> {
        let samples = self.shared.samples.len();
        if let Some(&index) = order.iter().find(|&&index| index >= samples) {
            return Err(LoaderError::NoSuchSample { index, samples });
        }
        let before = self.times(); // the threads begin at once
        let Settings { batch_size, threads, prefetch, .. } = self.shared.settings;
        let window = batch_size.get().saturating_mul(prefetch.get());
        let mut visits = vec![0u64; samples];
        let visited = |index: usize| {
            let before = visits[index];
            visits[index] += 1;
            (index, before)
        };
        let visited: Vec<(usize, u64)> = order.into_iter().map(visited).skip(seen).collect();
        let order: Arc<[usize]> = visited.iter().map(|(index, _)| *index).collect();
        let extent = Extent { count: order.len(), window, threads };
        let (shared, positions) = (Arc::clone(&self.shared), visited);
        let pipeline = Pipeline::start(extent, move |position| shared.prepare(positions[position], epoch))?;
        Ok(Batches {
            shared: Arc::clone(&self.shared),
            before,
            pipeline,
            order,
            delivered: 0,
            loaded: 0,
            ended: false,
        })
    }

    /// The photos that could not be read so far, by index.
    pub fn unreadable(&self) -> Vec<Unreadable> {
        self.shared.unreadable.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Where the time went since the loader was made; for one epoch, see [`Batches::times`].
    pub fn times(&self) -> Times {
        self.shared.stopwatches.times()
    }
}

impl Shared {
    /// Makes the sample of a photo; the error is the reason why it cannot be read.
    fn prepare(&self, (index, visits): (usize, u64), epoch: u64) -> Result<Pixels, String> {
        let start = Instant::now();
        let photo = file::load(&self.samples[index].path, &self.settings.cache, &self.settings.limits)?;
        self.stopwatches.add(Spent::Decoding, start);
        let start = Instant::now();
        let sample = self
            .augmenter
            .apply_again(&photo, epoch, index as u64, visits)
            .map_err(|error| error.to_string());
        self.stopwatches.add(Spent::Augmenting, start);
        sample
    }

    /// Remembers a photo that cannot be read, and says so the first time.
    fn report(&self, index: usize, reason: String) {
        let path = self.samples[index].path.clone();
        let mut unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        unreadable.entry(index).or_insert_with(|| {
            tracing::warn!(file = %path.display(), reason, "a photo cannot be read and is left out");
            Unreadable { index, path, reason }
        });
    }
}

/// The batches of one epoch, in order. Dropping it early stops the threads.
pub struct Batches {
    shared: Arc<Shared>,
    /// The loader's times when the epoch began.
    before: Times,
    pipeline: Pipeline<Result<Pixels, String>>,
    order: Arc<[usize]>,
    /// Positions of the order that are behind us.
    delivered: usize,
    /// Photos that could be read.
    loaded: usize,
    ended: bool,
}

impl Iterator for Batches {
    type Item = Result<Batch, LoaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        if self.delivered == self.order.len() {
            self.ended = true;
            return self.nothing_readable().map(Err);
        }
        // Nothing can be ready for the first one, however fast the threads are.
        let spent = if self.delivered == 0 { Spent::Starting } else { Spent::Waiting };
        let start = Instant::now();
        let batch = self.assemble();
        self.shared.stopwatches.add(spent, start);
        self.ended = batch.is_err();
        Some(batch)
    }
}

impl Batches {
    /// Where the time of this epoch went so far.
    pub fn times(&self) -> Times {
        self.shared.stopwatches.times().since(&self.before)
    }

    fn assemble(&mut self) -> Result<Batch, LoaderError> {
        let size = self.shared.settings.batch_size.get().min(self.order.len() - self.delivered);
        let (height, width) = self.shared.augmenter.output_size();
        let mut batch = Batch {
            pixels: Vec::with_capacity(size * height * width * 3),
            labels: Vec::with_capacity(size),
            indices: Vec::with_capacity(size),
            height,
            width,
            mixed: None,
        };
        for _ in 0..size {
            let Some(result) = self.pipeline.take() else { break };
            let index = self.order[self.delivered];
            self.delivered += 1;
            let sample = &self.shared.samples[index];
            match result {
                Ok(Ok(pixels)) => {
                    batch.pixels.extend_from_slice(pixels.data());
                    batch.labels.push(sample.label_index);
                    batch.indices.push(index);
                    self.loaded += 1;
                }
                Ok(Err(reason)) => self.shared.report(index, reason),
                Err(message) => return Err(LoaderError::Panicked { path: sample.path.clone(), message }),
            }
        }
        Ok(batch)
    }

    fn nothing_readable(&self) -> Option<LoaderError> {
        if self.loaded > 0 {
            return None;
        }
        let unreadable = self.shared.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        let first = unreadable.get(self.order.first()?)?.clone();
        Some(LoaderError::NothingReadable { photos: self.order.len(), first })
    }
}
