//! Which tables a pattern names, and where each of them goes: `live:db1/*` to `dr:db1/*`.
//!
//! A `*` stands for any characters of one part of a name, the database or the table. What the first, second, … `*` of the source has matched takes the place
//! of the first, second, … of the target.

use std::collections::HashMap;

use strait_common::ids::TableName;
use strait_common::{Context, Error, Result};

use crate::job::Place;

/// Tables of one group at most.
const TABLES_MAX: usize = 1000;

/// Whether the text names several tables.
pub fn is_pattern(text: &str) -> bool {
    text.contains('*')
}

/// Tables of a source, and where each goes.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// The store at the source.
    pub store: String,
    from: Parts,
    to_name: String,
    to: Parts,
    include: Vec<Filter>,
    exclude: Vec<Filter>,
}

/// Database and table, each of which may have stars in it.
#[derive(Clone, Debug)]
struct Parts {
    database: String,
    table: String,
}

impl Parts {
    fn read(text: &str) -> Result<Parts> {
        let (database, table) = text.split_once('/').ok_or_else(|| {
            Error::config(format!(
                "'{text}' names no tables; write DATABASE/TABLE, for example db1/*"
            ))
        })?;
        // What is left without its stars must be able to be a name.
        TableName::new(&database.replace('*', "x"), &table.replace('*', "x"))
            .with_context(|| format!("'{text}'"))?;
        Ok(Parts {
            database: database.to_owned(),
            table: table.to_owned(),
        })
    }

    fn stars(&self) -> usize {
        let both = self.database.chars().chain(self.table.chars());
        both.filter(|c| *c == '*').count()
    }
}

/// What `--include` and `--exclude` say: the name of a table, or database and table.
#[derive(Clone, Debug)]
struct Filter {
    database: Option<String>,
    table: String,
}

impl Filter {
    fn read(text: &str) -> Result<Filter> {
        let (database, table) = match text.split_once('/') {
            Some((database, table)) => (Some(database), table),
            None => (None, text),
        };
        TableName::new(
            &database.unwrap_or("x").replace('*', "x"),
            &table.replace('*', "x"),
        )
        .with_context(|| format!("'{text}'"))?;
        Ok(Filter {
            database: database.map(str::to_owned),
            table: table.to_owned(),
        })
    }

    fn has(&self, table: &TableName) -> bool {
        let database = self.database.as_deref().unwrap_or("*");
        matched(database, table.database()).is_some()
            && matched(&self.table, table.table()).is_some()
    }
}

impl Pattern {
    /// Reads what an operator wrote.
    ///
    /// # Errors
    /// `Config` if it is no pattern, or the two sides do not have as many stars.
    pub fn read(from: &str, to: &str, include: &[String], exclude: &[String]) -> Result<Pattern> {
        let split = |flag: &'static str, text: &str| match text.split_once(':') {
            Some((name, tables)) if !name.is_empty() => {
                let parts = Parts::read(tables).context(flag)?;
                Ok((name.to_owned(), parts))
            }
            _ => Err(Error::config(format!(
                "{flag}: '{text}' is no place; write NAME:DATABASE/TABLE, for example live:db1/*"
            ))),
        };
        let (store, from_parts) = split("--from", from)?;
        let (to_name, to_parts) = split("--to", to)?;
        if from_parts.stars() != to_parts.stars() {
            return Err(Error::config(format!(
                "--from {from} has {} * and --to {to} has {}; each * of --to takes what the one of --from has matched, so write as many",
                from_parts.stars(),
                to_parts.stars()
            )));
        }
        let read = |flag: &'static str, texts: &[String]| {
            let filters = texts.iter().map(|text| Filter::read(text).context(flag));
            filters.collect::<Result<Vec<_>>>()
        };
        Ok(Pattern {
            store,
            from: from_parts,
            to_name,
            to: to_parts,
            include: read("--include", include)?,
            exclude: read("--exclude", exclude)?,
        })
    }

    /// The tables among these that the pattern names, and where each goes, in order of name.
    ///
    /// # Errors
    /// `Config` if there is none, or too many, or two would go to one place.
    pub fn expand(&self, tables: &[TableName]) -> Result<Vec<(Place, Place)>> {
        let (mut found, mut taken) = (Vec::new(), HashMap::new());
        for table in tables {
            let Some((mut stars, of_table)) = matched(&self.from.database, table.database())
                .zip(matched(&self.from.table, table.table()))
            else {
                continue;
            };
            stars.extend(of_table);
            let included = self.include.is_empty() || self.include.iter().any(|one| one.has(table));
            if !included || self.exclude.iter().any(|one| one.has(table)) {
                continue;
            }
            let mut stars = stars.into_iter();
            let database = filled(&self.to.database, &mut stars);
            let target = format!(
                "{}:{database}/{}",
                self.to_name,
                filled(&self.to.table, &mut stars)
            );
            let from: Place = format!("{}:{table}", self.store)
                .parse()
                .context("--from")?;
            let to: Place = target.parse().context("--to")?;
            if let Some(other) = taken.insert(to.clone(), table) {
                return Err(Error::config(format!(
                    "tables {other} and {table} would both go to {to}; write --to so that each has a place of its own"
                )));
            }
            found.push((from, to));
        }
        if found.is_empty() {
            return Err(Error::config(format!(
                "no table of store {} is named by {}/{}{}; `strait tables {}` lists those there are",
                self.store,
                self.from.database,
                self.from.table,
                if self.include.is_empty() && self.exclude.is_empty() {
                    ""
                } else {
                    " with what is included and excluded"
                },
                self.store
            )));
        }
        if found.len() > TABLES_MAX {
            return Err(Error::config(format!(
                "{} tables in one request, at most {TABLES_MAX}; narrow the pattern",
                found.len()
            )));
        }
        Ok(found)
    }
}

