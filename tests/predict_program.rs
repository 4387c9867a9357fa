//! `featherlight predict` as a person runs it: real photos, real files, a real service.

#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]

mod program;

use std::path::{Path, PathBuf};

use featherlight::image::DecodeLimits;
use featherlight::model::{LoadedModel, ModelFolder, Photo};
use featherlight::ops::device::Placement;
use program::{Said, Served, data, featherlight, run};
use tempfile::TempDir;

fn digit(path: &str) -> PathBuf {
    data("data/sign-digits/test").join(path)
}

/// A folder of photos whose natural order is not the alphabet's, with one that is cut short and files that are none.
fn photos() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = |from: &str, to: &str| {
        let to = folder.path().join(to);
        std::fs::create_dir_all(to.parent().expect("a parent")).expect("a folder");
        std::fs::copy(digit(from), to).expect("copied");
    };
    for (from, to) in [
        ("0/IMG_4109.jpg", "photo10.jpg"),
        ("1/IMG_4204.jpg", "photo2.jpg"),
        ("2/IMG_4330.jpg", "photo1.JPG"),
        ("3/IMG_4226.jpg", "day 2/b.jpg"),
        ("4/IMG_4163.jpg", "day 10/a.jpeg"),
    ] {
        copy(from, to);
    }
    let whole = std::fs::read(digit("5/IMG_4176.jpg")).expect("a photo");
    std::fs::write(folder.path().join("photo3.jpg"), &whole[..whole.len() / 2]).expect("written");
    std::fs::write(folder.path().join("notes.txt"), "no photo").expect("written");
    std::fs::write(folder.path().join(".hidden.jpg"), &whole).expect("written");
    folder
}

const ORDER: [&str; 6] =
    ["day 2/b.jpg", "day 10/a.jpeg", "photo1.JPG", "photo2.jpg", "photo3.jpg", "photo10.jpg"];

/// Runs `predict` on `input` and reads the CSV; `more` says what classifies.
fn predict(input: &Path, more: &[&str]) -> (Said, Vec<Vec<String>>) {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("rows.csv");
    let mut command = featherlight(&["predict", "--input"]);
    let said = run(command.arg(input).arg("--output").arg(&output).args(more));
    let rows = csv::ReaderBuilder::new().has_headers(false).from_path(&output).map(|reader| {
        let row = |row: Result<csv::StringRecord, csv::Error>| {
            row.expect("a row").iter().map(str::to_owned).collect()
        };
        reader.into_records().map(row).collect()
    });
    (said, rows.unwrap_or_default())
}

fn model() -> String {
    data("goldens/beit-tiny").to_string_lossy().into_owned()
}

fn column(rows: &[Vec<String>], index: usize) -> Vec<&str> {
    rows.iter().skip(1).map(|row| row[index].as_str()).collect()
}

/// The same rows, up to what the size of a batch does to the last digits.
fn assert_same(left: &[Vec<String>], right: &[Vec<String>]) {
    assert_eq!(left.len(), right.len());
    for (left, right) in left.iter().zip(right) {
        let same =
            left.iter().zip(right).all(|(left, right)| match (left.parse::<f64>(), right.parse::<f64>()) {
                (Ok(left), Ok(right)) => (left - right).abs() < 1e-5,
                _ => left == right,
            });
        assert!(same && left.len() == right.len(), "{left:?}\n{right:?}");
    }
}

