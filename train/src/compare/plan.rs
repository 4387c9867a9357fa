//! From the TOML of a comparison to its variants and its tables.
//!
//! Nothing on the disk is looked at but the file itself: whether models and photos are there is found out by `jobs`.

use super::file::{PlanError, Problem, Section, check_name};
use super::flags::{FitCommand, text};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use toml::{Table as Settings, Value};

const TOP: [&str; 11] = [
    "title",
    "data",
    "image_root",
    "val",
    "val_split",
    "test",
    "evaluate_batch_size",
    "defaults",
    "variant",
    "grid",
    "table",
];

/// The keys of a variant or a grid that are no setting of `fit`.
const OWN: [&str; 2] = ["name", "seeds"];

/// A whole comparison, as its file says it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The folder that paths are relative to: the file's.
    pub root: PathBuf,
    /// What the pages are headed with.
    pub title: String,
    /// `data`, and `image_root`, `val` and `val_split` where they are given: as `fit` takes them, paths relative to `root`.
    pub photos: Vec<(&'static str, String)>,
    /// Photos that no training sees, relative to `root`.
    pub test: Option<String>,
    /// Photos in a forward pass of the evaluation.
    pub evaluate_batch_size: NonZeroUsize,
    /// What is trained, each under a name of its own.
    pub variants: Vec<Variant>,
    /// What is shown: at least one, every variant in at least one.
    pub tables: Vec<TablePlan>,
}

/// Something to train.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// Its name, and its folder's.
    pub name: String,
    /// Settings of `fit`, the defaults of the file among them.
    pub settings: Settings,
    /// A run for each of these seeds; empty for a single run.
    pub seeds: Vec<u64>,
}

/// A table of the comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePlan {
    /// Its heading.
    pub title: String,
    /// Its rows: indices into [`Plan::variants`].
    pub variants: Vec<usize>,
}

impl Plan {
    /// Reads `file`.
    ///
    /// # Errors
    /// If it cannot be read or describes no comparison; names the place, the key and what is allowed there.
    pub fn read(file: &Path, fit: &FitCommand) -> Result<Self, PlanError> {
        let failed = |problem| PlanError { file: file.to_owned(), problem };
        let text = std::fs::read_to_string(file).map_err(|error| failed(error.into()))?;
        let absolute = std::path::absolute(file).map_err(|error| failed(error.into()))?;
        let root = absolute.parent().map_or_else(PathBuf::new, Path::to_owned);
        Self::parse(&text, root, fit).map_err(failed)
    }

    /// The same for a text whose paths are relative to `root`.
    ///
    /// # Errors
    /// See [`Problem`].
    pub fn parse(text: &str, root: PathBuf, fit: &FitCommand) -> Result<Self, Problem> {
        let top = Section::new("at the top".to_owned(), text.parse::<Settings>()?)?;
        top.only(&TOP)?;
        let defaults = match top.table.get("defaults") {
            None => Settings::new(),
            Some(Value::Table(table)) => table.clone(),
            Some(other) => return Err(top.mistyped("defaults", "a table, [defaults]", other)),
        };
        let defaults = Section::new("[defaults]".to_owned(), defaults)?;
        defaults.check_settings(fit, &["seeds"], false)?;
        defaults.seeds()?;
        let mut collected =
            Collected { fit, defaults: &defaults, variants: Vec::new(), groups: HashMap::new() };
        for section in sections(&top, "variant")? {
            collected.variant(&section)?;
        }
        for section in sections(&top, "grid")? {
            collected.grid(&section)?;
        }
        let Collected { variants, groups, .. } = collected;
        if variants.is_empty() {
            return Err(Problem::wrong(
                &top.place,
                "there is nothing to compare: a [[variant]] or a [[grid]] is wanted",
            ));
        }
        let title = top.text("title")?.unwrap_or_else(|| "Comparison".to_owned());
        let tables = tables(&top, &variants, &groups)?;
        Ok(Self {
            root,
            title,
            photos: photos(&top)?,
            test: top.text("test")?,
            evaluate_batch_size: match top.table.get("evaluate_batch_size") {
                None => NonZeroUsize::MIN.saturating_add(7),
                Some(value) => value
                    .as_integer()
                    .and_then(|number| usize::try_from(number).ok())
                    .and_then(NonZeroUsize::new)
                    .ok_or_else(|| top.mistyped("evaluate_batch_size", "a whole number from 1 up", value))?,
            },
            variants,
            tables,
        })
    }
}