/// What each star stands for, if the name is of this pattern: each takes as little as it can.
fn matched<'a>(pattern: &str, name: &'a str) -> Option<Vec<&'a str>> {
    let mut pieces = pattern.split('*');
    let mut rest = name.strip_prefix(pieces.next()?)?;
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else {
        return rest.is_empty().then(Vec::new);
    };
    let mut stars = Vec::new();
    for piece in pieces {
        let at = rest.find(piece)?;
        stars.push(&rest[..at]);
        rest = &rest[at + piece.len()..];
    }
    stars.push(rest.strip_suffix(last)?);
    Some(stars)
}

fn filled<'a>(pattern: &str, stars: &mut impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for c in pattern.chars() {
        match c {
            '*' => text.push_str(stars.next().unwrap_or_default()),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(from: &str, to: &str, include: &[&str], exclude: &[&str]) -> Result<Vec<String>> {
        let owned = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let names = ["db1/mt", "db1/mt_old", "db1/quotes", "db2/mt", "risk/mt"];
        let tables: Vec<TableName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let pattern = Pattern::read(from, to, &owned(include), &owned(exclude))?;
        let pairs = pattern.expand(&tables)?;
        Ok(pairs
            .iter()
            .map(|(from, to)| format!("{from} {to}"))
            .collect())
    }

    #[test]
    fn each_star_of_the_target_takes_what_the_one_of_the_source_has_matched() {
        assert_eq!(
            expand("live:db1/*", "dr/lake:copy/*_a", &[], &[]).unwrap(),
            [
                "live:db1/mt dr/lake:copy/mt_a",
                "live:db1/mt_old dr/lake:copy/mt_old_a",
                "live:db1/quotes dr/lake:copy/quotes_a"
            ]
        );
        assert_eq!(
            expand("live:db*/mt", "dr:x*/mt", &[], &[]).unwrap(),
            ["live:db1/mt dr:x1/mt", "live:db2/mt dr:x2/mt"]
        );
    }

    #[test]
    fn tables_are_included_and_excluded_by_name_or_with_their_database() {
        let found = expand(
            "live:*/*",
            "dr:*/*",
            &["mt*", "db1/q*"],
            &["*_old", "risk/*"],
        )
        .unwrap();
        assert_eq!(
            found,
            [
                "live:db1/mt dr:db1/mt",
                "live:db1/quotes dr:db1/quotes",
                "live:db2/mt dr:db2/mt"
            ]
        );
    }

    #[test]
    fn what_would_put_two_tables_in_one_place_is_refused_with_both() {
        let pattern = Pattern::read("live:a*b*/t", "dr:*x*/t", &[], &[]).unwrap();
        let tables = ["a1xbb/t", "a1bxb/t"].map(|name| name.parse().unwrap());
        let error = pattern.expand(&tables).unwrap_err().to_string();
        assert_eq!(
            error,
            "tables a1xbb/t and a1bxb/t would both go to dr:1xxb/t; write --to so that each has a place of its own"
        );
        pattern.expand(&tables[..1]).unwrap();
    }

    #[test]
    fn patterns_that_say_nothing_are_refused_with_what_to_write() {
        for (from, to, says) in [
            ("live:db1/*", "dr:db1/mt", "write as many"),
            ("live:db9/*", "dr:db9/*", "strait tables live"),
            ("db1/*", "dr:db1/*", "NAME:DATABASE/TABLE"),
            ("live:*", "dr:*", "DATABASE/TABLE"),
        ] {
            let error = expand(from, to, &[], &[]).unwrap_err().to_string();
            assert!(error.contains(says), "{from} {to}: {error}");
        }
        assert!(expand("live:db1/*", "dr:db1/*", &["a/b/c"], &[]).is_err());
    }
}
