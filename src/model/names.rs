//! The two namings of modules: transformers v4's, which checkpoints have, and v5's, which running models have since 5.9.

/// v4 ending of a module → v5's.
const NAMES: [(&str, &str); 7] = [
    ("attention.attention.relative_position_bias", "relative_position_bias"),
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
];

/// The v5 name of a module with a v4 name: `beit.encoder.layer.0.attention.attention.query` → `beit.layers.0.attention.q_proj`.
pub fn v5_name(v4: &str) -> String {
    let name = v4.replace("encoder.layer.", "layers.");
    match NAMES.iter().find(|(ending, _)| name.ends_with(&format!(".{ending}"))) {
        Some((ending, new)) => format!("{}{new}", &name[..name.len() - ending.len()]),
        None => name,
    }
}

/// Whether PEFT's `target` means the module with this v4 name: its last names, in either naming.
pub fn matches_target(module: &str, target: &str) -> bool {
    means(module, target) || means(&v5_name(module), target)
}

/// PEFT's rule: the whole name, or its end from a dot on.
fn means(module: &str, target: &str) -> bool {
    module == target || module.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
}

/// A target and what it is called in the other naming: `query` → `query`, `q_proj`. A name that means several modules of a
/// block (`dense`) has several others.
pub(super) fn names_in_both(target: &str) -> Vec<String> {
    let other = |name: &str| {
        // As short as the target was, where the short name means no other module (`dense` means three).
        let short = name.rsplit('.').next().unwrap_or(name);
        let meant = NAMES.iter().filter(|(v4, v5)| means(v4, short) || means(v5, short)).count();
        if target.contains('.') || meant > 1 { name.to_owned() } else { short.to_owned() }
    };
    let others = NAMES.iter().filter_map(|(v4, v5)| match (means(v4, target), means(v5, target)) {
        (true, false) => Some(other(v5)),
        (false, true) => Some(other(v4)),
        _ => None,
    });
    std::iter::once(target.to_owned()).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_written_in_both_namings() {
        assert_eq!(names_in_both("query"), ["query", "q_proj"]);
        assert_eq!(names_in_both("v_proj"), ["v_proj", "value"]);
        assert_eq!(names_in_both("attention.output.dense"), ["attention.output.dense", "attention.o_proj"]);
        assert_eq!(names_in_both("fc1"), ["fc1", "intermediate.dense"]);
        assert_eq!(names_in_both("nothing"), ["nothing"]);
    }

    #[test]
    fn a_target_means_the_same_modules_in_both_namings() {
        let module = "beit.encoder.layer.3.attention.attention.query";
        for target in names_in_both("query").iter().chain(&names_in_both("attention.q_proj")) {
            assert!(matches_target(module, target), "{target}");
        }
        assert!(!matches_target("beit.encoder.layer.3.attention.attention.key", "query"));
        assert!(!matches_target("beit.encoder.layer.3.intermediate.dense", "fc2"));
    }
}
