//! What a data set promises: which files belong to it, in which order, and what is said about one that is unusable.
//! The files are empty: opening a data set reads no photo.

#![allow(clippy::unwrap_used)]

use featherlight_train::dataset::{Dataset, DatasetError, LabelSpace};
use std::path::Path;
use tempfile::TempDir;

const FOUND: LabelSpace<'static> = LabelSpace::Found { model: &[] };

fn folder(files: &[&str]) -> TempDir {
    let root = TempDir::new().unwrap();
    for file in files {
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, []).unwrap();
    }
    root
}

fn with_list(files: &[&str], list: &str) -> TempDir {
    let root = folder(files);
    std::fs::write(root.path().join("list.csv"), list).unwrap();
    root
}

fn open_list(root: &TempDir) -> Result<Dataset, DatasetError> {
    Dataset::open(&root.path().join("list.csv"), None, FOUND)
}

fn names(dataset: &Dataset) -> Vec<&str> {
    dataset.samples.iter().map(|sample| sample.name.as_str()).collect()
}

fn label_indices(dataset: &Dataset) -> Vec<u32> {
    dataset.samples.iter().map(|sample| sample.label_index).collect()
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_folder_gives_classes_and_photos_in_natural_order() {
    let root = folder(&["10/b.jpg", "9/photo10.png", "9/photo2.JPG", "9/deep/er/x.webp"]);
    let dataset = Dataset::open(root.path(), None, FOUND).unwrap();
    assert_eq!(dataset.labels, ["9", "10"]);
    assert_eq!(names(&dataset), ["9/deep/er/x.webp", "9/photo2.JPG", "9/photo10.png", "10/b.jpg"]);
    assert_eq!(label_indices(&dataset), [0, 0, 0, 1]);
    assert_eq!(dataset.class_sizes(), [3, 1]);
    assert_eq!(dataset.samples[1].path, root.path().join("9/photo2.JPG"));
    assert!(dataset.warnings().is_empty());
}

#[test]
fn the_order_of_the_models_labels_is_kept_where_the_labels_are_the_same() {
    let root = folder(&["cat/1.jpg", "dog/1.jpg", "emu/1.jpg"]);
    let open = |model: &[&str]| {
        Dataset::open(root.path(), None, LabelSpace::Found { model: &strings(model) }).unwrap().labels
    };
    assert_eq!(open(&["emu", "cat", "dog"]), ["emu", "cat", "dog"]);
    assert_eq!(open(&["emu", "cat"]), ["cat", "dog", "emu"]);
    assert_eq!(open(&["emu", "cat", "dog", "fox"]), ["cat", "dog", "emu"]);
}

#[test]
fn what_is_no_photo_of_a_class_is_counted_and_hidden_files_are_not() {
    let root = folder(&[
        "a/1.jpg",
        "a/notes.txt",
        "b/1.jpg",
        "stray.jpg",
        "README.md",
        "none/x.txt",
        ".cache/1.jpg",
        "a/.2.jpg",
    ]);
    let dataset = Dataset::open(root.path(), None, FOUND).unwrap();
    assert_eq!(names(&dataset), ["a/1.jpg", "b/1.jpg"]);
    assert_eq!(dataset.labels, ["a", "b"]);
    assert_eq!(dataset.skipped.other_files, 3);
    assert_eq!(dataset.skipped.unlabelled_photos, 1);
    assert_eq!(dataset.skipped.empty_classes, ["none"]);
    let warnings = dataset.warnings().join("\n");
    for said in ["3 files", "1 photos", "`none`"] {
        assert!(warnings.contains(said), "{warnings}");
    }
}

#[test]
fn a_set_for_validation_takes_the_labels_of_training() {
    let root = folder(&["c/1.jpg", "a/1.jpg"]);
    let known = strings(&["a", "b", "c"]);
    let dataset = Dataset::open(root.path(), None, LabelSpace::Known(&known)).unwrap();
    assert_eq!(dataset.labels, known);
    assert_eq!(label_indices(&dataset), [0, 2]);
}

#[test]
fn a_label_unknown_in_training_is_named_with_its_place() {
    let known = strings(&["a", "b"]);
    let root = folder(&["a/1.jpg", "zebra/1.jpg"]);
    let error = Dataset::open(root.path(), None, LabelSpace::Known(&known)).unwrap_err().to_string();
    for said in ["zebra`", "`a`, `b`", &root.path().join("zebra").display().to_string()] {
        assert!(error.contains(said), "{error}");
    }
    let root = with_list(&["1.jpg"], "file,label\n1.jpg,a\n1.jpg,zebra\n");
    let path = root.path().join("list.csv");
    let error = Dataset::open(&path, None, LabelSpace::Known(&known)).unwrap_err().to_string();
    assert!(error.contains("list.csv, row 3"), "{error}");
}

#[test]
fn a_set_of_other_classes_than_the_known_ones_is_told_from_a_slip_in_one_label() {
    let known = strings(&["a", "b"]);
    let root = folder(&["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]);
    let error = Dataset::open(root.path(), None, LabelSpace::Known(&known)).unwrap_err();
    assert!(matches!(error, DatasetError::NoKnownLabel { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("(`cat`, `dog`)") && error.contains("(`a`, `b`)"), "{error}");
}

#[test]
fn a_path_that_the_system_refuses_is_not_called_missing() {
    let root = folder(&["a/1.jpg"]);
    let too_long = root.path().join("x".repeat(5000));
    let error = Dataset::open(&too_long, None, FOUND).unwrap_err();
    assert!(matches!(error, DatasetError::Unreadable { .. }), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_without_permission_is_named_with_the_reason() {
    use std::os::unix::fs::PermissionsExt;
    let root = folder(&["a/1.jpg", "b/1.jpg"]);
    let closed = root.path().join("b");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
    // For root there are no closed folders.
    if std::fs::read_dir(&closed).is_err() {
        let error = Dataset::open(root.path(), None, FOUND).unwrap_err().to_string();
        assert!(error.contains(&closed.display().to_string()) && error.contains("denied"), "{error}");
    }
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn folders_that_cannot_be_used_say_why() {
    let open = |root: &TempDir| Dataset::open(root.path(), None, FOUND).unwrap_err();
    let error = open(&folder(&["1.jpg", "2.jpg", "x.txt"]));
    assert!(matches!(error, DatasetError::NoPhotos { photo: 2, other: 1, .. }), "{error}");
    assert!(error.to_string().contains("DIR/<label>/photo.jpg") && error.to_string().contains("png"));
    assert!(matches!(open(&folder(&[])), DatasetError::NoPhotos { photo: 0, other: 0, .. }));
    let error = open(&folder(&["only/1.jpg", "only/2.jpg"]));
    assert!(matches!(&error, DatasetError::OneClass { label, .. } if label == "only"), "{error}");
    assert!(error.to_string().contains("add photos of another label"), "{error}");
    let error = open(&folder(&["test/a/1.jpg", "train/a/1.jpg", "val/b/2.jpg"])).to_string();
    assert!(error.contains("test, train, val") && error.ends_with("/train"), "{error}");
    let root = folder(&["a/1.jpg", "b/1.jpg"]);
    let error = Dataset::open(root.path(), Some(root.path()), FOUND).unwrap_err();
    assert!(matches!(error, DatasetError::ImageRootOfFolder(_)), "{error}");
    let nowhere = Dataset::open(Path::new("no/such/folder"), None, FOUND).unwrap_err();
    assert!(matches!(nowhere, DatasetError::NotFound(_)));
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_one_that_leads_back_is_named() {
    let root = folder(&["a/1.jpg", "b/1.jpg"]);
    let elsewhere = folder(&["x/1.jpg"]);
    std::os::unix::fs::symlink(elsewhere.path(), root.path().join("linked")).unwrap();
    let dataset = Dataset::open(root.path(), None, FOUND).unwrap();
    assert_eq!(names(&dataset), ["a/1.jpg", "b/1.jpg", "linked/x/1.jpg"]);
    std::os::unix::fs::symlink(root.path(), root.path().join("a/loop")).unwrap();
    let error = Dataset::open(root.path(), None, FOUND).unwrap_err().to_string();
    assert!(error.contains("loop"), "{error}");
}

#[test]
fn a_list_keeps_its_rows_and_its_own_text() {
    let root = with_list(
        &["p/2.jpg", "p/10.jpg", "no_extension"],
        "\u{feff}id, label ,file\n1, dog,p/10.jpg\n2,cat,./p/2.jpg\n3,dog,no_extension\n",
    );
    let dataset = open_list(&root).unwrap();
    assert_eq!(dataset.labels, ["cat", "dog"]);
    assert_eq!(names(&dataset), ["p/10.jpg", "./p/2.jpg", "no_extension"]);
    assert_eq!(label_indices(&dataset), [1, 0, 1]);
}

#[test]
fn a_byte_order_mark_does_not_hide_the_first_column() {
    let root = with_list(&["1.jpg", "2.jpg"], "\u{feff}file,label\r\n1.jpg,a\r\n2.jpg,b\r\n");
    assert_eq!(open_list(&root).unwrap().labels, ["a", "b"]);
}

#[test]
fn the_files_of_a_list_are_looked_for_below_the_image_root() {
    let photos = folder(&["x/1.jpg", "x/2.jpg"]);
    let root = with_list(&[], "file,label\nx/1.jpg,a\nx/2.jpg,b\n");
    let path = root.path().join("list.csv");
    let dataset = Dataset::open(&path, Some(photos.path()), FOUND).unwrap();
    assert_eq!(dataset.samples[1].path, photos.path().join("x/2.jpg"));
    let error = Dataset::open(&path, Some(&photos.path().join("absent")), FOUND).unwrap_err();
    assert!(matches!(error, DatasetError::ImageRoot(_)));
}

#[test]
fn lists_that_cannot_be_used_say_why() {
    let error_of = |list: &str| open_list(&with_list(&["1.jpg"], list)).unwrap_err().to_string();
    let cases = [
        ("path,label\n1.jpg,a\n", "no column `file`; the columns found are `path`, `label`"),
        ("file;label\n1.jpg;a\n", "no column `file`; the columns found are `file;label`"),
        ("", "the file is empty"),
        ("file,label\n", "no rows"),
        ("file,label\n1.jpg,a\n2.jpg,b\n", "row 3: the file"),
        ("file,label\r\n1.jpg,a\r\n2.jpg,b\r\n", "row 3: the file"),
        ("file,label\n1.jpg,\n", "row 2: the column `label` is empty"),
        ("file,label\n,a\n", "row 2: the column `file` is empty"),
        ("file,label\n1.jpg,a\n1.jpg\n", "line: 3"),
        ("file,label\n1.jpg,a\n1.jpg,a\n", "`a` is the only class"),
    ];
    for (list, said) in cases {
        let error = error_of(list);
        assert!(error.contains(said), "{list:?}: {error}");
    }
    let root = folder(&["list.txt"]);
    let error = Dataset::open(&root.path().join("list.txt"), None, FOUND).unwrap_err();
    assert!(matches!(error, DatasetError::NotAList(_)));
}

#[test]
fn a_subset_keeps_labels_and_order_given() {
    let root = folder(&["a/1.jpg", "a/2.jpg", "b/1.jpg"]);
    let dataset = Dataset::open(root.path(), None, FOUND).unwrap();
    let subset = dataset.subset(&[2, 0]);
    assert_eq!(names(&subset), ["b/1.jpg", "a/1.jpg"]);
    assert_eq!(subset.labels, dataset.labels);
}
