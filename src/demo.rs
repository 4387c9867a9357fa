//! The demo model, compiled into the program: what is meant where no model is named.
//!
//! The same files as `models/demo`. They belong to the program alone; the library carries no model.

use featherlight::model::{ModelError, ModelFiles, ModelFolder};
use std::path::PathBuf;

const DEMO: ModelFiles = ModelFiles {
    name: "demo",
    config: include_bytes!("../models/demo/config.json"),
    processor: include_bytes!("../models/demo/preprocessor_config.json"),
    weights: include_bytes!("../models/demo/model.safetensors"),
};

/// The model at `path`, or the demo.
///
/// # Errors
/// If there is a path and no model at it.
pub fn open(path: Option<&PathBuf>) -> Result<ModelFolder, ModelError> {
    path.map_or_else(|| ModelFolder::from_files(DEMO), |path| ModelFolder::open(path))
}