/// The photos that the trainings see.
fn photos(top: &Section) -> Result<Vec<(&'static str, String)>, Problem> {
    const WANTED: &str = "the photos to train on, one folder a class or a CSV with the columns file,label";
    let missing = || Problem::Missing { place: top.place.clone(), key: "data", wanted: WANTED };
    let mut photos = vec![("data", top.text("data")?.ok_or_else(missing)?)];
    for key in ["image_root", "val"] {
        photos.extend(top.text(key)?.map(|path| (key, path)));
    }
    if let Some(value) = top.table.get("val_split") {
        let share = value.as_float().or_else(|| value.as_integer().map(|number| number as f64));
        let share = share.filter(|share| (0.0..1.0).contains(share));
        if share.is_none() {
            return Err(top.mistyped("val_split", "a number from 0 up to, but not, 1", value));
        }
        if top.table.contains_key("val") {
            return Err(Problem::wrong(
                &top.place,
                "`val` and `val_split` are both there; one of them says it all",
            ));
        }
        if share == Some(0.0) && !top.table.contains_key("test") {
            return Err(Problem::wrong(
                &top.place,
                "no photos to measure on: give `test`, `val` or a `val_split` above 0",
            ));
        }
        photos.push(("val_split", text(value)));
    }
    Ok(photos)
}

/// The tables of the array `key`, each with its place in words.
fn sections(top: &Section, key: &str) -> Result<Vec<Section>, Problem> {
    const WANTED: &str = "tables, each under a heading in double brackets";
    let Some(tables) = top.list(key, WANTED, |value| value.as_table().cloned())? else {
        return Ok(Vec::new());
    };
    let name_of = |table: &Settings| {
        let name = table.get("name").or_else(|| table.get("title"))?;
        Some(format!("{key} `{}`", name.as_str()?))
    };
    tables
        .into_iter()
        .enumerate()
        .map(|(at, table)| {
            Section::new(name_of(&table).unwrap_or_else(|| format!("[[{key}]] number {}", at + 1)), table)
        })
        .collect()
}

/// The variants so far, and the names that tables know them by.
struct Collected<'a> {
    fit: &'a FitCommand,
    defaults: &'a Section,
    variants: Vec<Variant>,
    groups: HashMap<String, Vec<usize>>,
}

