//! One session: its variables, and what its scripts and functions come to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema};
use strait_dolphindb::{Column, ColumnType, Object, Type};

use crate::catalog::{Catalog, Database, Said, Scheme, TableState, bucket, schema_of};
use crate::cell::{Cell, cells, scalar, vector};
use crate::language::{Expression, Select, Statement, parse, parse_expression};
use crate::login::Logins;

/// What an expression comes to.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// An object that can be sent.
    Object(Object),
    /// A table of a database, by URL and name.
    Table(String, String),
    /// A database that is open, or a level of one that is being made.
    Database(String, Vec<Scheme>),
    /// A function with some of its arguments.
    Partial(String, Vec<Option<Value>>),
    /// A constant or a type by its name.
    Constant(String),
}

/// A client's session.
#[derive(Debug)]
pub(crate) struct Session {
    /// What the server calls it.
    number: i64,
    catalog: Arc<Mutex<Catalog>>,
    variables: BTreeMap<String, Value>,
    /// What scripts have printed.
    pub printed: Vec<String>,
    /// Who has logged in.
    pub logins: Logins,
}

const CRC32: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

const CONSTANTS: [&str; 13] = [
    "VALUE", "RANGE", "LIST", "COMPO", "HASH", "TSDB", "OLAP", "TRANS", "CHUNK", "VAR", "ALL",
    "LAST", "FIRST",
];

