//! Which tensors a run trains: those whose names match a pattern of `train.only`.

use crate::error::{Error, Result};
use hecate_model::ParamLayout;

/// Whether the tensor called `name` is trained; all are where there is no pattern.
pub(super) fn picks(only: &[String], name: &str) -> bool {
    only.is_empty() || only.iter().any(|pattern| matches(pattern, name))
}

/// Refuses patterns that match nothing.
pub(super) fn check(layout: &ParamLayout, only: &[String]) -> Result<()> {
    for pattern in only {
        if !layout.specs.iter().any(|spec| matches(pattern, &spec.name)) {
            let names: Vec<&str> = layout.specs.iter().map(|spec| spec.name.as_str()).collect();
            let reason = format!("`train.only`: `{pattern}` matches no tensor; there are {}", names.join(", "));
            return Err(Error::Config { origin: "the run's config".into(), reason });
        }
    }
    Ok(())
}

/// Whether `name` is `pattern` with some text for each `*`.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(first) else { return false };
    (0..=name.len()).any(|at| name.is_char_boundary(at) && matches(rest, &name[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, is) in [
            ("*.memory.*", "blocks.0.mixer.memory.k.weight", true),
            ("*.memory.*", "blocks.0.mixer.k.weight", false),
            ("blocks.*.mixer.*", "blocks.1.mixer.start.W1", true),
            ("norm.scale", "norm.scale", true),
            ("norm.scale", "norm.scales", false),
            ("*", "", true),
            ("*scale", "norm.scale", true),
            ("a*b*c", "abbc", true),
            ("a*b*c", "acb", false),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }
}