impl Collected<'_> {
    fn variant(&mut self, section: &Section) -> Result<(), Problem> {
        section.check_settings(self.fit, &OWN, false)?;
        const WANTED: &str = "a variant's name is its row's and its folder's";
        let missing = || Problem::Missing { place: section.place.clone(), key: "name", wanted: WANTED };
        let name = section.text("name")?.ok_or_else(missing)?;
        let settings = self.fit.overlay(&self.defaults.settings(&OWN), &section.settings(&OWN));
        self.add(section, name, settings)?;
        Ok(())
    }

    fn grid(&mut self, section: &Section) -> Result<(), Problem> {
        section.check_settings(self.fit, &OWN, true)?;
        let name = section.text("name")?;
        let (lists, fixed): (Vec<_>, Vec<_>) =
            section.settings(&OWN).into_iter().partition(|(_, value)| value.is_array());
        if lists.is_empty() {
            let problem = "no setting has a list of values; a single combination is a [[variant]]";
            return Err(Problem::wrong(&section.place, problem));
        }
        let base = self.fit.overlay(&self.defaults.settings(&OWN), &fixed.into_iter().collect());
        let mut combinations = vec![Settings::new()];
        for (key, values) in &lists {
            let values = values.as_array().map_or(&[][..], Vec::as_slice);
            if let Some(at) = (1..values.len()).find(|at| values[..*at].contains(&values[*at])) {
                let problem = format!("`{key}` holds {} twice", text(&values[at]));
                return Err(Problem::wrong(&section.place, problem));
            }
            let with = |combination: &Settings, value: &Value| {
                let mut longer = combination.clone();
                longer.insert(key.clone(), value.clone());
                longer
            };
            combinations = combinations
                .iter()
                .flat_map(|combination| values.iter().map(move |value| with(combination, value)))
                .collect();
            // A slip of the pen should not plan years.
            if combinations.len() > 1000 {
                return Err(Problem::wrong(&section.place, "more than 1000 combinations"));
            }
        }
        // A rank beside `method = "full"` is no other run: such combinations fall together.
        let mut distinct: Vec<Settings> = Vec::new();
        for combination in combinations {
            let combination = self.fit.applicable(&base, combination);
            if !distinct.contains(&combination) {
                distinct.push(combination);
            }
        }
        let idle = |key: &&String| !distinct.iter().any(|combination| combination.contains_key(*key));
        if let Some(key) = lists.iter().map(|(key, _)| key).find(idle) {
            let problem = format!("`{key}` is a list, and applies in no combination with the other settings");
            return Err(Problem::wrong(&section.place, problem));
        }
        let models = lists.iter().find(|(key, _)| key == "model").and_then(|(_, models)| models.as_array());
        let folders = models.map_or(1, |models| telling_folders(models));
        let mut members = Vec::new();
        for combination in distinct {
            let part = |(key, value): (&String, &Value)| part(key, value, folders);
            let parts = name.iter().cloned().chain(combination.iter().map(part));
            let variant = parts.collect::<Vec<_>>().join("-");
            members.push(self.add(section, variant, self.fit.overlay(&base, &combination))?);
        }
        match name {
            Some(name) if self.groups.contains_key(&name) => {
                Err(Problem::wrong(&section.place, format!("the name `{name}` is there already")))
            }
            Some(name) => {
                self.groups.insert(name, members);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn add(&mut self, section: &Section, name: String, mut settings: Settings) -> Result<usize, Problem> {
        check_name(&section.place, &name)?;
        // Without regard to case: some file systems have none.
        if let Some(other) = self.groups.keys().find(|other| other.to_lowercase() == name.to_lowercase()) {
            return Err(Problem::wrong(&section.place, format!("the name `{other}` is there already")));
        }
        if !settings.contains_key("model") {
            const WANTED: &str = "the model folder to start from, here or in [defaults]";
            return Err(Problem::Missing { place: section.place.clone(), key: "model", wanted: WANTED });
        }
        // A seed or seeds of its own stand in the place of those of the defaults.
        let own_seed = section.table.contains_key("seed");
        let seeds = match section.seeds()? {
            Some(seeds) => seeds,
            None if own_seed => Vec::new(),
            None => self.defaults.seeds()?.unwrap_or_default(),
        };
        if !seeds.is_empty() {
            settings.remove("seed");
        }
        let at = self.variants.len();
        self.groups.insert(name.clone(), vec![at]);
        self.variants.push(Variant { name, settings, seeds });
        Ok(at)
    }
}

/// The last `count` names of a path.
fn last_folders(path: &str, count: usize) -> Vec<&str> {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    names[names.len().saturating_sub(count)..].to_vec()
}

/// How many last names of their paths tell `models` apart: `run1/merged` and `run2/merged` need two.
fn telling_folders(models: &[Value]) -> usize {
    let paths: Vec<String> = models.iter().map(text).collect();
    let longest = paths.iter().map(|path| path.split('/').count()).max().unwrap_or(1);
    let apart = |count: &usize| {
        let mut seen: Vec<_> = paths.iter().map(|path| last_folders(path, *count)).collect();
        seen.sort();
        seen.windows(2).all(|pair| pair[0] != pair[1])
    };
    (1..=longest).find(apart).unwrap_or(1)
}

/// What a value of a grid adds to the name of its variants; of a model the last `folders` names of its path.
fn part(key: &str, value: &Value, folders: usize) -> String {
    let allowed =
        |letter: char| if letter.is_alphanumeric() || "-_.+,".contains(letter) { letter } else { '_' };
    if key == "model" {
        let text = text(value);
        return last_folders(&text, folders).join("-").chars().map(allowed).collect();
    }
    format!("{key}={}", text(value).chars().map(allowed).collect::<String>())
}

/// The tables that are asked for; one of everything where none is, and one of what stands in no other.
fn tables(
    top: &Section,
    variants: &[Variant],
    groups: &HashMap<String, Vec<usize>>,
) -> Result<Vec<TablePlan>, Problem> {
    let mut tables: Vec<TablePlan> = Vec::new();
    for section in sections(top, "table")? {
        section.only(&["title", "variants"])?;
        let missing = |key, wanted| Problem::Missing { place: section.place.clone(), key, wanted };
        let title = section.text("title")?.ok_or_else(|| missing("title", "the table's heading"))?;
        if tables.iter().any(|table| table.title == title) {
            return Err(Problem::wrong(&section.place, "another table has this title"));
        }
        const WANTED: &str = "a list of names of variants and grids";
        let names = section.list("variants", WANTED, |value| value.as_str().map(str::to_owned))?;
        let mut rows = Vec::new();
        for name in names.ok_or_else(|| missing("variants", WANTED))? {
            let Some(members) = groups.get(&name) else {
                let mut known: Vec<&str> = groups.keys().map(String::as_str).collect();
                known.sort_unstable();
                let problem =
                    format!("no variant or grid is called `{name}`; there are {}", known.join(", "));
                return Err(Problem::wrong(&section.place, problem));
            };
            rows.extend(members.iter().filter(|member| !rows.contains(*member)).copied().collect::<Vec<_>>());
        }
        tables.push(TablePlan { title, variants: rows });
    }
    let shown = |at: &usize| tables.iter().any(|table| table.variants.contains(at));
    let rest: Vec<usize> = (0..variants.len()).filter(|at| !shown(at)).collect();
    if !rest.is_empty() {
        let title = if tables.is_empty() { "All variants" } else { "Other variants" };
        tables.push(TablePlan { title: title.to_owned(), variants: rest });
    }
    Ok(tables)
}
