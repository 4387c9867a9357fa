//! Batches of samples, decoded and augmented on worker threads ahead of the step.
//!
//! The trainer and the evaluator ask for an epoch in an order of theirs and receive batches in exactly that order,
//! whatever the number of threads. A photo that cannot be read is reported once and missing from its batch; the batches
//! after it are those that they would have been. Pixels stay u8: normalisation belongs to the device.

mod cache;
mod pipeline;

use crate::augment::{Augmenter, Mixed};
use crate::dataset::{Dataset, Sample};
use cache::PhotoCache;
use featherlight::image::{DecodeLimits, Pixels, decode};
use pipeline::{Extent, Pipeline};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How to load.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Photos in a batch; the last of an epoch may have fewer.
    pub batch_size: NonZeroUsize,
    /// Threads that decode and augment.
    pub threads: NonZeroUsize,
    /// Batches prepared ahead of the one that is used.
    pub prefetch: NonZeroUsize,
    /// Bytes of decoded photos kept in memory from epoch to epoch; 0 decodes each time.
    pub cache_bytes: u64,
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
            cache_bytes: 1 << 30,
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
    /// A bug, or memory that ran out, on a worker thread.
    #[error("{}: preparing the photo failed: {message}", path.display())]
    Panicked {
        /// The photo that was prepared.
        path: PathBuf,
        /// The panic's message.
        message: String,
    },
}

/// Where the time went, since the loader was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// The caller waited for batches: time that the device had nothing to do.
    pub waiting: Duration,
    /// Reading and decoding, all threads together.
    pub decoding: Duration,
    /// Augmentation and resizing, all threads together.
    pub augmenting: Duration,
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
    cache: PhotoCache,
    unreadable: Mutex<BTreeMap<usize, Unreadable>>,
    waiting: Stopwatch,
    decoding: Stopwatch,
    augmenting: Stopwatch,
}

impl Loader {
    /// A loader of the photos of `dataset`, each varied by `augmenter`.
    pub fn new(dataset: &Dataset, augmenter: Augmenter, settings: Settings) -> Self {
        let shared = Shared {
            samples: dataset.samples.clone(),
            augmenter,
            cache: PhotoCache::new(settings.cache_bytes),
            settings,
            unreadable: Mutex::default(),
            waiting: Stopwatch::default(),
            decoding: Stopwatch::default(),
            augmenting: Stopwatch::default(),
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
    /// Their number is [`Loader::batches`] of the order's length, whatever can be read. A run that goes on in the middle
    /// of an epoch passes the rest of its order.
    ///
    /// # Errors
    /// An index outside of the data set; a system that gives no thread.
    pub fn epoch(&self, epoch: u64, order: Vec<usize>) -> Result<Batches, LoaderError> {
        let samples = self.shared.samples.len();
        if let Some(&index) = order.iter().find(|&&index| index >= samples) {
            return Err(LoaderError::NoSuchSample { index, samples });
        }
        let Settings { batch_size, threads, prefetch, .. } = self.shared.settings;
        let window = batch_size.get().saturating_mul(prefetch.get());
        let extent = Extent { count: order.len(), window, threads };
        let order: Arc<[usize]> = order.into();
        let (shared, positions) = (Arc::clone(&self.shared), Arc::clone(&order));
        let pipeline = Pipeline::start(extent, move |position| shared.prepare(positions[position], epoch))?;
        Ok(Batches {
            shared: Arc::clone(&self.shared),
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

    /// Where the time went so far.
    pub fn times(&self) -> Times {
        Times {
            waiting: self.shared.waiting.total(),
            decoding: self.shared.decoding.total(),
            augmenting: self.shared.augmenting.total(),
        }
    }
}

impl Shared {
    /// Makes the sample of a photo; the error is the reason why it cannot be read.
    fn prepare(&self, index: usize, epoch: u64) -> Result<Pixels, String> {
        let start = Instant::now();
        let photo = match self.cache.get(index) {
            Some(photo) => photo,
            None => {
                let bytes = std::fs::read(&self.samples[index].path).map_err(|error| error.to_string())?;
                let decoded = decode(&bytes, &self.settings.limits).map_err(|error| error.to_string())?;
                self.cache.offer(index, decoded)
            }
        };
        self.decoding.add(start);
        let start = Instant::now();
        let sample = self.augmenter.apply(&photo, epoch, index as u64).map_err(|error| error.to_string());
        self.augmenting.add(start);
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
        let start = Instant::now();
        let batch = self.assemble();
        self.shared.waiting.add(start);
        self.ended = batch.is_err();
        Some(batch)
    }
}

impl Batches {
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

/// Time summed up over threads.
#[derive(Debug, Default)]
struct Stopwatch(AtomicU64);

impl Stopwatch {
    /// Adds the time since `start`.
    fn add(&self, start: Instant) {
        let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn total(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}
