//! From text to a typed condition.

use arrow::datatypes::{DataType, Field, Schema};
use sqlparser::ast::{
    BinaryOperator, DataType as SqlType, Expr, FunctionArg, FunctionArgExpr, FunctionArguments,
    UnaryOperator, Value as Literal,
};
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::predicate::{Comparison, Predicate};
use super::zone::Zone;
use crate::error::{Context, Error, Result};
use crate::value::{NS_PER_DAY, NS_PER_S, Value, parse_decimal};

/// The longest text of a condition, in bytes.
const TEXT_BYTES_MAX: usize = 64 * 1024;
/// The stack that a text of that length needs at most: a list of `or` is a tree as deep as it is long until it is flattened.
const STACK_BYTES: usize = 128 << 20;
/// Levels of brackets.
const DEPTH_MAX: usize = 64;

/// The name of the column that is meant: exact, else the only one that differs in case.
pub(super) fn column(schema: &Schema, name: &str) -> Result<String> {
    if schema.field_with_name(name).is_ok() {
        return Ok(name.to_owned());
    }
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let alike: Vec<&str> = names
        .clone()
        .filter(|known| known.eq_ignore_ascii_case(name))
        .collect();
    match alike.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(Error::config(format!(
            "there is no column '{name}'; there are {}",
            names.take(50).collect::<Vec<_>>().join(", ")
        ))),
        several => Err(Error::config(format!(
            "'{name}' could be {}; write it exactly",
            several.join(" or ")
        ))),
    }
}

/// The condition that a text means, and what an operator should know about it.
pub(super) fn predicate(
    text: &str,
    schema: &Schema,
    zone: &Zone,
    now: i64,
) -> Result<(Predicate, Vec<String>)> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::config(format!(
            "a condition of {} bytes; at most {TEXT_BYTES_MAX}",
            text.len()
        )));
    }
    if let Some(hint) = foreign(text) {
        return Err(Error::config(hint));
    }
    let resolver = Resolver {
        schema,
        zone: *zone,
        now: i128::from(now),
    };
    std::thread::scope(|scope| {
        let work = || {
            let dialect = GenericDialect {};
            let wrong = |error: sqlparser::parser::ParserError| {
                Error::config(format!(
                    "'{text}' is no condition in SQL: {}",
                    error.to_string().trim_start_matches("sql parser error: ")
                ))
            };
            let mut parser = Parser::new(&dialect)
                .with_recursion_limit(DEPTH_MAX)
                .try_with_sql(text)
                .map_err(wrong)?;
            let expr = parser.parse_expr().map_err(wrong)?;
            let rest = parser.peek_token();
            if rest.token != Token::EOF {
                return Err(Error::config(format!(
                    "'{text}': '{rest}' is not understood; is an operator or a quote missing before it?"
                )));
            }
            let mut warnings = Vec::new();
            let predicate = resolver.condition(&expr, &mut warnings)?;
            Ok((predicate, warnings))
        };
        let thread = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work);
        let thread =
            thread.map_err(|error| Error::unavailable("start a thread").with_source(error))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::internal("the condition could not be read")))
    })
}

/// Literals and operators of DolphinDB's own language, with what SQL writes instead.
fn foreign(text: &str) -> Option<String> {
    let mut outside = String::with_capacity(text.len());
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '\'' || c == '"' => quote = Some(c),
            None => outside.push(c),
        }
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    for word in
        outside.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '_')))
    {
        let parts: Vec<&str> = word
            .split('T')
            .next()
            .unwrap_or_default()
            .split('.')
            .collect();
        if let [year, month, day] = parts.as_slice()
            && year.len() == 4
            && digits(year)
            && digits(month)
            && digits(day)
        {
            let time = word.split_once('T').map(|(_, time)| format!(" {time}"));
            let kind = if time.is_some() { "timestamp" } else { "date" };
            return Some(format!(
                "'{word}' is DolphinDB's form; write {kind} '{year}-{month}-{day}{}'",
                time.unwrap_or_default()
            ));
        }
    }
    let instead = [
        ("==", "="),
        ("&&", "and"),
        ("||", "or"),
        ("`", "'…' around a text"),
    ];
    let found = instead
        .into_iter()
        .find(|(theirs, _)| outside.contains(theirs));
    found.map(|(theirs, ours)| format!("'{theirs}' is DolphinDB's form; write {ours}"))
}