fn lock(catalog: &Mutex<Catalog>) -> MutexGuard<'_, Catalog> {
    catalog.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// A guest's.
    pub(crate) fn new(number: i64, catalog: Arc<Mutex<Catalog>>, logins: Logins) -> Session {
        Session {
            number,
            catalog,
            variables: BTreeMap::new(),
            printed: Vec::new(),
            logins,
        }
    }

    /// Sets a variable.
    pub(crate) fn upload(&mut self, name: String, value: Object) {
        self.variables.insert(name, Value::Object(value));
    }

    /// Runs a script; the answer is what its last statement comes to.
    ///
    /// # Errors
    /// What the server says.
    pub(crate) fn script(&mut self, script: &str) -> Said<Object> {
        self.run(&parse(script)?)
    }

    fn run(&mut self, statements: &[Statement]) -> Said<Object> {
        let mut answer = Object::Nothing;
        for statement in statements {
            match statement {
                Statement::Assign(name, expression) => {
                    let value = self.evaluate(expression)?;
                    self.variables.insert(name.clone(), value);
                    answer = Object::Nothing;
                }
                Statement::Evaluate(expression) => {
                    let value = self.evaluate(expression)?;
                    answer = self.sent(value)?;
                }
                Statement::If(condition, inner) => {
                    answer = Object::Nothing;
                    if self.cell(condition, None)?.is_true() {
                        self.run(inner)?;
                    }
                }
            }
        }
        Ok(answer)
    }

    /// Calls a function, whose name may be any expression that is one.
    ///
    /// # Errors
    /// What the server says.
    pub(crate) fn call(&mut self, name: &str, arguments: Vec<Object>) -> Said<Object> {
        let given: Vec<Value> = arguments.into_iter().map(Value::Object).collect();
        let value = match parse_expression(name)? {
            Expression::Name(name) => {
                let given = given.into_iter().map(Some).collect();
                self.apply(&name, given)?
            }
            Expression::Partial(name, held) => {
                let held = self.optional(&held)?;
                self.apply(&name, joined(held, given))?
            }
            other => return Err(format!("{other:?} is no function")),
        };
        self.sent(value)
    }

    /// What is sent of a value.
    fn sent(&self, value: Value) -> Said<Object> {
        match value {
            Value::Object(object) => Ok(object),
            Value::Table(database, name) => lock(&self.catalog)
                .table(&database, &name)?
                .rows(|_| true)
                .map(Object::Table),
            Value::Database(..) | Value::Partial(..) | Value::Constant(_) => Ok(Object::Nothing),
        }
    }

    fn optional(&mut self, expressions: &[Option<Expression>]) -> Said<Vec<Option<Value>>> {
        let mut values = Vec::new();
        for expression in expressions {
            values.push(match expression {
                Some(expression) => Some(self.evaluate(expression)?),
                None => None,
            });
        }
        Ok(values)
    }

    fn evaluate(&mut self, expression: &Expression) -> Said<Value> {
        Ok(match expression {
            Expression::Literal(cell) => Value::Object(scalar(cell)),
            Expression::Name(name) => match self.variables.get(name) {
                Some(value) => value.clone(),
                None if CONSTANTS.contains(&name.as_str())
                    || name == "getConsoleJobs"
                    || name.parse::<ColumnType>().is_ok() =>
                {
                    Value::Constant(name.clone())
                }
                None => {
                    return Err(format!(
                        "Syntax Error: [line #1] Cannot recognize the token {name}"
                    ));
                }
            },
            Expression::Call(name, arguments) => {
                let arguments = self.optional(arguments)?;
                self.apply(name, arguments)?
            }
            Expression::Partial(name, arguments) => {
                Value::Partial(name.clone(), self.optional(arguments)?)
            }
            Expression::Vector(items) => {
                let items = items
                    .iter()
                    .map(|item| self.evaluate(item))
                    .collect::<Said<Vec<_>>>()?;
                tuple(items)
            }
            Expression::Member(inner, name) => {
                let inner = self.evaluate(inner)?;
                member(self.sent(inner)?, name)?
            }
            Expression::Binary(..) | Expression::Not(_) => {
                Value::Object(scalar(&self.cell(expression, None)?))
            }
            Expression::Select(select) => Value::Object(self.select(select)?),
            // Of all that it says only the table counts here.
            Expression::Code(select) => self.evaluate(&select.from)?,
        })
    }

    /// What a condition or an item comes to in one row, or in none.
    fn cell(
        &mut self,
        expression: &Expression,
        row: Option<(&BTreeMap<String, Vec<Cell>>, usize)>,
    ) -> Said<Cell> {
        Ok(match expression {
            Expression::Literal(cell) => cell.clone(),
            Expression::Name(name) => {
                match row.and_then(|(columns, at)| Some(columns.get(name)?[at].clone())) {
                    Some(cell) => cell,
                    None => {
                        let value = self.evaluate(expression)?;
                        self.cell_of(value)?
                    }
                }
            }
            Expression::Not(inner) => Cell::Bool(!self.cell(inner, row)?.is_true()),
            Expression::Call(name, arguments) if name == "isNull" => {
                let [Some(inner)] = arguments.as_slice() else {
                    return Err("isNull takes one argument".into());
                };
                Cell::Bool(self.cell(inner, row)? == Cell::Null)
            }
            Expression::Call(name, arguments) if CELL_FUNCTIONS.contains(&name.as_str()) => {
                self.permitted(name)?;
                let cells = arguments.iter().flatten();
                let cells = cells
                    .map(|argument| self.cell(argument, row))
                    .collect::<Said<Vec<_>>>()?;
                written(name, &cells)?
            }
            Expression::Call(name, arguments) if name == "hashBucket" => {
                let [Some(value), Some(buckets)] = arguments.as_slice() else {
                    return Err("hashBucket takes a value and a number".into());
                };
                let value = self.cell(value, row)?;
                let buckets = self.cell(buckets, row)?.integer();
                let buckets = buckets.and_then(|count| u32::try_from(count).ok());
                let buckets = buckets
                    .filter(|count| *count > 0)
                    .ok_or("hashBucket of no buckets")?;
                match value {
                    Cell::Null => Cell::Null,
                    value => Cell::Int(bucket(&value, buckets) as i128),
                }
            }
            Expression::Binary(left, operator, right) if operator == "in" => {
                let left = self.cell(left, row)?;
                let right = self.evaluate(right)?;
                let found = match self.sent(right)? {
                    Object::Vector(column) | Object::Scalar(column) => {
                        cells(column.kind, &column.array).contains(&left)
                    }
                    _ => false,
                };
                Cell::Bool(found)
            }
            Expression::Binary(left, operator, right) => {
                let (a, b) = (self.cell(left, row)?, self.cell(right, row)?);
                match operator.as_str() {
                    "or" | "||" => Cell::Bool(a.is_true() || b.is_true()),
                    "and" | "&&" => Cell::Bool(a.is_true() && b.is_true()),
                    "<=" => Cell::Bool(a <= b),
                    ">=" => Cell::Bool(a >= b),
                    "<" => Cell::Bool(a < b),
                    ">" => Cell::Bool(a > b),
                    "==" => Cell::Bool(a == b),
                    "!=" | "<>" => Cell::Bool(a != b),
                    "+" if matches!((&a, &b), (Cell::Text(_), _) | (_, Cell::Text(_))) => {
                        Cell::Text(text_of(&a) + &text_of(&b))
                    }
                    _ => match (a.integer(), b.integer(), operator.as_str()) {
                        (Some(a), Some(b), "+") => Cell::Int(a + b),
                        (Some(a), Some(b), "-") => Cell::Int(a - b),
                        (Some(a), Some(b), "*") => Cell::Int(a * b),
                        _ => {
                            return Err(format!(
                                "{a:?} {operator} {b:?} is not what this stand-in can compute"
                            ));
                        }
                    },
                }
            }
            other => {
                let value = self.evaluate(other)?;
                self.cell_of(value)?
            }
        })
    }

    fn cell_of(&self, value: Value) -> Said<Cell> {
        match self.sent(value)? {
            Object::Nothing => Ok(Cell::Null),
            Object::Scalar(column) => Ok(cells(column.kind, &column.array).remove(0)),
            other => Err(format!("{} where a scalar is needed", other.form())),
        }
    }

    fn select(&mut self, select: &Select) -> Said<Object> {
        let from = self.evaluate(&select.from)?;
        let mut conditions = Vec::new();
        let mut wanted: Vec<(String, Cell)> = Vec::new();
        for condition in &select.conditions {
            match condition {
                Expression::Call(name, arguments) if name == "partition" => {
                    let [Some(Expression::Name(column)), Some(key)] = arguments.as_slice() else {
                        return Err("partition takes a column and a key".into());
                    };
                    wanted.push((column.clone(), self.cell(key, None)?));
                }
                other => conditions.push(other),
            }
        }
        let rows = match from {
            Value::Table(database, name) => {
                let catalog = Arc::clone(&self.catalog);
                let mut catalog = lock(&catalog);
                let table = catalog.table(&database, &name)?;
                let mut places = vec![None; table.divisions.len()];
                for (column, key) in wanted {
                    let level = table
                        .divisions
                        .iter()
                        .position(|(divides, _)| *divides == column);
                    let level =
                        level.ok_or_else(|| format!("{column} is not a partitioning column"))?;
                    let place = match &table.divisions[level].1 {
                        scheme @ Scheme::Value(_) => scheme.place(&key)?,
                        _ => key.integer().and_then(|key| usize::try_from(key).ok()),
                    };
                    places[level] = Some(place.unwrap_or(usize::MAX));
                }
                table.rows(|place| {
                    place
                        .iter()
                        .zip(&places)
                        .all(|(at, wanted)| wanted.is_none_or(|wanted| wanted == *at))
                })?
            }
            other => match self.sent(other)? {
                Object::Table(batch) => batch,
                other => return Err(format!("select from {}", other.form())),
            },
        };
        let rows = self.filtered(rows, &conditions)?;
        let rows = match select.limit {
            Some((from, count)) => {
                let from = from.min(rows.num_rows());
                rows.slice(from, count.min(rows.num_rows() - from))
            }
            None => rows,
        };
        self.projected(select, rows)
    }

    fn filtered(&mut self, rows: RecordBatch, conditions: &[&Expression]) -> Said<RecordBatch> {
        if conditions.is_empty() {
            return Ok(rows);
        }
        let columns = columns_of(&rows)?;
        let mut kept = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let mut keep = true;
            for condition in conditions {
                keep = keep && self.cell(condition, Some((&columns, row)))?.is_true();
            }
            kept.push(keep);
        }
        filter_record_batch(&rows, &BooleanArray::from(kept)).map_err(|error| error.to_string())
    }

    fn projected(&mut self, select: &Select, rows: RecordBatch) -> Said<Object> {
        let mut fields = Vec::new();
        let mut columns: Vec<ArrayRef> = Vec::new();
        let mut aggregate = false;
        for (item, name) in &select.items {
            let (field, column) = match item {
                Expression::Name(column) => {
                    let at = rows
                        .schema()
                        .index_of(column)
                        .map_err(|_| format!("Unrecognized column name {column}."))?;
                    (rows.schema().field(at).clone(), Arc::clone(rows.column(at)))
                }
                Expression::Call(function, arguments) => {
                    aggregate = true;
                    let cell = match arguments.as_slice() {
                        [Some(inner)] if !matches!(inner, Expression::Name(_)) => {
                            self.summed(function, inner, &rows)?
                        }
                        _ => aggregated(function, arguments, &rows)?,
                    };
                    let column = vector(&[cell]);
                    (column.kind.field(function), column.array)
                }
                other => return Err(format!("{other:?} is not what this stand-in can select")),
            };
            fields.push(match name {
                Some(name) => field.with_name(name),
                None => field,
            });
            columns.push(column);
        }
        if select.items.is_empty() {
            return Ok(Object::Table(rows));
        }
        if select.exec && columns.len() == 1 {
            let kind = ColumnType::of(&fields[0]).map_err(|error| error.to_string())?;
            let column = Column {
                kind,
                array: columns.remove(0),
            };
            return Ok(if aggregate {
                Object::Scalar(column)
            } else {
                Object::Vector(column)
            });
        }
        let count = if aggregate { 1 } else { rows.num_rows() };
        table(fields, columns, count).map(Object::Table)
    }

    /// The sum of what an expression comes to in each row.
    fn summed(&mut self, function: &str, inner: &Expression, rows: &RecordBatch) -> Said<Cell> {
        if function != "sum" {
            return Err(format!("{function} of {inner:?}"));
        }
        let columns = columns_of(rows)?;
        let mut sum = None;
        for row in 0..rows.num_rows() {
            if let Some(value) = self.cell(inner, Some((&columns, row)))?.integer() {
                sum = Some(sum.unwrap_or(0) + value);
            }
        }
        Ok(sum.map_or(Cell::Null, Cell::Int))
    }

    /// A function that the stand-in knows.
    fn apply(&mut self, name: &str, arguments: Vec<Option<Value>>) -> Said<Value> {
        self.permitted(name)?;
        let nothing = || Value::Object(Object::Nothing);
        let truth = |truth: bool| Value::Object(scalar(&Cell::Bool(truth)));
        let catalog = Arc::clone(&self.catalog);
        Ok(match name {
            "loadTable" => {
                let (database, name) = (self.text(&arguments, 0)?, self.text(&arguments, 1)?);
                lock(&catalog).table(&database, &name)?;
                Value::Table(database, name)
            }
            "tableInsert" | "append!" => {
                let (target, rows) = (argument(&arguments, 0)?.clone(), &arguments[1..]);
                self.insert(target, rows)?
            }
            "schema" => match argument(&arguments, 0)?.clone() {
                Value::Table(database, name) => {
                    let mut catalog = lock(&catalog);
                    let table = catalog.table(&database, &name)?;
                    Value::Object(description(table)?)
                }
                Value::Database(url, schemes) => {
                    // A database is described like a table of it, without columns.
                    let names = (0..schemes.len()).map(|level| level.to_string());
                    let divisions = names.zip(schemes).collect();
                    let mut table =
                        TableState::new(Arc::new(Schema::empty()), divisions, url.clone());
                    if let Some(database) = lock(&catalog).databases.get(&url) {
                        table.engine.clone_from(&database.engine);
                    }
                    let Object::Dictionary(mut entries) = description(&table)? else {
                        return Err("a description is a dictionary".into());
                    };
                    entries.retain(|(name, _)| {
                        !matches!(
                            name.as_str(),
                            "colDefs"
                                | "partitionColumnName"
                                | "partitionColumnIndex"
                                | "keepDuplicates"
                                | "compressMethods"
                        )
                    });
                    Value::Object(Object::Dictionary(entries))
                }
                other => match self.sent(other)? {
                    Object::Table(batch) => {
                        let table = TableState::new(batch.schema(), Vec::new(), String::new());
                        Value::Object(description(&table)?)
                    }
                    _ => return Err("schema takes a table".into()),
                },
            },
            "database" => self.database(&arguments)?,
            "createPartitionedTable" | "createTable" | "createDimensionTable" => {
                self.create(&arguments)?
            }
            "table" => return Err("this stand-in makes tables of uploaded ones only".into()),
            "existsDatabase" => {
                let url = self.text(&arguments, 0)?;
                truth(lock(&catalog).databases.contains_key(&url))
            }
            "existsTable" => {
                let (url, name) = (self.text(&arguments, 0)?, self.text(&arguments, 1)?);
                truth(lock(&catalog).table(&url, &name).is_ok())
            }
            "getClusterDFSTables" => {
                let catalog = lock(&catalog);
                let tables = catalog.databases.iter().flat_map(|(url, database)| {
                    database
                        .tables
                        .keys()
                        .map(move |name| format!("{url}/{name}"))
                });
                Value::Object(Object::Vector(texts(tables.collect())))
            }
            "dropDatabase" => {
                let url = self.text(&arguments, 0)?;
                lock(&catalog)
                    .databases
                    .remove(&url)
                    .ok_or_else(|| format!("The database [{url}] does not exist."))?;
                nothing()
            }
            "addValuePartitions" => self.add_values(&arguments)?,
            "addRangePartitions" => self.add_ranges(&arguments)?,
            "addColumn" => self.add_columns(&arguments)?,
            "truncate" => {
                let (url, name) = (self.text(&arguments, 0)?, self.text(&arguments, 1)?);
                let mut catalog = lock(&catalog);
                let table = catalog.table(&url, &name)?;
                if table.chunks.values().any(|chunk| chunk.locked.is_some()) {
                    return Err("<ChunkInTransaction>a chunk is locked. RefId:S00002".into());
                }
                table.chunks.clear();
                nothing()
            }
            "dict" => {
                let of = |at: usize| match argument(&arguments, at)? {
                    Value::Object(Object::Vector(column) | Object::Scalar(column)) => {
                        Ok::<_, String>(column.clone())
                    }
                    other => Err(format!("dict of {other:?}")),
                };
                let (keys, values) = (of(0)?, of(1)?);
                let keys = keys.texts().map_err(|error| error.to_string())?;
                let values = cells(values.kind, &values.array);
                let entries = keys.into_iter().zip(values.iter().map(scalar));
                Value::Object(Object::Dictionary(entries.collect()))
            }
            "undef" => {
                let name = self.text(&arguments, 0)?;
                self.variables.remove(&name);
                nothing()
            }
            "cancelConsoleJob" => {
                let job = self.text(&arguments, 0)?;
                let mut catalog = lock(&catalog);
                catalog.jobs.retain(|running| running.id != job);
                nothing()
            }
            // A type with its scale: DECIMAL64(4).
            _ if name.starts_with("DECIMAL") && arguments.len() == 1 => {
                let scale = match argument(&arguments, 0)? {
                    Value::Object(object) => object.integer().map_err(|error| error.to_string())?,
                    other => return Err(format!("{name} of {other:?}")),
                };
                Value::Constant(format!("{name}({scale})"))
            }
            "dropPartition" => self.drop_partition(&arguments)?,
            "sqlDS" => argument(&arguments, 0)?.clone(),
            "getChunkPath" => match argument(&arguments, 0)?.clone() {
                Value::Table(url, name) => {
                    let mut catalog = lock(&catalog);
                    let table = catalog.table(&url, &name)?;
                    let paths = table.chunks.keys().map(|place| table.path(&url, place));
                    Value::Object(Object::Vector(texts(paths.collect())))
                }
                other => return Err(format!("getChunkPath({other:?})")),
            },
            "pnodeRun" => match argument(&arguments, 0)?.clone() {
                Value::Partial(name, held) if name == "getTabletsMeta" => {
                    self.permitted(&name)?;
                    self.tablets(&held)?
                }
                Value::Constant(name) if name == "getConsoleJobs" => self.jobs()?,
                other => return Err(format!("pnodeRun({other:?})")),
            },
            "print" => {
                let text = self.text(&arguments, 0)?;
                self.printed.push(text);
                nothing()
            }
            "sum" => match argument(&arguments, 0)?.clone() {
                Value::Object(Object::Vector(column)) => {
                    let sum = cells(column.kind, &column.array)
                        .iter()
                        .filter_map(Cell::integer)
                        .sum();
                    Value::Object(scalar(&Cell::Int(sum)))
                }
                other => return Err(format!("sum({other:?})")),
            },
            "version" => Value::Object(scalar(&Cell::Text(
                "3.00.4 2025.11.01 LINUX x86_64 standin".into(),
            ))),
            "isNodeInitialized" => truth(true),
            "login" | "getDynamicPublicKey" | "scramClientFirst" | "scramClientFinal" => {
                let mut given = Vec::new();
                for at in 0..arguments.len() {
                    given.push(match argument(&arguments, at)? {
                        Value::Object(Object::Scalar(column)) if column.kind.item == Type::Bool => {
                            if cells(column.kind, &column.array)[0].is_true() {
                                "true".into()
                            } else {
                                String::new()
                            }
                        }
                        _ => self.text(&arguments, at)?,
                    });
                }
                Value::Object(self.logins.call(name, &given)?)
            }
            _ => return Err(format!("Can't recognize function name {name}")),
        })
    }

    /// Fails if the user may not call this.
    fn permitted(&self, function: &str) -> Said<()> {
        if lock(&self.catalog)
            .denied
            .iter()
            .any(|name| name == function)
        {
            return Err(format!("<NoPrivilege>Not granted to call {function}"));
        }
        Ok(())
    }

    fn text(&self, arguments: &[Option<Value>], at: usize) -> Said<String> {
        match argument(arguments, at)? {
            Value::Object(object) => object.text().map_err(|error| error.to_string()),
            Value::Constant(name) => Ok(name.clone()),
            other => Err(format!("{other:?} where a text is needed")),
        }
    }

    fn insert(&mut self, target: Value, rows: &[Option<Value>]) -> Said<Value> {
        let Value::Table(database, name) = target else {
            return Err("this stand-in appends to tables of databases only".into());
        };
        let catalog = Arc::clone(&self.catalog);
        let mut catalog = lock(&catalog);
        let rows = match rows {
            [Some(Value::Object(Object::Table(batch)))] => batch.clone(),
            _ => {
                // One vector or scalar for each column.
                let schema = Arc::clone(&catalog.table(&database, &name)?.schema);
                let mut columns = Vec::new();
                let mut fields = Vec::new();
                for (field, value) in schema.fields().iter().zip(rows) {
                    match value {
                        Some(Value::Object(Object::Vector(column) | Object::Scalar(column))) => {
                            fields.push(column.kind.field(field.name()));
                            columns.push(Arc::clone(&column.array));
                        }
                        other => return Err(format!("{other:?} is no column")),
                    }
                }
                let count = columns.first().map_or(0, |column| column.len());
                table(fields, columns, count)?
            }
        };
        let inserted = catalog.append(&database, &name, &rows)?;
        Ok(Value::Object(scalar(&Cell::Int(inserted as i128))))
    }

    fn database(&mut self, arguments: &[Option<Value>]) -> Said<Value> {
        let url = self.text(arguments, 0)?;
        let Some(Some(kind)) = arguments.get(1) else {
            let catalog = lock(&self.catalog);
            let database = catalog
                .databases
                .get(&url)
                .ok_or_else(|| format!("The database [{url}] does not exist."))?;
            return Ok(Value::Database(url, database.schemes.clone()));
        };
        let Value::Constant(kind) = kind.clone() else {
            return Err("database takes a partition type".into());
        };
        let engine = match arguments.get(4) {
            Some(Some(_)) => self.text(arguments, 4)?,
            _ => "OLAP".to_owned(),
        };
        if !matches!(engine.as_str(), "OLAP" | "TSDB") {
            return Err(format!("this stand-in has no engine {engine}"));
        }
        let scheme = argument(arguments, 2)?.clone();
        let schemes = match (kind.as_str(), scheme) {
            ("VALUE", Value::Object(Object::Vector(column))) => vec![Scheme::Value(column)],
            ("RANGE", Value::Object(Object::Vector(column))) => vec![Scheme::Range(column)],
            ("LIST", Value::Object(Object::Any(items))) => {
                let lists = items
                    .into_iter()
                    .map(|item| item.into_vector().map_err(|error| error.to_string()));
                vec![Scheme::List(lists.collect::<Said<_>>()?)]
            }
            ("HASH", Value::Partial(name, parts)) if name == "[]" => {
                let kind = self
                    .text(&parts, 0)?
                    .parse::<ColumnType>()
                    .map_err(|error| error.to_string())?;
                let buckets = match &parts[1] {
                    Some(Value::Object(object)) => {
                        object.integer().map_err(|error| error.to_string())?
                    }
                    _ => return Err("HASH takes a type and a number".into()),
                };
                vec![Scheme::Hash(kind, u32::try_from(buckets).unwrap_or(1))]
            }
            ("COMPO", Value::Partial(name, parts)) if name == "[]" => {
                let mut schemes = Vec::new();
                for part in parts.into_iter().flatten() {
                    match part {
                        Value::Database(_, inner) => schemes.extend(inner),
                        other => return Err(format!("{other:?} is no level")),
                    }
                }
                schemes
            }
            (kind, scheme) => return Err(format!("{kind} by {scheme:?}")),
        };
        if !url.is_empty() {
            let mut catalog = lock(&self.catalog);
            if catalog.databases.contains_key(&url) {
                return Err(format!(
                    "It is not allowed to overwrite an existing database. RefId: S01008 {url}"
                ));
            }
            catalog.databases.insert(
                url.clone(),
                Database {
                    schemes: schemes.clone(),
                    engine,
                    tables: BTreeMap::new(),
                },
            );
        }
        Ok(Value::Database(url, schemes))
    }

    fn create(&mut self, arguments: &[Option<Value>]) -> Said<Value> {
        let Value::Database(url, schemes) = argument(arguments, 0)?.clone() else {
            return Err("a table is made in a database".into());
        };
        let sample = argument(arguments, 1)?.clone();
        let Object::Table(sample) = self.sent(sample)? else {
            return Err("a table is made like another".into());
        };
        let name = self.text(arguments, 2)?;
        let by = match arguments.get(3) {
            Some(Some(Value::Object(object))) => {
                object.texts().map_err(|error| error.to_string())?
            }
            _ => Vec::new(),
        };
        if !by.is_empty() && by.len() != schemes.len() {
            return Err(
                "The number of partitioning columns must be that of the database's levels".into(),
            );
        }
        // A table that nothing divides has no argument for that.
        let after = if by.is_empty() { 3 } else { 4 };
        let compression = match arguments.get(after) {
            Some(Some(Value::Object(object))) => methods(object)?,
            _ => BTreeMap::new(),
        };
        let sort_columns = match arguments.get(after + 1) {
            Some(Some(Value::Object(object))) => {
                object.texts().map_err(|error| error.to_string())?
            }
            _ => Vec::new(),
        };
        let keep = match arguments.get(after + 2) {
            Some(Some(Value::Constant(keep))) => keep.clone(),
            _ => "ALL".to_owned(),
        };
        let known = |column: &String| sample.schema().index_of(column).is_ok();
        if let Some(stranger) = sort_columns
            .iter()
            .chain(compression.keys())
            .find(|column| !known(column))
        {
            return Err(format!("The column [{stranger}] does not exist."));
        }
        let mut catalog = lock(&self.catalog);
        let physical = format!("{:x}", catalog.next_number());
        let database = catalog
            .databases
            .get_mut(&url)
            .ok_or_else(|| format!("The database [{url}] does not exist."))?;
        if database.tables.contains_key(&name) {
            return Err(format!("The table [{name}] already exists. RefId: S01009"));
        }
        if (database.engine == "TSDB") == sort_columns.is_empty() {
            return Err(
                "The TSDB engine needs sortColumns, and no other engine takes them.".into(),
            );
        }
        let divisions = by.into_iter().zip(schemes).collect();
        let mut made = TableState::new(sample.schema(), divisions, physical);
        made.engine = database.engine.clone();
        if keep == "LAST" {
            made.keyed.clone_from(&sort_columns);
        }
        made.sort_columns = sort_columns;
        made.compression = compression;
        database.tables.insert(name.clone(), made);
        Ok(Value::Table(url, name))
    }

    fn add_values(&mut self, arguments: &[Option<Value>]) -> Said<Value> {
        self.grow(arguments, |scheme, added| {
            let Scheme::Value(known) = scheme else {
                return Err("not a VALUE partition".into());
            };
            let before = cells(known.kind, &known.array);
            let new = cells(added.kind, &added.array)
                .iter()
                .map(|cell| !before.contains(cell))
                .collect::<Vec<_>>();
            let array = arrow::compute::cast(&added.array, known.array.data_type())
                .map_err(|error| error.to_string())?;
            let new = arrow::compute::filter(&array, &BooleanArray::from(new))
                .map_err(|error| error.to_string())?;
            Ok((known, new))
        })
    }

    /// After the last edge, which the new ones begin with.
    fn add_ranges(&mut self, arguments: &[Option<Value>]) -> Said<Value> {
        let edges = argument(arguments, 1)?;
        if !matches!(edges, Value::Object(Object::Vector(_))) {
            return Err(format!("{edges:?} are no edges"));
        }
        self.grow(arguments, |scheme, added| {
            let Scheme::Range(known) = scheme else {
                return Err("not a RANGE partition".into());
            };
            let before = cells(known.kind, &known.array);
            if before.last() != cells(added.kind, &added.array).first() {
                return Err("new ranges begin where the last one ends".into());
            }
            let array = arrow::compute::cast(&added.array, known.array.data_type())
                .map_err(|error| error.to_string())?;
            let new = array.slice(1, array.len() - 1);
            Ok((known, new))
        })
    }

    /// A database, what comes to a level of its scheme, and the level: the first, unless it is said. `new` tells what of it is new there.
    fn grow(
        &mut self,
        arguments: &[Option<Value>],
        new: impl for<'a> Fn(&'a mut Scheme, &Column) -> Said<(&'a mut Column, ArrayRef)>,
    ) -> Said<Value> {
        let Value::Database(url, _) = argument(arguments, 0)?.clone() else {
            return Err("partitions are added to a database".into());
        };
        let added = match argument(arguments, 1)?.clone() {
            Value::Object(Object::Vector(column) | Object::Scalar(column)) => column,
            other => return Err(format!("{other:?} are no values")),
        };
        let level = match arguments.get(2) {
            Some(Some(Value::Object(object))) => {
                object.integer().map_err(|error| error.to_string())?
            }
            _ => 0,
        };
        let level = usize::try_from(level).unwrap_or(usize::MAX);
        let mut catalog = lock(&self.catalog);
        let database = catalog
            .databases
            .get_mut(&url)
            .ok_or_else(|| format!("The database [{url}] does not exist."))?;
        let grow = |scheme: &mut Scheme| -> Said<()> {
            let (known, new) = new(scheme, &added)?;
            known.array =
                arrow::compute::concat(&[&known.array, &new]).map_err(|error| error.to_string())?;
            Ok(())
        };
        grow(database.schemes.get_mut(level).ok_or("no such level")?)?;
        for table in database.tables.values_mut() {
            if let Some((_, scheme)) = table.divisions.get_mut(level) {
                grow(scheme)?;
            }
        }
        Ok(Value::Object(Object::Nothing))
    }

    /// Names and types; rows that are there are null in them.
    fn add_columns(&mut self, arguments: &[Option<Value>]) -> Said<Value> {
        let Value::Table(url, name) = argument(arguments, 0)?.clone() else {
            return Err("addColumn takes a table".into());
        };
        let names = match argument(arguments, 1)? {
            Value::Object(object) => object.texts().map_err(|error| error.to_string())?,
            other => return Err(format!("{other:?} are no names")),
        };
        let kinds = match argument(arguments, 2)? {
            Value::Partial(list, kinds) if list == "[]" => kinds.clone(),
            other => vec![Some(other.clone())],
        };
        let mut added = Vec::new();
        for (name, kind) in names.iter().zip(&kinds) {
            let Some(Value::Constant(kind)) = kind else {
                return Err(format!("{kind:?} is no type"));
            };
            let kind = kind
                .parse::<ColumnType>()
                .map_err(|error| error.to_string())?;
            added.push(kind.field(name));
        }
        let mut catalog = lock(&self.catalog);
        let table = catalog.table(&url, &name)?;
        if let Some(there) = names
            .iter()
            .find(|name| table.schema.index_of(name).is_ok())
        {
            return Err(format!("The column [{there}] already exists."));
        }
        let before = table
            .schema
            .fields()
            .iter()
            .map(|field| field.as_ref().clone());
        let schema = Arc::new(Schema::new(before.chain(added).collect::<Vec<_>>()));
        for chunk in table.chunks.values_mut() {
            for batch in &mut chunk.batches {
                let mut columns = batch.columns().to_vec();
                for field in &schema.fields()[columns.len()..] {
                    columns.push(arrow::array::new_null_array(
                        field.data_type(),
                        batch.num_rows(),
                    ));
                }
                *batch = RecordBatch::try_new(Arc::clone(&schema), columns)
                    .map_err(|error| error.to_string())?;
            }
        }
        table.schema = schema;
        Ok(Value::Object(Object::Nothing))
    }

    /// What runs for whom.
    fn jobs(&self) -> Said<Value> {
        let catalog = lock(&self.catalog);
        let mut ids: Vec<String> = catalog.jobs.iter().map(|job| job.id.clone()).collect();
        let mut sessions: Vec<i64> = catalog.jobs.iter().map(|job| job.session).collect();
        // Who asks runs too.
        ids.push(format!("asks-{}", self.number));
        sessions.push(self.number);
        let count = ids.len();
        let fields = vec![
            ColumnType::plain(Type::String).field("rootJobId"),
            ColumnType::plain(Type::Long).field("sessionId"),
        ];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(ids)),
            Arc::new(Int64Array::from(sessions)),
        ];
        table(fields, columns, count).map(|batch| Value::Object(Object::Table(batch)))
    }

    /// By paths, as `/20170807/0_50`.
    fn drop_partition(&mut self, arguments: &[Option<Value>]) -> Said<Value> {
        let Value::Database(url, _) = argument(arguments, 0)?.clone() else {
            return Err("dropPartition takes a database".into());
        };
        let paths = match argument(arguments, 1)? {
            Value::Object(object) => object.texts().map_err(|error| error.to_string())?,
            other => return Err(format!("{other:?} are no paths")),
        };
        let name = self.text(arguments, 2)?;
        let mut catalog = lock(&self.catalog);
        let table = catalog.table(&url, &name)?;
        let prefix = url.trim_start_matches("dfs:/").to_owned();
        let doomed: Vec<Vec<usize>> = table
            .chunks
            .keys()
            .filter(|place| {
                paths.iter().any(|path| {
                    table.path(&url, place) == format!("{prefix}{path}/{}", table.physical)
                })
            })
            .cloned()
            .collect();
        if doomed.is_empty() {
            return Err("The specified partition does not exist. RefId: S01056".into());
        }
        if doomed
            .iter()
            .any(|place| table.chunks[place].locked.is_some())
        {
            return Err("<ChunkInTransaction>a chunk is locked. RefId:S00002".into());
        }
        for place in doomed {
            table.chunks.remove(&place);
        }
        Ok(Value::Object(Object::Nothing))
    }

    /// One row for each chunk: the real one has a row for each replica.
    fn tablets(&mut self, held: &[Option<Value>]) -> Said<Value> {
        let pattern = self.text(held, 0)?;
        let prefix = pattern.trim_end_matches('%').to_owned();
        let wanted = self.text(held, 1).unwrap_or_default();
        let catalog = lock(&self.catalog);
        let (mut ids, mut paths, mut names, mut versions, mut rows) =
            (vec![], vec![], vec![], vec![], vec![]);
        for (url, database) in &catalog.databases {
            for (name, table) in &database.tables {
                for (place, chunk) in &table.chunks {
                    let path = table.path(url, place);
                    if !catalog.cached
                        && path.starts_with(&prefix)
                        && (wanted.is_empty() || wanted == *name)
                    {
                        ids.push(format!("{:032x}", chunk.id));
                        paths.push(path);
                        names.push(name.clone());
                        versions.push(i64::try_from(chunk.cid).unwrap_or(0));
                        rows.push(i64::try_from(chunk.rows()).unwrap_or(0));
                    }
                }
            }
        }
        let count = ids.len();
        let text = |name: &str| ColumnType::plain(Type::String).field(name);
        let long = |name: &str| ColumnType::plain(Type::Long).field(name);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(ids)),
            Arc::new(StringArray::from(paths)),
            Arc::new(StringArray::from(names)),
            Arc::new(Int64Array::from(versions)),
            Arc::new(Int64Array::from(rows)),
        ];
        let fields = vec![
            text("chunkId"),
            text("dfsPath"),
            text("tableName"),
            long("version"),
            long("rowNum"),
        ];
        table(fields, columns, count).map(|batch| Value::Object(Object::Table(batch)))
    }
}

