//! The little of the server's language that clients send: literals, calls, assignments, and selects without joins.

use std::iter::Peekable;
use std::vec::IntoIter;

use chrono::{NaiveDate, NaiveTime};
use strait_common::value::{days_of, time_ns_of};

use crate::catalog::Said;
use crate::cell::Cell;

/// An expression.
#[derive(Clone, Debug)]
pub(crate) enum Expression {
    /// A literal.
    Literal(Cell),
    /// A variable, a column or a constant.
    Name(String),
    /// A function of some arguments; an absent one is `None`.
    Call(String, Vec<Option<Expression>>),
    /// A function with some of its arguments already: `f{x}`.
    Partial(String, Vec<Option<Expression>>),
    /// `[a, b]`
    Vector(Vec<Expression>),
    /// `x.name`
    Member(Box<Expression>, String),
    /// An operator between two.
    Binary(Box<Expression>, String, Box<Expression>),
    /// `not x`
    Not(Box<Expression>),
    /// A query.
    Select(Box<Select>),
    /// A query that is not carried out: `<select …>`.
    Code(Box<Select>),
}

/// A query.
#[derive(Clone, Debug)]
pub(crate) struct Select {
    /// Whether it answers with a vector or scalar instead of a table.
    pub exec: bool,
    /// What is wanted, and how it is called; all columns if there is nothing.
    pub items: Vec<(Expression, Option<String>)>,
    /// Of what.
    pub from: Expression,
    /// All of these hold.
    pub conditions: Vec<Expression>,
    /// From which row, and how many.
    pub limit: Option<(usize, usize)>,
}

/// What a script does, step by step.
#[derive(Clone, Debug)]
pub(crate) enum Statement {
    /// A variable gets a value.
    Assign(String, Expression),
    /// The last one of these is the answer.
    Evaluate(Expression),
    /// These are done if this holds.
    If(Expression, Vec<Statement>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Literal(LiteralToken),
    Name(String),
    Symbol(&'static str),
    End,
}

#[derive(Clone, Debug, PartialEq)]
struct LiteralToken(Cell);

/// The statements of a script.
///
/// # Errors
/// What the server would say, more or less.
pub(crate) fn parse(script: &str) -> Said<Vec<Statement>> {
    let mut parser = Parser {
        tokens: tokens(script)?.into_iter().peekable(),
        quoted: false,
    };
    let mut statements = Vec::new();
    while parser.tokens.peek().is_some() {
        if parser.take("\u{0};") {
            continue;
        }
        statements.push(parser.statement()?);
    }
    Ok(statements)
}

/// One expression, as the name of a function can be.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_expression(text: &str) -> Said<Expression> {
    let mut parser = Parser {
        tokens: tokens(text)?.into_iter().peekable(),
        quoted: false,
    };
    let expression = parser.expression()?;
    match parser.tokens.next() {
        None => Ok(expression),
        Some(token) => Err(unexpected(&token)),
    }
}

fn unexpected(token: &Token) -> String {
    let text = match token {
        Token::Name(name) => name.clone(),
        other => format!("{other:?}"),
    };
    format!("Syntax Error: [line #1] Cannot recognize the token {text}")
}

const SYMBOLS: [&str; 22] = [
    "<=", ">=", "==", "!=", "<>", "&&", "||", "(", ")", "[", "]", "{", "}", ",", ".", "+", "-",
    "*", "/", "<", ">", "=",
];

fn tokens(script: &str) -> Said<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = script;
    while let Some(c) = rest.chars().next() {
        if c == '\n' || c == ';' {
            tokens.push(Token::Symbol("\u{0};"));
            rest = &rest[1..];
        } else if c.is_whitespace() {
            rest = &rest[c.len_utf8()..];
        } else if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |at| &rest[at..]);
        } else if c == '"' || c == '\'' {
            let (text, after) = quoted(&rest[1..], c)?;
            tokens.push(Token::Literal(LiteralToken(Cell::Text(text))));
            rest = after;
        } else if c == '`' {
            let end = rest[1..]
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .map_or(rest.len(), |at| at + 1);
            tokens.push(Token::Literal(LiteralToken(Cell::Text(
                rest[1..end].to_owned(),
            ))));
            rest = &rest[end..];
        } else if c.is_ascii_digit() {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '.' && c != ':')
                .unwrap_or(rest.len());
            let text = rest[..end].trim_end_matches(':');
            tokens.push(Token::Literal(LiteralToken(
                literal(text).ok_or_else(|| format!("Syntax Error: {text} is no literal"))?,
            )));
            rest = &rest[text.len()..];
        } else if c.is_alphabetic() || c == '_' || c == '$' {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '!' | '$'))
                .unwrap_or(rest.len());
            let mut end = end;
            if rest[..end].ends_with('!') && rest[end..].starts_with('=') {
                end -= 1;
            }
            let name = &rest[..end];
            tokens.push(match name {
                "true" => Token::Literal(LiteralToken(Cell::Bool(true))),
                "false" => Token::Literal(LiteralToken(Cell::Bool(false))),
                "NULL" => Token::Literal(LiteralToken(Cell::Null)),
                // A column whose name is no identifier: _"name"
                "_" if rest[end..].starts_with('"') => {
                    let (text, after) = quoted(&rest[end + 1..], '"')?;
                    rest = after;
                    tokens.push(Token::Name(text));
                    continue;
                }
                _ => Token::Name(name.to_owned()),
            });
            rest = &rest[end..];
        } else {
            let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol));
            let symbol = symbol
                .ok_or_else(|| format!("Syntax Error: [line #1] Cannot recognize the token {c}"))?;
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        }
    }
    Ok(tokens)
}

