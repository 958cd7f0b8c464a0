//! How a table is made anew: what its columns and divisions do not tell.
//!
//! A recipe goes with the table as text, through other agents and through stores that do not know its words, so what comes back is checked like anything from outside:
//! scripts are written from its values, never from its text. What does not fit the columns of a run is left out, and told; a text of another engine, or of a release that this one does not
//! know, is as none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use strait_common::engine::{Division, DivisionKind, RECIPE_BYTES_MAX, Table};
use strait_common::value::Value;
use strait_common::{Error, Result};

use crate::object::{Object, texts_of};
use crate::scheme::{Addition, Level, Marks};
use crate::script;
use crate::types::{ColumnType, Type};

/// The words' version.
const VERSION: u32 = 1;
/// What compresses a column otherwise than LZ4, which is usual.
const COMPRESSIONS: [&str; 3] = ["delta", "zstd", "chimp"];
/// Of words from outside so many letters are shown.
const SHOWN_MAX: usize = 300;

/// A storage engine of the server's that tables can be made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Engine {
    /// Rows in the order in which they came.
    #[default]
    #[serde(rename = "OLAP")]
    Olap,
    /// Rows by the sort columns.
    #[serde(rename = "TSDB")]
    Tsdb,
}

impl Engine {
    /// As scripts name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Engine::Olap => "OLAP",
            Engine::Tsdb => "TSDB",
        }
    }

    /// The one of this name; none for those that no table is made for.
    pub(crate) fn of(name: &str) -> Option<Engine> {
        [Engine::Olap, Engine::Tsdb]
            .into_iter()
            .find(|engine| engine.name() == name)
    }
}

/// Which rows of equal sort columns a table keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Keep {
    /// Each.
    #[default]
    All,
    /// The newest.
    Last,
    /// The oldest.
    First,
}

impl Keep {
    fn name(self) -> &'static str {
        match self {
            Keep::All => "ALL",
            Keep::Last => "LAST",
            Keep::First => "FIRST",
        }
    }
}

/// A value of a scheme: texts as they are; integers, days since 1970 and months since the year 0 as numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Mark {
    Number(i64),
    Text(String),
}

impl Mark {
    fn of(value: &Value) -> Option<Mark> {
        match value {
            Value::Int(value) => i64::try_from(*value).ok().map(Mark::Number),
            Value::Date(days) => Some(Mark::Number(i64::from(*days))),
            Value::String(text) => Some(Mark::Text(text.clone())),
            _ => None,
        }
    }

    /// As a literal of exactly this type: a list of mixed ones would be something else.
    fn literal(&self, kind: Type) -> Result<String> {
        if let (Mark::Number(value), Type::Char | Type::Short | Type::Long) = (self, kind) {
            let (least, most, suffix) = match kind {
                Type::Char => (i8::MIN.into(), i8::MAX.into(), 'c'),
                Type::Short => (i16::MIN.into(), i16::MAX.into(), 'h'),
                _ => (i64::MIN, i64::MAX, 'l'),
            };
            // The least one is null.
            let holds = *value > least && *value <= most;
            return match holds {
                true => Ok(format!("{value}{suffix}")),
                false => Err(self.foreign(kind)),
            };
        }
        let value = match (self, kind) {
            (Mark::Number(days), Type::Date) => i32::try_from(*days).ok().map(Value::Date),
            (Mark::Number(value), _) => Some(Value::Int(i128::from(*value))),
            (Mark::Text(text), _) => Some(Value::String(text.clone())),
        };
        let literal = value.and_then(|value| script::literal(&value, kind));
        literal.ok_or_else(|| self.foreign(kind))
    }

    fn foreign(&self, kind: Type) -> Error {
        Error::refused(format!(
            "{self:?} of a division's scheme is no value of {kind}"
        ))
    }
}

/// How one level's scheme is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scheme {
    /// One partition for each value of this type, which may be coarser than the column's.
    Value { of: String },
    /// One from each edge to the next.
    Range { of: String, edges: Vec<Mark> },
    /// By the server's hash.
    Hash { of: String, buckets: u32 },
    /// One for each list.
    List { of: String, lists: Vec<Vec<Mark>> },
}

/// A level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Divided {
    column: String,
    scheme: Scheme,
}

