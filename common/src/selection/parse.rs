//! From text to a typed condition.

use arrow::datatypes::{DataType, Field, Schema};
use sqlparser::ast::{
    BinaryOperator, DataType as SqlType, Expr, FunctionArg, FunctionArgExpr, FunctionArguments,
    TimezoneInfo, UnaryOperator, Value as Literal,
};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

use super::foreign;
use super::grammar::{self, Conditions};
use super::literal::{Constant, days, moment, time_of_day, typed};
use super::predicate::{Comparison, Predicate};
use super::zone::Zone;
use crate::error::{Context, Error, Result};
use crate::value::{NS_PER_DAY, NS_PER_S, Value};

/// The longest text of a condition, in bytes.
const TEXT_BYTES_MAX: usize = 64 * 1024;
/// The stack that a text of that length needs at most: a list of `or` is a tree as deep as it is long until it is flattened.
const STACK_BYTES: usize = 128 << 20;
/// Levels of brackets.
const DEPTH_MAX: usize = 64;
/// What a resolved text can be longer and deeper than the one it came from: `d=now()` becomes a timestamp with nanoseconds, and within one pair of
/// brackets `or`, `and` and `not` each get their own.
const RESOLVED_BYTES_MAX: usize = 16 * TEXT_BYTES_MAX;
const RESOLVED_DEPTH_MAX: usize = 8 * DEPTH_MAX;
/// How much of a text an error shows.
const SHOWN_CHARS_MAX: usize = 300;

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

/// The condition that a text means.
pub(super) fn predicate(text: &str, schema: &Schema, zone: Zone, now: i64) -> Result<Predicate> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::config(format!(
            "a condition of {} bytes; at most {TEXT_BYTES_MAX}",
            text.len()
        )));
    }
    if let Some(hint) = foreign::hint(text) {
        return Err(Error::config(hint));
    }
    let resolver = Resolver {
        schema,
        zone,
        now: Some(i128::from(now)),
    };
    with_parser(text, DEPTH_MAX, |parser| resolver.rest(parser, text))
}

/// The columns and the condition of what [`Selection::text`](super::Selection::text) wrote.
pub(super) fn resolved(text: &str, schema: &Schema) -> Result<(Vec<String>, Option<Predicate>)> {
    if text.len() > RESOLVED_BYTES_MAX {
        return Err(Error::config(format!(
            "a resolved selection of {} bytes; at most {RESOLVED_BYTES_MAX}",
            text.len()
        )));
    }
    let resolver = Resolver {
        schema,
        // Every moment in the text is civil where its column is, and says its offset otherwise.
        zone: Zone::named("UTC")?,
        now: None,
    };
    with_parser(text, RESOLVED_DEPTH_MAX, |parser| {
        if !parser.parse_keyword(Keyword::SELECT) {
            return Err(Error::config("a resolved selection begins with select"));
        }
        let mut columns = Vec::new();
        if !matches!(&parser.peek_token().token, Token::EOF) && !parser.peek_keyword(Keyword::WHERE)
        {
            let names = parser
                .parse_comma_separated(Parser::parse_identifier)
                .map_err(|error| unread(text, &error))?;
            for name in names {
                columns.push(column(schema, &name.value)?);
            }
        }
        let predicate = if parser.parse_keyword(Keyword::WHERE) {
            Some(resolver.rest(parser, text)?)
        } else {
            end(parser, text)?;
            None
        };
        Ok((columns, predicate))
    })
}

