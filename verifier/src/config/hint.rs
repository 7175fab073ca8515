//! Unknown keys, with the nearest known name.

use super::Problem;

/// A problem for each key of `table` that is not in `known`.
pub fn unknown_keys(table: &toml::Table, known: &[&str]) -> Vec<Problem> {
    let unknown = table.keys().filter(|key| !known.contains(&key.as_str()));
    unknown.map(|key| Problem::new(key, format!("unknown key `{key}`{}", hint(key, known)))).collect()
}

fn hint(key: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|name| (distance(key, name), name)).min();
    match nearest {
        // A name that shares less than half its letters is no help.
        Some((steps, name)) if steps <= key.len().max(name.len()) / 2 => format!(", did you mean `{name}`?"),
        _ => format!(", known are {}", known.join(", ")),
    }
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, steps) in [
            ("", "", 0),
            ("", "abc", 3),
            ("listen", "lisen", 1),
            ("mode", "node", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), steps, "{a} {b}");
            assert_eq!(distance(b, a), steps, "{b} {a}");
        }
    }

    #[test]
    fn unknown_key_is_named_with_the_nearest_known_one() {
        let table: toml::Table = "lisen = 1\nmode = 2\nzzzzzzzz = 3".parse().unwrap();
        let problems = unknown_keys(&table, &["listen", "mode"]);
        let texts: Vec<_> = problems.iter().map(|p| p.text.as_str()).collect();
        assert_eq!(
            texts,
            ["unknown key `lisen`, did you mean `listen`?", "unknown key `zzzzzzzz`, known are listen, mode"]
        );
    }
}