/// The words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recipe {
    dolphindb: u32,
    engine: Engine,
    #[serde(default)]
    levels: Vec<Divided>,
    #[serde(default)]
    sort_columns: Vec<String>,
    #[serde(default)]
    keep_duplicates: Keep,
    /// Of the columns that are compressed otherwise than is usual.
    #[serde(default)]
    compression: BTreeMap<String, String>,
    /// What the table has beside, which is not made again, in words.
    #[serde(default)]
    beside: Vec<String>,
}

/// What a table is made with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Made {
    /// The engine of its database.
    pub(crate) engine: Engine,
    /// What it is sorted by; never empty in TSDB.
    pub(crate) sort_columns: Vec<String>,
    /// Which rows it keeps.
    pub(crate) keep: Keep,
    /// Of the columns that are compressed otherwise than is usual.
    pub(crate) compression: BTreeMap<String, String>,
    /// What an operator should know.
    pub(crate) notes: Vec<String>,
}

fn texts(described: &Object, name: &str) -> Vec<String> {
    let texts = match described.get(name) {
        Ok(Some(found)) => found.texts().unwrap_or_default(),
        _ => Vec::new(),
    };
    texts.into_iter().filter(|text| !text.is_empty()).collect()
}

impl Recipe {
    /// That of a table, by the server's description of it.
    pub(crate) fn of(described: &Object, levels: &[Level]) -> Recipe {
        let text = |name| described.text_at(name).unwrap_or_default();
        let engine = text("engineType");
        let mut beside = Vec::new();
        let known = Engine::of(&engine);
        if known.is_none() && !engine.is_empty() {
            beside.push(format!("the {engine} engine with what identifies its rows"));
        }
        if !texts(described, "sortKeyMappingFunction").is_empty() {
            beside.push("sortKeyMappingFunction".to_owned());
        }
        if let Ok(Some(softly)) = described.get("softDelete")
            && softly.boolean().unwrap_or(false)
        {
            beside.push("softDelete".to_owned());
        }
        let encryption = text("encryptMode");
        if !encryption.is_empty() && encryption != "plaintext" {
            beside.push(format!("encryptMode {encryption}"));
        }
        let mut compression = BTreeMap::new();
        if let Ok(Some(Object::Table(methods))) = described.get("compressMethods")
            && let (Some(names), Some(methods)) = (
                methods.column_by_name("name"),
                methods.column_by_name("compressMethods"),
            )
            && let (Ok(names), Ok(methods)) = (texts_of(names), texts_of(methods))
        {
            let pairs = names.into_iter().zip(methods);
            compression.extend(pairs.filter(|(_, method)| COMPRESSIONS.contains(&method.as_str())));
        }
        Recipe {
            dolphindb: VERSION,
            engine: known.unwrap_or_default(),
            levels: levels.iter().filter_map(divided).collect(),
            sort_columns: texts(described, "sortColumns"),
            keep_duplicates: match text("keepDuplicates").as_str() {
                "LAST" => Keep::Last,
                "FIRST" => Keep::First,
                _ => Keep::All,
            },
            compression,
            beside,
        }
    }

    /// As it goes with the table; none where it would be too long, which only edges and lists can make it.
    pub(crate) fn text(mut self) -> Option<String> {
        let mut text = serde_json::to_string(&self).ok()?;
        if text.len() > RECIPE_BYTES_MAX {
            self.levels.clear();
            text = serde_json::to_string(&self).ok()?;
        }
        (text.len() <= RECIPE_BYTES_MAX).then_some(text)
    }

    /// That of a table which is to be made; none if it has none, or one of another engine.
    pub(crate) fn read(table: &Table) -> Option<Recipe> {
        let recipe: Recipe = serde_json::from_str(table.recipe.as_deref()?).ok()?;
        (recipe.dolphindb == VERSION).then_some(recipe)
    }

    /// The scheme of each level as a script has it, where the recipe is of a table that is divided like this one.
    ///
    /// # Errors
    /// `Refused` for a value that no script can have, or where lists may have been too long to be told.
    pub(crate) fn schemes(&self, divisions: &[Division]) -> Result<Option<Vec<String>>> {
        let fits = |(level, division): (&Divided, &Division)| {
            let kind = match (&level.scheme, division.kind) {
                // Days and months divide instants by ranges of them.
                (Scheme::Value { .. }, DivisionKind::Value | DivisionKind::Range)
                | (Scheme::Range { .. }, DivisionKind::Range) => true,
                (Scheme::Hash { buckets, .. }, DivisionKind::Hash { buckets: wanted }) => {
                    *buckets == wanted
                }
                (Scheme::List { lists, .. }, DivisionKind::Hash { buckets }) => {
                    u32::try_from(lists.len()) == Ok(buckets)
                }
                _ => false,
            };
            kind && level.column == division.column
        };
        let is_hash = |division: &Division| matches!(division.kind, DivisionKind::Hash { .. });
        if self.levels.is_empty() && divisions.iter().any(is_hash) {
            return Err(Error::refused(
                "A's scheme is too long to be told, and may be of lists or of buckets: make the database and table at B, then copy to it",
            ));
        }
        if self.levels.len() != divisions.len() || !self.levels.iter().zip(divisions).all(fits) {
            return Ok(None);
        }
        let schemes = self.levels.iter().map(|level| level.scheme.script());
        schemes.collect::<Result<_>>().map(Some)
    }