fn argument(arguments: &[Option<Value>], at: usize) -> Said<&Value> {
    let found = arguments.get(at).and_then(Option::as_ref);
    found.ok_or_else(|| format!("argument {} is missing", at + 1))
}

/// Fills the places that a partial application has left open, then adds the rest.
fn joined(held: Vec<Option<Value>>, given: Vec<Value>) -> Vec<Option<Value>> {
    let mut given = given.into_iter();
    let mut all: Vec<Option<Value>> = held
        .into_iter()
        .map(|value| value.or_else(|| given.next()))
        .collect();
    all.extend(given.map(Some));
    all
}

/// A vector if it can be one; else a tuple, which may hold what no object is.
fn tuple(items: Vec<Value>) -> Value {
    let scalars: Option<Vec<Cell>> = items
        .iter()
        .map(|item| match item {
            Value::Object(Object::Nothing) => Some(Cell::Null),
            Value::Object(Object::Scalar(column)) => {
                Some(cells(column.kind, &column.array).remove(0))
            }
            _ => None,
        })
        .collect();
    if let Some(scalars) = scalars {
        return Value::Object(Object::Vector(vector(&scalars)));
    }
    let objects: Option<Vec<Object>> = items
        .iter()
        .map(|item| match item {
            Value::Object(object) => Some(object.clone()),
            _ => None,
        })
        .collect();
    match objects {
        Some(objects) => Value::Object(Object::Any(objects)),
        None => Value::Partial("[]".into(), items.into_iter().map(Some).collect()),
    }
}

