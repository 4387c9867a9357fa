//! What the loader promises, on the real photos of `tests/data/sign-digits`: order, completeness, and that neither
//! threads, cache nor damaged files change what the trainer sees.

#![allow(clippy::unwrap_used)]

use featherlight::image::{DecodeLimits, Processor, decode};
use featherlight::randomness::Randomness;
use featherlight_train::augment::{Augmentation, Augmenter, Variation};
use featherlight_train::dataset::{Dataset, LabelSpace};
use featherlight_train::loader::{Batch, Cache, Loader, LoaderError, PhotoCache, Settings, survey};
use featherlight_train::sampler;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const SEED: u64 = 42;

fn photos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/sign-digits/train")
}

fn dataset(folder: &Path) -> Dataset {
    Dataset::open(folder, None, LabelSpace::Found { model: &[] }).unwrap()
}

fn processor() -> Arc<Processor> {
    let config = serde_json::json!({
        "image_processor_type": "BeitImageProcessor",
        "do_resize": true, "size": {"height": 32, "width": 32}, "resample": 2,
        "do_center_crop": false, "do_rescale": true, "rescale_factor": 1.0 / 255.0,
        "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    });
    Arc::new(Processor::from_json(&config).unwrap())
}

fn settings(batch_size: usize, threads: usize) -> Settings {
    Settings {
        batch_size: NonZeroUsize::new(batch_size).unwrap(),
        threads: NonZeroUsize::new(threads).unwrap(),
        prefetch: NonZeroUsize::new(2).unwrap(),
        cache: PhotoCache::open(&Cache::None),
        limits: DecodeLimits::default(),
    }
}

fn loader(dataset: &Dataset, augmentation: Augmentation, settings: Settings) -> Loader {
    let augmenter = Augmenter::new(processor(), augmentation, Randomness::new(SEED)).unwrap();
    Loader::new(dataset, augmenter, settings)
}

fn varied() -> Augmentation {
    Augmentation::Random(Variation { color_jitter: 0.2, ..Variation::default() })
}

fn epoch(loader: &Loader, epoch: u64, order: Vec<usize>) -> Vec<Batch> {
    loader.epoch(epoch, order).unwrap().collect::<Result<_, _>>().unwrap()
}

fn shuffled(epoch: u64, count: usize) -> Vec<usize> {
    sampler::shuffled(Randomness::new(SEED), epoch, count)
}

fn indices(batches: &[Batch]) -> Vec<usize> {
    batches.iter().flat_map(|batch| batch.indices.iter().copied()).collect()
}

/// A copy of the photos of two classes, in which files can be damaged.
fn copied() -> (tempfile::TempDir, Dataset) {
    let root = tempfile::TempDir::new().unwrap();
    for class in ["3", "7"] {
        std::fs::create_dir(root.path().join(class)).unwrap();
        for photo in std::fs::read_dir(photos().join(class)).unwrap() {
            let photo = photo.unwrap();
            std::fs::copy(photo.path(), root.path().join(class).join(photo.file_name())).unwrap();
        }
    }
    let dataset = dataset(root.path());
    (root, dataset)
}

fn cut_short(file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn one_thread_and_four_give_identical_batches() {
    let data = dataset(&photos());
    let run = |threads| {
        let loader = loader(&data, varied(), settings(7, threads));
        (0..2).map(|number| epoch(&loader, number, shuffled(number, 120))).collect::<Vec<_>>()
    };
    let (one, four) = (run(1), run(4));
    assert_eq!(one, four);
    assert_ne!(one[0], one[1]);
}

#[test]
fn batches_follow_the_order_and_the_last_may_be_short() {
    let data = dataset(&photos());
    let loader = loader(&data, varied(), settings(50, 3));
    let order = shuffled(0, 120);
    let batches = epoch(&loader, 0, order.clone());
    assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [50, 50, 20]);
    assert_eq!(loader.batches(120), 3);
    assert_eq!(indices(&batches), order);
    for batch in &batches {
        assert_eq!((batch.height, batch.width), (32, 32));
        assert_eq!(batch.pixels.len(), batch.len() * 32 * 32 * 3);
        for (&index, &label) in batch.indices.iter().zip(&batch.labels) {
            assert_eq!(label, data.samples[index].label_index);
        }
    }
}

#[test]
fn evaluation_sees_each_photo_as_the_processor_makes_it() {
    let data = dataset(&photos());
    let loader = loader(&data, Augmentation::Plain, settings(8, 2));
    let batches = epoch(&loader, 0, sampler::in_order(20));
    assert_eq!(indices(&batches), sampler::in_order(20));
    for batch in &batches {
        for (index, pixels) in batch.indices.iter().zip(batch.pixels.chunks_exact(32 * 32 * 3)) {
            let bytes = std::fs::read(&data.samples[*index].path).unwrap();
            let expected = processor().prepare(&bytes, &DecodeLimits::default()).unwrap();
            assert_eq!(pixels, expected.data());
        }
    }
}

#[test]
fn a_run_that_goes_on_in_the_middle_of_an_epoch_sees_its_rest() {
    let data = dataset(&photos());
    let order = shuffled(3, 120);
    let whole = epoch(&loader(&data, varied(), settings(8, 2)), 3, order.clone());
    let rest = epoch(&loader(&data, varied(), settings(8, 2)), 3, order[40..].to_vec());
    assert_eq!(whole[5..], rest);
}

#[test]
fn a_cache_changes_nothing_but_the_reading() {
    let (root, data) = copied();
    let half = PhotoCache::open(&Cache::Ram(12 * 100 * 100 * 3));
    let cached = loader(&data, varied(), Settings { cache: half, ..settings(5, 2) });
    let plain = loader(&data, varied(), settings(5, 2));
    for number in 0..3 {
        let order = shuffled(number, 24);
        assert_eq!(epoch(&cached, number, order.clone()), epoch(&plain, number, order));
    }
    drop(root);
    let kept = epoch(&cached, 3, shuffled(3, 24));
    assert_eq!(indices(&kept).len(), 12);
}

#[test]
fn every_kind_of_cache_gives_the_same_batches_on_one_thread_and_on_four() {
    let data = dataset(&photos());
    let folder = tempfile::TempDir::new().unwrap();
    let mut expected = None;
    for threads in [1, 4] {
        // The last one finds the files of those before it.
        for (name, limit) in [("small", 50 * 30_100), ("large", 1 << 30), ("large", 1 << 30)] {
            let disk = Cache::Disk { folder: folder.path().join(name), limit };
            for cache in [Cache::None, Cache::Ram(limit), disk] {
                let settings = Settings { cache: PhotoCache::open(&cache), ..settings(7, threads) };
                let loader = loader(&data, varied(), settings);
                let batches: Vec<_> =
                    (0..2).map(|number| epoch(&loader, number, shuffled(number, 120))).collect();
                assert!(*expected.get_or_insert(batches.clone()) == batches, "{cache:?}, {threads} threads");
            }
        }
    }
    let files = |name| std::fs::read_dir(folder.path().join(name)).unwrap().count();
    assert_eq!((files("small"), files("large")), (50, 120));
}

#[test]
fn a_survey_tells_content_or_reason_of_each_photo_in_order_and_fills_the_cache() {
    let (root, data) = copied();
    cut_short(&data.samples[5].path);
    std::fs::copy(&data.samples[0].path, &data.samples[20].path).unwrap();
    let paths: Vec<PathBuf> = data.samples.iter().map(|sample| sample.path.clone()).collect();
    let run = |threads, cache: &Cache| {
        let settings = Settings { cache: PhotoCache::open(cache), ..settings(5, threads) };
        let mut behind = 0;
        let found = survey(paths.clone(), &settings, || {
            behind += 1;
            true
        })
        .unwrap();
        assert_eq!(behind, 24);
        (found, settings)
    };
    let (one, _) = run(1, &Cache::None);
    let (four, settings) = run(4, &Cache::Ram(1 << 30));
    assert_eq!(one, four);
    let bytes = std::fs::read(&paths[5]).unwrap();
    let reason = decode(&bytes, &DecodeLimits::default()).unwrap_err().to_string();
    assert_eq!(one[5], Err(reason));
    assert_eq!(one.iter().filter(|found| found.is_err()).count(), 1);
    assert_eq!(one[0], one[20]);
    assert_ne!(one[0], one[1]);
    drop(root);
    let kept = epoch(&loader(&data, varied(), settings), 0, shuffled(0, 24));
    assert_eq!(indices(&kept).len(), 23);
}

#[test]
fn an_unreadable_photo_is_reported_once_and_changes_no_other() {
    let (_root, data) = copied();
    let order = shuffled(0, 24);
    let sound = epoch(&loader(&data, varied(), settings(4, 2)), 0, order.clone());
    cut_short(&data.samples[5].path);
    std::fs::remove_file(&data.samples[9].path).unwrap();
    let loader = loader(&data, varied(), settings(4, 2));
    let damaged = epoch(&loader, 0, order.clone());
    epoch(&loader, 1, shuffled(1, 24));

    assert_eq!(damaged.len(), sound.len());
    let expected: Vec<usize> = order.into_iter().filter(|index| ![5, 9].contains(index)).collect();
    assert_eq!(indices(&damaged), expected);
    let untouched = |batch: &&Batch| ![5, 9].iter().any(|index| batch.indices.contains(index));
    for batch in sound.iter().filter(untouched) {
        assert!(damaged.contains(batch));
    }
    let unreadable = loader.unreadable();
    assert_eq!(unreadable.iter().map(|photo| photo.index).collect::<Vec<_>>(), [5, 9]);
    assert_eq!(unreadable[0].path, data.samples[5].path);
    let bytes = std::fs::read(&data.samples[5].path).unwrap();
    let reason = decode(&bytes, &DecodeLimits::default()).unwrap_err().to_string();
    assert_eq!(unreadable[0].reason, reason);
}

#[test]
fn an_epoch_without_a_readable_photo_ends_in_an_error() {
    let (_root, data) = copied();
    data.samples.iter().for_each(|sample| cut_short(&sample.path));
    let loader = loader(&data, varied(), settings(10, 2));
    let mut batches = loader.epoch(0, sampler::in_order(24)).unwrap();
    for _ in 0..3 {
        assert!(batches.next().unwrap().unwrap().is_empty());
    }
    let error = batches.next().unwrap().unwrap_err();
    assert!(matches!(&error, LoaderError::NothingReadable { photos: 24, first } if first.index == 0));
    assert!(error.to_string().contains(&data.samples[0].path.display().to_string()));
    assert!(batches.next().is_none());
}

#[test]
fn an_order_beyond_the_data_set_is_refused_and_an_empty_one_has_no_batch() {
    let data = dataset(&photos());
    let loader = loader(&data, varied(), settings(10, 2));
    let refused = loader.epoch(0, vec![3, 120]).err();
    assert!(matches!(refused, Some(LoaderError::NoSuchSample { index: 120, samples: 120 })));
    assert!(epoch(&loader, 0, Vec::new()).is_empty());
}

#[test]
fn the_time_spent_is_accounted_for() {
    let data = dataset(&photos());
    let loader = loader(&data, varied(), settings(10, 2));
    epoch(&loader, 0, shuffled(0, 120));
    let times = loader.times();
    assert!(!times.waiting.is_zero() && !times.decoding.is_zero() && !times.augmenting.is_zero());
    assert!(!times.starting.is_zero());
}

#[test]
fn an_epoch_has_times_of_its_own() {
    let data = dataset(&photos());
    let loader = loader(&data, varied(), settings(10, 2));
    let mut batches = loader.epoch(0, shuffled(0, 120)).unwrap();
    assert_eq!(batches.times().waiting, Duration::ZERO);
    batches.next().unwrap().unwrap();
    assert!(
        batches.times().waiting.is_zero() && !batches.times().starting.is_zero(),
        "the first is the start"
    );
    batches.by_ref().for_each(drop);
    let first = batches.times();
    assert_eq!(first, loader.times());
    let mut second = loader.epoch(1, shuffled(1, 120)).unwrap();
    second.by_ref().for_each(drop);
    assert_eq!(second.times(), loader.times().since(&first));
    assert!(!second.times().waiting.is_zero() && second.times().waiting < loader.times().waiting);
}

#[test]
fn a_step_that_is_slower_than_the_threads_waits_for_the_first_batch_alone() {
    let data = dataset(&photos());
    let loader = loader(&data, Augmentation::Plain, settings(10, 2));
    let mut batches = loader.epoch(0, sampler::in_order(40)).unwrap();
    for batch in batches.by_ref() {
        assert_eq!(batch.unwrap().len(), 10);
        std::thread::sleep(Duration::from_millis(300));
    }
    // The threads need milliseconds for a batch; were the step's own time counted, it would be 900 ms.
    let waiting = batches.times().waiting;
    assert!(waiting < Duration::from_millis(250), "{waiting:?}");
}

#[test]
fn a_photo_that_an_epoch_visits_again_is_varied_anew_and_the_rest_of_an_epoch_is_as_in_the_whole() {
    let loader = loader(&dataset(&photos()), varied(), settings(2, 1));
    let order = vec![3, 1, 3, 3, 0, 1];
    let whole = epoch(&loader, 1, order.clone());
    let size = whole[0].pixels.len() / 2;
    assert!(whole[0].pixels[..size] != whole[1].pixels[..size], "the same photo");
    assert!(whole[1].pixels[..size] != whole[1].pixels[size..], "the same photo");
    let rest: Vec<Batch> = loader.rest_of_epoch(1, order, 2).unwrap().collect::<Result<_, _>>().unwrap();
    assert!(rest == whole[1..]);
}