/// Reads a text on a thread whose stack is large enough for the tree of it.
fn with_parser<T: Send>(
    text: &str,
    depth_max: usize,
    read: impl FnOnce(&mut Parser) -> Result<T> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let work = || {
            let tokens = grammar::tokens(text).map_err(|error| unread(text, &error))?;
            let mut parser = Parser::new(&Conditions)
                .with_recursion_limit(depth_max)
                .with_tokens_with_locations(tokens);
            read(&mut parser)
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

fn unread(text: &str, error: &ParserError) -> Error {
    Error::config(format!(
        "'{}' is no condition in SQL: {}",
        clipped(text),
        error.to_string().trim_start_matches("sql parser error: ")
    ))
}

/// Nothing may be left unread.
fn end(parser: &Parser, text: &str) -> Result<()> {
    let rest = parser.peek_token();
    if rest.token == Token::EOF {
        return Ok(());
    }
    Err(Error::config(format!(
        "'{}': '{}' is not understood; is an operator or a quote missing before it?",
        clipped(text),
        clipped(&rest)
    )))
}

/// As much of a text as an error shows: the reason stands behind it, and a message that crosses the wire is cut at its end.
fn clipped(text: &(impl std::fmt::Display + ?Sized)) -> String {
    let text = text.to_string();
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

struct Resolver<'a> {
    schema: &'a Schema,
    zone: Zone,
    /// `None` in a text that is resolved already.
    now: Option<i128>,
}

impl Resolver<'_> {
    /// The condition that ends the text.
    fn rest(&self, parser: &mut Parser, text: &str) -> Result<Predicate> {
        let expr = parser.parse_expr().map_err(|error| unread(text, &error))?;
        end(parser, text)?;
        self.condition(&expr)
    }

    fn condition(&self, expr: &Expr) -> Result<Predicate> {
        match expr {
            Expr::Nested(inner) => self.condition(inner),
            Expr::BinaryOp {
                op: BinaryOperator::And,
                ..
            } => {
                let parts = self.flat(expr, &BinaryOperator::And)?;
                Ok(Predicate::all(parts))
            }
            Expr::BinaryOp {
                op: BinaryOperator::Or,
                ..
            } => {
                let parts = self.flat(expr, &BinaryOperator::Or)?;
                Ok(Predicate::any(parts))
            }
            Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr,
            } => Ok(self.condition(expr)?.negated()),
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
                    return self.compare(field, comparison, right, expr);
                }
                if let Some(field) = self.field(right)? {
                    return self.compare(field, comparison.mirrored(), left, expr);
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
                let low = self.compare(field, Comparison::GreaterOrEqual, low, expr)?;
                let high = self.compare(field, Comparison::LessOrEqual, high, expr)?;
                Ok(negate(*negated, Predicate::all(vec![low, high])))
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
                        .with_context(|| format!("'{}'", clipped(item)))?
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
                Ok(negate(*negated, Predicate::any(parts)))
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
    fn flat(&self, expr: &Expr, operator: &BinaryOperator) -> Result<Vec<Predicate>> {
        let (mut parts, mut stack) = (Vec::new(), vec![expr]);
        while let Some(expr) = stack.pop() {
            match expr {
                Expr::BinaryOp { left, op, right } if op == operator => {
                    stack.push(right);
                    stack.push(left);
                }
                other => parts.push(self.condition(other)?),
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
    ) -> Result<Predicate> {
        let value = self
            .value(field, side)
            .with_context(|| format!("'{}'", clipped(whole)))?;
        let Some(value) = value else {
            return Ok(Predicate::Constant(None));
        };
        Ok(Predicate::Compare(field.name().clone(), comparison, value))
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
                Literal::HexStringLiteral(digits) => Ok(Constant::Hex(digits.clone())),
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
                    SqlType::Date => match moment(&text)? {
                        date @ Constant::Date(_) => Ok(date),
                        _ => Err(Error::config(format!(
                            "'{text}' is more than a date; write date '2026-11-01', or date(timestamp '…')"
                        ))),
                    },
                    SqlType::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
                        match at_midnight(moment(&text)?) {
                            Constant::Civil(ns) => self.zone.instant(ns).map(Constant::Instant),
                            instant => Ok(instant),
                        }
                    }
                    SqlType::Timestamp(..) | SqlType::Datetime(_) => moment(&text).map(at_midnight),
                    SqlType::Time(..) => time_of_day(&text).map(Constant::Time),
                    other => Err(Error::config(format!(
                        "'{other} …' is no literal that is understood; write the text alone, or date, time or timestamp before it"
                    ))),
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
            Expr::Identifier(name) => Err(match column(self.schema, &name.value) {
                Err(error) if name.quote_style.is_some() => error.context(format!(
                    "{name} is a name in SQL; write '{}' for a text",
                    name.value.replace('\'', "''")
                )),
                Err(error) => error,
                Ok(_) => Error::config(format!(
                    "{name} is a column; a column is compared with constants, not with another column"
                )),
            }),
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
            ("now", []) => self.now().map(Constant::Instant),
            ("today", []) => self.date(Constant::Instant(self.now()?)),
            ("date", [Constant::Text(text)]) => self.date(moment(text)?),
            ("date", [at @ (Constant::Date(_) | Constant::Civil(_) | Constant::Instant(_))]) => {
                self.date(at.clone())
            }
            ("timestamp", [Constant::Text(text)]) => moment(text).map(at_midnight),
            (
                "timestamp",
                [at @ (Constant::Date(_) | Constant::Civil(_) | Constant::Instant(_))],
            ) => Ok(at_midnight(at.clone())),
            _ => Err(Error::config(format!(
                "'{expr}' is not understood; there are now(), today(), date(x) and timestamp(x)"
            ))),
        }
    }

    fn now(&self) -> Result<i128> {
        self.now
            .ok_or_else(|| Error::config("now() has no meaning in a selection that is resolved"))
    }

    /// The civil day of a moment in the job's zone.
    fn date(&self, at: Constant) -> Result<Constant> {
        match at {
            Constant::Civil(ns) => days(ns).map(Constant::Date),
            Constant::Instant(ns) => days(self.zone.civil(ns)?).map(Constant::Date),
            date => Ok(date),
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
            (Constant::Date(days), Constant::Interval(ns)) if ns % NS_PER_DAY == 0 => {
                let sum = i128::from(*days) + ns / NS_PER_DAY * i128::from(sign);
                i64::try_from(sum)
                    .map(Constant::Date)
                    .map_err(|_| interval("the date is out of range"))
            }
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
        predicate.negated()
    } else {
        predicate
    }
}

/// A date as the moment at which it begins on a clock on a wall.
fn at_midnight(at: Constant) -> Constant {
    match at {
        Constant::Date(days) => Constant::Civil(i128::from(days) * NS_PER_DAY),
        other => other,
    }
}