fn member(object: Object, name: &str) -> Said<Value> {
    match object {
        Object::Dictionary(entries) => {
            let found = entries.into_iter().find(|(key, _)| key == name);
            found
                .map(|(_, value)| Value::Object(value))
                .ok_or_else(|| format!("no key {name}"))
        }
        Object::Table(batch) => {
            let at = batch
                .schema()
                .index_of(name)
                .map_err(|error| error.to_string())?;
            let kind =
                ColumnType::of(batch.schema().field(at)).map_err(|error| error.to_string())?;
            Ok(Value::Object(Object::Vector(Column {
                kind,
                array: Arc::clone(batch.column(at)),
            })))
        }
        other => Err(format!("{} has no member {name}", other.form())),
    }
}

/// What these do with the cells of one row.
const CELL_FUNCTIONS: [&str; 5] = ["crc32", "hex", "string", "long", "iif"];

fn written(function: &str, cells: &[Cell]) -> Said<Cell> {
    Ok(match (function, cells) {
        ("crc32", [Cell::Null]) => Cell::Null,
        ("crc32", [Cell::Text(text)]) => {
            let sum = CRC32.checksum(text.as_bytes());
            Cell::Int(i128::from(sum.cast_signed()))
        }
        ("hex", [Cell::Null]) => Cell::Null,
        ("hex", [Cell::Int(value)]) => Cell::Text(format!("{value:016X}")),
        ("hex", [Cell::Float(value)]) => Cell::Text(format!("{:016X}", value.to_bits())),
        ("string", [cell]) => Cell::Text(text_of(cell)),
        ("long", [cell]) => match cell {
            Cell::Bool(truth) => Cell::Int(i128::from(*truth)),
            Cell::Date(days) | Cell::Month(days) => Cell::Int(i128::from(*days)),
            Cell::Time(ns) => Cell::Int(i128::from(*ns)),
            Cell::Stamp(ns) => Cell::Int(*ns),
            Cell::Int(_) | Cell::Null => cell.clone(),
            other => return Err(format!("long({other:?})")),
        },
        ("iif", [condition, yes, no]) => match condition.is_true() {
            true => yes.clone(),
            false => no.clone(),
        },
        (_, other) => return Err(format!("{function} of {other:?}")),
    })
}