    /// The ranges that this one has after the last one of the table that is there, of each level: what they are called, and what the level's scheme lacks.
    ///
    /// # Errors
    /// `Refused` for an edge that no script can have.
    pub(crate) fn further(&self, there: &Recipe) -> Result<Vec<(String, Addition)>> {
        let mut further = Vec::new();
        for (at, (ours, theirs)) in self.levels.iter().zip(&there.levels).enumerate() {
            let (
                Scheme::Range { of, edges },
                Scheme::Range {
                    of: kind,
                    edges: known,
                },
            ) = (&ours.scheme, &theirs.scheme)
            else {
                continue;
            };
            let follow = of == kind
                && ours.column == theirs.column
                && edges.len() > known.len()
                && edges.starts_with(known);
            if !follow || known.is_empty() {
                continue;
            }
            let kind: ColumnType = of.parse()?;
            let added = edges[known.len() - 1..].iter();
            let added = added.map(|mark| mark.literal(kind.item));
            further.push((
                format!("{} ranges of {}", edges.len() - known.len(), ours.column),
                Addition::Ranges(added.collect::<Result<_>>()?, at),
            ));
        }
        Ok(further)
    }

    /// What the table is made with: as the one that the recipe is of, as far as its columns are there.
    pub(crate) fn made(&self, table: &Table) -> Made {
        let has = |column: &String| table.schema.index_of(column).is_ok();
        let mut notes = Vec::new();
        if !self.beside.is_empty() {
            notes.push(format!(
                "the table is made without what A's has beside: {}. Make it by hand first if B's is to have it",
                shown(&self.beside.join(", "))
            ));
        }
        let compression = self.compression.iter();
        let compression = compression
            .filter(|(column, method)| has(column) && COMPRESSIONS.contains(&method.as_str()))
            .map(|(column, method)| (column.clone(), method.clone()))
            .collect();
        let made = Made {
            compression,
            ..Made::default()
        };
        if self.engine == Engine::Olap {
            return Made { notes, ..made };
        }
        let missing = self.sort_columns.iter().find(|column| !has(column));
        if missing.is_some() || self.sort_columns.is_empty() {
            let why = missing.map_or("A does not say what it sorts by".to_owned(), |column| {
                format!("A's sorts by {}, which is not copied", shown(column))
            });
            notes.push(format!(
                "the table is made for the OLAP engine: {why}. Make it by hand first if it is to be another one"
            ));
            return Made { notes, ..made };
        }
        Made {
            engine: Engine::Tsdb,
            sort_columns: self.sort_columns.clone(),
            keep: self.keep_duplicates,
            notes,
            ..made
        }
    }
}

/// Words from outside as an operator is shown them.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(SHOWN_MAX).collect();
    short.escape_debug().to_string()
}

fn divided(level: &Level) -> Option<Divided> {
    let marks = |values: &[Value]| values.iter().map(Mark::of).collect::<Option<Vec<_>>>();
    let of = level.scheme_type().to_string();
    let scheme = match (&level.marks, level.division.kind) {
        (Marks::Hash, DivisionKind::Hash { buckets }) => Scheme::Hash { of, buckets },
        (Marks::Hash, _) => return None,
        (Marks::Values, _) => Scheme::Value { of },
        (Marks::Edges(edges), _) => Scheme::Range {
            of,
            edges: marks(edges)?,
        },
        (Marks::Lists(lists), _) => Scheme::List {
            of,
            lists: lists
                .iter()
                .map(|list| marks(list))
                .collect::<Option<_>>()?,
        },
    };
    Some(Divided {
        column: level.division.column.clone(),
        scheme,
    })
}