struct Resolver<'a> {
    schema: &'a Schema,
    zone: Zone,
    now: i128,
}

/// A constant side of a comparison, before its type is known.
#[derive(Clone, Debug)]
enum Constant {
    Null,
    Bool(bool),
    /// A number as it is written.
    Number(String),
    /// A quoted text, which takes the column's type.
    Text(String),
    /// Days since 1970, in civil time.
    Date(i64),
    /// Civil time in nanoseconds.
    Civil(i128),
    /// An instant in nanoseconds: `now()`.
    Instant(i128),
    /// `interval '1' day`, in nanoseconds.
    Interval(i128),
}

impl Resolver<'_> {
    fn condition(&self, expr: &Expr, warnings: &mut Vec<String>) -> Result<Predicate> {
        match expr {
            Expr::Nested(inner) => self.condition(inner, warnings),
            Expr::BinaryOp {
                op: BinaryOperator::And,
                ..
            } => {
                let parts = self.flat(expr, &BinaryOperator::And, warnings)?;
                Ok(Predicate::And(parts))
            }
            Expr::BinaryOp {
                op: BinaryOperator::Or,
                ..
            } => {
                let parts = self.flat(expr, &BinaryOperator::Or, warnings)?;
                Ok(Predicate::Or(parts))
            }
            Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr,
            } => Ok(Predicate::Not(Box::new(self.condition(expr, warnings)?))),
            Expr::BinaryOp { left, op, right } => {
                let comparison = match op {
                    BinaryOperator::Eq => Comparison::Equal,
                    BinaryOperator::NotEq => Comparison::NotEqual,
                    BinaryOperator::Lt => Comparison::Less,
                    BinaryOperator::LtEq => Comparison::LessOrEqual,
                    BinaryOperator::Gt => Comparison::Greater,
                    BinaryOperator::GtEq => Comparison::GreaterOrEqual,
                    _ => return Err(Error::config(format!("'{expr}' is no comparison"))),
                };
                if let Some(field) = self.field(left)? {
                    return self.compare(field, comparison, right, expr, warnings);
                }
                if let Some(field) = self.field(right)? {
                    return self.compare(field, comparison.mirrored(), left, expr, warnings);
                }
                Err(Error::config(format!(
                    "'{expr}' compares no column; a column stands alone on one side"
                )))
            }
            Expr::Between {
                expr: subject,
                negated,
                low,
                high,
            } => {
                let field = self.required(subject)?;
                let low = self.compare(field, Comparison::GreaterOrEqual, low, expr, warnings)?;
                let high = self.compare(field, Comparison::LessOrEqual, high, expr, warnings)?;
                Ok(negate(*negated, Predicate::And(vec![low, high])))
            }
            Expr::InList {
                expr: subject,
                list,
                negated,
            } => {
                let field = self.required(subject)?;
                let (mut values, mut unknown) = (Vec::with_capacity(list.len()), false);
                for item in list {
                    match self
                        .value(field, item)
                        .with_context(|| format!("'{item}'"))?
                    {
                        Some(value) => values.push(value),
                        None => unknown = true,
                    }
                }
                let mut parts = Vec::new();
                if !values.is_empty() {
                    parts.push(Predicate::In(field.name().clone(), values));
                }
                if unknown {
                    parts.push(Predicate::Constant(None));
                }
                Ok(negate(
                    *negated,
                    if parts.len() == 1 {
                        parts.remove(0)
                    } else {
                        Predicate::Or(parts)
                    },
                ))
            }
            Expr::IsNull(inner) => Ok(Predicate::IsNull(self.required(inner)?.name().clone())),
            Expr::IsNotNull(inner) => Ok(negate(
                true,
                Predicate::IsNull(self.required(inner)?.name().clone()),
            )),
            Expr::Value(value) => match &value.value {
                Literal::Boolean(value) => Ok(Predicate::Constant(Some(*value))),
                Literal::Null => Ok(Predicate::Constant(None)),
                _ => Err(Error::config(format!("'{expr}' is no condition"))),
            },
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => {
                let field = self.required(expr)?;
                if *field.data_type() != DataType::Boolean {
                    return Err(Error::config(format!(
                        "column {} is no condition; compare it with something",
                        field.name()
                    )));
                }
                Ok(Predicate::Compare(
                    field.name().clone(),
                    Comparison::Equal,
                    Value::Bool(true),
                ))
            }
            other => Err(Error::config(format!(
                "'{other}' is not understood; use comparisons, between, in, is null, and, or, not"
            ))),
        }
    }

    /// The parts of a list of one operator, however deep its tree is.
    fn flat(
        &self,
        expr: &Expr,
        operator: &BinaryOperator,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Predicate>> {
        let (mut parts, mut stack) = (Vec::new(), vec![expr]);
        while let Some(expr) = stack.pop() {
            match expr {
                Expr::BinaryOp { left, op, right } if op == operator => {
                    stack.push(right);
                    stack.push(left);
                }
                other => parts.push(self.condition(other, warnings)?),
            }
        }
        Ok(parts)
    }

    fn field(&self, expr: &Expr) -> Result<Option<&Field>> {
        let name = match expr {
            Expr::Nested(inner) => return self.field(inner),
            Expr::Identifier(name) => &name.value,
            _ => return Ok(None),
        };
        let name = column(self.schema, name)?;
        Ok(self.schema.field_with_name(&name).ok())
    }

    fn required(&self, expr: &Expr) -> Result<&Field> {
        self.field(expr)?.ok_or_else(|| {
            Error::config(format!(
                "'{expr}' is no column; arithmetic on columns is not supported"
            ))
        })
    }

    fn compare(
        &self,
        field: &Field,
        comparison: Comparison,
        side: &Expr,
        whole: &Expr,
        warnings: &mut Vec<String>,
    ) -> Result<Predicate> {
        let value = self
            .value(field, side)
            .with_context(|| format!("'{whole}'"))?;
        let Some(value) = value else {
            return Ok(Predicate::Constant(None));
        };
        self.warn(field, comparison, &value, side, warnings);
        Ok(Predicate::Compare(field.name().clone(), comparison, value))
    }

    fn warn(
        &self,
        field: &Field,
        comparison: Comparison,
        value: &Value,
        side: &Expr,
        warnings: &mut Vec<String>,
    ) {
        let Value::Timestamp { ns, zoned } = value else {
            return;
        };
        let civil = if *zoned {
            self.zone.civil(*ns).unwrap_or(*ns)
        } else {
            *ns
        };
        let midnight = civil.rem_euclid(NS_PER_DAY) == 0;
        let name = field.name();
        match comparison {
            Comparison::Greater if midnight => warnings.push(format!(
                "{name} > midnight leaves out the row at midnight itself; write >= to have it"
            )),
            Comparison::Less | Comparison::LessOrEqual if !midnight && side.to_string().to_lowercase().contains("now") => warnings.push(
                format!("{name} ends before the day does: rows that come later are in no window that begins at midnight; end at the next midnight"),
            ),
            _ => {}
        }
    }

    /// A constant in a column's type; `None` is null.
    fn value(&self, field: &Field, expr: &Expr) -> Result<Option<Value>> {
        let constant = self.constant(expr)?;
        let data_type = match field.data_type() {
            DataType::Dictionary(_, values) => values.as_ref(),
            other => other,
        };
        typed(&constant, data_type, self.zone).map_err(|error| {
            error.context(format!(
                "column {} of type {}",
                field.name(),
                field.data_type()
            ))
        })
    }

    fn constant(&self, expr: &Expr) -> Result<Constant> {
        match expr {
            Expr::Nested(inner) => self.constant(inner),
            Expr::Value(value) => match &value.value {
                Literal::Null => Ok(Constant::Null),
                Literal::Boolean(value) => Ok(Constant::Bool(*value)),
                Literal::Number(text, _) => Ok(Constant::Number(text.clone())),
                Literal::SingleQuotedString(text) => Ok(Constant::Text(text.clone())),
                other => Err(Error::config(format!(
                    "{other} is no literal that is understood"
                ))),
            },
            Expr::UnaryOp {
                op: UnaryOperator::Minus,
                expr,
            } => match self.constant(expr)? {
                Constant::Number(text) => Ok(Constant::Number(format!("-{text}"))),
                _ => Err(Error::config(format!("'-{expr}' is no number"))),
            },
            Expr::TypedString(typed) => {
                let text = typed.value.value.clone().into_string().unwrap_or_default();
                match &typed.data_type {
                    SqlType::Date => civil_of(&text).map(|(days, _)| Constant::Date(days)),
                    SqlType::Timestamp(..) | SqlType::Datetime(_) => civil_of(&text)
                        .map(|(days, ns)| Constant::Civil(i128::from(days) * NS_PER_DAY + ns)),
                    _ => Ok(Constant::Text(text)),
                }
            }
            Expr::Interval(interval) => {
                let number = interval.value.to_string();
                let number = number.trim_matches('\'');
                let (number, unit) = match (&interval.leading_field, number.split_once(' ')) {
                    (Some(unit), _) => (number.to_owned(), unit.to_string()),
                    (None, Some((number, unit))) => (number.to_owned(), unit.to_owned()),
                    (None, None) => {
                        return Err(Error::config(format!(
                            "'{expr}' has no unit; write interval '1' day"
                        )));
                    }
                };
                let unit_ns = match unit.to_lowercase().trim_end_matches('s') {
                    "day" => NS_PER_DAY,
                    "week" => 7 * NS_PER_DAY,
                    "hour" => 3600 * NS_PER_S,
                    "minute" => 60 * NS_PER_S,
                    "second" => NS_PER_S,
                    other => {
                        return Err(Error::config(format!(
                            "'{other}' is no unit of an interval here; use weeks, days, hours, minutes, seconds"
                        )));
                    }
                };
                let number: i64 = number
                    .parse()
                    .map_err(|_| Error::config(format!("'{number}' is no whole number")))?;
                Ok(Constant::Interval(i128::from(number) * unit_ns))
            }
            Expr::Function(function) => self.function(function, expr),
            Expr::BinaryOp {
                left,
                op: op @ (BinaryOperator::Plus | BinaryOperator::Minus),
                right,
            } => {
                let sign = if *op == BinaryOperator::Plus { 1 } else { -1 };
                self.add(&self.constant(left)?, &self.constant(right)?, sign, expr)
            }
            Expr::Identifier(_) => Err(Error::config(format!(
                "'{expr}' is a column; compare a column with a constant"
            ))),
            other => Err(Error::config(format!(
                "'{other}' is no constant that is understood"
            ))),
        }
    }

    fn function(&self, function: &sqlparser::ast::Function, expr: &Expr) -> Result<Constant> {
        let mut arguments = Vec::new();
        if let FunctionArguments::List(list) = &function.args {
            for argument in &list.args {
                match argument {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => {
                        arguments.push(self.constant(expr)?)
                    }
                    other => {
                        return Err(Error::config(format!(
                            "'{other}' is no argument that is understood"
                        )));
                    }
                }
            }
        }
        match (
            function.name.to_string().to_lowercase().as_str(),
            arguments.as_slice(),
        ) {
            ("now", []) => Ok(Constant::Instant(self.now)),
            ("today", []) => Ok(Constant::Date(days(self.zone.civil(self.now)?)?)),
            ("date", [Constant::Instant(ns)]) => Ok(Constant::Date(days(self.zone.civil(*ns)?)?)),
            ("date", [Constant::Civil(ns)]) => Ok(Constant::Date(days(*ns)?)),
            ("date", [Constant::Date(days)]) => Ok(Constant::Date(*days)),
            ("date", [Constant::Text(text)]) => {
                civil_of(text).map(|(days, _)| Constant::Date(days))
            }
            ("timestamp", [Constant::Date(days)]) => {
                Ok(Constant::Civil(i128::from(*days) * NS_PER_DAY))
            }
            ("timestamp", [same @ (Constant::Instant(_) | Constant::Civil(_))]) => Ok(same.clone()),
            ("timestamp", [Constant::Text(text)]) => {
                civil_of(text).map(|(days, ns)| Constant::Civil(i128::from(days) * NS_PER_DAY + ns))
            }
            _ => Err(Error::config(format!(
                "'{expr}' is not understood; there are now(), today(), date(x) and timestamp(x)"
            ))),
        }
    }

    fn add(&self, left: &Constant, right: &Constant, sign: i64, expr: &Expr) -> Result<Constant> {
        let interval = |text: &str| Error::config(format!("'{expr}': {text}"));
        match (left, right) {
            (Constant::Date(days), Constant::Number(number)) => {
                let number: i64 = number
                    .parse()
                    .map_err(|_| interval("only whole days can be added to a date"))?;
                let sum = number
                    .checked_mul(sign)
                    .and_then(|number| days.checked_add(number));
                sum.map(Constant::Date)
                    .ok_or_else(|| interval("the date is out of range"))
            }
            (Constant::Date(days), Constant::Interval(ns)) if ns % NS_PER_DAY == 0 => Ok(
                Constant::Date(days + i64::try_from(ns / NS_PER_DAY).unwrap_or(0) * sign),
            ),
            (Constant::Date(days), Constant::Interval(ns)) => Ok(Constant::Civil(
                i128::from(*days) * NS_PER_DAY + ns * i128::from(sign),
            )),
            (Constant::Civil(at), Constant::Interval(ns)) => {
                Ok(Constant::Civil(at + ns * i128::from(sign)))
            }
            (Constant::Instant(at), Constant::Interval(ns)) => {
                Ok(Constant::Instant(at + ns * i128::from(sign)))
            }
            (Constant::Civil(_) | Constant::Instant(_), Constant::Number(_)) => Err(interval(
                "a number has no unit here; write for example interval '7' day",
            )),
            _ => Err(interval(
                "arithmetic is only supported on dates and timestamps",
            )),
        }
    }
}