/// How the stand-in writes a cell: not as the real one does, and always alike.
fn text_of(cell: &Cell) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Text(text) => text.clone(),
        other => format!("{other:?}"),
    }
}

/// Methods of compression by column.
fn methods(object: &Object) -> Said<BTreeMap<String, String>> {
    let Object::Dictionary(entries) = object else {
        return Err("compressMethods is a dictionary".into());
    };
    let method = |(name, method): &(String, Object)| {
        let method = method.text().map_err(|error| error.to_string())?;
        Ok((name.clone(), method))
    };
    entries.iter().map(method).collect()
}

fn columns_of(rows: &RecordBatch) -> Said<BTreeMap<String, Vec<Cell>>> {
    let mut columns = BTreeMap::new();
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        let kind = ColumnType::of(field).map_err(|error| error.to_string())?;
        columns.insert(field.name().clone(), cells(kind, column));
    }
    Ok(columns)
}

fn aggregated(function: &str, arguments: &[Option<Expression>], rows: &RecordBatch) -> Said<Cell> {
    if function == "count" && arguments.is_empty() {
        return Ok(Cell::Int(rows.num_rows() as i128));
    }
    let [Some(Expression::Name(column))] = arguments else {
        return Err(format!("{function} of what?"));
    };
    let mut columns = columns_of(rows)?;
    let cells = columns
        .remove(column)
        .ok_or_else(|| format!("Unrecognized column name {column}."))?;
    let valid = cells.into_iter().filter(|cell| *cell != Cell::Null);
    match function {
        "min" => Ok(valid.min().unwrap_or(Cell::Null)),
        "max" => Ok(valid.max().unwrap_or(Cell::Null)),
        "sum" => Ok(Cell::Int(valid.filter_map(|cell| cell.integer()).sum())),
        "count" => Ok(Cell::Int(valid.count() as i128)),
        _ => Err(format!("Can't recognize function name {function}")),
    }
}