/// A scheme by value that has one value, which no row is likely to have; those of the partitions are added as they come.
pub(crate) fn by_value(kind: Type) -> Option<String> {
    let value = match kind {
        Type::Date => "1970.01.01",
        Type::Month => "1970.01M",
        Type::Char | Type::Short | Type::Int | Type::Long => "0",
        Type::String | Type::Symbol => "\"strait\"",
        _ => return None,
    };
    Some(format!("VALUE, [{value}]"))
}

impl Scheme {
    fn script(&self) -> Result<String> {
        let (Scheme::Value { of }
        | Scheme::Range { of, .. }
        | Scheme::Hash { of, .. }
        | Scheme::List { of, .. }) = self;
        let kind: ColumnType = of.parse()?;
        let (array, kind) = (kind.array, kind.item);
        let impossible = |why: &str| Error::refused(format!("a division of {of} {why}"));
        if array {
            return Err(impossible("lists divides nothing"));
        }
        let literals = |marks: &[Mark]| {
            let literals = marks.iter().map(|mark| mark.literal(kind));
            let literals = literals.collect::<Result<Vec<_>>>()?;
            Ok::<_, Error>(format!("[{}]", literals.join(", ")))
        };
        Ok(match self {
            Scheme::Value { .. } => by_value(kind)
                .ok_or_else(|| impossible("values, which divide no table that is made here"))?,
            Scheme::Range { edges, .. } if edges.len() < 2 => {
                return Err(impossible("ranges without two edges"));
            }
            Scheme::Range { edges, .. } => format!("RANGE, {}", literals(edges)?),
            Scheme::Hash { buckets, .. } => format!("HASH, [{kind}, {buckets}]"),
            // In parentheses a single one would be a vector and no tuple.
            Scheme::List { lists, .. } if lists.len() < 2 => {
                return Err(impossible(
                    "values in a single list. Make the database by hand",
                ));
            }
            Scheme::List { lists, .. } => {
                let lists = lists.iter().map(|list| literals(list));
                let lists = lists.collect::<Result<Vec<_>>>()?;
                format!("LIST, ({})", lists.join(", "))
            }
        })
    }
}

impl Made {
    /// What follows table, name and columns of division in the call that makes it.
    pub(crate) fn arguments(&self) -> Result<String> {
        let list = |texts: Vec<&String>| {
            let quoted = texts.into_iter().map(|text| {
                script::text(text)
                    .ok_or_else(|| Error::refused(format!("column {text} has no name in a script")))
            });
            let quoted = quoted.collect::<Result<Vec<_>>>()?;
            Ok::<_, Error>(format!("[{}]", quoted.join(", ")))
        };
        let compression = match self.compression.is_empty() {
            true => String::new(),
            false => format!(
                " dict({}, {})",
                list(self.compression.keys().collect())?,
                list(self.compression.values().collect())?
            ),
        };
        Ok(match self.engine {
            Engine::Olap if compression.is_empty() => String::new(),
            Engine::Olap => format!(",{compression}"),
            Engine::Tsdb => format!(
                ",{compression}, {}, {}",
                list(self.sort_columns.iter().collect())?,
                self.keep.name()
            ),
        })
    }

    /// Whether it is what a server makes if nothing is said.
    pub(crate) fn is_usual(&self) -> bool {
        self.engine == Engine::Olap && self.compression.is_empty()
    }