fn quoted(rest: &str, quote: char) -> Said<(String, &str)> {
    let mut text = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Ok((text, &rest[at + 1..]));
        }
        if c != '\\' {
            text.push(c);
            continue;
        }
        text.push(match chars.next() {
            Some((_, 'n')) => '\n',
            Some((_, 't')) => '\t',
            Some((_, 'r')) => '\r',
            Some((_, other)) => other,
            None => break,
        });
    }
    Err("Syntax Error: a text without its end".into())
}

/// `7`, `7l`, `1.5`, `2026.11.01`, `2026.11M`, `10:00:00.123`, `2026.11.01T10:00:00.123456789`.
fn literal(text: &str) -> Option<Cell> {
    if let Some((date, time)) = text.split_once('T') {
        let days = days_of(NaiveDate::parse_from_str(date, "%Y.%m.%d").ok()?);
        let ns = time_ns_of(NaiveTime::parse_from_str(time, "%H:%M:%S%.f").ok()?);
        return Some(Cell::Stamp(
            i128::from(days) * 86_400_000_000_000 + i128::from(ns),
        ));
    }
    if text.contains(':') {
        if let Some(minute) = text.strip_suffix('m') {
            return Some(Cell::Time(time_ns_of(
                NaiveTime::parse_from_str(minute, "%H:%M").ok()?,
            )));
        }
        return Some(Cell::Time(time_ns_of(
            NaiveTime::parse_from_str(text, "%H:%M:%S%.f").ok()?,
        )));
    }
    if let Some(month) = text.strip_suffix('M') {
        let (year, month) = month.split_once('.')?;
        return Some(Cell::Month(
            year.parse::<i32>().ok()? * 12 + month.parse::<i32>().ok()? - 1,
        ));
    }
    if text.matches('.').count() == 2 {
        return Some(Cell::Date(days_of(
            NaiveDate::parse_from_str(text, "%Y.%m.%d").ok()?,
        )));
    }
    if let Some(whole) = text.strip_suffix(['l', 'i', 'h', 'c']) {
        return whole.parse().ok().map(Cell::Int);
    }
    if let Some(truth) = text.strip_suffix('b') {
        return truth
            .parse::<i64>()
            .ok()
            .map(|value| Cell::Bool(value != 0));
    }
    match text.parse() {
        Ok(value) => Some(Cell::Int(value)),
        Err(_) => text.trim_end_matches('F').parse().ok().map(Cell::Float),
    }
}

struct Parser {
    tokens: Peekable<IntoIter<Token>>,
    /// Whether `>` is the end of a query that is not carried out.
    quoted: bool,
}

impl Parser {
    fn take(&mut self, symbol: &str) -> bool {
        self.tokens
            .next_if(|token| matches!(token, Token::Symbol(known) if *known == symbol))
            .is_some()
    }

    fn word(&mut self, word: &str) -> bool {
        self.tokens
            .next_if(|token| matches!(token, Token::Name(name) if name == word))
            .is_some()
    }

    fn need(&mut self, symbol: &str) -> Said<()> {
        if self.take(symbol) {
            return Ok(());
        }
        Err(unexpected(self.tokens.peek().unwrap_or(&Token::End)))
    }