fn texts(texts: Vec<String>) -> Column {
    Column {
        kind: ColumnType::plain(Type::String),
        array: Arc::new(StringArray::from(texts)),
    }
}

fn table(fields: Vec<Field>, columns: Vec<ArrayRef>, rows: usize) -> Said<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
        .map_err(|error| error.to_string())
}

/// What `schema` says of a table.
fn description(table_state: &TableState) -> Said<Object> {
    let fields = table_state.schema.fields();
    let kinds = fields
        .iter()
        .map(|field| ColumnType::of(field).map_err(|error| error.to_string()));
    let kinds = kinds.collect::<Said<Vec<_>>>()?;
    let names: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
    let count = names.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(names)),
        Arc::new(StringArray::from(
            kinds.iter().map(ColumnType::to_string).collect::<Vec<_>>(),
        )),
        Arc::new(Int32Array::from(
            kinds
                .iter()
                .map(|kind| i32::from(kind.code()))
                .collect::<Vec<_>>(),
        )),
        Arc::new(Int32Array::from(
            kinds
                .iter()
                .map(|kind| kind.item.scale().map(i32::from))
                .collect::<Vec<_>>(),
        )),
        Arc::new(StringArray::from(vec![None::<&str>; count])),
    ];
    let defined = schema_of(&[
        ("name".into(), ColumnType::plain(Type::String)),
        ("typeString".into(), ColumnType::plain(Type::String)),
        ("typeInt".into(), ColumnType::plain(Type::Int)),
        ("extra".into(), ColumnType::plain(Type::Int)),
        ("comment".into(), ColumnType::plain(Type::String)),
    ]);
    let defined = RecordBatch::try_new(defined, columns).map_err(|error| error.to_string())?;
    let mut entries = vec![("colDefs".to_owned(), Object::Table(defined))];
    let divisions = &table_state.divisions;
    let places = divisions.iter().map(|(name, _)| {
        table_state
            .schema
            .index_of(name)
            .map_or(-1, |at| at as i128)
    });
    let places: Vec<Cell> = places.map(Cell::Int).collect();
    let names: Vec<String> = divisions.iter().map(|(name, _)| name.clone()).collect();
    let codes: Vec<Cell> = divisions
        .iter()
        .map(|(_, scheme)| Cell::Int(scheme.code().into()))
        .collect();
    let types: Vec<String> = divisions
        .iter()
        .map(|(_, scheme)| scheme.name().to_owned())
        .collect();
    let schemes: Vec<Object> = divisions
        .iter()
        .map(|(_, scheme)| match scheme {
            Scheme::Value(column) | Scheme::Range(column) => Object::Vector(column.clone()),
            Scheme::List(lists) => Object::Any(lists.iter().cloned().map(Object::Vector).collect()),
            Scheme::Hash(_, buckets) => scalar(&Cell::Int((*buckets).into())),
        })
        .collect();
    // One level is described by scalars, several by vectors and a tuple.
    let by = |all: Column| {
        if divisions.len() == 1 {
            Object::Scalar(all)
        } else {
            Object::Vector(all)
        }
    };
    if divisions.is_empty() {
        entries.push(("partitionColumnIndex".into(), scalar(&Cell::Int(-1))));
    } else {
        entries.push(("partitionColumnIndex".into(), by(vector(&places))));
        entries.push(("partitionColumnName".into(), by(texts(names))));
        entries.push(("partitionType".into(), by(vector(&codes))));
        entries.push(("partitionTypeName".into(), by(texts(types))));
        let mut schemes = schemes;
        let scheme = if schemes.len() == 1 {
            schemes.remove(0)
        } else {
            Object::Any(schemes)
        };
        entries.push(("partitionSchema".into(), scheme));
    }
    let engine = Cell::Text(table_state.engine.clone());
    entries.push(("engineType".into(), scalar(&engine)));
    if !table_state.sort_columns.is_empty() {
        let sorted = texts(table_state.sort_columns.clone());
        entries.push(("sortColumns".into(), Object::Vector(sorted)));
    }
    let fields = [("name", Type::String), ("compressMethods", Type::String)];
    let fields = fields.map(|(name, kind)| ColumnType::plain(kind).field(name));
    let names: Vec<String> = table_state
        .schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let by = |name| {
        let method = table_state.compression.get(name);
        method.map_or("lz4", String::as_str).to_owned()
    };
    let methods: Vec<String> = names.iter().map(by).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(names)),
        Arc::new(StringArray::from(methods)),
    ];
    let rows = columns[0].len();
    let methods = table(fields.to_vec(), columns, rows)?;
    entries.push(("compressMethods".into(), Object::Table(methods)));
    let kept = if table_state.keyed.is_empty() {
        "ALL"
    } else {
        "LAST"
    };
    entries.push(("keepDuplicates".into(), scalar(&Cell::Text(kept.into()))));
    Ok(Object::Dictionary(entries))
}