fn negate(negated: bool, predicate: Predicate) -> Predicate {
    if negated {
        Predicate::Not(Box::new(predicate))
    } else {
        predicate
    }
}

fn days(civil_ns: i128) -> Result<i64> {
    i64::try_from(civil_ns.div_euclid(NS_PER_DAY))
        .map_err(|_| Error::config("a date that no calendar has"))
}

/// Days and nanoseconds of the day of `2026-11-01`, `2026-11-01 09:30`, `2026-11-01T09:30:00.5`.
fn civil_of(text: &str) -> Result<(i64, i128)> {
    let wrong = || {
        Error::config(format!(
            "'{text}' is no date or timestamp; write '2026-11-01' or '2026-11-01 09:30:00'"
        ))
    };
    if let Ok(Value::Date(days)) = Value::parse(text) {
        return Ok((days.into(), 0));
    }
    let iso = text.replacen(' ', "T", 1);
    let full = if iso.matches(':').count() == 1 {
        format!("{iso}:00")
    } else {
        iso
    };
    match Value::parse(&full) {
        Ok(Value::Timestamp { ns, zoned: false }) => Ok((days(ns)?, ns.rem_euclid(NS_PER_DAY))),
        _ => Err(wrong()),
    }
}

/// A constant in the class of a column's type.
fn typed(constant: &Constant, data_type: &DataType, zone: Zone) -> Result<Option<Value>> {
    let wrong = || Error::config(format!("{} is no value of that type", shown(constant)));
    let number = |text: &str| -> Result<Value> {
        if let Ok(value) = text.parse::<i128>() {
            return Ok(Value::Int(value));
        }
        parse_decimal(text)
            .map(|(unscaled, scale)| Value::Decimal { unscaled, scale })
            .ok_or_else(wrong)
    };
    let date = |days: i64| i32::try_from(days).map(Value::Date).map_err(|_| wrong());
    Ok(Some(match (data_type, constant) {
        (_, Constant::Null) => return Ok(None),
        (DataType::Boolean, Constant::Bool(value)) => Value::Bool(*value),
        (data_type, Constant::Number(text) | Constant::Text(text)) if data_type.is_floating() => {
            Value::Float(text.trim().parse().map_err(|_| wrong())?)
        }
        (data_type, Constant::Number(text) | Constant::Text(text)) if data_type.is_integer() => {
            number(text)?
        }
        (
            DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..),
            Constant::Number(text) | Constant::Text(text),
        ) => number(text)?,
        (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, Constant::Text(text)) => {
            Value::String(text.clone())
        }
        (
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_),
            Constant::Text(text),
        ) => match Value::parse(&format!("x'{text}'")) {
            Ok(value) => value,
            Err(_) => {
                return Err(Error::config(format!(
                    "'{text}' is not a text of hex digits"
                )));
            }
        },
        (DataType::Date32 | DataType::Date64, Constant::Date(days)) => date(*days)?,
        (DataType::Date32 | DataType::Date64, Constant::Text(text)) => match civil_of(text)? {
            (days, 0) => date(days)?,
            _ => return Err(wrong()),
        },
        (DataType::Date32 | DataType::Date64, Constant::Civil(_) | Constant::Instant(_)) => {
            return Err(Error::config(
                "a date is compared with a timestamp; write date(…) around it",
            ));
        }
        (DataType::Time32(_) | DataType::Time64(_), Constant::Text(text)) => {
            let full = if text.matches(':').count() == 1 {
                format!("T{text}:00")
            } else {
                format!("T{text}")
            };
            match Value::parse(&full) {
                Ok(value) => value,
                Err(_) => {
                    return Err(Error::config(format!(
                        "'{text}' is no time of day; write '09:30:00'"
                    )));
                }
            }
        }
        (DataType::Timestamp(_, own), constant) => {
            let zoned = own.is_some();
            let civil = match constant {
                Constant::Date(days) => i128::from(*days) * NS_PER_DAY,
                Constant::Civil(ns) => *ns,
                Constant::Instant(ns) => {
                    let ns = if zoned { *ns } else { zone.civil(*ns)? };
                    return Ok(Some(Value::Timestamp { ns, zoned }));
                }
                Constant::Text(text) => {
                    let (days, ns) = civil_of(text)?;
                    i128::from(days) * NS_PER_DAY + ns
                }
                Constant::Number(_) => {
                    return Err(Error::config(
                        "a number is compared with a timestamp; write timestamp '2026-11-01 09:30:00'",
                    ));
                }
                _ => return Err(wrong()),
            };
            Value::Timestamp {
                ns: if zoned { zone.instant(civil)? } else { civil },
                zoned,
            }
        }
        _ => return Err(wrong()),
    }))
}

fn shown(constant: &Constant) -> String {
    match constant {
        Constant::Null => "null".to_owned(),
        Constant::Bool(value) => value.to_string(),
        Constant::Number(text) => text.clone(),
        Constant::Text(text) => format!("'{text}'"),
        Constant::Date(_) => "a date".to_owned(),
        Constant::Civil(_) | Constant::Instant(_) => "a timestamp".to_owned(),
        Constant::Interval(_) => "an interval".to_owned(),
    }
}
