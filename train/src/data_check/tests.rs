use super::*;
use crate::dataset::LabelSpace;
use crate::loader::{Cache, Loader, PhotoCache, Settings};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;

/// A picture of one colour as a BMP file: the plainest of the formats.
pub fn bmp(width: u32, height: u32, shade: u8) -> Vec<u8> {
    let row = (width * 3).next_multiple_of(4);
    let mut bytes = b"BM".to_vec();
    bytes.extend((54 + row * height).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(54u32.to_le_bytes());
    bytes.extend(40u32.to_le_bytes());
    bytes.extend(width.to_le_bytes());
    bytes.extend(height.to_le_bytes());
    bytes.extend([1, 0, 24, 0]); // one plane, 24 bits
    bytes.extend([0; 24]);
    bytes.resize(bytes.len() + (row * height) as usize, shade);
    bytes
}

/// A folder of photos; `content` is the shade of the picture, or what no decoder reads.
struct Folder(TempDir);

impl Folder {
    fn new(photos: &[(&str, Option<u8>)]) -> Self {
        let folder = Self(TempDir::new().unwrap());
        photos.iter().for_each(|(name, content)| folder.add(name, *content));
        folder
    }

    /// A folder with so many different photos of each class, below 250 in all.
    fn of_classes(classes: &[(&str, usize)]) -> Self {
        let (folder, mut shade) = (Self::new(&[]), 0);
        for (label, count) in classes {
            for photo in 0..*count {
                folder.add(&format!("{label}/{photo}.bmp"), Some(shade));
                shade += 1;
            }
        }
        folder
    }

    fn add(&self, name: &str, content: Option<u8>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes = content.map_or_else(|| b"no picture".to_vec(), |shade| bmp(2, 2, shade));
        std::fs::write(path, bytes).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn open(&self) -> Dataset {
        Dataset::open(self.0.path(), None, LabelSpace::Found { model: &[] }).unwrap()
    }

    fn open_for(&self, training: &Dataset) -> Dataset {
        Dataset::open(self.0.path(), None, LabelSpace::Known(&training.labels)).unwrap()
    }
}

fn settings(threads: usize) -> Settings {
    let number = |n| NonZeroUsize::new(n).unwrap();
    Settings { cache: PhotoCache::open(&Cache::None), ..Settings::new(number(4), number(threads)) }
}

fn checked(training: Dataset, held: Held) -> Result<Checked, CheckError> {
    check(
        training,
        held,
        Randomness::new(3),
        &settings(2),
        (&AtomicBool::new(false), &mut Progress::default()),
    )
}

fn with_set(training: &Folder, validation: &Folder) -> Checked {
    let training = training.open();
    let validation = validation.open_for(&training);
    checked(training, Held::Set(validation)).unwrap()
}

fn warning(report: &DataReport, about: &str) -> String {
    let warnings = report.warnings();
    warnings.iter().find(|warning| warning.contains(about)).unwrap_or_else(|| panic!("{warnings:#?}")).clone()
}

fn names(dataset: &Dataset) -> Vec<&str> {
    dataset.samples.iter().map(|sample| sample.name.as_str()).collect()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_sound_set_has_no_warnings_and_loses_no_photo() {
    let folder = Folder::of_classes(&[("a", 20), ("b", 30)]);
    let Checked { training, validation, report } = checked(folder.open(), Held::Share(0.1)).unwrap();
    assert_eq!((training.samples.len(), validation.unwrap().samples.len()), (45, 5));
    assert_eq!(report.warnings(), Vec::<String>::new());
    assert_eq!(
        report.summary(),
        "2 classes with photos to train on: 18 (`a`) to 27 photos (`b`), 22.5 in the median"
    );
    let json = report.to_json();
    assert_eq!(
        json["classes"][1],
        serde_json::json!({ "label": "b", "training": 27, "validation": 3, "unreadable": 0 })
    );
    assert_eq!((&json["training_photos"], &json["median_class_photos"]), (&45.into(), &22.5.into()));
}

#[test]
fn classes_without_a_readable_photo_are_named_stay_labels_and_train_nothing() {
    let folder = Folder::of_classes(&[("a", 12), ("z", 12)]);
    for photo in 0..57 {
        folder.add(&format!("Avocado/{photo}.jpg"), None);
    }
    folder.add("Kiwi/1.jpg", None);
    folder.add("Lime/1.jpg", None);
    folder.add("Lime/2.jpg", None);
    folder.add("z/broken.jpg", None);
    let Checked { training, validation, report } = checked(folder.open(), Held::Share(0.25)).unwrap();
    assert_eq!(training.labels, ["Avocado", "Kiwi", "Lime", "a", "z"]);
    assert_eq!((training.samples.len(), validation.unwrap().samples.len()), (18, 6));
    let said = warning(&report, "no readable photo");
    for expected in [
        "3 classes have no readable photo:",
        "none of the 57 photos of `Avocado` can be read: it stays a label, but nothing can be learnt of it",
        "the only photo of `Kiwi` cannot be read",
        "none of the 2 photos of `Lime`",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    let said = warning(&report, "left out");
    assert!(said.starts_with("61 photos cannot be read and are left out:\n"), "{said}");
    assert!(said.contains(&shown(&folder.path("Avocado/9.jpg"))), "{said}");
    assert!(
        said.ends_with("and 51 more; run.json lists them all") && !said.contains("Avocado/10.jpg"),
        "{said}"
    );
    assert_eq!(report.warnings().len(), 2, "they are no imbalance, and lack no validation photo either");
    let listed = report.unreadable_json();
    assert_eq!(listed.len(), 61);
    assert_eq!(listed[60]["file"], shown(&folder.path("z/broken.jpg")));
    assert!(listed[0]["reason"].as_str().unwrap().contains("formats served"), "{}", listed[0]);
    assert_eq!(
        report.to_json()["labels_without_readable_photos"],
        serde_json::json!(["Avocado", "Kiwi", "Lime"])
    );
}

#[test]
fn a_set_without_a_readable_photo_is_an_error_that_names_one() {
    let folder = Folder::new(&[("a/1.jpg", None), ("b/1.jpg", None)]);
    let error = checked(folder.open(), Held::Share(0.1)).unwrap_err().to_string();
    assert!(error.starts_with("none of the 2 photos could be read; the first, "), "{error}");
    assert!(error.contains(&shown(&folder.path("a/1.jpg"))), "{error}");
    let sound = Folder::of_classes(&[("a", 3), ("b", 3)]);
    let error = checked(sound.open(), Held::Set(folder.open())).unwrap_err();
    assert!(matches!(error, CheckError::Loader(LoaderError::NothingReadable { photos: 2, .. })), "{error}");
}

#[test]
fn a_photo_on_both_sides_of_the_border_is_a_leak_that_names_both_files() {
    let training = Folder::of_classes(&[("a", 20), ("b", 20)]);
    let validation = Folder::new(&[("a/own.bmp", Some(240)), ("b/own.bmp", Some(241))]);
    for photo in 0..12 {
        validation.add(&format!("a/copy{photo}.bmp"), Some(photo));
    }
    let report = with_set(&training, &validation).report;
    let said = warning(&report, "among the training photos");
    assert!(said.starts_with("12 validation photos are among the training photos as well"), "{said}");
    let pair = format!("{} = {}", shown(&validation.path("a/copy3.bmp")), shown(&training.path("a/3.bmp")));
    assert!(said.contains(&pair) && said.ends_with("and 2 more; run.json lists them all"), "{said}");
    let leaks = &report.to_json()["leaks"];
    assert_eq!(leaks.as_array().unwrap().len(), 12);
    assert_eq!(leaks[11]["training"][0]["file"], shown(&training.path("a/11.bmp")));
    assert_eq!(leaks[11]["validation"][0]["file"], shown(&validation.path("a/copy11.bmp")));
    assert_eq!(report.warnings().len(), 1, "{:?}", report.warnings());
}

#[test]
fn one_photo_under_two_labels_is_named_with_files_and_labels() {
    let training = Folder::of_classes(&[("a", 5), ("b", 5)]);
    training.add("b/again.bmp", Some(2));
    let validation = Folder::new(&[("a/x.bmp", Some(7)), ("b/y.bmp", Some(250))]);
    let report = with_set(&training, &validation).report;
    let said = warning(&report, "more than one label");
    assert!(said.starts_with("2 photos have more than one label"), "{said}");
    let within =
        format!("`a`: {}, `b`: {}", shown(&training.path("a/2.bmp")), shown(&training.path("b/again.bmp")));
    let across =
        format!("`b`: {}, `a`: {}", shown(&training.path("b/2.bmp")), shown(&validation.path("a/x.bmp")));
    assert!(said.contains(&within) && said.contains(&across), "{said}");
    let json = report.to_json();
    assert_eq!(json["label_conflicts"][0][1]["label"], "b");
    assert_eq!(
        (json["leaks"].as_array().unwrap().len(), json["duplicates"].as_array().unwrap().len()),
        (1, 1)
    );
}

#[test]
fn copies_within_the_training_set_are_counted_and_listed() {
    let folder = Folder::of_classes(&[("a", 10), ("b", 10)]);
    for name in ["a/x.bmp", "a/y.bmp"] {
        folder.add(name, Some(1));
    }
    folder.add("b/x.bmp", Some(15));
    let report = checked(folder.open(), Held::Share(0.0)).unwrap().report;
    let said = warning(&report, "copies");
    assert!(said.starts_with("3 training photos are copies of others"), "{said}");
    let group = ["a/1.bmp", "a/x.bmp", "a/y.bmp"].map(|name| shown(&folder.path(name))).join(" = ");
    assert!(said.contains(&group), "{said}");
    assert_eq!(report.warnings().len(), 1);
    assert_eq!(report.unvalidated().count(), 0, "nobody wants a validation");
}

#[test]
fn a_split_of_our_own_never_makes_a_leak() {
    let folder = Folder::of_classes(&[("a", 10), ("b", 10)]);
    for photo in 0..20 {
        let class = if photo < 10 { "a" } else { "b" };
        folder.add(&format!("{class}/again{photo}.bmp"), Some(photo));
    }
    folder.add("a/other-label.bmp", Some(12));
    for seed in 0..20 {
        let checked = check(
            folder.open(),
            Held::Share(0.3),
            Randomness::new(seed),
            &settings(2),
            (&AtomicBool::new(false), &mut Progress::default()),
        );
        let Checked { validation, report, .. } = checked.unwrap();
        // A triple among pairs: not every number can be made of them.
        assert!((11..=12).contains(&validation.unwrap().samples.len()), "seed {seed}");
        assert_eq!(report.leaks().count(), 0, "seed {seed}");
    }
}

#[test]
fn an_imbalance_of_ten_to_one_names_the_classes_and_what_helps() {
    let folder = Folder::of_classes(&[("many", 100), ("one", 1), ("some", 50)]);
    let report = checked(folder.open(), Held::Share(0.0)).unwrap().report;
    let said = warning(&report, "far from equal");
    for expected in
        ["100 photos of `many`, 1 of `one` (100 to 1)", "--class-weights balanced", "--balanced-sampling"]
    {
        assert!(said.contains(expected), "{said}");
    }
    assert!(!said.contains("tenth"), "{said}");
    let sound = Folder::of_classes(&[("many", 99), ("few", 10)]);
    assert!(checked(sound.open(), Held::Share(0.0)).unwrap().report.warnings().is_empty());
    let two = Folder::of_classes(&[("few", 3), ("fewer", 2), ("many", 30)]);
    let said = warning(&checked(two.open(), Held::Share(0.0)).unwrap().report, "far from equal");
    assert!(said.contains("2 classes have a tenth of the largest or less: `fewer`, `few`"), "{said}");
}

#[test]
fn labels_without_a_validation_photo_are_named() {
    let training = Folder::of_classes(&[("a", 3), ("b", 3), ("c", 3)]);
    let validation = Folder::new(&[("b/x.bmp", Some(200))]);
    let said = warning(&with_set(&training, &validation).report, "validation photo");
    assert_eq!(said, "2 labels have no validation photo: how well they are learnt is not measured: `a`, `c`");
}

#[test]
fn what_is_found_does_not_depend_on_the_number_of_threads() {
    let folder = Folder::of_classes(&[("a", 30), ("b", 40)]);
    folder.add("a/broken.jpg", None);
    folder.add("b/copy.bmp", Some(3));
    let run = |threads| {
        let checked = check(
            folder.open(),
            Held::Share(0.2),
            Randomness::new(3),
            &settings(threads),
            (&AtomicBool::new(false), &mut Progress::default()),
        );
        checked.unwrap()
    };
    let (one, four) = (run(1), run(4));
    assert_eq!((one.training, one.validation, one.report), (four.training, four.validation, four.report));
}

#[test]
fn the_fingerprint_is_the_content_s_and_the_label_s() {
    let of = |photos: &[(&str, Option<u8>)]| {
        checked(Folder::new(photos).open(), Held::Share(0.0)).unwrap().report.fingerprint
    };
    let first = of(&[("a/1.bmp", Some(1)), ("b/2.bmp", Some(2))]);
    assert_eq!(first, of(&[("a/1.bmp", Some(1)), ("b/2.bmp", Some(2))]));
    for other in [
        [("a/1.bmp", Some(1)), ("b/2.bmp", Some(3))],
        [("a/1.bmp", Some(1)), ("b/3.bmp", Some(2))],
        [("a/1.bmp", Some(1)), ("c/2.bmp", Some(2))],
    ] {
        assert_ne!(first, of(&other));
    }
}

#[test]
fn what_the_check_decoded_the_epochs_need_not_decode_again() {
    use crate::augment::{Augmentation, Augmenter};
    use featherlight::image::Processor;
    let folder = Folder::of_classes(&[("a", 6), ("b", 6)]);
    let loading = Settings { cache: PhotoCache::open(&Cache::Ram(1 << 20)), ..settings(2) };
    let Checked { training, validation, .. } = check(
        folder.open(),
        Held::Share(0.25),
        Randomness::new(3),
        &loading,
        (&AtomicBool::new(false), &mut Progress::default()),
    )
    .unwrap();
    drop(folder); // with its photos
    let processor = std::sync::Arc::new(Processor::plain(8, 8).unwrap());
    for dataset in [training, validation.unwrap()] {
        let augmenter = Augmenter::new(processor.clone(), Augmentation::Plain, Randomness::new(3)).unwrap();
        let loader = Loader::new(&dataset, augmenter, loading.clone());
        let photos: usize =
            loader.epoch(0, (0..loader.photos()).collect()).unwrap().map(|batch| batch.unwrap().len()).sum();
        assert_eq!(photos, names(&dataset).len());
    }
}

#[test]
fn a_single_class_with_readable_photos_is_refused_and_named() {
    let folder = Folder::of_classes(&[("a", 3)]);
    folder.add("b/1.bmp", None);
    folder.add("b/2.bmp", None);
    let dataset = Dataset::open(folder.0.path(), None, LabelSpace::Found { model: &[] }).unwrap();
    let stop = AtomicBool::new(false);
    let error = check(
        dataset.clone(),
        Held::Share(0.0),
        Randomness::new(3),
        &settings(1),
        (&stop, &mut Progress::default()),
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("`a` is the only class") && error.contains("1.bmp"), "{error}");

    stop.store(true, Ordering::Relaxed);
    let error =
        check(dataset, Held::Share(0.0), Randomness::new(3), &settings(1), (&stop, &mut Progress::default()));
    assert!(matches!(error, Err(CheckError::Loader(LoaderError::Stopped))), "somebody asked for it");
}