    fn statement(&mut self) -> Said<Statement> {
        if self.word("if") {
            self.need("(")?;
            let condition = self.expression()?;
            self.need(")")?;
            self.need("{")?;
            let mut statements = Vec::new();
            while !self.take("}") {
                if self.take("\u{0};") {
                    continue;
                }
                statements.push(self.statement()?);
            }
            return Ok(Statement::If(condition, statements));
        }
        let expression = self.expression()?;
        if let Expression::Name(name) = &expression
            && self.take("=")
        {
            return Ok(Statement::Assign(name.clone(), self.expression()?));
        }
        match self.tokens.peek() {
            None | Some(Token::Symbol("\u{0};" | "}")) => Ok(Statement::Evaluate(expression)),
            Some(token) => Err(unexpected(token)),
        }
    }

    fn expression(&mut self) -> Said<Expression> {
        self.binary(0)
    }

    fn binary(&mut self, level: usize) -> Said<Expression> {
        const LEVELS: [&[&str]; 4] = [
            &["or", "||"],
            &["and", "&&"],
            &["<=", ">=", "==", "!=", "<>", "<", ">", "in"],
            &["+", "-", "*", "/"],
        ];
        let Some(operators) = LEVELS.get(level) else {
            return self.unary();
        };
        let mut left = self.binary(level + 1)?;
        loop {
            let found = operators.iter().find(|operator| match self.tokens.peek() {
                Some(Token::Symbol(">")) if self.quoted => false,
                Some(Token::Symbol(symbol)) => symbol == *operator,
                Some(Token::Name(name)) => name == *operator,
                _ => false,
            });
            let Some(operator) = found else {
                return Ok(left);
            };
            self.tokens.next();
            let right = self.binary(level + 1)?;
            left = Expression::Binary(Box::new(left), (*operator).to_owned(), Box::new(right));
        }
    }

    fn unary(&mut self) -> Said<Expression> {
        if self.take("-") {
            return Ok(match self.unary()? {
                Expression::Literal(Cell::Int(value)) => Expression::Literal(Cell::Int(-value)),
                Expression::Literal(Cell::Float(value)) => Expression::Literal(Cell::Float(-value)),
                other => Expression::Binary(
                    Box::new(Expression::Literal(Cell::Int(0))),
                    "-".into(),
                    Box::new(other),
                ),
            });
        }
        if self.word("not") {
            return Ok(Expression::Not(Box::new(self.unary()?)));
        }
        let mut expression = self.primary()?;
        while self.take(".") {
            let Some(Token::Name(name)) = self.tokens.next() else {
                return Err("Syntax Error: a name must follow a point".into());
            };
            expression = Expression::Member(Box::new(expression), name);
        }
        Ok(expression)
    }

    fn primary(&mut self) -> Said<Expression> {
        match self.tokens.next() {
            Some(Token::Literal(LiteralToken(mut cell))) => {
                // `a`b is a vector of two symbols.
                let mut more = Vec::new();
                while let Some(Token::Literal(LiteralToken(Cell::Text(_)))) = self.tokens.peek() {
                    if let Some(Token::Literal(LiteralToken(next))) = self.tokens.next() {
                        more.push(Expression::Literal(std::mem::replace(&mut cell, next)));
                    }
                }
                if more.is_empty() {
                    return Ok(Expression::Literal(cell));
                }
                more.push(Expression::Literal(cell));
                Ok(Expression::Vector(more))
            }
            Some(Token::Symbol("(")) => {
                let inner = self.expression()?;
                if self.take(",") {
                    let mut items = vec![inner];
                    loop {
                        items.push(self.expression()?);
                        if !self.take(",") {
                            break;
                        }
                    }
                    self.need(")")?;
                    return Ok(Expression::Vector(items));
                }
                self.need(")")?;
                Ok(inner)
            }
            Some(Token::Symbol("<")) => {
                if !self.word("select") {
                    return Err(unexpected(self.tokens.peek().unwrap_or(&Token::End)));
                }
                self.quoted = true;
                let select = self.select(false)?;
                self.quoted = false;
                self.need(">")?;
                match select {
                    Expression::Select(select) => Ok(Expression::Code(select)),
                    other => Ok(other),
                }
            }
            Some(Token::Symbol("[")) => {
                let mut items = Vec::new();
                while !self.take("]") {
                    items.push(self.expression()?);
                    if !self.take(",") {
                        self.need("]")?;
                        break;
                    }
                }
                Ok(Expression::Vector(items))
            }
            Some(Token::Name(name)) if name == "select" || name == "exec" => {
                self.select(name == "exec")
            }
            Some(Token::Name(name)) => {
                if self.take("(") {
                    return Ok(Expression::Call(name, self.arguments(")")?));
                }
                if self.take("{") {
                    return Ok(Expression::Partial(name, self.arguments("}")?));
                }
                Ok(Expression::Name(name))
            }
            other => Err(unexpected(&other.unwrap_or(Token::End))),
        }
    }