#[test]
fn a_folder_gives_the_same_rows_in_its_natural_order_with_a_model_and_with_a_service() {
    let photos = photos();
    let (said, local) = predict(photos.path(), &["--model", &model(), "--top-k", "3", "--batch-size", "2"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(local[0].join(","), "file,label_1,score_1,label_2,score_2,label_3,score_3,error");
    assert_eq!(column(&local, 0), ORDER);
    // The photo that is cut short has its row, and harms no other.
    assert!(local[5][1..7].iter().all(String::is_empty), "{:?}", local[5]);
    assert!(local[5][7].contains("JPEG picture cannot be decoded"), "{:?}", local[5]);
    assert!(local.iter().skip(1).filter(|row| row[0] != "photo3.jpg").all(|row| row[7].is_empty()));
    let summary = "photos: 6; could not be read: 1; other files skipped: 2";
    assert!(said.err.contains(summary), "{}", said.err);
    assert_eq!(said.err.lines().count(), 1, "no bar where nobody looks: {}", said.err);

    let served = Served::start(&data("goldens/beit-tiny"), &[]);
    let more = ["--server", &served.url(), "--top-k", "3", "--concurrency", "4"];
    let (said, remote) = predict(photos.path(), &more);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains(summary), "{}", said.err);
    assert_same(&local, &remote);
}

#[test]
fn scores_are_the_softmax_of_the_model_s_own_logits() {
    let photo = digit("7/IMG_4355.jpg");
    let (_, rows) = predict(&photo, &["--model", &model()]);
    assert_eq!(rows[0].join(","), "file,label,score,error");

    let folder = ModelFolder::open(&data("goldens/beit-tiny")).expect("a model");
    let bytes = std::fs::read(&photo).expect("the photo");
    let pixels =
        folder.processor().expect("a processor").prepare(&bytes, &DecodeLimits::default()).expect("pixels");
    let loaded = LoadedModel::load(&folder, &Placement::CPU).expect("weights");
    let logits = loaded.logits(&[Photo::Pixels(&pixels)]).expect("logits").remove(0);
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let (best, logit) =
        logits.iter().enumerate().max_by(|left, right| left.1.total_cmp(right.1)).expect("a label");
    assert_eq!(rows[1][..2], ["IMG_4355.jpg".to_owned(), folder.config().labels[best].clone()]);
    let score: f64 = rows[1][2].parse().expect("a score");
    assert!((score - f64::from(*logit).exp() / sum).abs() < 1e-5, "{score}");
}

#[test]
fn an_adapter_changes_the_scores() {
    let photo = digit("7/IMG_4355.jpg");
    let adapter = data("goldens/beit-tiny-lora").to_string_lossy().into_owned();
    let (_, plain) = predict(&photo, &["--model", &model()]);
    let (said, adapted) = predict(&photo, &["--model", &model(), "--adapter", &adapter]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_ne!(plain[1][2], adapted[1][2]);
}

#[test]
fn a_list_keeps_its_text_and_order_and_a_missing_photo_has_its_row() {
    let lists = tempfile::tempdir().expect("a folder");
    let list = lists.path().join("list.csv");
    let text = "label,file\n7,7/IMG_4355.jpg\n?,./none.jpg\n0,0/../0/IMG_4109.jpg\n7,7/IMG_4355.jpg\n";
    std::fs::write(&list, text).expect("written");
    let images = digit("").to_string_lossy().into_owned();
    let (said, rows) = predict(&list, &["--model", &model(), "--image-root", &images]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let files = ["7/IMG_4355.jpg", "./none.jpg", "0/../0/IMG_4109.jpg", "7/IMG_4355.jpg"];
    assert_eq!(column(&rows, 0), files);
    assert!(rows[2][3].contains("No such file"), "{:?}", rows[2]);
    assert_same(&rows[1..2], &rows[4..5]);

    // Without the root the list's own folder counts, where none of them are.
    let (said, rows) = predict(&list, &["--model", &model()]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(column(&rows, 3).iter().all(|error| error.contains("No such file")), "{rows:?}");
}

#[test]
fn an_empty_folder_gives_a_header_and_standard_output_nothing_but_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = run(featherlight(&["predict", "--output", "-", "--input"]).arg(folder.path()));
    assert_eq!((said.code, said.out.as_str()), (Some(0), "file,label,score,error\n"));
}

#[test]
fn the_demo_classifies_where_no_model_is_named() {
    let (said, rows) = predict(&digit("7"), &[]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(column(&rows, 0), ["IMG_4355.jpg", "IMG_5190.jpg", "IMG_5723.jpg"]);
    assert!(column(&rows, 3).iter().all(|error| error.is_empty()), "{rows:?}");
}

#[test]
fn a_run_that_fails_exits_1_says_why_and_leaves_the_old_csv() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("rows.csv");
    std::fs::write(&output, "old").expect("written");
    let served = Served::spawn(&mut featherlight(&["--port", "0", "--api-key", "right"]));
    let (digits, wrong) = (digit("7"), folder.path().join("none"));
    let address = served.url();
    let address = address.as_str();
    let cases: [(&Path, &[&str], &str); 6] = [
        (&wrong, &[], "none: cannot be read"),
        (&output.with_extension("txt"), &[], "rows.txt"),
        (&digits, &["--model", "none"], "none/config.json"),
        (&digits, &["--server", address], "wants an API key"),
        (&digits, &["--server", address, "--api-key", "wrong"], "does not know this API key"),
        (&digits, &["--server", "localhost:8080"], "http://127.0.0.1:8080"),
    ];
    for (input, more, why) in cases {
        let mut command = featherlight(&["predict", "--input"]);
        let said = run(command.arg(input).arg("--output").arg(&output).args(more));
        assert_eq!(said.code, Some(1), "{more:?}: {}", said.err);
        assert!(said.err.starts_with("error: ") && said.err.contains(why), "{more:?}: {}", said.err);
    }
    assert_eq!(std::fs::read_to_string(&output).expect("text"), "old");
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 1, "nothing is left beside it");
    let (said, _) = predict(&digits, &["--server", address, "--api-key", "right"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
}

#[test]
fn a_wrong_command_line_exits_2_and_names_the_flag() {
    let cases: [(&[&str], &str); 9] = [
        (&["predict", "--input", "x"], "--output"),
        (&["predict", "--input", "x", "--output", "y", "--top-k", "0"], "--top-k"),
        (&["predict", "--input", "x", "--output", "y", "--device", "gpu"], "--device"),
        (&["predict", "--input", "x", "--output", "y", "--dtype", "int8"], "--dtype"),
        (&["predict", "--input", "x", "--output", "y", "--model", "m", "--server", "http://a"], "--server"),
        (&["predict", "--input", "x", "--output", "y", "--image-root", "z"], "--image-root"),
        (&["--device", "cuda:"], "--device"),
        (&["--port", "65536"], "--port"),
        (&["classify"], "classify"),
    ];
    for (words, flag) in cases {
        let said = run(&mut featherlight(words));
        assert_eq!(said.code, Some(2), "{words:?}: {}", said.err);
        assert!(said.err.contains(flag), "{words:?}: {}", said.err);
    }
    let said =
        run(featherlight(&["predict", "--input", "x", "--output", "y"]).env("FEATHERLIGHT_TOP_K", "many"));
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("--top-k"), "{}", said.err);
}

#[test]
fn what_was_typed_wins_over_an_environment_that_speaks_of_something_else() {
    let output = ["predict", "--output", "-", "--input"];
    let said = run(featherlight(&output)
        .arg(digit("7"))
        .args(["--model", &model()])
        .env("FEATHERLIGHT_SERVER", "http://127.0.0.1:1")
        .env("FEATHERLIGHT_API_KEY", "key"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let served = Served::spawn(&mut featherlight(&["--port", "0"]));
    let said = run(featherlight(&output)
        .arg(digit("7"))
        .args(["--server", &served.url()])
        .env("FEATHERLIGHT_MODEL", "/none")
        .env("FEATHERLIGHT_BATCH_SIZE", "4"));
    assert_eq!(said.code, Some(0), "{}", said.err);
}
