//! Reading a TOML file of settings, and saying what is wrong in it: where, which key, and what was perhaps meant, but no password.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Context, Error, Kind, OrError, Result};

/// Reads a TOML file into a settings struct.
///
/// # Errors
/// `Config`, naming the file, the line and the unknown key or wrong value.
pub fn read_file<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .or_error(Kind::Config, format!("configuration file {name}"))?;
    parse(&text).with_context(|| format!("configuration file {name}"))
}

/// Reads TOML text into a settings struct.
///
/// # Errors
/// `Config`, with the line, the key, what is wrong, and the known key that is nearest to an unknown one.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let message = redacted(error.message());
        let hint = nearest(&message)
            .map(|key| format!("; did you mean {key}?"))
            .unwrap_or_default();
        Error::config(format!(
            "{}{message}{hint}",
            error
                .span()
                .map(|span| place(text, span.start))
                .unwrap_or_default()
        ))
    })
}

/// `line 3: stores.live.url: `, as far as the text tells.
fn place(text: &str, at: usize) -> String {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count();
    let mut place = format!("line {}: ", line + 1);
    let table = text
        .lines()
        .take(line + 1)
        .filter_map(|line| line.trim().strip_prefix('[')?.split(']').next())
        .last();
    let key = text
        .lines()
        .nth(line)
        .and_then(|line| line.split_once('='))
        .map(|(key, _)| key.trim());
    let path: Vec<&str> = table.into_iter().chain(key).collect();
    if !path.is_empty() {
        place.push_str(&format!("{}: ", path.join(".")));
    }
    place
}

/// The known key that an unknown one was perhaps meant to be, from serde's message, which quotes the unknown one first.
fn nearest(message: &str) -> Option<&str> {
    let mut quoted = message
        .strip_prefix("unknown field")?
        .split('`')
        .skip(1)
        .step_by(2);
    let unknown = quoted.next()?;
    let (distance, key) = quoted.map(|key| (distance(unknown, key), key)).min()?;
    (distance <= 1 + unknown.len() / 4).then_some(key)
}

/// How many letters must be put in, left out, replaced or swapped to make one text of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// A message without what stands between `//` and `@`, and after `?`, in the URLs that it quotes.
fn redacted(message: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',');
    message
        .split_inclusive(ends)
        .map(|word| match word.split_once("://") {
            None => word.to_owned(),
            Some((scheme, rest)) => {
                let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
                let end = rest.trim_start_matches(|c| !ends(c));
                let shown = rest.split(['?', '#']).next().unwrap_or_default();
                let shown = shown.trim_end_matches(ends);
                format!("{scheme}://{shown}{end}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::config::{ByteSize, Span};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Settings {
        memory: Option<ByteSize>,
        grace: Option<Span>,
        stores: Option<BTreeMap<String, Store>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Store {
        url: String,
    }

    #[test]
    fn an_error_of_a_file_names_line_and_key_and_what_to_write() {
        let cases = [
            (
                "memory = \"1MiB\"\nmemroy = 2\n",
                "line 2: memroy: unknown field `memroy`, expected one of `memory`, `grace`, `stores`; did you mean memory?",
            ),
            (
                "# sizes\n\nmemory = \"256MB?\"\n",
                "line 3: memory: '256MB?' is not a size; write for example 256MiB",
            ),
            (
                "memory = true",
                "line 1: memory: expected a text such as \"256MiB\" or \"20s\", or a number",
            ),
            ("memory = -1", "line 1: memory: expected a text such as"),
            (
                "grace = 20",
                "line 1: grace: '20' is not a duration; write for example 20s",
            ),
            ("[stores.live]", "line 1: stores.live: missing field `url`"),
            (
                "[stores.live]\nulr = \"lake:///a\"",
                "line 2: stores.live.ulr: unknown field `ulr`, expected `url`; did you mean url?",
            ),
            (
                "memory = \"1MiB\"\nmemory = \"2MiB\"",
                "line 2: memory: duplicate key",
            ),
            ("memory = ", "line 1: memory: "),
            ("[store.live]\nurl = \"lake:///a\"", "did you mean stores?"),
        ];
        for (text, expected) in cases {
            let error = parse::<Settings>(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.to_string().contains(expected), "{text}: {error}");
        }
        let error = parse::<Settings>("colour = 1").unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "nothing is near: {error}");
    }

    #[test]
    fn no_error_of_a_file_shows_a_password() {
        for text in [
            "[stores]\nlive = \"dolphindb://user:hunter2@host:8848/?token=hunter2\"",
            "stores = \"dolphindb://user:hunter2@host/#hunter2\"",
        ] {
            let error = parse::<Settings>(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.contains("dolphindb://host"), "{error}");
        }
    }
}