    /// As an operator is shown it.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{} engine", self.engine.name());
        if !self.sort_columns.is_empty() {
            text.push_str(&format!(", sorted by {}", self.sort_columns.join(", ")));
        }
        if self.keep != Keep::All {
            text.push_str(&format!(", keepDuplicates={}", self.keep.name()));
        }
        for (column, method) in &self.compression {
            text.push_str(&format!(", {column} by {method}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
    use arrow::datatypes::Schema;
    use strait_common::Kind;

    use super::*;
    use crate::object::Column;
    use crate::scheme;

    fn vector(kind: Type, array: ArrayRef) -> Object {
        Object::Vector(Column::plain(kind, array))
    }

    fn words(texts: &[&str]) -> Object {
        vector(Type::String, Arc::new(StringArray::from(texts.to_vec())))
    }

    fn word(text: &str) -> Object {
        let array = Arc::new(StringArray::from(vec![text]));
        Object::Scalar(Column::plain(Type::String, array))
    }

    fn schema() -> Schema {
        Schema::new(vec![
            ColumnType::plain(Type::Date).field("day"),
            ColumnType::plain(Type::Int).field("n"),
            ColumnType::plain(Type::Symbol).field("sym"),
            ColumnType::plain(Type::Symbol).field("place"),
        ])
    }

    /// What the server says of a table by months, ranges of numbers, buckets of symbols and lists of places.
    fn described(engine: &str) -> (Object, Vec<Level>) {
        let numbers =
            |values: Vec<i32>| vector(Type::Int, Arc::new(Int32Array::from(values)) as ArrayRef);
        let months = vector(
            Type::Month,
            Arc::new(Int32Array::from(vec![2026 * 12 + 10])) as ArrayRef,
        );
        let buckets = Arc::new(Int32Array::from(vec![50]));
        let buckets = Object::Scalar(Column::plain(Type::Int, buckets));
        let lists = Object::Any(vec![words(&["EU", "it's \"UK\""]), words(&["US"])]);
        let methods = RecordBatch::try_from_iter([
            (
                "name",
                Arc::new(StringArray::from(vec!["day", "n", "sym", "place"])) as ArrayRef,
            ),
            (
                "compressMethods",
                Arc::new(StringArray::from(vec!["delta", "lz4", "lz4", "zstd"])) as ArrayRef,
            ),
        ]);
        let answer = Object::Dictionary(vec![
            (
                "partitionColumnName".into(),
                words(&["day", "n", "sym", "place"]),
            ),
            ("partitionType".into(), numbers(vec![1, 2, 5, 3])),
            (
                "partitionSchema".into(),
                Object::Any(vec![months, numbers(vec![0, 50, 100]), buckets, lists]),
            ),
            ("engineType".into(), word(engine)),
            ("sortColumns".into(), words(&["sym", "n"])),
            ("keepDuplicates".into(), word("LAST")),
            ("sortKeyMappingFunction".into(), words(&["f{,3}"])),
            ("compressMethods".into(), Object::Table(methods.unwrap())),
        ]);
        let levels = scheme::levels(&answer, &schema()).unwrap();
        (answer, levels)
    }

    fn table(recipe: Option<String>, columns: &[&str]) -> Table {
        let (_, levels) = described("TSDB");
        let schema = schema();
        let places: Vec<usize> = columns
            .iter()
            .map(|name| schema.index_of(name).unwrap())
            .collect();
        Table {
            name: "db/t".parse().unwrap(),
            schema: Arc::new(schema.project(&places).unwrap()),
            divisions: levels.into_iter().map(|level| level.division).collect(),
            recipe,
        }
    }

    const ALL: [&str; 4] = ["day", "n", "sym", "place"];

    fn recipe_of(engine: &str) -> Recipe {
        let (answer, levels) = described(engine);
        Recipe::of(&answer, &levels)
    }

    #[test]
    fn a_table_is_made_as_it_was() {
        let text = recipe_of("TSDB").text().unwrap();
        let table = table(Some(text), &ALL);
        let recipe = Recipe::read(&table).unwrap();
        assert_eq!(recipe, recipe_of("TSDB"));
        let schemes = recipe.schemes(&table.divisions).unwrap().unwrap();
        assert_eq!(
            schemes,
            [
                "VALUE, [1970.01M]",
                "RANGE, [0, 50, 100]",
                "HASH, [SYMBOL, 50]",
                "LIST, ([\"EU\", \"it's \\\"UK\\\"\"], [\"US\"])"
            ]
        );
        let made = recipe.made(&table);
        assert_eq!(
            made.arguments().unwrap(),
            ", dict([\"day\", \"place\"], [\"delta\", \"zstd\"]), [\"sym\", \"n\"], LAST"
        );
        assert!(made.notes.len() == 1 && made.notes[0].contains("sortKeyMappingFunction"));
        assert_eq!(
            made.text(),
            "TSDB engine, sorted by sym, n, keepDuplicates=LAST, day by delta, place by zstd"
        );
    }

    #[test]
    fn what_cannot_be_made_again_is_told() {
        // Sorted by a column that is not copied.
        let text = recipe_of("TSDB").text();
        let narrow = table(text, &["day", "sym", "place"]);
        let made = Recipe::read(&narrow).unwrap().made(&narrow);
        assert_eq!((made.engine, made.keep), (Engine::Olap, Keep::All));
        assert!(made.notes[1].contains("sorts by n"), "{:?}", made.notes);
        // Of an engine whose tables the server does not describe whole.
        let table = table(recipe_of("PKEY").text(), &ALL);
        let made = Recipe::read(&table).unwrap().made(&table);
        assert_eq!(made.engine, Engine::Olap);
        assert!(made.notes[0].contains("PKEY"), "{:?}", made.notes);
        assert_eq!(
            made.arguments().unwrap(),
            ", dict([\"day\", \"place\"], [\"delta\", \"zstd\"])"
        );
    }

    /// Integers of other sizes than INT are said to be of them.
    #[test]
    fn edges_are_literals_of_their_type() {
        for (kind, value, literal) in [
            (Type::Char, -5, "-5c"),
            (Type::Short, 300, "300h"),
            (Type::Int, 7, "7"),
            (Type::Long, 7, "7l"),
            (Type::Long, 5_000_000_000, "5000000000l"),
            (Type::Date, 1, "1970.01.02"),
            (Type::Month, 2026 * 12, "2026.01M"),
        ] {
            assert_eq!(Mark::Number(value).literal(kind).unwrap(), literal);
        }
        // The least one is null.
        let least = Mark::Number(i64::MIN).literal(Type::Long).unwrap_err();
        assert_eq!(least.kind(), Kind::Refused);
    }

    #[test]
    fn a_scheme_too_long_to_tell_is_left_out_and_nothing_else() {
        let mut recipe = recipe_of("TSDB");
        let edges = (0..100_000).map(Mark::Number).collect();
        recipe.levels[1].scheme = Scheme::Range {
            of: "INT".to_owned(),
            edges,
        };
        let table = table(recipe.text(), &ALL);
        let recipe = Recipe::read(&table).unwrap();
        // Lists would be made as buckets.
        let error = recipe.schemes(&table.divisions).unwrap_err();
        assert!(error.to_string().contains("lists or of buckets"), "{error}");
        assert_eq!(recipe.schemes(&table.divisions[..2]).unwrap(), None);
        assert_eq!(recipe.made(&table).engine, Engine::Tsdb);
    }

    /// A recipe comes from another agent or from a disk.
    #[test]
    fn a_recipe_writes_values_into_scripts_and_nothing_else() {
        let made_of = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut value = serde_json::to_value(recipe_of("TSDB")).unwrap();
            change(&mut value);
            let table = table(Some(value.to_string()), &ALL);
            Recipe::read(&table).map(|recipe| (recipe.schemes(&table.divisions), recipe))
        };
        for text in ["", "{}", "[1, 2]", "{\"lake\": 1}"] {
            assert_eq!(Recipe::read(&table(Some(text.to_owned()), &ALL)), None);
        }
        assert!(made_of(&|value| value["dolphindb"] = 2.into()).is_none());
        assert!(made_of(&|value| value["engine"] = "TSDB\", \"TRANS".into()).is_none());
        assert!(made_of(&|value| value["keep_duplicates"] = "LAST) print(1".into()).is_none());
        let attack = "\"], dropDatabase(\"dfs://db\"), [\"";
        let (schemes, _) =
            made_of(&|value| value["levels"][3]["scheme"]["list"]["lists"][0][0] = attack.into())
                .unwrap();
        let schemes = schemes.unwrap().unwrap();
        assert!(
            schemes[3].starts_with("LIST, ([\"\\\"], dropDatabase(\\\""),
            "{}",
            schemes[3]
        );
        for (level, scheme, of) in [
            (0, "value", "INT]"),
            (1, "range", "INT[]"),
            (2, "hash", "X"),
        ] {
            let (schemes, _) =
                made_of(&|value| value["levels"][level]["scheme"][scheme]["of"] = of.into())
                    .unwrap();
            assert!(schemes.is_err(), "{of}");
        }
        let (schemes, _) =
            made_of(&|value| value["levels"][1]["scheme"]["range"]["edges"][0] = "a".into())
                .unwrap();
        assert_eq!(schemes.unwrap_err().kind(), Kind::Refused);
        // Of another division: made without it.
        let (schemes, _) = made_of(&|value| value["levels"][1]["column"] = "sym".into()).unwrap();
        assert_eq!(schemes.unwrap(), None);
        let (_, recipe) = made_of(&|value| {
            value["compression"] = serde_json::json!({ "n": "lz4) print(1", "x": "delta" });
            value["sort_columns"] = serde_json::json!(["sym", attack]);
        })
        .unwrap();
        let made = recipe.made(&table(None, &ALL));
        assert!(made.compression.is_empty() && made.engine == Engine::Olap);
    }
}