    fn arguments(&mut self, end: &str) -> Said<Vec<Option<Expression>>> {
        let mut arguments = Vec::new();
        if self.take(end) {
            return Ok(arguments);
        }
        loop {
            let at_end = |token: &Token| matches!(token, Token::Symbol(symbol) if *symbol == "," || *symbol == end);
            let absent = self.tokens.peek().is_some_and(at_end);
            arguments.push(if absent {
                None
            } else {
                Some(self.condition()?)
            });
            if !self.take(",") {
                self.need(end)?;
                return Ok(arguments);
            }
        }
    }

    /// An expression, or one comparison by `=`; within it, `==` is what compares.
    fn condition(&mut self) -> Said<Expression> {
        let left = self.expression()?;
        if matches!(left, Expression::Name(_)) && self.take("=") {
            let right = self.expression()?;
            return Ok(Expression::Binary(
                Box::new(left),
                "==".into(),
                Box::new(right),
            ));
        }
        Ok(left)
    }

    fn select(&mut self, exec: bool) -> Said<Expression> {
        let mut items = Vec::new();
        if !self.take("*") {
            loop {
                // count(*) is a call whose argument is a star.
                let item = if self.word("count") {
                    self.need("(")?;
                    self.need("*")?;
                    self.need(")")?;
                    Expression::Call("count".into(), Vec::new())
                } else {
                    self.expression()?
                };
                let name = match self.word("as") {
                    true => match self.tokens.next() {
                        Some(Token::Name(name)) => Some(name),
                        other => return Err(unexpected(&other.unwrap_or(Token::End))),
                    },
                    false => None,
                };
                items.push((item, name));
                if !self.take(",") {
                    break;
                }
            }
        }
        if !self.word("from") {
            return Err(unexpected(self.tokens.peek().unwrap_or(&Token::End)));
        }
        let from = self.expression()?;
        let mut conditions = Vec::new();
        if self.word("where") {
            loop {
                conditions.push(self.condition()?);
                if !self.take(",") {
                    break;
                }
            }
        }
        let mut limit = None;
        if self.word("limit") {
            let mut count = || match self.tokens.next() {
                Some(Token::Literal(LiteralToken(cell))) => {
                    cell.integer().and_then(|value| usize::try_from(value).ok())
                }
                _ => None,
            };
            let first = count().ok_or("Syntax Error: limit without a number")?;
            limit = Some((0, first));
            if self.take(",") {
                let Some(Token::Literal(LiteralToken(cell))) = self.tokens.next() else {
                    return Err("Syntax Error: limit without a number".into());
                };
                let rows = cell.integer().and_then(|value| usize::try_from(value).ok());
                limit = Some((first, rows.ok_or("Syntax Error: limit without a number")?));
            }
        }
        Ok(Expression::Select(Box::new(Select {
            exec,
            items,
            from,
            conditions,
            limit,
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_send_is_understood() {
        for script in [
            "1+1",
            "t = loadTable(\"dfs://db1\", `mt); select count(*) from t where partition(day, 2026.11.01), partition(sym, 3)",
            "select a, _\"b c\" from loadTable(\"dfs://db1\",\"mt\") where (d >= 2026.11.01 and d < 2026.11.02T00:00:00.000) or isNull(d) limit 5, 10",
            "exec count(*) from loadTable('dfs://x', 'y') where s in [\"a\\\"b\", \"c\"]",
            "schema(loadTable(\"db\", \"t\")).colDefs.typeInt",
            "createPartitionedTable(database(\"dfs://x\",COMPO,[database(\"\",VALUE,p0),database(\"\",HASH,[INT,10])]), t0, `mt, `a`b)",
            "pnodeRun(getTabletsMeta{\"/db/%\", `t, false, -1})",
            "getChunkPath(sqlDS(<select * from loadTable(\"dfs://x\", \"y\")>))",
            "c = 1\nif (c == 1 && c < 2) { n = f(x); m = 2 }\n[c, 0, -1]",
        ] {
            parse(script).expect(script);
        }
        assert!(parse("select from").is_err());
        assert!(parse("a b").is_err());
    }
}
